"""Prompts as data: a user turn of texts and picture slots, an optional system text, pictures for the slots.

What a prompt says is decided in ``setr_lib.texts.prompts``; how it becomes tokens, in ``token_rows``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from setr_lib.models.multimodal.pictures import Picture

REFERENCE, CANDIDATE, IMAGE = "reference", "candidate", "image"
"""The names of picture slots: the query's reference, a candidate, the image of a one-image prompt."""


@dataclass(frozen=True)
class ImageSlot:
    """The position of a picture in a prompt.

    Attributes:
        name: Which picture belongs there: ``REFERENCE``, ``CANDIDATE`` or ``IMAGE``.
    """

    name: str


@dataclass(frozen=True)
class RenderedPrompt:
    """One user turn, all its variables filled in.

    Attributes:
        parts: Texts and picture slots in reading order.
        system: The system text; empty for none.
    """

    parts: tuple[str | ImageSlot, ...]
    system: str = ""


Request = tuple[RenderedPrompt, Mapping[str, Picture]]
"""A prompt, and the picture for each of its slots by the slot's name."""
