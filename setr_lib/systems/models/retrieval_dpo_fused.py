"""Retrieval-DPO with the four reasons mended that its paper gives for its failure, one by one or together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from setr_lib.systems.features import PIXELS, VECTORS, Batch, ImageFeatures
from setr_lib.systems.models.retrieval_dpo import dpo_loss, listwise_loss, scores_of, with_negatives
from setr_lib.systems.models.system_model import SystemModel, SystemModelError
from setr_lib.systems.models.tower_copies import (
    copy_with_lora,
    copy_with_text_tensors,
    encode_pixels,
    encode_texts,
)
from setr_lib.systems.options import RetrievalDpoFusedOptions

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace


class RetrievalDpoFused(SystemModel[RetrievalDpoFusedOptions]):
    """Retrieval-DPO mended after the four reasons of arXiv 2506.06602; ours. All off: ``retrieval_dpo``.

    - ``fused``: the query is the text's vector plus the reference image's, to unit length, in place of the
      text alone (no joint image-text fusion).
    - ``listwise``: ``-log softmax`` of the target's score among target and mined negatives, in place of DPO's
      margin of pairs (a margin does not serve the top K).
    - ``curated``: near-duplicates of the target are no negatives (low-quality negatives); it is the mining
      that reads it.
    - ``towers``: trained is LoRA on q, k and v of both towers' attention, in place of token embeddings and
      text projection (frozen vision tower and transformer layers). The images' vectors change, so that each
      version has galleries of its own, and images are read as pixels.
    """

    def __init__(
        self,
        encoder: OpenClipSpace,
        options: RetrievalDpoFusedOptions,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(encoder, options, base)
        self.negatives = options.negatives
        if options.towers:
            copied, lora = copy_with_lora(encoder, options.rank, options.alpha, options.seed)
            self.lora = lora
        else:
            copied, tensors = copy_with_text_tensors(encoder, "retrieval_dpo_fused")
            for name, tensor in tensors.items():
                self.register_parameter(name, tensor)
        self._copied = (copied,)  # in a tuple: only what is trained belongs to this module

    @property
    def reads(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Pixels where the vision tower is trained, else vectors alone."""
        return frozenset({VECTORS, PIXELS} if self.options.towers else {VECTORS})

    def encode_queries(self, references: ImageFeatures, texts: Sequence[str]) -> Tensor:
        """Of text and reference together, or of the text alone, float32 [queries, dimension]."""
        words = self.encode_texts(texts)
        return _fused(words, self.encode_images(references)) if self.options.fused else words

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """The vectors of texts alone, with gradients.

        Args:
            texts: The texts.

        Returns:
            Unit vectors, float32 [texts, dimension].
        """
        return encode_texts(self._copied[0], self.encoder, texts)

    def encode_images(self, images: ImageFeatures) -> Tensor:
        """By the trained vision tower, or the encoder's own; a zero row stays one."""
        if not self.options.towers:
            return images.vectors
        if images.pixels is None:
            raise SystemModelError(
                "retrieval_dpo_fused trains the vision tower: it reads the images' pixels, and was given none"
            )
        readable = images.vectors.any(dim=1, keepdim=True)
        return encode_pixels(self._copied[0], images.pixels) * readable

    def loss(self, batch: Batch) -> Tensor:
        """The mean list-wise or DPO loss of targets and their mined negatives."""
        triplets, negatives = with_negatives(batch, self.negatives)
        tau = self.options.temperature
        scores = scores_of(
            self.encode_queries(triplets.references, triplets.texts),
            self.encode_images(triplets.targets),
            self.encode_images(negatives),
            tau,
        )
        if self.options.listwise:
            return listwise_loss(scores)
        with torch.no_grad():
            frozen = encode_texts(self.encoder.model, self.encoder, triplets.texts)
            if self.options.fused:
                frozen = _fused(frozen, triplets.references.vectors)
        reference = scores_of(frozen, triplets.targets.vectors, negatives.vectors, tau)
        return dpo_loss(scores, reference, self.options.beta)


def _fused(words: Tensor, images: Tensor) -> Tensor:
    return nn.functional.normalize(words + images, dim=-1)
