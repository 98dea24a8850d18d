"""How ``setr run`` shows a run: a line per finished step; meanwhile a moving bar, or plain lines where there
is no terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, TextIO, cast

from setr_assets.course import Course
from setr_assets.progress import Listener
from setr_lib.commands.console import ProgressBars, ProgressLines, terminal
from setr_lib.escaping import VisibleStream, visible
from setr_lib.progress import duration_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Watcher(Listener, Protocol):
    """A listener that is also told why a step failed, and what is no step's."""

    def note(self, text: str) -> None:
        """Something worth knowing that is no step's, in one line.

        Args:
            text: The line.
        """

    def failed(self, step: str, reason: str) -> None:
        """A step failed, or several for one reason.

        Args:
            step: The assets' names.
            reason: The error's message.
        """


def tell_failures(watcher: Watcher, reasons: Mapping[str, str]) -> None:
    """Tell why steps failed: those of one reason together, so that it is told once.

    Args:
        watcher: Who is told.
        reasons: The reason by step.
    """
    steps: dict[str, list[str]] = {}
    for step, reason in reasons.items():
        steps.setdefault(reason, []).append(step)
    for reason, names in steps.items():
        watcher.failed(", ".join(names), reason)


@contextlib.contextmanager
def watcher(course: Course, *, quiet: bool = False) -> Iterator[Watcher]:
    """Bars on a terminal, lines elsewhere; both on standard error.

    Args:
        course: Told how far the run is.
        quiet: Show failures alone.
    """
    if quiet:
        yield QuietWatcher()
        return
    with _real_stderr() as out:
        if not out.isatty():
            yield LineWatcher(cast("TextIO", VisibleStream(out)), course)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = terminal(file=out)
        columns = (
            TextColumn("    {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        # Rich must not catch what others print: during a step, Dagster has turned the process's output into
        # its own log.
        with Progress(
            *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as bars:
            yield BarWatcher(console, bars, course)


@contextlib.contextmanager
def _real_stderr() -> Iterator[TextIO]:
    """Standard error as it is now: while a step runs, Dagster lends its file descriptor to the step's log
    file.
    """
    try:
        number = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # no file behind it (a notebook, a test)
        yield sys.stderr
        return
    with os.fdopen(number, "w", encoding=sys.stderr.encoding, buffering=1) as out:
        yield out


class QuietWatcher:
    """Shows failures alone, on standard error."""

    def started(self, step: str) -> None:
        """Show nothing."""

    def progressed(self, step: str, partition: str, done: int, total: int, what: str) -> None:
        """Show nothing."""

    def said(self, step: str, text: str, warning: bool) -> None:
        """Show nothing."""

    def finished(self, step: str, seconds: float, succeeded: bool) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def failed(self, step: str, reason: str) -> None:
        """Print why a step failed."""
        print(f"FAILED {step}: {visible(reason)}", file=sys.stderr, flush=True)


class LineWatcher:
    """Progress as plain lines, which survive in a log file.

    Args:
        out: Where lines are written.
        course: Told how far the run is.
    """

    def __init__(self, out: TextIO, course: Course) -> None:
        self._out, self._course = out, course
        self._lines = ProgressLines(out, "    ", ends=False)

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def started(self, step: str) -> None:
        """Print that a step begins, the how many-th it is, and how long the run will still take, if known."""
        left = _left(self._course)
        self._print(f"{self._course.begin(step)} ...{left and f' ({left})'}")

    def progressed(self, step: str, partition: str, done: int, total: int, what: str) -> None:
        """Print how far a step is, every few seconds at most."""
        self._lines(done, total, what, _where(partition))

    def said(self, step: str, text: str, warning: bool) -> None:
        """Print what a step has to say."""
        self._print(f"    {'WARNING ' if warning else ''}{text}")

    def finished(self, step: str, seconds: float, succeeded: bool) -> None:
        """Print that a step is over, and how long it took."""
        self._course.end(step, seconds)
        self._lines.clear()
        self._print(f"  {'done' if succeeded else 'FAILED'} {step} ({seconds:.1f} s)")

    def note(self, text: str) -> None:
        """Print what is no step's."""
        self._print(text)

    def failed(self, step: str, reason: str) -> None:
        """Print why a step failed."""
        self._print(f"FAILED {step}: {reason}")


class BarWatcher:
    """Progress as bars under the lines of what is finished.

    Args:
        console: The terminal.
        bars: Rich's bars on it.
        course: Told how far the run is.
    """

    def __init__(self, console: Console, bars: Progress, course: Course) -> None:
        self._console, self._course = console, course
        self._bars = ProgressBars(bars, keep=False)

    def started(self, step: str) -> None:
        """Show that a step begins, the how many-th it is, and how long the run will still take, if known."""
        left = _left(self._course)
        self._bars.begin(f"{self._course.begin(step)}{left and f' ({left})'}")

    def progressed(self, step: str, partition: str, done: int, total: int, what: str) -> None:
        """Move the bar of a part of a step."""
        self._bars(done, total, what, _where(partition))

    def said(self, step: str, text: str, warning: bool) -> None:
        """Print what a step has to say above the bars."""
        from rich.text import Text

        self._console.print(Text(f"    {text}", style="yellow" if warning else "dim"))

    def finished(self, step: str, seconds: float, succeeded: bool) -> None:
        """Remove a step's bars, and print how long it took."""
        from rich.text import Text

        self._course.end(step, seconds)
        self._bars.clear()
        mark = ("✓", "green") if succeeded else ("✗", "red")
        self._console.print(Text.assemble("  ", mark, " ", (step, "bold"), " ", (f"{seconds:.1f} s", "dim")))

    def note(self, text: str) -> None:
        """Print what is no step's above the bars."""
        from rich.text import Text

        self._console.print(Text(text), soft_wrap=True)

    def failed(self, step: str, reason: str) -> None:
        """Print why a step failed above the bars."""
        from rich.text import Text

        self._console.print(Text(f"{step}: {reason}", style="red"), soft_wrap=True)


def _where(partition: str) -> str:
    return f"{partition}: " if partition else ""


def _left(course: Course) -> str:
    rest = course.rest()
    return "" if rest is None else f"about {duration_words(rest)} left of the run, as the last one went"
