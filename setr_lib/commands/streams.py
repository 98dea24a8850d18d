"""Standard output and standard error that fail in words: closed, full, or in an encoding that lacks a
character.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, cast

from setr_lib.errors import SetrError


class OutputError(SetrError):
    """Standard output cannot be written."""


class GuardedOutput:
    """Standard output whose failures are errors for people.

    A character that the encoding lacks is written as ``\\uXXXX``, so that JSON stays the same JSON.

    Args:
        stream: Where it writes to; None where the process began with it closed.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text.

        Args:
            text: Any text.

        Returns:
            Its length.

        Raises:
            OutputError: It cannot be written.
            BrokenPipeError: Nobody reads it any more.
        """
        if self._stream is None:
            raise OutputError("standard output is closed: nothing can be printed")
        with _in_words():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                self._stream.write(escaped(text, error.encoding))
        return len(text)

    def flush(self) -> None:
        """Hand over what was written.

        Raises:
            OutputError: It cannot be written.
            BrokenPipeError: Nobody reads it any more.
        """
        if self._stream is not None:
            with _in_words():
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    @property
    def encoding(self) -> str:
        """How characters become bytes."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class GuardedTalk:
    """Standard error, which never ends a command: what cannot be written there is lost.

    Args:
        stream: Where it writes to; None where the process began with it closed.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._output = GuardedOutput(stream)

    def write(self, text: str) -> int:
        """Write a text, where that is possible.

        Args:
            text: Any text.

        Returns:
            Its length.
        """
        with contextlib.suppress(OutputError, BrokenPipeError):
            self._output.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written, where that is possible."""
        with contextlib.suppress(OutputError, BrokenPipeError):
            self._output.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)


@contextlib.contextmanager
def guarded_output() -> Iterator[None]:
    """Guard what is printed inside a ``with`` block, on standard output and standard error."""
    before = sys.stdout, sys.stderr
    sys.stdout = cast("IO[str]", GuardedOutput(before[0]))
    sys.stderr = cast("IO[str]", GuardedTalk(before[1]))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def open_closed() -> None:
    """Open on nothing those of the three standard files that the process began without: else the next file
    that is opened, a database say, would take their place, and get what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def escaped(text: str, encoding: str) -> str:
    r"""A text whose characters an encoding has.

    Args:
        text: Any text.
        encoding: The encoding.

    Returns:
        The text, with ``\uXXXX`` (a pair of them beyond U+FFFF) for each character that the encoding lacks.
    """
    return "".join(letter if _has(encoding, letter) else _escape(letter) for letter in text)


def _has(encoding: str, letter: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _escape(letter: str) -> str:
    pairs = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{pairs[at] << 8 | pairs[at + 1]:04x}" for at in range(0, len(pairs), 2))


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from error
    except UnicodeError:
        raise
    except ValueError as error:  # Python's file was closed
        raise OutputError(f"standard output cannot be written: {error}") from error
