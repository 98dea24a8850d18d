"""Output on a terminal: progress bars, or plain lines where the output goes to a file; libraries kept
quiet.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Iterator

from setr_lib.progress import Progress

LINE_INTERVAL = 10.0
"""Seconds between two progress lines of one job, where there is no terminal."""


def quieten_libraries() -> None:
    """Keep the libraries' own progress bars and deprecation notices off the terminal: a user cannot act on
    them.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")


def size_words(count: float) -> str:
    """A number of bytes in words: ``14 MB``, ``1.5 GB``.

    Args:
        count: Bytes.

    Returns:
        The words.
    """
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


@contextlib.contextmanager
def progress_on_terminal() -> Iterator[Progress]:
    """A ``Progress`` that shows each kind of work (its ``what``) as a bar on standard error, or as lines."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def _lines() -> Progress:
    last: dict[str, float] = {}

    def report(done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if done >= total or now - last.get(what, 0.0) >= LINE_INTERVAL:
            last[what] = now
            print(f"{done:,} of {total:,} {what}", file=sys.stderr, flush=True)

    return report
