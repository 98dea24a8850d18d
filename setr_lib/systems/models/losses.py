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
    same = same_ids(target_ids, target_ids, queries.device)
    own = torch.eye(len(target_ids), dtype=torch.bool, device=queries.device)
    logits = (queries @ targets.T / temperature).masked_fill(same & ~own, -torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(target_ids), device=queries.device))
