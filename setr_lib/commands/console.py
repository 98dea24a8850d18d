"""What a terminal shows: bars where someone watches, plain lines where the output goes to a file, and little
noise.
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
    """Keep the libraries' own bars and notices of deprecation off the terminal: nobody there can act on them."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")


def size_words(count: float) -> str:
    """A number of bytes as a person says it: ``14 MB``, ``1.5 GB``."""
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
