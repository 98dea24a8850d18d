"""The rows of a person's table of queries as queries: ids looked up among the images of a folder, lists of
targets in one cell taken apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from setr_lib.benchmarks.annotations import Row, Unique, relative_name, shown
from setr_lib.benchmarks.near_ids import ids_in, meant
from setr_lib.benchmarks.query_tables import QueryTable
from setr_lib.benchmarks.records import QueryRecord

_NO_TARGET = ("null", "none", "nan", "n/a", "na", "[]", "-")
"""How programs write that there is nothing."""


class Images(Protocol):
    """The images that queries may name."""

    folder: Path

    @property
    def named(self) -> frozenset[str]:
        """All ids that a query may name."""
        ...

    def target(self, row: Row, image_id: str) -> str:
        """``image_id``, checked to be one that targets may name."""
        ...

    def reference(self, row: Row, image_id: str) -> str:
        """``image_id``, checked to be one that references may name."""
        ...


@dataclass(frozen=True)
class ReadFolderQueries:
    """The queries of a table, and what was assumed of it and is odd."""

    records: list[QueryRecord]
    notes: list[str]


def read_folder_queries(table: QueryTable, images: Images) -> ReadFolderQueries:
    """The queries of a table.

    Args:
        table: The table.
        images: The images that it may name.

    Returns:
        Its queries in the table's order; ids are the rows' numbers from 0 where the table has none.

    Raises:
        DatasetError: A cell is empty or names an image that there is not, or two queries have one id; it
            names row and column.
    """
    reading = _Reading(images)
    reading.read(table)
    notes = [*table.assumed, *(f"{table.path}: {words}" for words in reading.assumed)]
    if not any(record.target_ids for record in reading.records):
        columns = ", ".join(map(repr, table.columns))
        notes.append(
            f"{table.path}: no query names a target, so nothing can be scored; the columns are {columns}"
        )
    return ReadFolderQueries(reading.records, notes)


@dataclass
class _Reading:
    """The queries of a table whose ids are looked up among images."""

    images: Images
    records: list[QueryRecord] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    """What was assumed of cells, each said once."""

    def read(self, table: QueryTable) -> None:
        ids = Unique("query_id")
        numbered = all(row.values.get("query_id") in (None, "") for row in table.rows)
        for number, row in enumerate(table.rows):
            query_id = str(number) if numbered else _text(row, "query_id")
            text = _text(row, "modification")
            reference = self._image(row, "reference", row.values.get("reference"), self.images.reference)
            targets = row.distinct("targets", self._targets(row))
            if reference in targets:
                raise row.error("the reference is among its own targets")
            query_id = ids.claim(row, query_id)
            self.records.append(QueryRecord(query_id, reference, text.strip(), [text], targets))

    def _image(self, row: Row, key: str, value: object, known: Callable[[Row, str], str]) -> str:
        if key not in row.values and value is None:
            raise row.error(f"the key {key!r} is missing")
        name = _as_id(value)
        if name is None or not str(name).strip():
            raise row.error(f"{key!r} is empty")
        try:
            return known(row, relative_name(name))
        except ValueError as error:
            hint = meant(name, self.images.named, self.images.folder)
            raise row.error(f"{key!r} {error}{hint}") from None

    def _targets(self, row: Row) -> list[str]:
        named = [key for key in ("target", "targets") if not _is_nothing(row.values.get(key))]
        if len(named) > 1:
            raise row.error("has both 'target' and 'targets': keep one")
        return [
            self._image(row, "targets", each, self.images.target)
            for key in named
            for each in self._names(row, key, row.values[key])
        ]

    def _names(self, row: Row, key: str, value: object) -> list[object]:
        """What a cell of targets names, each still to be looked up."""
        if isinstance(value, list):
            there = [each for each in value if not _is_nothing(each)]
            if len(there) < len(value):
                self._say(f"empty entries of {key!r} are passed over")
            return there
        if not isinstance(value, str):
            return [value]
        text = value.strip()
        parts, between = ids_in(text)
        known = len(parts) > 1 and all(self._is_image(part) for part in parts)
        if self._is_image(text):
            if known:
                raise row.error(f"{key!r} {shown(value)} has two readings: one image, or {len(parts)}")
            return [value]
        if not text or text.casefold() in _NO_TARGET:
            if text:
                self._say(f"{key!r} {shown(text)} is read as no target")
            return []
        if known or (parts != [text] and len(parts) == 1 and self._is_image(parts[0])):
            if between != "separated by '|'":
                self._say(f"{key!r} is read as ids {between}, e.g. {shown(text)}")
            return list(parts)
        if "|" in text:
            return [part for each in text.split("|") if (part := each.strip())]
        return [value]

    def _is_image(self, name: str) -> bool:
        try:
            return relative_name(name) in self.images.named
        except ValueError:
            return False

    def _say(self, words: str) -> None:
        if not any(each.split(",")[0] == words.split(",")[0] for each in self.assumed):
            self.assumed.append(words)


def _is_nothing(value: object) -> bool:
    """Whether a cell has nothing in it: NaN is how tables of numbers say so."""
    return value in (None, "", []) or (isinstance(value, float) and math.isnan(value))


def _as_id(value: object) -> object:
    """A whole number as the text that it is as an id: tables store ids of digits as numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int else value


def _text(row: Row, key: str) -> str:
    value = row.values.get(key)
    if (key in row.values and value is None) or value == "":
        raise row.error(f"{key!r} is empty")
    if key == "query_id":
        row.values[key] = _as_id(value)
    return row.text(key)
