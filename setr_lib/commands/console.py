"""Output on a terminal: progress bars, or plain lines where the output goes to a file; libraries kept
quiet.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from setr_lib.escaping import visible
from setr_lib.progress import Pace, Progress, duration_words, silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

LEAST_WIDTH = 72
"""Columns for which tables are laid out at least: a narrower terminal breaks their lines, and nothing of them
is left out."""
LINE_INTERVAL = 10.0
"""Seconds between two progress lines of one job, where there is no terminal."""


_quiet = False


@contextlib.contextmanager
def quiet_if(wanted: bool) -> Iterator[None]:
    """Let a command print results and errors only, inside a ``with`` block: no notes and warnings, of
    libraries neither, and no progress.

    Args:
        wanted: Whether to be quiet at all.
    """
    global _quiet
    before, disabled = _quiet, logging.root.manager.disable
    _quiet = _quiet or wanted
    try:
        with warnings.catch_warnings():
            if wanted:
                warnings.simplefilter("ignore")
                logging.disable(logging.WARNING)
            yield
    finally:
        _quiet = before
        logging.disable(disabled)


def is_quiet() -> bool:
    """Whether results and errors alone are wanted."""
    return _quiet


def talk(words: str, *, warning: bool = False) -> None:
    """Say something that is neither result nor error: on standard error, and not where results and errors
    alone are wanted.

    Args:
        words: The words.
        warning: Whether it is said to be a warning.
    """
    if not _quiet:
        print(f"setr: {'warning: ' if warning else ''}{words}", file=sys.stderr, flush=True)


def say_error(words: object) -> None:
    """Say on standard error what went wrong.

    Args:
        words: The words, or an error whose message they are.
    """
    print(f"setr: {words}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Keep what libraries print off standard output, inside a ``with`` block: it goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def quieten_libraries() -> None:
    """Keep the libraries' own progress bars and deprecation notices off the terminal: a user cannot act on
    them.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of each table that is made
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")


def terminal(**options: Any) -> Console:
    """The terminal as ``rich`` writes to it, for text from data: nothing in a text is taken for markup or an
    emoji's name, and what would act on the terminal (:func:`setr_lib.escaping.visible`) is shown.

    Args:
        options: As of ``rich.console.Console``.

    Returns:
        The console.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # is met at one place for all that is printed

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            for part in super().render(renderable, options):
                # A segment with a control code is rich's own, a movement of the cursor.
                yield part if part.control else Segment(visible(part.text), part.style)

    made = Terminal(markup=False, emoji=False, **options)
    if not options.get("stderr") and "width" not in options:
        made.width = max(made.width, LEAST_WIDTH)
    return made


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


class ProgressLines:
    """A ``Progress`` as plain lines, one every :data:`LINE_INTERVAL` seconds at most for each kind of work.

    Args:
        out: Where lines are written.
        indent: What every line begins with.
        ends: Whether the first and the last report of a kind of work always have a line.
    """

    def __init__(self, out: TextIO, indent: str = "", *, ends: bool = True) -> None:
        self._out, self._indent, self._ends = out, indent, ends
        self._last: dict[str, float] = {}
        self._paces: dict[str, Pace] = {}

    def __call__(self, done: int, total: int, what: str, where: str = "") -> None:
        """Report progress.

        Args:
            done: Units that are finished.
            total: All units.
            what: The unit and the work.
            where: What comes before the numbers, e.g. an evaluation set.
        """
        key, now = where + what, time.monotonic()
        rest = self._paces.setdefault(key, Pace()).rest(done, total)
        is_end = key not in self._last or done >= total
        if is_end and not self._ends:
            self._last.setdefault(key, now)
        elif is_end or now - self._last[key] >= LINE_INTERVAL:
            self._last[key] = now
            left = "" if rest is None else f", about {duration_words(rest)} left"
            print(f"{self._indent}{where}{done:,} of {total:,} {what}{left}", file=self._out, flush=True)

    def clear(self) -> None:
        """Forget all kinds of work: what is reported next is a first report."""
        self._last.clear()
        self._paces.clear()


class ProgressBars:
    """A ``Progress`` as bars on a terminal, one for each kind of work.

    Args:
        bars: Rich's bars.
        keep: Whether a bar stays when its work is done.
    """

    def __init__(self, bars: Bars, *, keep: bool = True) -> None:
        self._bars, self._keep = bars, keep
        self._tasks: dict[str, TaskID] = {}

    def begin(self, what: str) -> None:
        """Show a bar for work of unknown size.

        Args:
            what: The work.
        """
        self._tasks[what] = self._bars.add_task(what, total=None)

    def __call__(self, done: int, total: int, what: str, where: str = "") -> None:
        """Report progress.

        Args:
            done: Units that are finished.
            total: All units.
            what: The unit and the work.
            where: What comes before it, e.g. an evaluation set.
        """
        words = where + what
        if words not in self._tasks:
            self._tasks[words] = self._bars.add_task(words, total=total)
        self._bars.update(self._tasks[words], completed=done, total=total)
        if done >= total and not self._keep:
            self._bars.remove_task(self._tasks.pop(words))

    def clear(self) -> None:
        """Remove all bars."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()


@contextlib.contextmanager
def progress_on_terminal() -> Iterator[Progress]:
    """A ``Progress`` that shows each kind of work (its ``what``) as a bar on standard error, or as lines;
    none where results and errors alone are wanted.
    """
    if _quiet:
        yield silent
        return
    if not sys.stderr.isatty():
        yield ProgressLines(sys.stderr)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # What is printed meanwhile goes above the bars, unless standard output is a file: then it goes there.
    apart = not sys.stdout.isatty()
    with Bars(*columns, console=terminal(stderr=True), redirect_stdout=not apart) as bars:
        yield ProgressBars(bars)
