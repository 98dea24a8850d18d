"""Retrieval-DPO as published: CLIP's text encoder is tuned to prefer the target to a mined hard negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from setr_lib.systems.features import Batch, ImageFeatures, TripletBatch
from setr_lib.systems.models.system_model import SystemModel, SystemModelError
from setr_lib.systems.models.tower_copies import copy_with_text_tensors, encode_texts
from setr_lib.systems.options import RetrievalDpoOptions

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace


class RetrievalDpo(SystemModel[RetrievalDpoOptions]):
    """Retrieval-DPO (arXiv 2506.06602), as published and as a negative control; a reconstruction.

    The query is the text encoder's vector of the modification text alone; images keep the encoder's vectors.
    The loss is that of direct preference optimisation (Rafailov et al., arXiv 2305.18290), with a cosine over
    the temperature in place of a log-probability: with target p, mined hard negatives n and the frozen
    encoder as the reference,

        L = mean over n of -log sigmoid(beta ([s(q, p) - s_ref(q, p)] - [s(q, n) - s_ref(q, n)])).

    The paper freezes the vision tower and the transformer layers. What of the text encoder is left to be
    trained it does not say; our reading: the token embeddings and the text projection.
    """

    def __init__(
        self,
        encoder: OpenClipSpace,
        options: RetrievalDpoOptions,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(encoder, options, base)
        self.negatives = options.negatives
        copied, tensors = copy_with_text_tensors(encoder, "retrieval_dpo")
        self._copied = (copied,)  # in a tuple: only what is trained belongs to this module
        for name, tensor in tensors.items():
            self.register_parameter(name, tensor)

    def encode_queries(self, references: ImageFeatures, texts: Sequence[str]) -> Tensor:
        """Of the texts alone, float32 [queries, dimension]."""
        return encode_texts(self._copied[0], self.encoder, texts)

    def loss(self, batch: Batch) -> Tensor:
        """The mean DPO loss of targets and their mined negatives."""
        triplets, negatives = with_negatives(batch, self.negatives)
        with torch.no_grad():
            frozen = encode_texts(self.encoder.model, self.encoder, triplets.texts)
        images = triplets.targets.vectors, negatives.vectors
        tau = self.options.temperature
        return dpo_loss(
            scores_of(self.encode_queries(triplets.references, triplets.texts), *images, tau),
            scores_of(frozen, *images, tau),
            self.options.beta,
        )


def with_negatives(batch: Batch, count: int) -> tuple[TripletBatch, ImageFeatures]:
    """A step's triplets and their mined negatives.

    Args:
        batch: The step's batch.
        count: How many negatives each triplet must have.

    Returns:
        The triplets, and the negatives, [q * count].

    Raises:
        SystemModelError: The batch is none of triplets, or has not that many negatives.
    """
    if not isinstance(batch, TripletBatch) or batch.negatives is None:
        raise SystemModelError(
            "Retrieval-DPO learns from triplets with mined hard negatives, and the batch has none"
        )
    if len(batch.negatives) != count * len(batch.texts):
        raise SystemModelError(
            f"Retrieval-DPO has negatives = {count}, and the batch has {len(batch.negatives)} hard negatives "
            f"for {len(batch.texts)} triplets"
        )
    return batch, batch.negatives


def scores_of(queries: Tensor, targets: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """The cosines of queries with their target and negatives, over the temperature.

    Args:
        queries: Unit vectors [q, d].
        targets: Unit vectors [q, d].
        negatives: Unit vectors [q * m, d], those of a query beside each other.
        temperature: What cosines are divided by.

    Returns:
        float [q, 1 + m]: the target's score first.
    """
    images = torch.cat([targets[:, None], negatives.view(len(queries), -1, queries.shape[1])], dim=1)
    return torch.einsum("qd,qmd->qm", queries, images) / temperature


def dpo_loss(scores: Tensor, reference: Tensor, beta: float) -> Tensor:
    """The mean of ``-log sigmoid(beta (margin - reference margin))`` over queries and negatives.

    Args:
        scores: Of the trained encoder, [q, 1 + m], the target's first.
        reference: Of the frozen encoder, likewise.
        beta: How strongly a margin counts.

    Returns:
        A scalar.
    """
    gained = scores - reference
    return -nn.functional.logsigmoid(beta * (gained[:, :1] - gained[:, 1:])).mean()


def listwise_loss(scores: Tensor) -> Tensor:
    """The mean negative log-probability of the target under a softmax over target and negatives.

    Args:
        scores: [q, 1 + m], the target's first.

    Returns:
        A scalar.
    """
    return -scores.log_softmax(dim=1)[:, 0].mean()
