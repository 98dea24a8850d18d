"""The registry's own error."""

from __future__ import annotations

from setr_lib.errors import SetrError


class RegistryError(SetrError):
    """A run, version or registered model cannot be written, found, loaded or trusted; the message says which
    and why.
    """


def first_line(error: Exception) -> str:
    """The first line of what a library says, which may say it in many.

    Args:
        error: The library's error.

    Returns:
        The line, or the error's kind where it says nothing.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
