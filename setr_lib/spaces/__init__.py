"""Embedding spaces: how images, texts and whole queries become vectors, and where a gallery's vectors are
kept.

``space`` says what a space is and finds one by name, ``open_clip_space`` is the CLIP of stage 1,
``vector_store`` and ``caption_store`` hold a gallery's vectors and captions in LanceDB. Nothing is imported
here.
"""
