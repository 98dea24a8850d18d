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
