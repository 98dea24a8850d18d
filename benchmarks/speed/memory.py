"""Peak memory of a part of a process."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from benchmarks.speed.figure import Step

Result = TypeVar("Result")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measured_step(name: str, work: Callable[[], Result], note: str = "") -> tuple[Step, Result]:
    """Do one step, and measure its seconds and its peak memory.

    Args:
        name: What is done.
        work: Does it.
        note: Why it takes what it takes.

    Returns:
        The step, and what the work gave. Its peak memory is above what the process held before, None where
        the operating system does not tell it (Linux does).
    """
    gc.collect()
    before = _restarted_peak()
    begun = perf_counter()
    result = work()
    seconds = perf_counter() - begun
    peak = None if before is None else max(0, _kilobytes("VmHWM") * 1024 - before)
    return Step(name, seconds, peak, note), result


def _restarted_peak() -> int | None:
    """Have the peak begin at what is held now, which is returned in bytes; None where that cannot be."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
        return _kilobytes("VmRSS") * 1024
    except OSError:
        return None


def _kilobytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1])
