"""The vectors of a stored gallery, read in blocks: what ranks a gallery without holding it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from setr_lib.spaces.vector_store import GalleryError, check_unique

if TYPE_CHECKING:
    from numpy.typing import NDArray


_READ_BYTES = 8 * 2**20
"""Read at a time: LanceDB takes about nine times as much memory as it is asked for."""
_AHEAD = 2
"""Blocks that are read at a time. LanceDB hands each from thread to thread, and each of these waits for a
core where all are busy: one read alone would be slower than what is done with it."""


class StoredVectors:
    """The vectors of one version of a gallery's table.

    Args:
        table: The table's name, for messages.
        handle: LanceDB's handle of that version.
    """

    def __init__(self, table: str, handle: Any) -> None:
        self.table, self._handle = table, handle

    @cached_property
    def _scanned(self) -> pl.Series:
        """The ids in the table's own order."""
        names = pl.Series(self._read(0, self._handle.count_rows(), "image_id")["image_id"])
        check_unique(self.table, names)
        return names

    @property
    def names(self) -> pl.Series:
        """The images that have a vector, sorted.

        Raises:
            GalleryError: An id is there twice.
        """
        return self._sorted

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        return self._dimension

    @cached_property
    def _dimension(self) -> int:
        return self._handle.schema.field("vector").type.list_size

    def blocks(self, rows: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """All vectors in the table's own order; the next block is read while this one is worked on.

        Args:
            rows: Vectors of a block, at most.

        Yields:
            The rows in :attr:`names`, ``int[n]``, and their vectors ``float32[n, d]``, which are overwritten
            two blocks later.

        Raises:
            GalleryError: The table has changed on disk.
        """
        row_of = np.empty(len(self._scanned), dtype=np.intp)
        row_of[self._order] = np.arange(len(row_of))
        rows = min(rows, self._rows_read)
        starts = range(0, len(row_of), rows)
        # Besides those that are read, one is given, and one may still be in use.
        shape, count = (min(rows, len(row_of)), self.dimension), min(_AHEAD + 2, len(starts))
        buffers = cycle([np.empty(shape, dtype=np.float32) for _ in range(count)])
        with ThreadPoolExecutor(_AHEAD, thread_name_prefix="setr-read") as pool:
            coming = deque(pool.submit(self._block, start, next(buffers)) for start in starts[:_AHEAD])
            for number, start in enumerate(starts):
                vectors = coming.popleft().result()
                for following in starts[number + _AHEAD : number + _AHEAD + 1]:
                    coming.append(pool.submit(self._block, following, next(buffers)))
                yield row_of[start : start + rows], vectors

    def whole(self) -> NDArray[np.float32]:
        """All vectors, in the order of :attr:`names`: ``float32[n, d]``."""
        held = np.empty((len(self.names), self.dimension), dtype=np.float32)
        for rows, vectors in self.blocks(self._rows_read):
            held[rows] = vectors
        return held

    def take(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """The vectors of some rows.

        Args:
            rows: Rows in :attr:`names`.

        Returns:
            ``float32[n, d]``, in their order.
        """
        places, inverse = np.unique(self._order[rows], return_inverse=True)
        found = self._handle.take_offsets(places.tolist()).select(["image_id", "vector"]).to_arrow()
        wanted = self._scanned.gather(places)
        if not wanted.equals(names := pl.Series(found["image_id"])):  # rows may come in another order
            at = pl.DataFrame({"id": names}).with_row_index("at")
            found = found.take(pl.DataFrame({"id": wanted}).join(at, on="id", how="left")["at"].to_arrow())
        vectors = found["vector"].combine_chunks().flatten().to_numpy()
        return vectors.reshape(len(places), self.dimension)[inverse]

    @cached_property
    def _sorted(self) -> pl.Series:
        return self._scanned.gather(self._order).rename("image_id")

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        """The place in the table of each row of :attr:`names`."""
        if self._scanned.is_sorted():
            return np.arange(len(self._scanned))
        return self._scanned.arg_sort().to_numpy().astype(np.intp)

    def _read(self, start: int, rows: int, *columns: str) -> Any:
        return self._handle.search().select(list(columns)).offset(start).limit(max(rows, 1)).to_arrow()

    @property
    def _rows_read(self) -> int:
        return max(1, _READ_BYTES // (4 * max(1, self.dimension)))

    def _block(self, start: int, buffer: NDArray[np.float32]) -> NDArray[np.float32]:
        expected = self._scanned[start : start + len(buffer)]
        block, done = buffer[: len(expected)], 0
        search = self._handle.search().select(["image_id", "vector"]).offset(start).limit(len(expected))
        for batch in search.to_batches():
            vectors = batch.column("vector").flatten().to_numpy().reshape(-1, self.dimension)
            names = pl.Series(batch.column("image_id"))
            if not names.equals(expected[done : done + len(names)]):
                break
            block[done : done + len(vectors)] = vectors
            done += len(vectors)
        if done != len(expected):
            raise GalleryError(
                f"table {self.table}: its rows are not those that were listed a moment ago, from row "
                f"{start + done} on: it was changed on disk in between; run it again"
            )
        return block
