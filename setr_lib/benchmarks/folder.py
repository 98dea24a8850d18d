"""A folder of one's own: every image under ``image_root`` (else ``root``) is the gallery; a file holds the queries.

The file (``queries``, else ``queries.csv``, ``.jsonl`` or ``.parquet`` under ``root``) has the columns ``reference``
and ``modification``, and optionally ``query_id`` (else the row's number from 0) and ``targets``: a list, or, in a CSV
file, names separated by ``|``. ``target`` (one name) does as well. Without such a file there are no queries.
An image's id is its path from the image folder, with ``/``.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from setr_lib.benchmarks.annotations import Row, Unique, clean_text, read_json_lines, read_text
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.records import ImageRecord, QueryRecord
from setr_lib.benchmarks.sets import EvaluationSet

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_DEFAULT_FILES = ("queries.csv", "queries.jsonl", "queries.parquet")
_PURPOSE = "the folder's queries"
_COLUMNS = ("query_id", "reference", "modification", "target", "targets")
_SEPARATOR = "|"


def _image_folder(evaluation_set: EvaluationSet) -> Path:
    folder = evaluation_set.image_root or evaluation_set.root
    if not folder.is_dir():
        raise DatasetError(f"[datasets.{evaluation_set.dataset}]: there is no such image folder", file=folder)
    return folder


def _image_ids(folder: Path) -> list[str]:
    """Paths of all images from ``folder``, sorted; hidden files and folders are left out."""
    ids: list[str] = []
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = (
            name for name in files if Path(name).suffix.lower() in EXTENSIONS and not name.startswith(".")
        )
        ids += [(Path(base) / name).relative_to(folder).as_posix() for name in images]
    for image_id in ids:
        try:
            clean_text(image_id)
        except ValueError as error:
            raise DatasetError(f"a file name {error}: rename it", file=folder) from None
    return sorted(ids)


def gallery(evaluation_set: EvaluationSet) -> list[ImageRecord]:
    """All images of the folder, by name."""
    folder = _image_folder(evaluation_set)
    return [ImageRecord(image_id, f"{folder}/{image_id}", ["all"]) for image_id in _image_ids(folder)]


def query_file(evaluation_set: EvaluationSet) -> Path | None:
    """Where the folder's queries are; ``None`` where settings name no file and none lies at a default place."""
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


def _targets(row: Row) -> list[str]:
    if "target" in row.values and "targets" in row.values:
        raise row.error("has both 'target' and 'targets': keep one")
    if "target" in row.values:
        return [row.name("target")]
    return row.distinct("targets", row.names("targets")) if "targets" in row.values else []


def _query(row: Row, number: int, ids: Unique, images: set[str], folder: Path) -> QueryRecord:
    query_id = row.text("query_id") if "query_id" in row.values else str(number)
    modification = row.text("modification")
    reference = row.known("reference", row.name("reference"), images, folder)
    targets = [row.known("targets", target, images, folder) for target in _targets(row)]
    if reference in targets:
        raise row.error("the reference is among its own targets")
    return QueryRecord(ids.claim(row, query_id), reference, modification.strip(), [modification], targets)


def queries(evaluation_set: EvaluationSet) -> list[QueryRecord]:
    """The queries of the folder's file, in its order; none where there is no such file."""
    path = query_file(evaluation_set)
    if path is None:
        return []
    folder = _image_folder(evaluation_set)
    images = set(_image_ids(folder))
    ids = Unique("query_id")
    return [_query(row, number, ids, images, folder) for number, row in enumerate(_rows(path))]
