"""The torch device of the models, and batches that are halved when they do not fit in memory.

Nothing here depends on which model is running; torch is imported only inside functions.
"""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakSet

from setr_lib.errors import SetrError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

OnHalve = Callable[[int, int], None]
"""Called as ``on_halve(too_large, next_size)`` each time a batch did not fit in memory."""

_LOG = logging.getLogger(__name__)
# What the allocators of CUDA, MPS, XPU and the CPU say; torch raises a plain RuntimeError for some of them.
_MEMORY_MESSAGE = re.compile(
    r"out of memory|can't allocate memory|not enough memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE
)

_NOT_EVEN_ONE = (
    "not even one item (number {} of {}) fits in memory: {}; "
    'use a smaller model, a device with more memory, or models.device = "cpu"'
)


class GivesWay(Protocol):
    """What is kept in a device's memory only to save time, and can be given up."""

    def give_way(self) -> None:
        """Let go of a part of it."""
        ...


_GIVING_WAY: WeakSet[GivesWay] = WeakSet()


class DeviceError(SetrError):
    """The configured device does not exist here, or not even one item fits in its memory."""


def pick_device(name: str = "auto") -> torch.device:
    """The torch device that the setting ``models.device`` names.

    Args:
        name: A torch device such as ``cuda:1``, or ``auto``: CUDA, then MPS, then CPU.

    Returns:
        The device.

    Raises:
        DeviceError: ``name`` is not a torch device, or it is not available on this machine.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # the only test that holds for every kind of device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise DeviceError(
            f'models.device = "{name}" cannot be used on this machine ({reason}); '
            'set it to "auto", "cpu" or a device that is here (SETR_MODELS__DEVICE)'
        ) from error
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory was not enough, on any device.

    Args:
        error: An exception from torch or Python.

    Returns:
        True for out-of-memory errors of Python, the CPU, CUDA, MPS and XPU.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(_MEMORY_MESSAGE.search(str(error)))


def free_memory(device: torch.device) -> int | None:
    """Memory of a device that a model may still take.

    Args:
        device: The device.

    Returns:
        Bytes, those that torch keeps unused included; None where it is not known.
    """
    import psutil
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available if device.type == "cpu" else None


def gives_way(kept: GivesWay) -> None:
    """Have something give way whenever memory runs out; it is forgotten when nobody else has it.

    Args:
        kept: What is kept in memory.
    """
    _GIVING_WAY.add(kept)


def release_memory() -> None:
    """Give up a part of what is kept to save time, collect garbage, and free torch's cached device memory, so
    that a smaller batch may fit.
    """
    import torch

    for kept in [*_GIVING_WAY]:
        kept.give_way()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def iterate_in_batches(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], Sequence[Result]],
    batch_size: int,
    on_halve: OnHalve | None = None,
) -> Iterator[tuple[Sequence[Item], Sequence[Result]]]:
    """Run a function over items in batches, yielding each batch's results before the next one runs.

    A batch that does not fit in memory is run again at half its size, which then holds for all later batches
    of this call.

    Args:
        items: What to process.
        run: Called with a batch, gives one result per item. A batch that failed is passed to it again.
        batch_size: Items per batch, at least 1.
        on_halve: Called as ``on_halve(too_large, next_size)`` when a batch did not fit; by default a warning
            is logged.

    Yields:
        ``(batch, run(batch))``, in order.

    Raises:
        DeviceError: A single item does not fit in memory.
        ValueError: ``batch_size`` is below 1, or ``run`` gave another number of results than it got items.
    """
    if batch_size < 1:
        raise ValueError(f"a batch has at least one item, not {batch_size}")
    size, start = batch_size, 0
    while start < len(items):
        batch = items[start : start + size]
        results, error = _attempt(run, batch)
        if results is None:
            if len(batch) == 1:
                raise DeviceError(_NOT_EVEN_ONE.format(start, len(items), error))
            size = len(batch) // 2
            (on_halve or _warn)(len(batch), size)
            continue
        if len(results) != len(batch):
            raise ValueError(f"{len(batch)} items gave {len(results)} results")
        yield batch, results
        start += len(batch)


def run_in_batches(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], Sequence[Result]],
    batch_size: int,
    on_halve: OnHalve | None = None,
) -> list[Result]:
    """Run a function over items in batches, halved when memory is short; see :func:`iterate_in_batches`.

    Args:
        items: What to process.
        run: Called with a batch, gives one result per item.
        batch_size: Items per batch, at least 1.
        on_halve: Called as ``on_halve(too_large, next_size)`` when a batch did not fit; by default a warning
            is logged.

    Returns:
        One result per item, in order.

    Raises:
        DeviceError: A single item does not fit in memory.
        ValueError: As in :func:`iterate_in_batches`.
    """
    return [
        result for _, results in iterate_in_batches(items, run, batch_size, on_halve) for result in results
    ]


def iterate_as_finished(
    items: Sequence[Item],
    run: Callable[[Sequence[Item], int], Iterator[tuple[int, Result]]],
    batch_size: int,
    on_halve: OnHalve | None = None,
) -> Iterator[tuple[int, Result]]:
    """Run a function that works on several items at a time and gives each result as soon as it is there.

    Where memory is not enough, those without a result are run again, half as many at a time.

    Args:
        items: What to process.
        run: Called with items and how many of them to work on at a time; gives the place of an item among
            them and its result, in any order.
        batch_size: How many at a time, at least 1.
        on_halve: Called as ``on_halve(too_large, next_size)`` when memory was not enough; by default a
            warning is logged.

    Yields:
        The place of an item, and its result.

    Raises:
        DeviceError: A single item does not fit in memory.
        ValueError: ``run`` gave no result for an item.
    """
    size, left = batch_size, list(range(len(items)))
    while left:
        size, done, message = min(size, len(left)), set[int](), ""
        results = run([items[place] for place in left], size)
        try:
            for place, result in results:
                done.add(left[place])
                yield left[place], result
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            message = (str(error).splitlines() or ["out of memory"])[0]
        del results
        left = [place for place in left if place not in done]
        if left and not message:
            raise ValueError(f"{len(left)} of {len(items)} items gave no result")
        if left:
            release_memory()
            if size == 1:
                raise DeviceError(_NOT_EVEN_ONE.format(left[0], len(items), message))
            (on_halve or _warn)(size, size // 2)
            size //= 2


def _attempt(
    run: Callable[[Sequence[Item]], Sequence[Result]], batch: Sequence[Item]
) -> tuple[Sequence[Result] | None, str]:
    """The results, or None and the error's message when memory was not enough.

    The exception is not passed on: its traceback would keep the failed attempt's tensors in memory.
    """
    try:
        return run(batch), ""
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = (str(error).splitlines() or ["out of memory"])[0]
    release_memory()
    return None, message


def _warn(too_large: int, next_size: int) -> None:
    _LOG.warning("a batch of %d did not fit in memory; going on with batches of %d", too_large, next_size)
