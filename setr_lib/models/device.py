"""Where a model runs, and how a batch that does not fit in memory becomes smaller ones.

Nothing here knows which model is running; torch is imported only when a device is asked for.
"""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

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


class DeviceError(SetrError):
    """The configured device does not exist here, or not even one item fits in its memory."""


def pick_device(name: str = "auto") -> torch.device:
    """The torch device for ``models.device``: ``auto`` is CUDA, then MPS, then CPU.

    Raises ``DeviceError`` when ``name`` is no torch device or is not available on this machine.
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
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f'models.device = "{name}" cannot be used on this machine ({reason}); '
            'set it to "auto", "cpu" or a device that is here (SETR_MODELS__DEVICE)'
        ) from error
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory, on whatever device, was not enough."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(_MEMORY_MESSAGE.search(str(error)))


def release_memory() -> None:
    """Give cached but unused device memory back, so that a smaller batch has a chance."""
    import torch

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
    """Yield ``(batch, run(batch))`` in order, for callers that keep each batch's results before the next one runs.

    A batch that does not fit in memory is run again at half its size, which then holds for all later batches of
    this call; ``on_halve`` (by default a logged warning) is told. ``run`` must be repeatable: a batch that failed
    half way is run anew. Raises ``DeviceError`` when a single item does not fit; other errors pass through.
    """
    if batch_size < 1:
        raise ValueError(f"a batch has at least one item, not {batch_size}")
    size, start = batch_size, 0
    while start < len(items):
        batch = items[start : start + size]
        results, error = _attempt(run, batch)
        if results is None:
            if len(batch) == 1:
                raise DeviceError(
                    f"not even one item (number {start} of {len(items)}) fits in memory: {error}; "
                    'use a smaller model, a device with more memory, or models.device = "cpu"'
                )
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
    """``run`` over all of ``items``, one result per item in order; see :func:`iterate_in_batches`."""
    return [
        result for _, results in iterate_in_batches(items, run, batch_size, on_halve) for result in results
    ]


def _attempt(
    run: Callable[[Sequence[Item]], Sequence[Result]], batch: Sequence[Item]
) -> tuple[Sequence[Result] | None, str]:
    """The results, or None and the message when memory was not enough.

    The exception dies here: its traceback holds the frames, and so the tensors, of the failed attempt.
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
