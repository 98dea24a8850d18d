"""Text from data (names, captions, ids, answers of a model, errors that quote them) made harmless where it
leaves: on a terminal, in Markdown, in CSV.

Files that SETR or another program reads back (tables, exchange files, submissions, JSON) keep every text as
it is.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

_INVISIBLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides and isolates of direction
    "\u2028\u2029"  # other line ends
    "\ud800-\udfff"  # halves of a character: bytes of a file name that are not UTF-8
)
_HIDDEN = re.compile(f"[{_INVISIBLE}]")
_CURSOR_UP = re.compile(r"(\x1b\[A)+")
_SPACES = re.compile(r"\s+")

_MARKDOWN = {character: f"&#{ord(character)};" for character in "\\`*[]~<>"} | {"&": "&amp;"}
_MARKDOWN["|"] = "\\|"
_MARKED = re.compile(r"[\\`*\[\]|~<>&]|(?<![^\W_])_|_(?![^\W_])")
_BLOCK = re.compile(r"#{1,6}(?=\s|$)|[+-](?=[\s-]|$)|=+(?=\s*$)|\d{1,9}[.)](?=\s|$)")
"""What begins a heading, a list, a rule or an underline at the start of a line."""
_JOINER = "\u2060"
"""A character without width: an address that has one inside is not taken for a link."""
_LINKED = re.compile(r"(?i)(?<=\w:)(?=//)|(?<=\bwww)(?=\.)|(?<=[\w.+-])(?=@[\w-]+\.)")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: not one with half a character (a lone surrogate), which JSON can spell
    and which stands for bytes of a command line that are not UTF-8.

    Args:
        text: Any text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def visible(text: str) -> str:
    r"""A text without characters that act instead of being seen: control characters (escape sequences, a
    carriage return), and those that turn the direction of what follows.

    Args:
        text: Any text.

    Returns:
        The text with ``\u001b`` and the like in their place: JSON stays the same JSON. Tabs and line feeds
        stay.
    """
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def markdown(text: str) -> str:
    """A text as one line of Markdown that shows just that: also a cell of a table.

    Args:
        text: Any text; line ends become spaces.

    Returns:
        Markdown without pictures, links, HTML, code or emphasis.
    """
    line = visible(_SPACES.sub(" ", text).strip())
    line = _LINKED.sub(_JOINER, line)
    first = _BLOCK.match(line)
    line = _MARKED.sub(lambda found: _MARKDOWN.get(found[0], f"&#{ord(found[0])};"), line)
    if first is None:
        return line
    at = first.end() - 1
    return f"{line[:at]}&#{ord(line[at])};{line[at + 1 :]}"


def csv_cell(text: str) -> str:
    """A text as a cell of a CSV file that a spreadsheet opens: never a formula.

    Args:
        text: Any text.

    Returns:
        The text; with an apostrophe before it where a spreadsheet would compute it.
    """
    return visible(f"'{text}" if text.startswith(_FORMULA) else text)


class VisibleStream:
    """A text stream that writes everything as :func:`visible` has it.

    Rich writes its own colours and movements around it (``rich_proxied_file``).

    Args:
        stream: Where it writes to.
        bars: Whether progress bars of other libraries write to it: a carriage return at the start of what is
            written then stays, and so does a movement of the cursor alone.
    """

    def __init__(self, stream: IO[str], *, bars: bool = False) -> None:
        self.rich_proxied_file, self._bars = stream, bars

    def write(self, text: str) -> int:
        """Write a text.

        Args:
            text: Any text.

        Returns:
            Its length.
        """
        stream = self.rich_proxied_file
        if self._bars and _CURSOR_UP.fullmatch(text):
            stream.write(text)
        elif self._bars and text.startswith("\r"):
            stream.write("\r" + visible(text[1:]))
        else:
            stream.write(visible(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after another.

        Args:
            lines: The texts.
        """
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextlib.contextmanager
def visible_output() -> Iterator[None]:
    """Have all that is printed inside a ``with`` block, on standard output and standard error, as
    :func:`visible` has it.
    """
    before = sys.stdout, sys.stderr
    sys.stdout = cast("IO[str]", VisibleStream(before[0]))
    sys.stderr = cast("IO[str]", VisibleStream(before[1], bars=True))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
