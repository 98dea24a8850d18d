"""How many of a processor's cores a model's forward passes take while other processes decode its pictures.

A pass on several threads waits at the end of every operation for its slowest thread, and the others spin:
where decoding takes a core as well, that is a good part of the time. Passes of one thread each wait for
nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

_MOST_PASSES = 4
"""Passes side by side, at most: more of them get several threads each."""
_FEWEST_ITEMS = 8
"""Items of a pass, where a batch is divided."""
_SPARE = 0.25
"""A core that is needed for less than this share of the time is not taken: what it costs is more."""
_ALONE = 7 / 8
"""Where a model needs this share of all cores, one pass on all threads is fastest."""


class CoreShare:
    """Shares the cores between a model and the processes that decode for it, by what both have taken so far.

    A context: inside of it, :func:`run_side_by_side` keeps to the share.
    """

    def __init__(self) -> None:
        self._model_s, self._decoding_s = 0.0, 0.0

    def __enter__(self) -> CoreShare:
        return self

    def __exit__(self, *_: object) -> None:
        _PASSES.cores = None

    def note(self, model_s: float, decoding_s: float) -> None:
        """Learn what one more batch took, in core-seconds.

        Args:
            model_s: Of this process, which runs the model.
            decoding_s: Of the processes that decode.
        """
        # What is long ago counts less: pictures, and how many are in a batch, may change.
        self._model_s, self._decoding_s = self._model_s / 2 + model_s, self._decoding_s / 2 + decoding_s
        share = self._model_s / max(self._model_s + self._decoding_s, 1e-9)
        _PASSES.cores = _cores_of_model(share, _threads())


def _cores_of_model(share: float, cores: int) -> int | None:
    """Cores for a model that does a share of all work; None where one pass on all of them is fastest."""
    return None if share >= _ALONE else max(1, ceil(cores * share - _SPARE))


def run_side_by_side(items: Sized, run: Callable[[slice], Result], device: torch.device) -> list[Result]:
    """Run a function over a batch: at once, or in parts side by side on the cores of a :class:`CoreShare`.

    The number of torch's threads is that of each pass meanwhile; it is restored for the caller.

    Args:
        items: The batch.
        run: Called with the range of each part, in a thread of its own where there are several.
        device: Where the model is.

    Returns:
        What ``run`` gave for each part, in order.

    Raises:
        Exception: What ``run`` raised, of the first part that failed; all others have ended.
    """
    cores = _PASSES.cores
    if cores is None or device.type != "cpu" or _threads() < 2:
        return [run(slice(0, len(items)))]
    with _PASSES.lock:
        threads = _shared_out(cores, max(1, min(_MOST_PASSES, cores, len(items) // _FEWEST_ITEMS)))
        if len(threads) == 1:  # handing a batch to another thread and back takes longer beside decoders
            return [_with_threads(threads[0], run, slice(0, len(items)))]
        pools = _PASSES.of(threads)
        waited = [
            pool.submit(run, part) for pool, part in zip(pools, _parts(len(items), threads), strict=True)
        ]
        failures = [future.exception() for future in waited]
    for failure in failures:
        if failure is not None:
            raise failure
    return [future.result() for future in waited]


class _Passes:
    """The threads of the passes, kept from batch to batch: making them costs more than a small batch."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.cores: int | None = None
        """Cores that the model takes; None: all of them, in one pass."""
        self._owner = 0
        self._pools: dict[int, list[ThreadPoolExecutor]] = {}

    def of(self, threads: Sequence[int]) -> list[ThreadPoolExecutor]:
        """A thread for each pass, which torch gives as many threads as ``threads`` says."""
        if self._owner != os.getpid():  # in a fork of the process that made them they do not run
            self._owner, self._pools = os.getpid(), {}
        taken: list[ThreadPoolExecutor] = []
        for count in threads:
            held = self._pools.setdefault(count, [])
            free = [pool for pool in held if pool not in taken]
            if not free:
                held.append(_pool_with(count))
            taken.append(free[0] if free else held[-1])
        return taken


def _pool_with(threads: int) -> ThreadPoolExecutor:
    """A thread in which torch has a number of threads of its own."""
    import torch

    pool, before = ThreadPoolExecutor(1, thread_name_prefix="setr-pass"), torch.get_num_threads()
    try:
        pool.submit(torch.get_num_threads).result()  # a thread's first use takes over everybody's number
        pool.submit(torch.set_num_threads, threads).result()
    finally:
        torch.set_num_threads(before)  # the number that threads begun later start with
    return pool


def _with_threads(threads: int, run: Callable[[slice], Result], part: slice) -> Result:
    import torch

    before = torch.get_num_threads()
    (other,) = _PASSES.of([before])
    torch.set_num_threads(threads)
    try:
        other.submit(torch.set_num_threads, before).result()  # what threads begun meanwhile start with
        return run(part)
    finally:
        torch.set_num_threads(before)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


_PASSES = _Passes()


def _shared_out(threads: int, count: int) -> tuple[int, ...]:
    """``threads`` in ``count`` numbers that differ by 1 at most."""
    return tuple(threads // count + (number < threads % count) for number in range(count))


def _parts(items: int, threads: Sequence[int]) -> list[slice]:
    """Ranges of a batch, as large as the passes have threads."""
    ends = [round(items * sum(threads[: number + 1]) / sum(threads)) for number in range(len(threads))]
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
