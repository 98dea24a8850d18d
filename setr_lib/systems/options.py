"""The settings of trained retrieval systems, ``[systems.NAME]``: what each learns from, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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
    """Share of the steps in which the rate rises from 0; afterwards it falls along a cosine."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Of AdamW."""
    temperature: float = Field(default=0.05, gt=0, le=10)
    """What cosines are divided by in the loss."""
    checkpoint_every: Count = 50
    """Optimiser steps between two checkpoints: the most that a kill can cost."""
    held_out_points: int = Field(default=3, ge=1, le=1000)
    """How often the held-out triplets are ranked, evenly spaced, the last time at the end: the points of the
    curve in MLflow, beside that before the first step. The trained weights do not depend on it."""
    seed: Seed = 13
    """Of the start, the order of the data, and draws."""

    @property
    def contrasts(self) -> bool:
        """Whether the loss sets the targets (or images) of a batch against one another, and nothing else."""
        return True


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
    """What cosines are divided by in the loss: CLIP's own."""
    hidden: int = Field(default=512, ge=1, le=65_536)
    """Width of the MLP's two inner layers."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Behind each inner layer, in training."""


class ImageWordsOptions(SystemOptions):
    """What ``mapping`` and ``composing``, which builds on it, must have alike: the pseudo-words."""

    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    temperature: float = Field(default=0.01, gt=0, le=10)
    """What cosines are divided by in the loss: CLIP's own."""
    tokens: int = Field(default=1, ge=1, le=4)
    """Pseudo-words of an image."""
    visual_injection: bool = True
    """Whether the text tower's hidden states attend to the patch tokens in some layers."""
    injection_layers: list[Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=list)
    """The layers in which they do, counted from 1; by default a third, two thirds and all of the depth."""


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
    """Bottlenecks behind every block of the text tower, or LoRA on its q, k, v and MLP."""
    adapter_width: int = Field(default=64, ge=1, le=65_536)
    """Of the bottlenecks."""
    lora_rank: int = Field(default=8, ge=1, le=1024)
    """Of the LoRA matrices."""
    lora_alpha: int = Field(default=16, ge=1, le=4096)
    """LoRA's update is multiplied by ``lora_alpha / lora_rank``."""
    hard_negatives: bool = True
    """Whether the hardest negatives, the queue and the reference are used; else the batch's other targets."""
    hardest: Count = 16
    """How many negatives of the batch and the queue a query has: those nearest to it."""
    queue: int = Field(default=256, ge=0, le=1_000_000)
    """How many targets of earlier steps are negatives, too."""
    reference_negative: bool = True
    """Whether a query's own reference image is a negative."""

    @property
    def contrasts(self) -> bool:
        """As above; not where the reference is a negative, too."""
        return not (self.hard_negatives and self.reference_negative)


class MinedOptions(SystemOptions):
    """What systems have in common that are trained on hard negatives, mined in the table of image vectors."""

    negatives: int = Field(default=1, ge=1, le=1_000)
    """Hard negatives of each query."""
    depth: int = Field(default=50, ge=1, le=100_000)
    """The pool that they are taken from: this many nearest images of the frozen encoder's query."""
    index: Literal["exact", "ivf"] = "exact"
    """Whether the pool is searched exactly, or through an IVF index of LanceDB, which misses some."""
    probes: int = Field(default=4, ge=1, le=100_000)
    """Partitions of the IVF index that are searched, of about the square root of the images' number."""
    choice: Literal["hardest", "uniform"] = "hardest"
    """The nearest images of the pool, or a uniform draw from it by the seed; with a ``depth`` of all images
    the draw is from all."""
    near_duplicate_cosine: float | None = Field(default=None, ge=-1, le=1)
    """Images at least this close to a target are no negatives; without it only the target itself is none."""

    @property
    def contrasts(self) -> bool:
        """False: a target is set against its query's mined negatives."""
        return False

    @property
    def duplicate_cosine(self) -> float | None:
        """The cosine with a target from which an image is no negative; None where all others may be."""
        return self.near_duplicate_cosine


class RetrievalDpoOptions(MinedOptions):
    """``retrieval_dpo``: Retrieval-DPO as published (arXiv 2506.06602); the figures are ours."""

    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    beta: float = Field(default=1.0, gt=0, le=1_000)
    """What the difference of the two margins, of trained and frozen encoder, is multiplied by."""


class RetrievalDpoFusedOptions(RetrievalDpoOptions):
    """``retrieval_dpo_fused``: Retrieval-DPO, the four reasons of its failure mended, each by a switch."""

    negatives: int = Field(default=8, ge=1, le=1_000)
    near_duplicate_cosine: float | None = Field(default=0.95, ge=-1, le=1)
    """Images at least this close to a target are no negatives, where ``curated`` is on."""
    fused: bool = True
    """The query is the text's vector and the reference image's together; off: the text alone."""
    listwise: bool = True
    """The loss is a softmax over target and mined negatives; off: DPO's margin of each pair."""
    curated: bool = True
    """Near-duplicates of the target are no negatives; off: all other images may be."""
    towers: bool = True
    """Trained is LoRA on q, k and v of both towers' attention; off: token embeddings and text projection."""
    rank: int = Field(default=8, ge=1, le=256)
    """Of the LoRA matrices."""
    alpha: int = Field(default=16, ge=1, le=1_000)
    """LoRA's update is multiplied by ``alpha / rank``."""

    @property
    def duplicate_cosine(self) -> float | None:
        """As above; None where ``curated`` is off."""
        return self.near_duplicate_cosine if self.curated else None


class QFormerOptions(SystemOptions):
    """``qformer``: a light Q-Former over reference image and text (arXiv 2506.06602, after SPRC)."""

    start_from_encoder: bool = False
    """Whether Q-Former, query tokens and image projection start from the encoder's own, which is then a
    BLIP-2 (``kind = "blip2"``). Sizes are then its: ``layers``, ``hidden_size``, ``heads``,
    ``cross_attention_frequency``, ``query_tokens`` and ``dimension`` do not count. Else they start at
    random."""
    layers: int = Field(default=2, ge=1, le=48)
    """Of the Q-Former."""
    hidden_size: int = Field(default=256, ge=8, le=4096)
    """Width of the Q-Former; a multiple of ``heads``."""
    heads: int = Field(default=4, ge=1, le=64)
    """Attention heads of a layer."""
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
