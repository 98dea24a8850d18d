"""The settings of trained retrieval systems, ``[systems.NAME]``: what each learns from, and how."""

from __future__ import annotations

from pydantic import Field

from setr_lib.settings import DEFAULT_SPACE, Count, Section, Seed

SYNTHESISED = "synthesised"
"""The triplets of ``reranker_pairs``: made of the captioned images of ``[training]``, or its triplet file."""


class SystemOptions(Section):
    """What all trained retrieval systems have: their data, and the training loop."""

    encoder: str = DEFAULT_SPACE
    """The embedding space whose frozen model it is trained on top of: ``clip``, or a section
    ``[spaces.NAME]``."""
    triplets: str = SYNTHESISED
    """Where training and held-out triplets come from: ``synthesised``, or a data set of ``[datasets]`` that
    has a train split."""
    limit: Count | None = None
    """How many of the training triplets (or images) are used, drawn by the seed; all by default."""
    steps: Count = 400
    """Optimiser steps."""
    batch_size: int = Field(default=64, ge=2, le=65_536)
    """Triplets (or images) per step."""
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    """The highest rate, after the warm-up."""
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    temperature: float = Field(default=0.05, gt=0, le=10)
    """What cosines are divided by in the loss."""
    checkpoint_every: Count = 50
    """Optimiser steps between two checkpoints: the most that a kill can cost."""
    seed: Seed = 13


class PromptTunedOptions(SystemOptions):
    """``prompt_tuned``: learnable context vectors before the modification text (CoOp, arXiv 2109.01134)."""

    context_vectors: int = Field(default=8, ge=4, le=16)
    """Learnable vectors before the text, in the width of the text tower's token embedding."""
    reference: bool = True
    """Whether the reference image's vector is added to the text's; without it the query is the text alone."""
