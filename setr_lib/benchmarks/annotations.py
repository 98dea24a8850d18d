"""Strict reading of annotation files: JSON and JSON Lines into checked rows whose errors name file and row.

Every check that is the same for all data sets belongs here; what a data set's fields mean does not.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn, TypeVar

from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.near_ids import meant
from setr_lib.decoding import decode

_T = TypeVar("_T", str, int)
_SHOWN = 80
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_COORDINATE = 1e6


def shown(value: object) -> str:
    """``value`` as error messages print it: one line of limited length.

    Args:
        value: Any value read from a file.

    Returns:
        Its ``repr``, cut after 80 characters.
    """
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
    raise ValueError(f"{name} is not a JSON number")


def parse_json(text: str) -> Any:
    """The JSON value of a text.

    Args:
        text: The text.

    Returns:
        The decoded value.

    Raises:
        ValueError: It is not valid JSON, repeats a key in one object, or holds NaN.
        RecursionError: It is nested too deeply.
    """
    # Without a hook json.loads silently keeps the last of two equal keys, and accepts NaN.
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def is_there(path: Path) -> bool:
    """Whether there is anything at ``path``, readable or not; never raises.

    Args:
        path: A file or folder.

    Returns:
        Whether it exists; True also where this user may not look at it, so that reading it says why.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True  # it exists, but may not be looked at: reading it will say why
    return True


_SHELLS_PIPES = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


def read_text(path: Path, purpose: str) -> str:
    """The text of a UTF-8 file (or of another that begins with a byte-order mark), line ends as ``\\n``.

    Args:
        path: The file.
        purpose: What it holds, for the message, e.g. ``CIRR's queries``.

    Returns:
        Its text.

    Raises:
        DatasetError: It is missing, cannot be read, is compressed, or is not UTF-8.
    """
    return _decoded(read_bytes(path, purpose), path)


def read_bytes(path: Path, purpose: str) -> bytes:
    """The bytes of an annotation file.

    Args:
        path: The file.
        purpose: What it holds, for the message.

    Returns:
        Its bytes.

    Raises:
        DatasetError: It is missing, or cannot be read.
    """
    try:
        _check_regular(path, purpose)
        return path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(
            f"there is no such file ({purpose}); is the path in setr.toml right?", file=path
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"cannot be read ({purpose}): {reason}", file=path) from error


def _check_regular(path: Path, purpose: str) -> None:
    """Refuse what is no regular file: to open a named pipe waits for ever, and a device has no end. A shell's
    own pipes (``<(...)``, ``/dev/stdin``) are read.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or (stat.S_ISFIFO(mode) and str(path).startswith(_SHELLS_PIPES))):
        from setr_lib.pixels import kind_of_file

        raise DatasetError(f"is {kind_of_file(mode)}, not a file ({purpose})", file=path)


def _decoded(content: bytes, path: Path) -> str:
    try:
        return decode(content).text
    except ValueError as error:
        raise DatasetError(str(error), file=path) from error


def read_json(path: Path, purpose: str) -> Any:
    """The JSON value in a file; repeated keys and NaN are refused.

    Args:
        path: The file.
        purpose: What it holds, for the message.

    Returns:
        The decoded value.

    Raises:
        DatasetError: It cannot be read, or is not valid JSON.
    """
    return _json(read_text(path, purpose), path)


def json_value(content: bytes, path: Path, repeated: list[str] | None = None) -> Any:
    """The JSON value of bytes that were read from a file; as strict as :func:`read_json`.

    Args:
        content: The file's bytes.
        path: Where they were read, for the message.
        repeated: Takes the keys that an object has again, each as often; and NaN is then read as a number. By
            default both are refused.

    Returns:
        The decoded value.

    Raises:
        DatasetError: They are not UTF-8, or not valid JSON.
    """
    return _json(_decoded(content, path), path, repeated)


def _json(text: str, path: Path, repeated: list[str] | None = None) -> Any:
    def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values and repeated is not None:
                repeated.append(key)
            values[key] = value
        return values

    try:
        return parse_json(text) if repeated is None else json.loads(text, object_pairs_hook=noted)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"not valid JSON: {error}", file=path) from error


def clean_text(value: object) -> str:
    """``value``, checked to be text that UTF-8 can hold.

    Args:
        value: Any value of a file.

    Returns:
        ``value`` itself.

    Raises:
        ValueError: It is not text, or holds a lone surrogate or a NUL character.
    """
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

    Args:
        value: The name as a file has it.

    Returns:
        The normalised name.

    Raises:
        ValueError: It leaves the folder: it is absolute, has ``..``, or another system's separators.
    """
    name = clean_text(value)
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    if not parts or not name.strip():
        raise ValueError(f"{shown(name)} names no file")
    if name.startswith("/") or windows.drive or windows.root or ".." in (*parts, *windows.parts):
        raise ValueError(f"{shown(name)} leaves the data folder: names must be relative and without '..'")
    if "\\" in name:
        raise ValueError(
            f"{shown(name)} holds a back-slash: write '/' between folders, and rename a file that has one in "
            "its own name"
        )
    return "/".join(parts)


def plain_name(value: object) -> str:
    """A file name without any folder part.

    Args:
        value: The name as a file has it.

    Returns:
        The name, unchanged.

    Raises:
        ValueError: It has a folder part, or is refused by :func:`relative_name`.
    """
    name = clean_text(value)
    if "/" in name or relative_name(name) != name:
        raise ValueError(f"{shown(name)} leaves the data folder: it must be a plain name")
    return name


class Row:
    """One object of an annotation file, with a checked reader for each type of value.

    Every reader raises :class:`DatasetError`, which names file, row and key.

    Args:
        file: The annotation file.
        where: The row's place in it in words, e.g. ``row 3 (counting from 0)``.
        values: The decoded JSON value.

    Raises:
        DatasetError: The value is not an object.
    """

    __slots__ = ("file", "values", "where")

    def __init__(self, file: Path, where: str, values: object) -> None:
        self.file = file
        self.where = where
        if not isinstance(values, dict):
            raise self.error(f"must be an object with named values, not {shown(values)}")
        self.values: dict[str, Any] = values

    def error(self, reason: str) -> DatasetError:
        """The error to raise for this row.

        Args:
            reason: What is wrong with the row.

        Returns:
            The error, which names file and row.
        """
        return DatasetError(reason, file=self.file, row=self.where)

    def _value(self, key: str) -> object:
        if key not in self.values:
            raise self.error(f"the key {key!r} is missing")
        return self.values[key]

    def text(self, key: str, *, blank: bool = False) -> str:
        """The text under ``key``; all white space is refused unless ``blank``.

        Args:
            key: Name of the value.
            blank: Whether text of white space only is accepted.

        Returns:
            The text.

        Raises:
            DatasetError: The key is missing, or its value is not such a text.
        """
        try:
            text = clean_text(self._value(key))
        except ValueError as error:
            raise self.error(f"{key!r} {error}") from None
        if not blank and not text.strip():
            raise self.error(f"{key!r} is empty")
        return text

    def name(self, key: str) -> str:
        """The relative file name under ``key`` (see :func:`relative_name`).

        Args:
            key: Name of the value.

        Returns:
            The normalised name.

        Raises:
            DatasetError: The key is missing, or its value is not a name inside the data folder.
        """
        try:
            return relative_name(self._value(key))
        except ValueError as error:
            raise self.error(f"{key!r} {error}") from None

    def names(self, key: str) -> list[str]:
        """The list of relative file names under ``key``.

        Args:
            key: Name of the list.

        Returns:
            The normalised names.

        Raises:
            DatasetError: The key is missing, its value is not a list, or an entry is not a name inside the
                data folder.
        """
        try:
            return [relative_name(value) for value in self._list(key, None)]
        except ValueError as error:
            raise self.error(f"an entry of {key!r} {error}") from None

    def integer(self, key: str, least: int = 0) -> int:
        """The whole number under ``key``; ``true`` and ``1.0`` are refused.

        Args:
            key: Name of the value.
            least: The smallest number that is accepted.

        Returns:
            The number.

        Raises:
            DatasetError: The key is missing, or its value is not such a number.
        """
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
        """The list of texts under ``key``.

        Args:
            key: Name of the list.
            length: How many entries it must have; None accepts any number.
            blank: Whether texts of white space only are accepted.

        Returns:
            The texts.

        Raises:
            DatasetError: The key is missing, its value is not a list of that length, or an entry is not such
                a text.
        """
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
        """The list of whole numbers under ``key``.

        Args:
            key: Name of the list.
            least: The smallest number that is accepted.

        Returns:
            The numbers.

        Raises:
            DatasetError: The key is missing, its value is not a list, or an entry is not such a number.
        """
        return [self._integer(key, value, least) for value in self._list(key, None)]

    def numbers(self, key: str, *, length: int) -> list[float]:
        """The list of numbers under ``key``, of a size that coordinates can have.

        Args:
            key: Name of the list.
            length: How many entries it must have.

        Returns:
            The numbers.

        Raises:
            DatasetError: It is missing, not a list of that length, or has an entry beyond a million.
        """
        values = self._list(key, length)
        for value in values:
            if type(value) not in (int, float) or not abs(value) <= _LARGEST_COORDINATE:
                raise self.error(f"{key!r} must hold {length} numbers (coordinates), not {shown(value)}")
        return [float(value) for value in values]

    def row(self, key: str) -> Row:
        """The object under ``key``; its errors name this row.

        Args:
            key: Name of the object.

        Returns:
            The object as a row of its own.

        Raises:
            DatasetError: The key is missing, or its value is not an object.
        """
        value = self._value(key)
        if not isinstance(value, dict):
            raise self.error(f"{key!r} must be an object, not {shown(value)}")
        return Row(self.file, f"{self.where}, {key}", value)

    def rows(self, key: str) -> list[Row]:
        """The list of objects under ``key``; their errors name this row and the place in the list.

        Args:
            key: Name of the list.

        Returns:
            The objects as rows of their own.

        Raises:
            DatasetError: The key is missing, its value is not a list, or an entry is not an object.
        """
        where = f"{self.where}, {key}, entry"
        return [Row(self.file, f"{where} {n}", value) for n, value in enumerate(self._list(key, None))]

    def known(self, key: str, image_id: str, ids: Collection[str] | None, source: Path | str) -> str:
        """``image_id``, checked to be among the known images.

        Args:
            key: Name of the value, for the message.
            image_id: The id that the row names.
            ids: The known ids (a set or dict); None checks nothing.
            source: Where the known ids come from, for the message.

        Returns:
            ``image_id`` itself.

        Raises:
            DatasetError: The id is not among them; the message names the nearest one and how it differs.
        """
        if ids is not None and image_id not in ids:
            folder = source if isinstance(source, Path) else None
            hint = meant(image_id, ids, folder)
            raise self.error(
                f"{key!r} names the unknown image {shown(image_id)}: it is not in {source}{hint}"
            )
        return image_id

    def distinct(self, key: str, values: list[_T]) -> list[_T]:
        """``values``, checked to have no two equal entries.

        Args:
            key: Name of the list, for the message.
            values: The entries.

        Returns:
            ``values`` itself.

        Raises:
            DatasetError: An entry occurs twice.
        """
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise self.error(f"{key!r} holds {shown(twice)} twice")
        return values


class Unique:
    """A check that no two rows have the same id; its message names the first of them.

    Args:
        what: What the id is, for the message, e.g. ``query id``.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._first: dict[str, str] = {}

    def claim(self, row: Row, value: str) -> str:
        """``value``, checked to be new.

        Args:
            row: The row that has it.
            value: The id.

        Returns:
            ``value`` itself.

        Raises:
            DatasetError: An earlier row has the same id.
        """
        if value in self._first:
            raise row.error(f"duplicate {self._what} {shown(value)}: {self._first[value]} has it already")
        self._first[value] = row.where
        return value


def read_rows(path: Path, purpose: str) -> list[Row]:
    """The objects of a JSON list; rows are counted from 0, as FashionIQ's query ids are.

    Args:
        path: The file.
        purpose: What it holds, for the message.

    Returns:
        One row per object, in the file's order.

    Raises:
        DatasetError: It cannot be read, is not a list, or an entry is not an object.
    """
    values = read_json(path, purpose)
    if not isinstance(values, list):
        raise DatasetError(f"must be a list of objects ({purpose}), not {shown(values)}", file=path)
    return [Row(path, f"row {number} (counting from 0)", value) for number, value in enumerate(values)]


def numbered_lines(path: Path, purpose: str) -> Iterator[tuple[str, str]]:
    """The lines of a JSON Lines file that are not blank.

    Args:
        path: The file.
        purpose: What it holds, for the message.

    Returns:
        (``line 3``, the line) of each, counted from 1.

    Raises:
        DatasetError: The file cannot be read.
    """
    # Not splitlines(): JSON strings may hold U+2028 and its like, which are not line ends here.
    for number, line in enumerate(read_text(path, purpose).split("\n"), start=1):
        if line.strip():
            yield f"line {number}", line


def line_row(path: Path, where: str, line: str) -> Row:
    """The object that one line of a JSON Lines file holds.

    Args:
        path: The file, for the message.
        where: The line's number in words, e.g. ``line 3``.
        line: Its text.

    Returns:
        The object as a row.

    Raises:
        DatasetError: The line is not valid JSON, or not an object.
    """
    try:
        value = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"not valid JSON: {error}", file=path, row=where) from error
    return Row(path, where, value)


def read_json_lines(path: Path, purpose: str) -> Iterator[Row]:
    """The objects of a JSON Lines file, one a line; blank lines are skipped. Lines are counted from 1.

    Args:
        path: The file.
        purpose: What it holds, for the message.

    Returns:
        One row per line that is not blank.

    Raises:
        DatasetError: The file cannot be read, or a line is not a JSON object.
    """
    for where, line in numbered_lines(path, purpose):
        yield line_row(path, where, line)
