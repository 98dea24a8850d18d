"""The two frozen base models of the pipeline: the CLIP encoder and the judge's multimodal LLM, each loaded once.

Nothing is imported here: torch, open_clip and transformers load only when a model does.
"""
