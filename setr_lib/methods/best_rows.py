"""The exact best gallery rows of each query, from blocks of the gallery's vectors, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from setr_lib.methods.similarity import pair_similarity, similarity_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOTHING = np.uint64(2**64 - 1)
"""The key of a place that no row has taken yet: it sorts after every other."""
_QUERIES, _PAIRS = 512, 2**18
"""Queries, and pairs of a query and a row, that are scored exactly at a time."""
_TILE = 512
"""Gallery rows held in float64 at a time where most pairs are scored exactly: 3 MB at 768 dimensions."""
_DENSE = 8
"""One pair in so many: above it, rows are not gathered for each query."""
_TURNS, _LEAST_TURN = 4, 1000
"""Parts of many queries, so that one is scored exactly while the next is multiplied; and queries of a part:
a product of fewer is slower."""
_GROUPS = 8
"""Columns of a group, whose best score bounds the k-th best of a block from below."""


@dataclass(frozen=True)
class Best:
    """The best rows of each query, flat, ordered by query, then by rank."""

    queries: NDArray[np.intp]
    """The number of the query of each."""
    rows: NDArray[np.intp]
    scores: NDArray[np.float32]


class BestRows:
    """The ``k`` gallery rows with the greatest inner product with each query; equal scores by row number.

    Blocks are multiplied in float32. A float32 sum of ``d`` products is at most ``e = d 2^-24 |q| |x|`` from
    the exact one, whatever its order; so every row within ``2 e`` of the k-th best float32 score of its block
    (or within ``e`` of the k-th best exact score so far) is scored again in float64, and no other can be
    among the best. Scores, order and ties are those of float64 sums rounded once to float32, independent of
    the order and the sizes of blocks.

    What is kept of a query is its ``k`` best rows, however many rows tie with the last of them.

    Args:
        queries: ``float32[q, d]``, finite.
        k: Rows kept of each.
        scores: Scores held at a time, as float32 numbers.
        worker: One thread, which scores exactly while the next block is multiplied.
    """

    def __init__(self, queries: NDArray[np.float32], k: int, scores: int, worker: ThreadPoolExecutor) -> None:
        self._queries, self._k = np.ascontiguousarray(queries), k
        self._scores, self._worker = scores, worker
        self._pending: Future[None] | None = None
        self._keys = np.full((len(queries), k), _NOTHING)
        norms = np.sqrt(np.vecdot(self._queries, self._queries).astype(np.float64))
        dimension = queries.shape[1]
        # A little more than e: for the second-order terms, the last rounding, and numbers that underflow.
        self._slack = 1.01 * (dimension + 8) * 2.0**-24 * norms
        self._least_slack = dimension * 2.0**-125
        self._silent = np.flatnonzero(norms == 0)
        self._buffer = np.empty(0, dtype=np.float32)

    def add(self, rows: NDArray[np.intp], vectors: NDArray[np.float32], norm: float) -> None:
        """Look at more rows of the gallery.

        Args:
            rows: Their numbers, ``int[n]``, in any order; each row is given once.
            vectors: ``float32[n, d]``; read until the next call returns.
            norm: No vector is longer than this.
        """
        if not self._k or not len(rows):
            return
        step = max(1, min(self._scores // len(rows), max(_LEAST_TURN, -(-len(self._queries) // _TURNS))))
        for start in range(0, len(self._queries), step):
            stop = min(start + step, len(self._queries))
            near = self._near(start, stop, rows, vectors, norm)
            self._pending = self._worker.submit(self._score, start, near, rows, vectors)

    def result(self) -> Best:
        """The best of all rows seen.

        Returns:
            Fewer than ``k`` of a query where fewer rows were seen.
        """
        self._wait()
        queries, places = np.nonzero(self._keys != _NOTHING)
        keys = self._keys[queries, places]
        return Best(queries, (keys & np.uint64(2**32 - 1)).astype(np.intp), _scores_of(keys))

    def _wait(self) -> None:
        """Until all that was found near is scored."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _near(
        self, start: int, stop: int, rows: NDArray[np.intp], vectors: NDArray[np.float32], norm: float
    ) -> NDArray[np.bool_]:
        """The pairs that may be among the best, ``bool[queries, rows]``."""
        size = (stop - start) * len(rows)
        if len(self._buffer) < size:
            self._buffer = np.empty(size, dtype=np.float32)
        rough = self._buffer[:size].reshape(stop - start, len(rows))
        np.matmul(self._queries[start:stop], vectors.T, out=rough)
        self._wait()
        slack = self._slack[start:stop] * norm + self._least_slack
        last = self._keys[start:stop, -1]
        known = np.where(last == _NOTHING, -np.inf, _scores_of(last).astype(np.float64))
        limit = known - slack
        enough = 4 * self._k * len(rough)
        near = None if size > enough and (last == _NOTHING).all() else rough >= _below(limit)
        if near is None or (self._k <= len(rows) and np.count_nonzero(near) > enough):
            within = _kth_best_at_least(rough, self._k).astype(np.float64) - 2 * slack
            near = rough >= _below(np.maximum(limit, within))
        silent = self._silent[(self._silent >= start) & (self._silent < stop)] - start
        if len(silent):  # all scores of a zero query are 0: the first rows are its best
            near[silent] = False
            first = np.argpartition(rows, self._k - 1)[: self._k] if self._k < len(rows) else slice(None)
            near[np.ix_(silent, np.arange(len(rows))[first])] = True
        return near

    def _score(
        self, start: int, near: NDArray[np.bool_], rows: NDArray[np.intp], vectors: NDArray[np.float32]
    ) -> None:
        """Score the pairs exactly, and keep the best."""
        counts = np.count_nonzero(near, axis=1)
        for first, last in _parts(counts):
            count = int(counts[first:last].sum())
            if count * _DENSE > (last - first) * len(rows):
                found = self._all(start + first, start + last, rows, vectors)
            elif count:
                found = self._some(start + first, near[first:last], counts[first:last], rows, vectors)
            else:
                continue
            self._merge(start + first, start + last, found)

    def _some(
        self,
        start: int,
        near: NDArray[np.bool_],
        counts: NDArray[np.intp],
        rows: NDArray[np.intp],
        vectors: NDArray[np.float32],
    ) -> NDArray[np.uint64]:
        """The keys of the chosen pairs by their exact scores, ``[queries, most of a query]``."""
        columns = np.flatnonzero(near) % near.shape[1]
        queries = self._queries[start : start + len(near)]
        exact = pair_similarity(queries, vectors, counts, columns)
        found = np.full((len(near), int(counts.max())), _NOTHING)
        inside = np.arange(found.shape[1]) < counts[:, None]
        found[inside] = _keys(exact, rows[columns])
        return found

    def _all(
        self, start: int, stop: int, rows: NDArray[np.intp], vectors: NDArray[np.float32]
    ) -> NDArray[np.uint64]:
        """The keys of all pairs by their exact scores, ``[queries, rows]``."""
        found = np.empty((stop - start, len(rows)), dtype=np.uint64)
        queries = self._queries[start:stop].astype(np.float64)
        for first in range(0, len(rows), _TILE):
            tile = slice(first, first + _TILE)
            exact = vectors[tile].astype(np.float64)
            for number, query in enumerate(queries):
                found[number, tile] = _keys(similarity_to(query, exact), rows[tile])
        return found

    def _merge(self, start: int, stop: int, found: NDArray[np.uint64]) -> None:
        """Keep the best of what was kept and of what was found."""
        keys = np.concatenate([self._keys[start:stop], found], axis=1)
        keys.partition(self._k - 1, axis=1)
        best = keys[:, : self._k]
        best.sort(axis=1)
        self._keys[start:stop] = best


def _parts(counts: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Ranges of queries whose pairs are scored exactly together."""
    start, ends = 0, np.cumsum(counts)
    while start < len(counts):
        before = ends[start] - counts[start]
        stop = int(np.searchsorted(ends, before + _PAIRS, side="right"))
        stop = min(max(stop, start + 1), start + _QUERIES, len(counts))
        yield start, stop
        start = stop


def _below(limits: NDArray[np.float64]) -> NDArray[np.float32]:
    """Float32 numbers not above the limits, a column."""
    return np.nextafter(limits.astype(np.float32), np.float32(-np.inf))[:, None]


def _kth_best_at_least(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """A number that ``k`` scores of each row reach, at most the k-th best of them.

    The k-th best of the maxima of groups of columns: as many groups, and so as many columns, reach it.
    """
    columns = scores.shape[1]
    size = max(1, min(_GROUPS, columns // (2 * k)))
    groups = columns // size
    best = scores[:, :groups].copy()
    for number in range(1, size):
        np.maximum(best, scores[:, number * groups : (number + 1) * groups], out=best)
    best.partition(groups - k, axis=1)
    return best[:, groups - k]


def _keys(scores: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Numbers whose ascending order is that of falling scores, equal ones by row."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 becomes 0
    falling = np.where(bits >> 31, bits, ~bits & np.uint32(2**31 - 1))
    return (falling.astype(np.uint64) << np.uint64(32)) | rows.astype(np.uint64)


def _scores_of(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The scores that keys were made of."""
    falling = (keys >> np.uint64(32)).astype(np.uint32)
    return np.where(falling >> 31, falling, ~falling & np.uint32(2**31 - 1)).view(np.float32)
