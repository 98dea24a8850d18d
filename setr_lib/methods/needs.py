"""What a retrieval method may need, by name. Nothing heavy is imported here: code versions ask methods what
they need when the code location loads.
"""

from __future__ import annotations

from setr_lib.errors import SetrError

CAPTIONS, COMPOSITIONS = "captions", "compositions"
"""The generated texts that every prompt set brings: of reference images, and of queries."""
IMAGE_CAPTIONS = "image_captions"
"""Captions of the gallery's images, which came with the data set."""
CAPTION_VECTORS = "caption_vectors"
"""The vectors of these captions in the method's embedding space, and queries that encode texts in it."""
QUERY_VECTORS, REFERENCE_PIXELS, REFERENCE_PATCHES = "query_vectors", "reference_pixels", "reference_patches"
"""What is made from the reference pictures: one vector of picture and text, the opened pictures, patch
tokens.
"""
_MADE_BY = {CAPTIONS: "reference_captions", COMPOSITIONS: "query_compositions"}


def made_by(kind: str) -> str:
    """The asset that makes the generated texts of a kind.

    Args:
        kind: ``captions``, ``compositions``, or a kind that a method has added.

    Returns:
        The asset's name.
    """
    return _MADE_BY.get(kind, "method_texts")


class MethodError(SetrError):
    """Stage 1 lacks something that it needs: a generated text, a gallery, a method."""
