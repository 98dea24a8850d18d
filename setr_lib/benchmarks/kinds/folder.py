"""A folder of one's own: every image under ``image_root`` (else ``root``) is the gallery; a file holds the
queries.

The file (``queries``, else ``queries.csv``, ``.jsonl`` or ``.parquet`` under ``root``) has the columns
``reference`` and ``modification``, and optionally ``query_id`` (else the row's number from 0) and
``targets``: a list, or, in a CSV file, names separated by ``|``. ``target`` (one name) does as well. Without
such a file there are no queries. An image's id is its path from the image folder, with ``/``. R@K is whether
*any* target is among the first K.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.benchmarks.annotations import Row, Unique, read_json_lines, read_text
from setr_lib.benchmarks.benchmark import YOUR_OWN, Benchmark, OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.metrics import MeanAveragePrecisionAt, recalls
from setr_lib.benchmarks.records import QueryRecord, image_names

if TYPE_CHECKING:
    from setr_lib.benchmarks.sets import EvaluationSet

_DEFAULT_FILES = ("queries.csv", "queries.jsonl", "queries.parquet")
_PURPOSE = "the folder's queries"
_COLUMNS = ("query_id", "reference", "modification", "target", "targets")
_SEPARATOR = "|"


class Folder(Benchmark):
    """Images in a folder, queries in a CSV, JSON Lines or Parquet file."""

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
        if path is None:
            return []
        folder = self.image_folder(evaluation_set)
        images = set(image_names(folder, evaluation_set.dataset))
        ids = Unique("query_id")
        return [_query(row, number, ids, images, folder) for number, row in enumerate(_rows(path))]

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
        evaluation_set: The set: its ``queries``, else its root with a file of a default name.

    Returns:
        Its path; None where settings name no file and none has a default name.
    """
    if evaluation_set.queries is not None:
        return evaluation_set.queries
    return next((path for name in _DEFAULT_FILES if (path := evaluation_set.root / name).is_file()), None)


def _csv_rows(path: Path) -> Iterator[Row]:
    text = read_text(path, _PURPOSE).removeprefix("\ufeff")  # spreadsheets write a byte-order mark
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise DatasetError("is empty: its first line must name the columns", file=path)
        if len(set(header)) < len(header):
            raise DatasetError("names a column twice", file=path, row="line 1")
        for cells in reader:
            where = f"line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                reason = f"has {len(cells)} cells where the first line names {len(header)} columns"
                raise DatasetError(reason, file=path, row=where)
            values: dict[str, Any] = dict(zip(header, cells, strict=True))
            if "targets" in values:
                values["targets"] = [
                    name for part in values["targets"].split(_SEPARATOR) if (name := part.strip())
                ]
            yield Row(path, where, {name: value for name, value in values.items() if value != ""})
    except csv.Error as error:
        raise DatasetError(f"not valid CSV: {error}", file=path, row=f"line {reader.line_num}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import polars as pl

    try:
        frame = pl.read_parquet(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"there is no such file ({_PURPOSE})", file=path) from None
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DatasetError(f"not a readable Parquet file: {error}", file=path) from error
    frame = frame.select([name for name in _COLUMNS if name in frame.columns])
    for number, values in enumerate(frame.iter_rows(named=True)):
        present = {name: value for name, value in values.items() if value is not None}
        yield Row(path, f"row {number} (counting from 0)", present)


def _rows(path: Path) -> Iterator[Row]:
    match path.suffix.lower():
        case ".csv":
            return _csv_rows(path)
        case ".jsonl" | ".ndjson":
            return read_json_lines(path, _PURPOSE)
        case ".parquet":
            return _parquet_rows(path)
        case other:
            raise DatasetError(f"{other!r} files are not read: use .csv, .jsonl or .parquet", file=path)


def _targets(row: Row) -> list[Any]:
    if "target" in row.values and "targets" in row.values:
        raise row.error("has both 'target' and 'targets': keep one")
    if "target" in row.values:
        return [row.values["target"]]
    return row.values_of("targets") if "targets" in row.values else []


def _query(row: Row, number: int, ids: Unique, images: set[str], folder: Path) -> QueryRecord:
    query_id = row.text("query_id") if "query_id" in row.values else str(number)
    modification = row.text("modification")
    if "reference" not in row.values:
        raise row.error("the key 'reference' is missing")
    reference = row.image("reference", row.values["reference"], images, folder)
    targets = row.distinct("targets", [row.image("targets", name, images, folder) for name in _targets(row)])
    if reference in targets:
        raise row.error("the reference is among its own targets")
    return QueryRecord(ids.claim(row, query_id), reference, modification.strip(), [modification], targets)
