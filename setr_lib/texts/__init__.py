"""What the multimodal LLM writes: captions of reference images and compositions, cached by content; its
prompts as files.
"""
