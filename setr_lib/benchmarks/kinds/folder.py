"""A folder of one's own: every image under ``image_root`` (else ``root``) is the gallery; a file holds the
queries.

The file (``queries``, else ``queries.csv``, ``.tsv``, ``.jsonl``, ``.json`` or ``.parquet`` under ``root``)
has the columns ``reference`` and ``modification``, and optionally ``query_id`` (else the row's number from 0)
and ``targets``: a list, or, in a CSV file, names separated by ``|``. ``target`` (one name) does as well.
Without such a file there are no queries. An image's id is its path from the image folder, with ``/``. R@K is
whether *any* target is among the first K.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.benchmarks.annotations import Row, Unique, relative_name, shown
from setr_lib.benchmarks.benchmark import YOUR_OWN, Benchmark, OfficialFile
from setr_lib.benchmarks.metrics import MeanAveragePrecisionAt, recalls
from setr_lib.benchmarks.near_ids import ids_in, meant
from setr_lib.benchmarks.query_files import FoundQueries, find_queries
from setr_lib.benchmarks.query_tables import QueryTable, read_query_table
from setr_lib.benchmarks.records import QueryRecord, image_names

if TYPE_CHECKING:
    from setr_lib.benchmarks.sets import EvaluationSet

_NO_TARGET = ("null", "none", "nan", "n/a", "na", "[]", "-")
"""How programs write that there is nothing."""


class Folder(Benchmark):
    """Images in a folder, queries in a CSV, TSV, JSON, JSON Lines or Parquet file."""

    kind = "folder"
    title = "A folder of images"
    metrics = (*recalls(1, 5, 10, 50), MeanAveragePrecisionAt(10))
    headline = ("R@1", "R@10", "mAP@10")
    stage_1_metric = "R@10"
    stage_2_metric = "R@1"
    settings_keys = ("queries",)

    def queries(self, evaluation_set: EvaluationSet) -> list[QueryRecord]:
        """The queries of the folder's file, in its order; none where there is no such file."""
        path = query_file(evaluation_set)
        return [] if path is None else self._read(evaluation_set, read_query_table(path)).records

    def query_notes(self, evaluation_set: EvaluationSet) -> list[str]:
        """Which file is read and which are not, what was assumed of it, and that no query names a target."""
        found = _found(evaluation_set)
        if found.path is None:
            return found.notes
        table = read_query_table(found.path)
        read = self._read(evaluation_set, table)
        notes = [*found.notes, *table.assumed, *(f"{found.path}: {words}" for words in read.assumed)]
        if not any(record.target_ids for record in read.records):
            columns = ", ".join(map(repr, table.columns))
            notes.append(
                f"{found.path}: no query names a target, so nothing can be scored; the columns are {columns}"
            )
        return notes

    def _read(self, evaluation_set: EvaluationSet, table: QueryTable) -> _Reading:
        folder = self.image_folder(evaluation_set)
        reading = _Reading(folder, set(image_names(folder, evaluation_set.dataset)))
        reading.read(table)
        return reading

    def files(self, evaluation_set: EvaluationSet) -> list[OfficialFile]:
        """The query file, if there is one."""
        path = query_file(evaluation_set)
        return [] if path is None else [OfficialFile(path, "queries", None, YOUR_OWN)]

    def image_namespace(self, evaluation_set: EvaluationSet) -> str:
        """Each data set's own: an id is a path, which may be the same in two folders."""
        return f"{self.kind} {evaluation_set.dataset}"

    def caveats(self, evaluation_set: EvaluationSet) -> list[str]:
        """That there are no published numbers."""
        return ["not a benchmark"]


def query_file(evaluation_set: EvaluationSet) -> Path | None:
    """The file of the folder's queries.

    Args:
        evaluation_set: The set: its ``queries``, else its root with a file of queries.

    Returns:
        Its path; None where settings name no file and there is none.

    Raises:
        DatasetError: There are two, or only one that is not read.
    """
    return _found(evaluation_set).path


def _found(evaluation_set: EvaluationSet) -> FoundQueries:
    if evaluation_set.queries is not None:
        return FoundQueries(evaluation_set.queries)
    folder = evaluation_set.image_root
    return find_queries(evaluation_set.root, evaluation_set.dataset, () if folder is None else (folder,))


@dataclass
class _Reading:
    """The queries of a table whose ids are looked up among the images of a folder."""

    folder: Path
    images: set[str]
    records: list[QueryRecord] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    """What was assumed of cells, each said once."""

    def read(self, table: QueryTable) -> None:
        """Add the queries of a table.

        Args:
            table: The table.

        Raises:
            DatasetError: A cell is empty, or names an image that there is not; it names row and column.
        """
        ids = Unique("query_id")
        numbered = all(row.values.get("query_id") in (None, "") for row in table.rows)
        for number, row in enumerate(table.rows):
            query_id = str(number) if numbered else _text(row, "query_id")
            text = _text(row, "modification")
            reference = self._image(row, "reference", row.values.get("reference"))
            targets = row.distinct("targets", self._targets(row))
            if reference in targets:
                raise row.error("the reference is among its own targets")
            query_id = ids.claim(row, query_id)
            self.records.append(QueryRecord(query_id, reference, text.strip(), [text], targets))

    def _image(self, row: Row, key: str, value: object) -> str:
        if key not in row.values and value is None:
            raise row.error(f"the key {key!r} is missing")
        name = _as_id(value)
        if name is None or not str(name).strip():
            raise row.error(f"{key!r} is empty")
        try:
            return row.known(key, relative_name(name), self.images, self.folder)
        except ValueError as error:
            raise row.error(f"{key!r} {error}{meant(name, self.images, self.folder)}") from None

    def _targets(self, row: Row) -> list[str]:
        named = [key for key in ("target", "targets") if row.values.get(key) not in (None, "", [])]
        if len(named) > 1:
            raise row.error("has both 'target' and 'targets': keep one")
        return [
            self._image(row, "targets", each)
            for key in named
            for each in self._names(row, key, row.values[key])
        ]

    def _names(self, row: Row, key: str, value: object) -> list[object]:
        """What a cell of targets names, each still to be looked up."""
        if isinstance(value, list):
            there = [each for each in value if each not in (None, "")]
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
            return relative_name(name) in self.images
        except ValueError:
            return False

    def _say(self, words: str) -> None:
        if not any(each.split(",")[0] == words.split(",")[0] for each in self.assumed):
            self.assumed.append(words)


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
