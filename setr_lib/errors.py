"""The root of every error that is meant for a person: it says what is wrong, where, and what to do."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SetrError(Exception):
    """Base class. A message names the file, row or id at fault and the way out; no traceback is needed to act
    on it.
    """


@contextmanager
def told_as(kind: type[SetrError], who: str) -> Iterator[None]:
    """Tell whatever code of a person's own raises as an error for people; the cause is kept.

    Args:
        kind: The error to raise.
        who: Whose code runs, e.g. ``retrieval method 'mine'``.

    Raises:
        SetrError: An error of ``kind`` in place of an exception that is not for people; those that are pass
            as they are.
    """
    try:
        yield
    except SetrError:
        raise
    except Exception as error:
        raise kind(f"{who} raised {type(error).__name__}: {error}{_line(error)}") from error


def _line(error: Exception) -> str:
    """`` (FILE, line N)`` of the innermost code that is neither of this package nor of an installed one."""
    package = str(Path(__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((package, "<")) and "site-packages" not in frame.filename:
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""
