"""Attention keys and values of the answers that are being generated: a row each, of its own length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from setr_lib.models.multimodal.forward import PrefixCache

_STEP = 64
"""Columns are added in steps of so many: a copy of everything each time."""


class AnswerRows:
    """A key/value cache whose rows come and go while others go on.

    Row r has its tokens in columns of its own (``mask``) and writes its next one at column ``ends[r]``, so
    that no row is padded to another's prompt. A row that has ended is overwritten by the last one: what is
    copied is one row, not the cache.

    Args:
        capacity: Rows at most.
    """

    def __init__(self, capacity: int) -> None:
        self.ends: list[int] = []
        self._capacity = capacity
        self._layers: list[Any] = []
        self._mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, free columns included."""
        return sum(layer.all_keys.nbytes + layer.all_values.nbytes for layer in self._layers)

    def add(self, cache: PrefixCache) -> None:
        """Take in the rows of a forward pass.

        Args:
            cache: What the pass has cached; its rows become the last ones here.
        """
        import torch

        new, width = cache.mask.shape
        begin, end = len(self.ends), len(self.ends) + new
        self._provide(width + 1, cache)
        assert self._mask is not None
        columns = torch.arange(1, width + 1, device=cache.mask.device)
        self.ends += (cache.mask * columns).amax(1).tolist()
        self._mask[begin:end] = False
        self._mask[begin:end, :width] = cache.mask.bool()
        for layer, (keys, values) in zip(self._layers, cache.layers, strict=True):
            layer.all_keys[begin:end, :, :width] = keys
            layer.all_values[begin:end, :, :width] = values

    def drop(self, rows: Sequence[int]) -> dict[int, int]:
        """Remove rows; the last ones take their places.

        Args:
            rows: Places of the rows to remove.

        Returns:
            New place -> former place, of the rows that have moved.
        """
        left = len(self.ends) - len(rows)
        gone = set(rows)
        holes = sorted(place for place in gone if place < left)
        moved = [place for place in range(left, len(self.ends)) if place not in gone]
        if moved:
            assert self._mask is not None
            self._mask[holes] = self._mask[moved]
            for layer in self._layers:
                layer.all_keys[holes] = layer.all_keys[moved]
                layer.all_values[holes] = layer.all_values[moved]
        for hole, place in zip(holes, moved, strict=True):
            self.ends[hole] = self.ends[place]
        del self.ends[left:]
        return dict(zip(holes, moved, strict=True))

    def next_token(self) -> tuple[Tensor, Any]:
        """Make room for one more token in each row.

        Returns:
            What each row attends to, its new token included: bool [rows, 1, 1, columns]; and the transformers
            ``Cache`` into which the forward pass of that token writes, once.
        """
        import torch
        from transformers import Cache

        self._provide(max(self.ends) + 1)
        assert self._mask is not None
        device, width = self._mask.device, max(self.ends) + 1
        rows = torch.arange(len(self.ends), device=device)
        ends = torch.tensor(self.ends, device=device)
        self._mask[rows, ends] = True
        self.ends = [end + 1 for end in self.ends]
        for layer in self._layers:
            layer.expect(rows, ends, width)
        return self._mask[: len(self.ends), None, None, :width], Cache(layers=self._layers)

    def _provide(self, columns: int, like: PrefixCache | None = None) -> None:
        """Room for rows of a length; ``like`` has the shapes where there is none yet."""
        import torch

        if not self._layers:
            assert like is not None
            self._layers = [_layer_class()() for _ in like.layers]
            for layer, (keys, values) in zip(self._layers, like.layers, strict=True):
                layer.all_keys = keys.new_zeros((self._capacity, keys.shape[1], 0, keys.shape[3]))
                layer.all_values = values.new_zeros((self._capacity, values.shape[1], 0, values.shape[3]))
            self._mask = like.mask.new_zeros((self._capacity, 0), dtype=torch.bool)
        assert self._mask is not None
        more = -(-(columns - self._mask.shape[1]) // _STEP) * _STEP
        if more <= 0:
            return
        self._mask = torch.nn.functional.pad(self._mask, (0, more))
        for layer in self._layers:  # zeros, not garbage: weight 0 times NaN is NaN
            layer.all_keys = torch.nn.functional.pad(layer.all_keys, (0, 0, 0, more))
            layer.all_values = torch.nn.functional.pad(layer.all_values, (0, 0, 0, more))


@lru_cache(maxsize=1)
def _layer_class() -> type[Any]:
    """One layer's keys and values as transformers knows them; transformers is imported only here."""
    from transformers.cache_utils import DynamicLayer

    class AnswerLayer(DynamicLayer):
        """Writes each row's new token at that row's own column."""

        all_keys: Tensor
        all_values: Tensor

        def expect(self, rows: Tensor, ends: Tensor, width: int) -> None:
            self.is_initialized, self._where = True, (rows, ends, width)
            self.keys = self.all_keys[: len(rows), :, : width - 1]
            self.values = self.all_values[: len(rows), :, : width - 1]

        def update(
            self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
        ) -> tuple[Tensor, Tensor]:
            rows, ends, width = self._where
            self.all_keys[rows, :, ends] = key_states[:, :, 0]
            self.all_values[rows, :, ends] = value_states[:, :, 0]
            return self.all_keys[: len(rows), :, :width], self.all_values[: len(rows), :, :width]

    return AnswerLayer
