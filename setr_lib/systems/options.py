"""The settings of trained retrieval systems, ``[systems.NAME]``: what each learns from, and how."""

from __future__ import annotations

from pydantic import Field, model_validator

from setr_lib.settings import Count, Section, Seed

SYNTHESISED = "synthesised"
"""The triplets of ``reranker_pairs``: made of the captioned images of ``[training]``, or its triplet file."""


class SystemOptions(Section):
    """What all trained retrieval systems have: their data, and the training loop."""

    triplets: str = SYNTHESISED
    """Where training and held-out triplets come from: ``synthesised``, or a data set of ``[datasets]`` that
    has a train split."""
    limit: Count | None = None
    """How many of the training triplets (or images) are used, drawn by the seed; all by default."""
    held_out_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of a data set's train images that are held out; synthesised triplets have their own."""
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


class QFormerOptions(SystemOptions):
    """``qformer``: a light Q-Former over reference image and text (arXiv 2506.06602, after SPRC)."""

    start_from_encoder: bool = False
    """Whether Q-Former, query tokens and image projection start from the encoder's own, which is then a
    BLIP-2 (``kind = "blip2"``). Sizes are then its: ``layers``, ``hidden_size``, ``heads``,
    ``cross_attention_frequency``, ``query_tokens`` and ``dimension`` do not count. Else they start at
    random."""
    layers: int = Field(default=2, ge=1, le=48)
    hidden_size: int = Field(default=256, ge=8, le=4096)
    heads: int = Field(default=4, ge=1, le=64)
    cross_attention_frequency: int = Field(default=1, ge=1, le=48)
    """Every how many layers, from the first, the query tokens attend to the image's patch tokens."""
    query_tokens: int = Field(default=16, ge=1, le=512)
    """Learned tokens that read image and text; their mean is the vector."""
    text_length: int = Field(default=32, ge=4, le=512)
    """Tokens of a modification text; longer ones lose their end."""
    dimension: int = Field(default=256, ge=8, le=4096)
    """Length of a vector of the system's own space."""
    shared_projection: bool = True
    """Whether queries and images have one projection into the space: a query without text is then the
    image's own vector."""
    learned_temperature: bool = True
    """Whether the loss's temperature is trained, from ``temperature`` on."""
    temperature: float = Field(default=0.07, gt=0, le=10)
    learning_rate: float = Field(default=3e-4, gt=0, le=10)

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> QFormerOptions:
        if self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size, {self.hidden_size}, cannot be shared out among {self.heads} heads: take a "
                "multiple of heads"
            )
        return self
