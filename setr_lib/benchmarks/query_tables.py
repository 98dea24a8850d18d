"""A person's table of queries, read from CSV, TSV, JSON, JSON Lines or Parquet into rows of known columns.

What programs write differently and can mean one thing only is read, and said: separators, encodings, capitals
in the names of columns, a first line ``sep=;``. Everything else is refused with the columns that were found
and a line number. Which columns a row needs and what its ids mean is not known here.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from setr_lib.benchmarks.annotations import Row, line_row, parse_json, read_bytes, shown
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.decoding import EXPORT, decode

REQUIRED = ("reference", "modification")
COLUMNS = ("query_id", *REQUIRED, "target", "targets")
READ = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of files that are read."""
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers", ".gsheet", ".fods")
_PURPOSE = "the folder's queries"
_EXPECTED = (
    "the columns are reference and modification, and, where they are known, query_id and target or targets"
)
_SEPARATORS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}
_USUAL = {".tsv": "\t"}
_SEP_LINE = re.compile(r'\s*"?sep=(.|\\t)"?\s*', re.IGNORECASE)
_CLOSE = 0.8
_NUMBERED = re.compile(r"(?:targets?(?:id|image|img)?|gt|groundtruth)[0-9]+")
_NOT_A_LETTER = re.compile(r"[\W_]+")
_MEANT = {
    "reference": (
        "ref referenceid referenceimage referenceimageid referenceimg referenceimgid refimage refid image "
        "imageid img queryimage queryimageid queryimg source sourceimage sourceid candidate anchor input"
    ),
    "modification": (
        "caption captions text texts modificationtext modtext mod modifier instruction relativecaption "
        "querytext change edit prompt description sentence condition"
    ),
    "targets": (
        "targetid targetids targetimage targetimages targetimageid targetimg targetimgid targethard "
        "targetname targetnames targetfile targetfilename targetpath tgt tgtid tgtids tgtimage tgtimg "
        "gt gtid gtids gtimage gtimages gtimageid gtimg gtimgids groundtruth groundtruths "
        "answer answers positive positives relevant"
    ),
}
"""Names that others give to columns, letters alone. They are named, not read: they may hold something else.
"""
_WORDS = {word: column for column, words in _MEANT.items() for word in words.split()}


@dataclass(frozen=True)
class QueryTable:
    """The rows of a table of queries. Keys are known columns; an empty cell is an empty text or None."""

    path: Path
    rows: list[Row]
    columns: list[str]
    """As the file names them."""
    assumed: list[str] = field(default_factory=list)
    """What was assumed where the file does not say it, and what is not read."""


def read_query_table(path: Path) -> QueryTable:
    """Read a table of queries.

    Args:
        path: The file; its ending says what it is.

    Returns:
        Its rows.

    Raises:
        DatasetError: It cannot be read, has more than one reading, lacks a column, or holds no query; the
            message names the columns that were found.
    """
    ending = path.suffix.lower()
    if ending in SPREADSHEETS:
        raise DatasetError(f"is a spreadsheet, which is not read: {EXPORT}", file=path)
    if ending not in READ:
        raise DatasetError(f"{ending!r} files are not read: use {', '.join(READ)}", file=path)
    content = read_bytes(path, _PURPOSE)
    if ending == ".parquet":
        table = _parquet(path, content)
    else:
        try:
            decoded = decode(content, windows=True)
        except ValueError as error:
            raise DatasetError(str(error), file=path) from error
        if not decoded.text.strip("\ufeff\u200b \n\t"):
            raise DatasetError("is empty: its first line must name the columns", file=path)
        table = (_csv if ending in (".csv", ".tsv") else _json)(path, decoded.text)
        if decoded.encoding != "UTF-8":
            table.assumed.insert(0, f"{path}: is read as {decoded.encoding}")
    if not table.rows:
        raise DatasetError(f"holds no query: {_found(table.columns)}, and no row follows", file=path)
    return table


# Columns.


def _plain(name: str) -> str:
    return _NOT_A_LETTER.sub("", unicodedata.normalize("NFKC", name).casefold())


_PLAIN = {_plain(column): column for column in COLUMNS}


def _found(columns: Sequence[str]) -> str:
    return f"the columns found are {', '.join(map(repr, columns))}" if columns else "no column was found"


def _nearest(name: str) -> str | None:
    """The known column that another name is probably meant for."""
    plain = _plain(name)
    if plain in _WORDS:
        return _WORDS[plain]
    close = difflib.get_close_matches(
        plain, [each for each in _PLAIN if each != "queryid"], n=1, cutoff=_CLOSE
    )
    return _PLAIN[close[0]] if close else None


def _known_columns(path: Path, columns: Sequence[str], where: str | None) -> tuple[dict[str, str], list[str]]:
    """Column of the file -> known column; and what is to be said. Refuses what is missing or nearly right."""
    names: dict[str, str] = {}
    for column in columns:
        if (known := _PLAIN.get(_plain(column))) is None:
            continue
        if known in names.values():
            first = next(each for each, name in names.items() if name == known)
            twice = f"names a column twice: {first!r} and {column!r} are both {known!r}"
            raise DatasetError(f"{twice}; {_found(columns)}", file=path, row=where)
        names[column] = known
    near = {column: _nearest(column) for column in columns if column not in names and column}
    if wide := [column for column in columns if _NUMBERED.fullmatch(_plain(column))]:
        reason = (
            f"has more than one column of targets, {', '.join(map(repr, wide))}: put them into one, 'targets'"
        )
        raise DatasetError(f"{reason}, separated by '|'", file=path, row=where)
    lacking = [name for name in REQUIRED if name not in names.values()]
    if lacking or (not {"target", "targets"} & set(names.values()) and "targets" in _targets_of(near)):
        wanted = lacking or ["targets"]
        meant = [f"rename {each!r} to {name!r}" for each, name in near.items() if _same(name) in wanted]
        what = f"has no column {' and no column '.join(map(repr, wanted))}: {_found(columns)}"
        advice = ", ".join(meant)
        if not names and not meant:
            advice = "the first line, or every object, must name them" if columns else ""
        raise DatasetError("; ".join(filter(None, [what, advice, _EXPECTED])), file=path, row=where)
    said = [
        f"{path}: the column {column!r} is read as {known!r}"
        for column, known in names.items()
        if column != known
    ]
    if others := [column for column in columns if column not in names and column]:
        said.append(f"{path}: not read: the columns {', '.join(map(repr, others))}")
    return names, said


def _same(name: str | None) -> str | None:
    return "targets" if name == "target" else name


def _targets_of(near: dict[str, str | None]) -> list[str | None]:
    return [_same(name) for name in near.values()]


# CSV and TSV.


def _csv(path: Path, text: str) -> QueryTable:
    said: list[str] = []
    lines, skipped = text.lstrip("\ufeff"), 0
    declared = _SEP_LINE.fullmatch(lines.partition("\n")[0])
    if declared is not None:
        lines, skipped = lines.partition("\n")[2], 1
    separator, columns, where = _header(path, lines, skipped, declared)
    if declared is None and separator != _USUAL.get(path.suffix.lower(), ","):
        said.append(f"{path}: columns are separated by {_SEPARATORS[separator]}")
    if twice := [name for name, count in Counter(columns).items() if count > 1 and name]:
        raise DatasetError(f"names a column twice: {twice[0]!r}; {_found(columns)}", file=path, row=where)
    names, more = _known_columns(path, columns, where)
    rows: list[Row] = []
    blank = 0
    records = _records(path, lines, separator, skipped)
    next(records)
    for place, cells in records:
        if not any(cell.strip() for cell in cells):
            blank += len(cells) > 1
            continue
        if len(cells) != len(columns):
            many = "more" if len(cells) > len(columns) else "fewer"
            reason = (
                f"has {len(cells)} cells, {many} than the {len(columns)} columns that {where} names: a cell "
                f"that holds {_SEPARATORS[separator]} needs quotation marks"
            )
            raise DatasetError(reason, file=path, row=place)
        values = zip(columns, cells, strict=True)
        rows.append(Row(path, place, {names[column]: cell for column, cell in values if column in names}))
    if blank:
        said.append(f"{path}: {blank:,} rows of empty cells are passed over")
    return QueryTable(path, rows, columns, [*said, *more])


def _header(
    path: Path, lines: str, skipped: int, declared: re.Match[str] | None
) -> tuple[str, list[str], str]:
    """The separator, the names of the columns, and where they stand."""
    headers: dict[str, tuple[str, list[str]]] = {}
    faults: list[DatasetError] = []
    given = [] if declared is None else [declared[1].replace("\\t", "\t")]
    for separator in given or _SEPARATORS:
        try:
            headers[separator] = next(_records(path, lines, separator, skipped), ("line 1", []))
        except DatasetError as error:
            faults.append(error)
    if not headers:
        raise faults[0]
    fitting = [
        separator for separator, (_, names) in headers.items() if {*map(_plain, names)}.issuperset(REQUIRED)
    ]
    if len(fitting) > 1:
        either = " or ".join(_SEPARATORS[each] for each in fitting)
        raise DatasetError(f"has two readings: columns may be separated by {either}", file=path)
    known = {*_PLAIN, *_WORDS}
    separator = (
        fitting[0]
        if fitting
        else max(
            headers, key=lambda each: (len(known & {*map(_plain, headers[each][1])}), len(headers[each][1]))
        )
    )
    where, names = headers[separator]
    return separator, [name.strip().strip("\ufeff\u200b") for name in names], where


def _records(path: Path, lines: str, separator: str, skipped: int) -> Iterator[tuple[str, list[str]]]:
    """(``line 3``, cells) of each record that is no blank line; a record is named by its first line."""
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=separator, strict=True)
    start = 0
    try:
        for cells in reader:
            where, start = f"line {start + 1 + skipped}", reader.line_num
            if cells:
                yield where, cells
    except csv.Error as error:
        place = f"line {start + 1 + skipped}"
        hint = "" if reader.line_num <= start + 1 else ": is a quotation mark left open there?"
        raise DatasetError(f"not valid CSV: {error}{hint}", file=path, row=place) from error


# JSON, JSON Lines, Parquet.


def _json(path: Path, text: str) -> QueryTable:
    """A list of objects, or one object a line, whichever the file holds."""
    lined = path.suffix.lower() != ".json"
    listed = text.lstrip("\ufeff \n\t").startswith("[")
    said: list[str] = []
    if lined and not listed:
        return _of_rows(path, _lines(path, text), said)
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        if not lined and isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and not listed:
            return _of_rows(path, _lines(path, text), [f"{path}: is read as JSON Lines, one query a line"])
        raise DatasetError(f"not valid JSON: {error}", file=path) from error
    if isinstance(value, dict) and len(value) == 1 and isinstance(inner := next(iter(value.values())), list):
        said.append(f"{path}: the list under {next(iter(value))!r} is read")
        value = inner
    if isinstance(value, dict) and {*map(_plain, value)}.issuperset(REQUIRED) and _is_text_row(value):
        value = [value]
    if not isinstance(value, list):
        hint = " (pandas: to_json(orient='records'))" if isinstance(value, dict) else ""
        keys = f" with the keys {', '.join(map(repr, list(value)[:5]))}" if isinstance(value, dict) else ""
        kind = "an object" if isinstance(value, dict) else shown(value)
        raise DatasetError(f"must be a list of objects, not {kind}{keys}{hint}; {_EXPECTED}", file=path)
    if lined:
        said.append(f"{path}: is read as one list of objects, not as JSON Lines")
    rows = [Row(path, f"row {number} (counting from 0)", each) for number, each in enumerate(value)]
    return _of_rows(path, rows, said)


def _is_text_row(value: dict[str, Any]) -> bool:
    return not any(isinstance(each, dict) for each in value.values())


def _lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip("\ufeff \t\u200b"):
            yield line_row(path, f"line {number}", line.strip("\ufeff\u200b"))


def _of_rows(path: Path, rows: Iterable[Row], said: list[str]) -> QueryTable:
    found = list(rows)
    columns = list(dict.fromkeys(key for row in found for key in row.values))
    if not found:
        return QueryTable(path, [], [], said)
    names, more = _known_columns(path, columns, None)
    named = [
        Row(path, row.where, {names[key]: value for key, value in row.values.items() if key in names})
        for row in found
    ]
    return QueryTable(path, named, columns, [*said, *more])


def _parquet(path: Path, content: bytes) -> QueryTable:
    import polars as pl

    try:
        frame = pl.read_parquet(content)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DatasetError(f"not a readable Parquet file: {error}", file=path) from error
    names, said = _known_columns(path, frame.columns, None)
    rows = [
        Row(path, f"row {number} (counting from 0)", values)
        for number, values in enumerate(frame.select(list(names)).rename(names).iter_rows(named=True))
    ]
    return QueryTable(path, rows, frame.columns, said)
