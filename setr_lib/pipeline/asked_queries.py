"""A person's file of queries to search: references and texts, as CSV or JSON Lines.

Rows are read one by one, so that one that is at fault does not keep the others from being searched. For the
queries of a data set, which are read as a whole or not at all, see ``setr_lib.benchmarks.query_tables``; its
files are understood here, too.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setr_lib.decoding import decode
from setr_lib.errors import SetrError
from setr_lib.escaping import is_unicode
from setr_lib.near_names import near_name

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "reference": ("reference", "image"),
    "text": ("text", "modification"),
    "id": ("id", "query_id"),
}
"""What a query has, and what its column or key may be called; ``id`` may be absent."""
_REQUIRED = ("reference", "text")
_SHOWN = 200
"""Characters of a reference that is not found which a message has."""
_SEPARATORS = (",", ";", "\t", "|")


class QueryFileError(SetrError):
    """A file of queries cannot be read at all; the message names it."""


@dataclass(frozen=True)
class AskedQuery:
    """A query of the file.

    Attributes:
        line: The line that it begins in, from 1.
        reference: The reference image, as the file names it.
        text: The modification text.
        id: The query's name; None where the file gives none.
    """

    line: int
    reference: str
    text: str
    id: str | None = None


@dataclass(frozen=True)
class FaultyRow:
    """A row of the file that is no query.

    Attributes:
        line: The line that it begins in, from 1.
        reason: Why, as the end of a sentence.
        id: The query's name, where that can be read.
    """

    line: int
    reason: str
    id: str | None = None


def read_asked_queries(file: Path | str, content: bytes | None = None) -> list[AskedQuery | FaultyRow]:
    """Read a file of queries.

    Args:
        file: CSV (separated by commas, semicolons, tabs or ``|``) whose first line names the columns, or JSON
            Lines: see :data:`COLUMNS`. Other columns are passed over. Where ``content`` is given, what
            messages call it.
        content: The bytes, where they were read already (from standard input, say).

    Returns:
        Its queries, and the rows that are none, in the file's order.

    Raises:
        QueryFileError: It cannot be read, is another kind of file, lacks a column, or has no row.
    """
    try:
        content = Path(file).read_bytes() if content is None else content
        text = decode(content, windows=True).text.lstrip("\ufeff")
    except OSError as error:
        raise QueryFileError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise QueryFileError(f"{file}: {error}") from error
    first = text.lstrip()[:1]
    if first == "[":
        raise QueryFileError(f"{file}: one JSON list; write JSON Lines, one object a line (jq -c '.[]')")
    rows = list((_json_lines if first == "{" else _csv)(file, text))
    if not rows:
        raise QueryFileError(f"{file}: no query follows the first line")
    return rows


def reference_file(query: AskedQuery, folder: Path, paths: Mapping[str, str]) -> Path:
    """The file of a query's reference image.

    Args:
        query: The query.
        folder: The folder of the file of queries.
        paths: The file of each image of the gallery, by id.

    Returns:
        The path: that which the file names, from its folder or from the current one; else that of the
        gallery's image of this id.

    Raises:
        SetrError: There is none; the message names the nearest id.
    """
    from setr_lib.benchmarks.near_ids import near_ids

    name = Path(query.reference).expanduser() if query.reference.startswith("~/") else Path(query.reference)
    for path in (folder / name, name):
        with contextlib.suppress(OSError, ValueError):  # too long, say, which no file's name is
            if path.is_file():
                return path
    if query.reference in paths:
        return Path(paths[query.reference])
    near = near_ids(paths).near(query.reference)
    hint = f"; did you mean {near.id!r}? ({near.reason})" if near is not None else ""
    raise SetrError(
        f"the reference {_shortened(query.reference)!r} is no file of {folder}, none from here, and no id of "
        f"the gallery{hint}"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _csv(file: Path | str, text: str) -> Iterator[AskedQuery | FaultyRow]:
    separator, columns = _header(file, text)
    place = _places(file, columns)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    next(reader)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield FaultyRow(line, f"not valid CSV ({error}): what follows cannot be read")
            return
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            many = "more" if len(cells) > len(columns) else "fewer"
            reason = f"{len(cells)} cells, {many} than the {len(columns)} columns of the first line"
            yield FaultyRow(line, f"{reason}: a cell that holds {separator!r} needs quotation marks")
            continue
        yield _row(line, {name: cells[at] for name, at in place.items()})


def _header(file: Path | str, text: str) -> tuple[str, list[str]]:
    """The separator and the names of the columns: those among which reference and text are."""
    read: list[tuple[str, list[str]]] = []
    for separator in _SEPARATORS:
        try:
            names = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), [])
        except csv.Error:
            continue
        read.append((separator, [name.strip().casefold() for name in names]))
    for separator, names in read:
        if all(any(each in names for each in COLUMNS[needed]) for needed in _REQUIRED):
            return separator, names
    _places(file, max((names for _, names in read), key=len, default=[]))
    raise QueryFileError(f"{file}: its first line cannot be read as names of columns")


def _places(file: Path | str, columns: Sequence[str]) -> dict[str, int]:
    """Where the cells of a query stand in a row."""
    place: dict[str, int] = {}
    for name, called in COLUMNS.items():
        found = next((each for each in called if each in columns), None)
        if found is not None:
            place[name] = columns.index(found)
        elif name in _REQUIRED:
            there = ", ".join(map(repr, columns)) or "none"
            near = next((each for word in called if (each := near_name(word, columns))), None)
            advice = f"; rename {near!r} to {called[0]!r}" if near else ""
            raise QueryFileError(
                f"{file}: no column {' or '.join(map(repr, called))} in the first line, which names {there}"
                f"{advice}. A file of queries has the columns reference, text and, if you like, id"
            )
    return place


def _json_lines(file: Path | str, text: str) -> Iterator[AskedQuery | FaultyRow]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            yield FaultyRow(line, f"not valid JSON ({error})")
            continue
        if not isinstance(value, dict):
            yield FaultyRow(line, "no JSON object")
            continue
        named = {name: [value[each] for each in called if each in value] for name, called in COLUMNS.items()}
        yield _row(line, {name: found[0] for name, found in named.items() if found})


def _row(line: int, values: Mapping[str, Any]) -> AskedQuery | FaultyRow:
    name = values.get("id")
    named = None if name is None or not str(name).strip() else str(name).strip()
    wrong = _first(_REQUIRED, lambda key: _fault(key, values.get(key)))
    if wrong is not None:
        return FaultyRow(line, wrong, named)
    return AskedQuery(line, values["reference"].strip(), values["text"].strip(), named)


def _fault(key: str, value: object) -> str | None:
    if value is None:
        return f"no {key!r}"
    if not isinstance(value, str):
        return f"{key!r} is no text: {value!r}"
    if not value.strip():
        return f"{key!r} is empty"
    return None if is_unicode(value) else f"{key!r} holds half a character (a lone surrogate): {value!r}"


def _first(names: Sequence[str], look: Callable[[str], str | None]) -> str | None:
    return next((words for name in names if (words := look(name)) is not None), None)
