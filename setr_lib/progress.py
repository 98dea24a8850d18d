"""Progress of long library calls, reported to a callback (for a terminal, Dagster, or none)."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, what)``; ``what`` names the unit and the work, e.g. ``"images
embedded"``."""


def silent(done: int, total: int, what: str) -> None:
    """A progress callback that does nothing.

    Args:
        done: Units that are finished.
        total: All units.
        what: The unit and the work.
    """


class CallCounter:
    """A ``Progress`` that tells new results from kept ones: the first report of a step is of those kept.

    Args:
        listener: Told the same.
    """

    def __init__(self, listener: Progress = silent) -> None:
        self._listener = listener
        self.kept: int | None = None
        """Results that were there before; None before the first report."""
        self.total = 0
        """All results."""

    def __call__(self, done: int, total: int, what: str) -> None:
        if self.kept is None:
            self.kept = done
        self.total = total
        self._listener(done, total, what)

    @property
    def new(self) -> int:
        """Results that took a call of the model."""
        return self.total - (self.kept or 0)


class Pace:
    """How long a piece of work will still take, by its own pace since its second report.

    The first report is of what was done before, or kept. The time up to the second holds what is done only
    once (loading a model, looking for its batch size), so neither says anything of the pace.
    """

    def __init__(self) -> None:
        self._reports: list[tuple[int, float]] = []

    def rest(self, done: int, total: int) -> float | None:
        """Report progress.

        Args:
            done: Units that are finished.
            total: All units.

        Returns:
            Seconds that the rest will take; None where that cannot be told yet, or nothing is left.
        """
        now = time.monotonic()
        if len(self._reports) < _NO_PACE:
            if not self._reports or done > self._reports[-1][0]:
                self._reports.append((done, now))
            return None
        before, begun = self._reports[-1]
        if done <= before or done >= total or now <= begun:
            return None
        return (total - done) * (now - begun) / (done - before)


_NO_PACE = 2
"""The reports that say nothing of the pace."""


def duration_words(seconds: float) -> str:
    """A time in words of the precision of an estimate.

    Args:
        seconds: The time.

    Returns:
        ``40 s``, ``3 min``, ``1.5 h``.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
