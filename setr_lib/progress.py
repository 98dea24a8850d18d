"""Progress of long library calls, reported to a callback (for a terminal, Dagster, or none)."""

from __future__ import annotations

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
