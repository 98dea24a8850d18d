"""The exact best gallery rows of each query, from blocks of the gallery's vectors, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.methods.similarity import pair_similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.methods.search_threads import SearchThreads

_NOTHING = np.uint64(2**64 - 1)
"""The key of a place that no row has taken yet: it sorts after every other."""
_PRODUCT, _PART = 2**20, 2**19
"""Scores that are multiplied at a time, in float64 (twice as many in float32); and of these, those that are
selected from: 2 MB in float32, which a core's cache holds from one pass to the next."""
_DENSE = 48
"""Pairs that a float64 product scores in about the time in which one is gathered and scored alone."""
_FEW = 64
"""Queries below which vectors are not made float64 to be multiplied as a whole."""
_LEAST_SHARE = 16
"""Queries of a thread, at least."""
_LARGE = 2.0**126
"""Products of norms from which sums in float32 may overflow."""
_GROUPS = 8
"""Columns of a group, whose best score bounds the k-th best of a block from below."""


@dataclass(frozen=True)
class Best:
    """The best rows of each query, flat, ordered by query, then by rank."""

    queries: NDArray[np.intp]
    """The number of the query of each."""
    rows: NDArray[np.intp]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class _Block:
    """Some gallery rows: their numbers, their vectors, and what no vector is longer than."""

    rows: NDArray[np.intp]
    vectors: NDArray[np.float32]
    norm: float


class BestRows:
    """The ``k`` gallery rows with the greatest inner product with each query; equal scores by row number.

    Blocks are multiplied in float32. A float32 sum of ``d`` products is at most ``e = d 2^-24 |q| |x|`` from
    the exact one, whatever its order; so every row within ``2 e`` of the k-th best float32 score of its block
    (or within ``e`` of the k-th best exact score so far) is scored again in float64, and no other can be
    among the best. Where one row in :data:`_DENSE` or more would be scored again, a whole product in float64
    takes the place of both.

    Scores, order and ties are those of float64 sums, each pair's in one order, rounded once to float32;
    independent of the order and the sizes of blocks. A product in float64 sums in another order, at most
    ``2 d 2^-53 |q| |x|`` off; where that could change the float32 number, the pair is scored alone.

    What is kept of a query is its ``k`` best rows, however many rows tie with the last of them.

    Args:
        queries: ``float32[q, d]``, finite.
        k: Rows kept of each.
        threads: What searches; several searches of the same blocks may share them.
        scores: Scores that a thread holds at a time, as float64 numbers.
    """

    def __init__(
        self, queries: NDArray[np.float32], k: int, threads: SearchThreads, scores: int = _PRODUCT
    ) -> None:
        self._queries, self._k, self._threads = np.ascontiguousarray(queries), k, threads
        self._scores = min(scores, _PRODUCT)
        self._keys = np.full((len(queries), k), _NOTHING)
        self._norms = np.sqrt(np.vecdot(self._queries, self._queries, dtype=np.float64))
        self._zeros = np.flatnonzero(self._norms == 0)
        self._seen = 0

    def add(self, rows: NDArray[np.intp], vectors: NDArray[np.float32], norm: float) -> None:
        """Look at more rows of the gallery.

        Args:
            rows: Their numbers, ``int[n]``, in any order; each row is given once.
            vectors: ``float32[n, d]``; read by the threads.
            norm: No vector is longer than this.
        """
        if not self._k or not len(rows):
            return
        self._seen += len(rows)
        exact = len(self._queries) >= _FEW and self._seen <= _DENSE * self._k
        exact = exact or self._norms.max(initial=0) * norm >= _LARGE
        right = vectors.astype(np.float64) if exact else vectors
        block, count = _Block(rows, vectors, norm), len(self._queries)
        shares = max(1, min(len(self._threads), count // _LEAST_SHARE))
        bounds = [count * share // shares for share in range(shares + 1)]
        for thread, (start, stop) in enumerate(pairwise(bounds)):
            self._threads.submit(thread, partial(self._look, thread, start, stop, right, block))

    def result(self) -> Best:
        """The best of all rows seen.

        Returns:
            Fewer than ``k`` of a query where fewer rows were seen.
        """
        self._threads.wait()
        queries, places = np.nonzero(self._keys != _NOTHING)
        keys = self._keys[queries, places]
        return Best(queries, (keys & np.uint64(2**32 - 1)).astype(np.intp), _scores_of(keys))

    def _look(self, thread: int, start: int, stop: int, right: NDArray[Any], block: _Block) -> None:
        """Keep the best of the queries from ``start`` to ``stop``."""
        turns = -(-(stop - start) * len(right) * right.itemsize // (8 * self._scores))
        step = -(-(stop - start) // turns)
        for first in range(start, stop, step):
            left = self._queries[first : min(first + step, stop)].astype(right.dtype, copy=False)
            products = self._threads.scratch(thread, (len(left), len(right)), right.dtype)
            np.matmul(left, right.T, out=products)
            with np.errstate(over="ignore"):  # a score above all float32 numbers is infinite
                self._select(first, products, block)

    def _select(self, start: int, products: NDArray[Any], block: _Block) -> None:
        """Keep the best of the queries from ``start`` on, whose rough or exact products are there."""
        size = max(1, _PART // len(block.rows))
        for first in range(0, len(products), size):
            part = products[first : first + size]
            rough = part.astype(np.float32, copy=False)
            near = self._near(start + first, rough, rough is not part, block)
            flat = np.flatnonzero(near)
            if not len(flat):
                continue
            places, columns = np.divmod(flat, len(block.rows))
            if rough is not part:
                sums = part.reshape(-1)[flat]
                scores = self._rounded(start + first, places, columns, sums, block)
            else:
                scores = self._scored(start + first, near, places, columns, block)
            self._merge(start + first, places, _keys(scores, block.rows[columns]))

    def _near(
        self, start: int, rough: NDArray[np.float32], is_exact: bool, block: _Block
    ) -> NDArray[np.bool_]:
        """The pairs that may be among the best, ``bool[queries, rows]``."""
        part, rows = slice(start, start + len(rough)), block.rows
        # A little more than e: for the second-order terms, the last rounding, and numbers that underflow.
        dimension = self._queries.shape[1]
        terms = 4 if is_exact else 1.01 * (dimension + 8)
        slack = terms * 2.0**-24 * self._norms[part] * block.norm + dimension * 2.0**-125
        last = self._keys[part, -1]
        known = np.where(last == _NOTHING, -np.inf, _scores_of(last).astype(np.float64))
        limit, enough = known - slack, 4 * self._k * len(rough)
        near = None if (last == _NOTHING).all() else rough >= _below(limit)
        if self._k <= len(rows) and (near is None or np.count_nonzero(near) > enough):
            within = _kth_best_at_least(rough, self._k).astype(np.float64) - 2 * slack
            near = rough >= _below(np.maximum(limit, within))
        if near is None:
            near = np.ones(rough.shape, dtype=bool)
        zeros = self._zeros[(self._zeros >= part.start) & (self._zeros < part.stop)] - start
        if len(zeros):  # all scores of a zero query are 0: the first rows are its best
            near[zeros] = False
            first = np.argpartition(rows, self._k - 1)[: self._k] if self._k < len(rows) else slice(None)
            near[np.ix_(zeros, np.arange(len(rows))[first])] = True
        return near

    def _scored(
        self,
        start: int,
        near: NDArray[np.bool_],
        places: NDArray[np.intp],
        columns: NDArray[np.intp],
        block: _Block,
    ) -> NDArray[np.float32]:
        """The exact scores of the pairs that are near."""
        count = len(near)
        if count >= _FEW and len(places) >= count:
            used = np.flatnonzero(near.any(axis=0))
            if len(places) * _DENSE > count * len(used):  # many queries are near the same rows
                right = block.vectors[used].astype(np.float64)
                products = self._queries[start : start + count].astype(np.float64) @ right.T
                sums = products[places, np.searchsorted(used, columns)]
                return self._rounded(start, places, columns, sums, block)
        return self._alone(start, places, columns, block)

    def _rounded(
        self,
        start: int,
        places: NDArray[np.intp],
        columns: NDArray[np.intp],
        sums: NDArray[np.float64],
        block: _Block,
    ) -> NDArray[np.float32]:
        """The exact scores of pairs, whose float64 sums were made in some order."""
        off = 2.02 * self._queries.shape[1] * 2.0**-53 * block.norm * self._norms[start + places]
        scores = (sums - off).astype(np.float32)
        open_ = np.flatnonzero(scores != (sums + off).astype(np.float32))
        if len(open_):
            scores[open_] = self._alone(start, places[open_], columns[open_], block)
        return scores

    def _alone(
        self, start: int, places: NDArray[np.intp], columns: NDArray[np.intp], block: _Block
    ) -> NDArray[np.float32]:
        """The exact scores of pairs, each a sum of its own."""
        first, last = int(places[0]), int(places[-1]) + 1
        counts = np.bincount(places - first, minlength=last - first)
        return pair_similarity(self._queries[start + first : start + last], block.vectors, counts, columns)

    def _merge(self, start: int, places: NDArray[np.intp], keys: NDArray[np.uint64]) -> None:
        """Keep the best of what was kept and of what was found, ordered by query."""
        counts = np.bincount(places)
        asked = np.flatnonzero(counts)
        ends = np.cumsum(counts)
        within = np.arange(len(places)) - (ends - counts)[places]
        table = np.full((len(asked), self._k + int(counts.max())), _NOTHING)
        table[:, : self._k] = self._keys[start + asked]
        table[np.searchsorted(asked, places), self._k + within] = keys
        table.partition(self._k - 1, axis=1)
        best = table[:, : self._k]
        best.sort(axis=1)
        self._keys[start + asked] = best


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
