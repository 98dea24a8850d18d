"""The multimodal LLM (``multimodal``), and what every model needs (``device``).

``device`` chooses the torch device, and halves batches when memory is short. The CLIP encoder is in
``setr_lib.spaces``. Nothing is
imported here: torch, open_clip and transformers are imported when a model is loaded.
"""
