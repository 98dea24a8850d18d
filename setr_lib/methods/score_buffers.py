"""Two buffers of scores, used in turns: one is filled by a product while a thread reads the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

FLOAT64_BYTES = 8


class ScoreBuffers:
    """Memory for the scores of a search, and the thread that selects from them.

    Args:
        memory: Bytes of both buffers together.
        worker: One thread.
    """

    def __init__(self, memory: int, worker: ThreadPoolExecutor) -> None:
        self._bytes = memory // 2
        self._worker = worker
        self._buffers = [np.empty(0), np.empty(0)]
        self._turn = 0
        self._pending: Future[None] | None = None

    def queries(self, rows: int, dtype: DTypeLike) -> int:
        """Queries whose scores of some rows a buffer holds, at least one.

        Args:
            rows: Gallery rows.
            dtype: Of the scores.

        Returns:
            Their number.
        """
        return max(1, self._bytes // np.dtype(dtype).itemsize // rows)

    def next(self, shape: tuple[int, int], dtype: DTypeLike) -> NDArray[Any]:
        """The buffer that is not being read, with any content.

        Args:
            shape: Queries and gallery rows.
            dtype: Of the scores.

        Returns:
            A matrix; it is valid until the next call but one.
        """
        self._turn = 1 - self._turn
        count = shape[0] * shape[1]
        needed = -(-count * np.dtype(dtype).itemsize // FLOAT64_BYTES)
        if len(self._buffers[self._turn]) < needed:
            self._buffers[self._turn] = np.empty(needed)
        return self._buffers[self._turn].view(dtype)[:count].reshape(shape)

    def read(self, work: Callable[[], None]) -> None:
        """Have the thread do some work, once it has done what it was given before.

        Args:
            work: Reads the buffer that was given last.
        """
        self.wait()
        self._pending = self._worker.submit(work)

    def wait(self) -> None:
        """Until the thread has done what it was given; what it raised is raised here."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
