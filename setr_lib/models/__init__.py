"""The pipeline's two base models: the CLIP encoder (``encoder``) and the multimodal LLM (``multimodal``).

``device`` has what both need: the torch device, and batches that are halved when memory is short. Nothing is
imported here: torch, open_clip and transformers are imported when a model is loaded.
"""
