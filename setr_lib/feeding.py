"""Items prepared by threads ahead of a model: in order, a bounded number at a time, each its own error."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_THREADS = 16


def prepared(
    items: Iterable[Item], prepare: Callable[[Item], Result], ahead: int, threads: int | None = None
) -> Generator[Future[Result], None, None]:
    """Prepare items in threads, while whoever takes them works on earlier ones.

    Args:
        items: The items; taken one by one, never more than ``ahead`` before the one that is given out.
        prepare: Called once for each item, in one of the threads.
        ahead: Items that are being prepared or lie ready at a time, at least 1; those that were given out do
            not count.
        threads: How many threads prepare; by default one for each processor core, at most 16.

    Yields:
        For each item in order a future that is done: ``result()`` gives what ``prepare`` returned, or raises
        what it raised for this item. Closing the iterator cancels what has not begun, and waits for the rest.

    Raises:
        ValueError: ``ahead`` is below 1.
    """
    if ahead < 1:
        raise ValueError(f"at least 1 item is prepared ahead, not {ahead}")
    source, coming = iter(items), deque[Future[Result]]()
    workers = min(threads or cores(), ahead)
    with ThreadPoolExecutor(workers, thread_name_prefix="setr-prepare") as pool:
        try:
            coming.extend(pool.submit(prepare, item) for item in islice(source, ahead))
            while coming:
                first = coming.popleft()
                first.exception()  # waits
                coming.extend(pool.submit(prepare, item) for item in islice(source, 1))
                yield first
                del first  # what was given out is not held here
        finally:
            for future in coming:
                future.cancel()


def cores() -> int:
    """Processor cores that this process may use, at most 16."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MOST_THREADS, allowed or 1)
