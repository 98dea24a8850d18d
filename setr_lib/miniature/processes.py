"""Processes that draw pictures."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def drawing_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that are no forks of this one and end by themselves.

    They are not terminated by a signal, as ``multiprocessing.Pool`` does: where this process ignores SIGTERM,
    so do they, and the wait for them would not end. What has not begun when the block fails is not done.

    Args:
        count: How many.

    Yields:
        The pool.
    """
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
