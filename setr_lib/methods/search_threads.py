"""The threads of a search: each multiplies, selects and scores for queries of its own, one BLAS thread each.

A BLAS library that multiplies with several threads leaves them spinning for a while after each product, and
waits for the slowest of them; beside a thread that reads and others that select, that costs a third of two
cores. So the library is held to one thread for as long as a search runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_MOST_THREADS = 16


class SearchThreads:
    """Threads in each of which work is done in the order in which it was given.

    Args:
        executors: One thread each.
    """

    def __init__(self, executors: list[ThreadPoolExecutor]) -> None:
        self._executors = executors
        self._scratch = [np.empty(0)] * len(executors)
        self._block: list[Future[None]] = []
        self._before: list[Future[None]] = []

    def __len__(self) -> int:
        return len(self._executors)

    def submit(self, thread: int, work: Callable[[], None]) -> None:
        """Have a thread do some work on the block.

        Args:
            thread: Its number.
            work: What it does.
        """
        self._block.append(self._executors[thread].submit(work))

    def next_block(self) -> None:
        """Work given from now on is on another block. Returns once all work but that on the last block is
        done; what work has raised is raised here."""
        before, self._before, self._block = self._before, self._block, []
        for work in before:
            work.result()

    def wait(self) -> None:
        """Until all work is done; what it has raised is raised here."""
        self.next_block()
        self.next_block()

    def scratch(self, thread: int, shape: tuple[int, int], dtype: DTypeLike) -> NDArray[Any]:
        """Memory of a thread, with any content: the same each time, so that it is touched first only once.

        Args:
            thread: Its number.
            shape: Of the matrix.
            dtype: Of its numbers.

        Returns:
            The matrix.
        """
        count = shape[0] * shape[1]
        needed = -(-count * np.dtype(dtype).itemsize // np.dtype(np.float64).itemsize)
        if len(self._scratch[thread]) < needed:
            self._scratch[thread] = np.empty(needed)
        return self._scratch[thread].view(dtype)[:count].reshape(shape)


@contextmanager
def search_threads() -> Iterator[SearchThreads]:
    """As many threads as BLAS would use, with a BLAS of one thread for as long as they are there.

    Yields:
        The threads.
    """
    with _ONE_THREAD as count, ExitStack() as stack:
        yield SearchThreads(
            [
                stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="setr-rank"))
                for _ in range(min(count, _MOST_THREADS))
            ]
        )


@lru_cache(maxsize=1)
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


class _OneThread:
    """Holds BLAS to one thread while it is entered, by however many threads of this process."""

    def __init__(self) -> None:
        self._lock, self._entered, self._count = threading.Lock(), 0, 1
        self._limit: Any = None

    def __enter__(self) -> int:
        with self._lock:
            if not self._entered:
                found = _libraries()
                self._count = max((each["num_threads"] for each in found.info()), default=1)
                self._limit = found.limit(limits=1)
                self._limit.__enter__()
            self._entered += 1
            return self._count

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._entered -= 1
            if not self._entered:
                self._limit.__exit__(None, None, None)


_ONE_THREAD = _OneThread()
