"""The settings of trained retrieval systems, ``[systems.NAME]``: what each learns from, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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


class Pic2WordOptions(SystemOptions):
    """``pic2word``: one pseudo-word by an MLP from the image's vector, with arXiv 2302.03084's constants."""

    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    weight_decay: float = Field(default=0.1, ge=0, le=10)
    temperature: float = Field(default=0.01, gt=0, le=10)
    """CLIP's own."""
    hidden: int = Field(default=512, ge=1, le=65_536)
    """Width of the MLP's two inner layers."""
    dropout: float = Field(default=0.1, ge=0, lt=1)


class ImageWordsOptions(SystemOptions):
    """What ``mapping`` and ``composing``, which builds on it, must have alike: the pseudo-words."""

    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    temperature: float = Field(default=0.01, gt=0, le=10)
    """CLIP's own."""
    tokens: int = Field(default=1, ge=1, le=4)
    """Pseudo-words of an image."""
    visual_injection: bool = True
    """Whether the text tower's hidden states attend to the patch tokens in some layers."""
    injection_layers: list[Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=list)
    """These layers, counted from 1; by default a third, two thirds and all of the tower's depth."""


class MappingOptions(ImageWordsOptions):
    """``mapping``: pseudo-words from patch tokens, visual semantic injection (arXiv 2504.17990, stage I)."""

    alignment: Literal["soft", "one-hot"] = "soft"
    """What the sentence of an image should be near among the batch's captions: all, as its own caption is, or
    its own caption alone."""
    alignment_weight: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the alignment in the loss; 0 leaves it out."""
    caption_temperature: float = Field(default=0.05, gt=0, le=10)
    """What cosines of captions are divided by in the soft targets."""


class ComposingOptions(ImageWordsOptions):
    """``composing``: adapters in the text tower over a frozen ``mapping`` (arXiv 2504.17990, stage II)."""

    adapter: Literal["bottleneck", "lora"] = "bottleneck"
    adapter_width: int = Field(default=64, ge=1, le=65_536)
    """Of the bottlenecks."""
    lora_rank: int = Field(default=8, ge=1, le=1024)
    lora_alpha: int = Field(default=16, ge=1, le=4096)
    hard_negatives: bool = True
    """Whether the hardest negatives, the queue and the reference are used; else the batch's other targets."""
    hardest: Count = 16
    """How many negatives of the batch and the queue a query has: those nearest to it."""
    queue: int = Field(default=256, ge=0, le=1_000_000)
    """How many targets of earlier steps are negatives, too."""
    reference_negative: bool = True
    """Whether a query's own reference image is a negative."""
