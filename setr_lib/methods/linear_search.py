"""Ranking by methods that are one vector of a query: one pass over the gallery's vectors, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from setr_lib.methods.best_rows import BestRows
from setr_lib.methods.needs import MethodError
from setr_lib.methods.ranked_rows import GALLERY, SUBSET, RankedRows
from setr_lib.methods.search_threads import SearchThreads, search_threads
from setr_lib.methods.similarity import similarity_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.methods.searched_gallery import GalleryIndex


@dataclass(frozen=True)
class LinearSearch:
    """The queries that search one gallery, and their vectors."""

    queries: NDArray[np.intp]
    """Their rows in the QUERIES table."""
    images: NDArray[np.intp]
    """The rows of the searched images in the index, in the order of their ids."""
    vectors: NDArray[np.float32]
    """``float32[q, d]``, finite."""
    subsets: tuple[NDArray[np.intp], NDArray[np.intp]]
    """Pairs of a number in ``queries`` and a row in the index that make the pool ``subset``."""


class _Running:
    """A search under way.

    Args:
        search: The search.
        order: The place of each image of the index in the order of ids.
        k: Images kept of each query.
        threads: What searches.
        scores: Scores that each of them holds at a time.
    """

    def __init__(
        self,
        search: LinearSearch,
        order: NDArray[np.intp],
        k: int,
        threads: SearchThreads,
        scores: int,
    ) -> None:
        self.search, self._order = search, order
        self.is_whole = len(search.images) == len(order)
        self._best = BestRows(search.vectors, min(k, len(search.images)), threads, scores)
        self._subset_scores = np.zeros(len(search.subsets[0]), dtype=np.float32)

    def add(
        self,
        rows: NDArray[np.intp],
        vectors: NDArray[np.float32],
        norm: float,
        place: NDArray[np.intp],
    ) -> None:
        """Look at a block of the index; ``place`` says where in it a row of the index is, else -1."""
        if self.is_whole:
            self._best.add(self._order[rows], vectors, norm)
        else:
            inside = place[self.search.images]
            inside = inside[inside >= 0]
            if len(inside):
                self._best.add(self._order[rows[inside]], vectors[inside], norm)
        queries, members = self.search.subsets
        for pair in np.flatnonzero(place[members] >= 0) if len(members) else ():
            query, member = self.search.vectors[queries[pair]].astype(np.float64), place[members[pair]]
            self._subset_scores[pair] = similarity_to(query, vectors[member : member + 1])[0]

    def ranked(self, sorted_rows: NDArray[np.intp]) -> list[RankedRows]:
        """Both pools; ``sorted_rows`` are the index's rows in the order of ids."""
        best, numbers = self._best.result(), self.search.queries
        found = [RankedRows(GALLERY, numbers[best.queries], sorted_rows[best.rows], best.scores)]
        queries, members = self.search.subsets
        if len(queries):
            order = np.lexsort((self._order[members], -self._subset_scores, queries))
            subset = numbers[queries[order]], members[order], self._subset_scores[order]
            found.append(RankedRows(SUBSET, *subset))
        return found


def search_blocks(
    searches: Sequence[LinearSearch],
    index: GalleryIndex,
    k: int,
    memory: int,
    passed: Callable[[int], None] = lambda rows: None,
) -> list[RankedRows]:
    """Rank the gallery by the inner product with each query's vector: exact, ties by image id.

    Where the vectors lie in a store, they are read once, in blocks, and not held.

    Args:
        searches: The queries of each gallery.
        index: The images and their vectors.
        k: Images kept of each query.
        memory: Bytes that blocks of vectors (with what LanceDB needs to read them) and of scores may take.
        passed: Told how many rows of the index were looked at.

    Returns:
        The pool ``gallery`` of each search, and the pool ``subset`` where it has subsets.

    Raises:
        MethodError: A vector of the gallery is not finite.
    """
    dimension = max(1, index.dimension)
    rows_of_block = max(1, min(_MOST_BYTES, memory // _SHARE_OF_VECTORS) // (4 * dimension))
    sorted_rows = index.names.arg_sort().to_numpy().astype(np.intp)
    order = np.empty_like(sorted_rows)
    order[sorted_rows] = np.arange(len(order))
    place, seen = np.full(len(order), -1, dtype=np.intp), 0
    with search_threads() as threads:
        scores = max(1, memory // _SHARE_OF_SCORES // len(threads) // 8)
        running = [_Running(search, order, k, threads, scores) for search in searches]
        for rows, vectors in index.blocks(rows_of_block):
            norm = _longest(vectors)
            if not np.isfinite(norm):
                bad = rows[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
                raise MethodError(
                    f"the vector of the image {index.names[int(bad)]!r} is not finite: remove the table of "
                    "its vectors and materialise gallery_embeddings again"
                )
            place[rows] = np.arange(len(rows))
            for one in running:
                one.add(rows, vectors, norm, place)
            threads.next_block()
            place[rows] = -1
            seen += len(rows)
            passed(seen)
        return [part for one in running for part in one.ranked(sorted_rows)]


_SHARE_OF_VECTORS = 32
"""The memory over that of a block of vectors: four are held at a time, LanceDB takes about nine times what it
reads, and the first ones are multiplied in float64."""
_MOST_BYTES = 8 * 2**20
"""Of a block of vectors: larger ones gain nothing, and memory that is touched for the first time is slow."""
_SHARE_OF_SCORES = 8


_SQUARES = (2.0**-60, 2.0**120)
"""Between these the squares of float32 numbers are summed in float32 without loss."""


def _longest(vectors: NDArray[np.float32]) -> float:
    """The greatest norm of the rows."""
    with np.errstate(over="ignore"):
        square = float(np.vecdot(vectors, vectors).max(initial=0))
    if not _SQUARES[0] < square < _SQUARES[1]:
        square = float(np.vecdot(vectors, vectors, dtype=np.float64).max(initial=0))
    return float(np.sqrt(square))
