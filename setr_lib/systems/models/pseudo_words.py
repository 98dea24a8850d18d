"""Queries in which pseudo-words stand for the reference image: "a photo of $" and a modification text."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from setr_lib.systems.features import ImageFeatures
from setr_lib.systems.models.text_tower import BlockHook, Prompt, TextTower

PHOTO = Prompt("a photo of")
"""The sentence of an image alone."""


def photo_prompts(texts: Sequence[str], joint: str) -> list[Prompt]:
    """The sentences of composed queries.

    Args:
        texts: Modification texts.
        joint: What stands between the pseudo-words and the text, e.g. ``","``.

    Returns:
        ``a photo of $ JOINT TEXT``, or ``a photo of $`` for an empty text.
    """
    return [Prompt(PHOTO.before, f"{joint} {text}") if text.strip() else PHOTO for text in texts]


def encode_composed(
    tower: TextTower,
    prompts: Sequence[Prompt],
    words: Tensor,
    references: ImageFeatures,
    texts: Sequence[str],
    hooks: Sequence[BlockHook] = (),
    plain: TextTower | None = None,
) -> Tensor:
    """Encode composed queries; where the reference cannot be read (a zero row), the text alone.

    Args:
        tower: The text tower.
        prompts: The queries' sentences.
        words: Their pseudo-words, float32 [queries, n, width].
        references: Features of the reference images.
        texts: The modification texts.
        hooks: On the tower's blocks, for the sentences.
        plain: The tower for texts alone; ``tower`` by default.

    Returns:
        Unit vectors, float32 [queries, dimension], with gradients.
    """
    vectors = tower.encode_with(prompts, words, hooks)
    unreadable = ~references.vectors.any(dim=1)
    if bool(unreadable.any()):
        alone = [text for text, lost in zip(texts, unreadable.tolist(), strict=True) if lost]
        vectors = vectors.clone()
        vectors[unreadable] = (plain or tower).encode(alone)
    return vectors
