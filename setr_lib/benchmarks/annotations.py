"""Strict reading of annotation files: JSON and JSON Lines into checked rows whose errors name file and row.

Every check that is the same for all data sets belongs here; what a data set's fields mean does not.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn, TypeVar

from setr_lib.benchmarks.errors import DatasetError

_T = TypeVar("_T", str, int)
_SHOWN = 80
_LARGEST_INTEGER = 2**63 - 1
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
"""How gzip, zip, bzip2, xz and Zstandard files begin."""


def shown(value: object) -> str:
    """``value`` as an error message shows it: one line, never long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _parse(text: str) -> Any:
    if text.startswith("\ufeff"):
        raise ValueError("it starts with a byte-order mark: save it as UTF-8 without one")
    # Without a hook json.loads silently keeps the last of two equal keys, and accepts NaN.
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def is_there(path: Path) -> bool:
    """Whether there is anything at ``path``, readable or not; never raises."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True  # there, but not for us: reading it will say why
    return True


def read_text(path: Path, purpose: str) -> str:
    """The UTF-8 text of ``path``. Raises ``DatasetError`` where it is missing or unreadable; ``purpose`` says
    what it is.
    """
    try:
        return _decoded(path.read_bytes(), path)
    except FileNotFoundError:
        raise DatasetError(
            f"there is no such file ({purpose}); is the path in setr.toml right?", file=path
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot be read ({purpose}): {error}", file=path) from error


def _decoded(content: bytes, path: Path) -> str:
    if content.startswith(_PACKED):
        raise DatasetError("is a compressed file: unpack it first", file=path)
    try:
        # Line ends as Python reads them from a text file: the same on every system.
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"not UTF-8 text: {error}", file=path) from error


def read_json(path: Path, purpose: str) -> Any:
    """The JSON value in ``path``. Raises ``DatasetError``; repeated keys and NaN are refused too."""
    return _json(read_text(path, purpose), path)


def json_value(content: bytes, path: Path) -> Any:
    """The JSON value of ``content``, which was read from ``path``; else as :func:`read_json`."""
    return _json(_decoded(content, path), path)


def _json(text: str, path: Path) -> Any:
    try:
        return _parse(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"not valid JSON: {error}", file=path) from error


def clean_text(value: object) -> str:
    """``value`` if it is text that UTF-8 can hold. Raises ``ValueError`` with the reason otherwise."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{shown(value)} holds half a character (a lone surrogate)") from None
    if "\x00" in value:
        raise ValueError(f"{shown(value)} holds a NUL character")
    return value


def relative_name(value: object) -> str:
    """A file name relative to a data folder, normalised with ``/`` (``./dev/a.png`` -> ``dev/a.png``).

    Raises ``ValueError`` for one that leaves the folder: absolute, with ``..``, or with another system's
    separators.
    """
    name = clean_text(value)
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    if not parts or not name.strip():
        raise ValueError(f"{shown(name)} names no file")
    if name.startswith("/") or windows.drive or windows.root or "\\" in name or ".." in parts:
        raise ValueError(f"{shown(name)} leaves the data folder: names must be relative and without '..'")
    return "/".join(parts)


def plain_name(value: object) -> str:
    """A file name without any folder part. Raises ``ValueError`` as :func:`relative_name` does."""
    name = clean_text(value)
    if "/" in name or relative_name(name) != name:
        raise ValueError(f"{shown(name)} leaves the data folder: it must be a plain name")
    return name


class Row:
    """One object of an annotation file. Its readers raise ``DatasetError`` naming file, row and key."""

    __slots__ = ("file", "values", "where")

    def __init__(self, file: Path, where: str, values: object) -> None:
        self.file = file
        self.where = where
        if not isinstance(values, dict):
            raise self.error(f"must be an object with named values, not {shown(values)}")
        self.values: dict[str, Any] = values

    def error(self, reason: str) -> DatasetError:
        """The error to raise for this row."""
        return DatasetError(reason, file=self.file, row=self.where)

    def _value(self, key: str) -> object:
        if key not in self.values:
            raise self.error(f"the key {key!r} is missing")
        return self.values[key]

    def text(self, key: str, *, blank: bool = False) -> str:
        """The text under ``key``; all white space is refused unless ``blank``."""
        try:
            text = clean_text(self._value(key))
        except ValueError as error:
            raise self.error(f"{key!r} {error}") from None
        if not blank and not text.strip():
            raise self.error(f"{key!r} is empty")
        return text

    def name(self, key: str) -> str:
        """The relative file name under ``key`` (see :func:`relative_name`)."""
        try:
            return relative_name(self._value(key))
        except ValueError as error:
            raise self.error(f"{key!r} {error}") from None

    def names(self, key: str) -> list[str]:
        """The list of relative file names under ``key``."""
        try:
            return [relative_name(value) for value in self._list(key, None)]
        except ValueError as error:
            raise self.error(f"an entry of {key!r} {error}") from None

    def integer(self, key: str, least: int = 0) -> int:
        """The whole number under ``key``, at least ``least`` (``true`` and ``1.0`` are none)."""
        return self._integer(key, self._value(key), least)

    def _integer(self, key: str, value: object, least: int) -> int:
        if type(value) is not int or not least <= value <= _LARGEST_INTEGER:
            raise self.error(f"{key!r} must be a whole number of at least {least}, not {shown(value)}")
        return value

    def _list(self, key: str, length: int | None) -> list[Any]:
        values = self._value(key)
        if not isinstance(values, list):
            raise self.error(f"{key!r} must be a list, not {shown(values)}")
        if length is not None and len(values) != length:
            raise self.error(f"{key!r} must have {length} entries, not {len(values)}")
        return values

    def texts(self, key: str, *, length: int | None = None, blank: bool = False) -> list[str]:
        """The list of texts under ``key``, of exactly ``length`` entries where that is given."""
        texts: list[str] = []
        for value in self._list(key, length):
            try:
                texts.append(clean_text(value))
            except ValueError as error:
                raise self.error(f"an entry of {key!r} {error}") from None
            if not blank and not texts[-1].strip():
                raise self.error(f"an entry of {key!r} is empty")
        return texts

    def integers(self, key: str, least: int = 0) -> list[int]:
        """The list of whole numbers under ``key``."""
        return [self._integer(key, value, least) for value in self._list(key, None)]

    def row(self, key: str) -> Row:
        """The object under ``key``; its errors name this row."""
        value = self._value(key)
        if not isinstance(value, dict):
            raise self.error(f"{key!r} must be an object, not {shown(value)}")
        return Row(self.file, f"{self.where}, {key}", value)

    def known(self, key: str, image_id: str, ids: Container[str] | None, source: Path | str) -> str:
        """``image_id`` if it is among ``ids`` (a set or dict; ``None`` checks nothing), else an error naming
        ``source``.
        """
        if ids is not None and image_id not in ids:
            raise self.error(f"{key!r} names the unknown image {shown(image_id)}: it is not in {source}")
        return image_id

    def distinct(self, key: str, values: list[_T]) -> list[_T]:
        """``values`` if no two are equal."""
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise self.error(f"{key!r} holds {shown(twice)} twice")
        return values


class Unique:
    """Refuses the second row with one id, naming the first."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._first: dict[str, str] = {}

    def claim(self, row: Row, value: str) -> str:
        """``value``, seen for the first time. Raises ``DatasetError`` otherwise."""
        if value in self._first:
            raise row.error(f"duplicate {self._what} {shown(value)}: {self._first[value]} has it already")
        self._first[value] = row.where
        return value


def read_rows(path: Path, purpose: str) -> list[Row]:
    """The objects of a JSON list; rows are counted from 0, as FashionIQ's query ids are."""
    values = read_json(path, purpose)
    if not isinstance(values, list):
        raise DatasetError(f"must be a list of objects ({purpose}), not {shown(values)}", file=path)
    return [Row(path, f"row {number} (counting from 0)", value) for number, value in enumerate(values)]


def numbered_lines(path: Path, purpose: str) -> Iterator[tuple[str, str]]:
    """The lines of a JSON Lines file that are not blank, each with its place (``line 3``). Raises
    ``DatasetError``.
    """
    # Not splitlines(): JSON strings may hold U+2028 and its like, which are no line ends here.
    for number, line in enumerate(read_text(path, purpose).split("\n"), start=1):
        if line.strip():
            yield f"line {number}", line


def line_row(path: Path, where: str, line: str) -> Row:
    """The object that one line of a JSON Lines file holds. Raises ``DatasetError``."""
    try:
        value = _parse(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"not valid JSON: {error}", file=path, row=where) from error
    return Row(path, where, value)


def read_json_lines(path: Path, purpose: str) -> Iterator[Row]:
    """The objects of a JSON Lines file, one a line; blank lines are skipped. Lines are counted from 1."""
    for where, line in numbered_lines(path, purpose):
        yield line_row(path, where, line)
