"""Losses that trained retrieval systems share: contrastive losses over the cosines of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def same_ids(rows: Sequence[str], columns: Sequence[str], device: torch.device | None = None) -> Tensor:
    """Where the id of a row is that of a column.

    Args:
        rows: Ids.
        columns: Ids.
        device: Where the result is.

    Returns:
        bool [rows, columns].
    """
    numbers = {name: number for number, name in enumerate({*rows, *columns})}
    left, right = (torch.tensor([numbers[name] for name in ids], device=device) for ids in (rows, columns))
    return left[:, None] == right[None, :]


def info_nce(queries: Tensor, targets: Tensor, target_ids: Sequence[str], temperature: float) -> Tensor:
    """InfoNCE over the targets of a batch (van den Oord et al., arXiv 1807.03748).

    ``-log(exp(q.t / temperature) / sum exp(q.c / temperature))`` for each query q with its target t, where
    the sum is over t and the targets c of other images: equal ids are no negatives of each other. It is
    ``pytorch_metric_learning``'s NTXentLoss of the pairs (query, own target), in memory that grows with the
    square of the batch and not with its cube.

    Args:
        queries: Unit vectors, float32 [q, d].
        targets: Unit vectors, float32 [q, d]; row i is the target of query i.
        target_ids: Their ids.
        temperature: What cosines are divided by.

    Returns:
        The mean over the queries, a scalar.
    """
    cosines = queries @ targets.T
    same = same_ids(target_ids, target_ids, queries.device)
    return contrast(cosines.diagonal(), cosines.masked_fill(same, -torch.inf), temperature)


def symmetric_info_nce(
    sentences: Tensor, images: Tensor, image_ids: Sequence[str], temperature: float
) -> Tensor:
    """The mean of InfoNCE from sentences to images and from images to sentences, CLIP's loss.

    Args:
        sentences: Unit vectors, float32 [n, d].
        images: Unit vectors, float32 [n, d]; row i is the image of sentence i.
        image_ids: Their ids: equal ids are no negatives of each other.
        temperature: What cosines are divided by.

    Returns:
        A scalar.
    """
    forth = info_nce(sentences, images, image_ids, temperature)
    return (forth + info_nce(images, sentences, image_ids, temperature)) / 2


def contrast(positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each query's positive against its own negatives.

    Args:
        positives: Cosine of each query with its target, float32 [q].
        negatives: Cosines with its negatives, float32 [q, n]; -inf where there is none.
        temperature: What cosines are divided by.

    Returns:
        The mean over the queries, a scalar.
    """
    logits = torch.cat([positives[:, None], negatives], dim=1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def soft_alignment(
    sentences: Tensor, captions: Tensor, temperature: float, caption_temperature: float
) -> Tensor:
    """Soft text alignment: how far sentences are from captions as captions are from one another.

    ``KL(softmax_j(c_i . c_j / caption_temperature) || softmax_j(t_i . c_j / temperature))``, over the batch.
    The captions' own similarities are soft targets in place of one-hot ones (arXiv 2504.17990; a
    reconstruction).

    Args:
        sentences: Unit vectors t of the pseudo-words' sentences, float32 [n, d].
        captions: Unit vectors c of the captions, float32 [n, d].
        temperature: Of the sentences' distribution.
        caption_temperature: Of the captions' distribution.

    Returns:
        The mean over the sentences, a scalar.
    """
    wanted = functional.log_softmax(captions @ captions.T / caption_temperature, dim=1)
    got = functional.log_softmax(sentences @ captions.T / temperature, dim=1)
    return functional.kl_div(got, wanted, reduction="batchmean", log_target=True)
