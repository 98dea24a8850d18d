"""A queue of the target images of earlier training steps, as further negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xxhash
from torch import Tensor, nn

_EMPTY = 0


class TargetQueue(nn.Module):
    """The last distinct targets, their vectors and ids, in tensors that a checkpoint can keep.

    ``pytorch_metric_learning``'s CrossBatchMemory keeps its position in Python attributes, so that a training
    that was killed could not go on where it was, and holds an image once for each time that it came.

    Args:
        size: How many targets at most.
        dimension: Length of a vector.

    Attributes:
        vectors: float32 [size, dimension], the newest first; zeros where there is none yet.
        keys: int64 [size]: digests of the ids; 0 where there is none yet.
    """

    vectors: Tensor
    keys: Tensor

    def __init__(self, size: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros((size, dimension)), persistent=False)
        self.register_buffer("keys", torch.full((size,), _EMPTY), persistent=False)

    @property
    def filled(self) -> Tensor:
        """Where there is a target, bool [size]."""
        return self.keys != _EMPTY

    @torch.no_grad()
    def push(self, vectors: Tensor, ids: Sequence[str]) -> None:
        """Put the targets of a step in front; what is there already moves to the front.

        Args:
            vectors: float32 [targets, dimension].
            ids: Their ids; equal ids are kept once.
        """
        rows = first_rows(ids)
        new = keys_of([ids[row] for row in rows], self.keys.device)
        kept = self.filled & ~torch.isin(self.keys, new)
        size = len(self.keys)
        keys = torch.cat([new, self.keys[kept]])[:size]
        stacked = torch.cat([vectors[rows].detach(), self.vectors[kept]])[:size]
        self.keys.fill_(_EMPTY)[: len(keys)] = keys
        self.vectors.zero_()[: len(keys)] = stacked


def keys_of(ids: Sequence[str], device: torch.device) -> Tensor:
    """Image ids as numbers: 63 bits of their digests.

    Args:
        ids: The ids.
        device: Where the result is.

    Returns:
        int64 [ids], none of them 0.
    """
    digests = [(xxhash.xxh3_64_intdigest(name.encode()) >> 1) or 1 for name in ids]
    return torch.tensor(digests, dtype=torch.int64, device=device)


def first_rows(ids: Sequence[str]) -> list[int]:
    """Where each distinct id stands first.

    Args:
        ids: The ids.

    Returns:
        Row numbers, ascending.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(ids):
        rows.setdefault(name, row)
    return list(rows.values())
