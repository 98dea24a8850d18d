"""Labels of queries from files of the user's, by which metrics are broken down: CIRCUS's, or any others.

CIRCUS (arXiv 2605.14787) says which queries of CIRR, FashionIQ, CIRCO and LaSCo one modality alone solves.
Its rows have ids of their own, so that they are matched by reference image and text. Their fields differ:
M-BEIR's for CIRR and FashionIQ, those of its own converters for CIRCO and LaSCo, and those of its tables.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from setr_lib.benchmarks.annotations import Row, is_there, read_json_lines, shown
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.near_ids import meant
from setr_lib.paths import expanded

if TYPE_CHECKING:
    import polars as pl

_PURPOSE = "labels of queries"
_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
_LABEL = re.compile(r"[\w.-]+")
_WORD = re.compile(r"\w+")
_COCO_NAME = re.compile(r"COCO_[a-z]+20\d\d_(\d{12})", re.ASCII)
_ID = "query_id"
_IMAGE = ("query_img_path", "query_image_path", "query_image_ref")
_TEXT = ("query_txt", "query_text")
_OWN_LABEL = ("label", "aggregate_label", "hidden_category")
"""A field by its names in CIRCUS's files, the usual one first."""
_FIELDS = (_ID, *_IMAGE, *_TEXT, *_OWN_LABEL)


@dataclass(frozen=True)
class LabelFile:
    """A file of labelled queries: JSON Lines (``.jsonl``) or Parquet."""

    path: Path
    label: str | None = None
    """The label of all of its rows; None where each row has its own under ``label`` (``aggregate_label`` or
    ``hidden_category`` in CIRCUS's tables)."""

    @classmethod
    def named(cls, text: str) -> LabelFile:
        """The file that ``FILE`` or ``LABEL=FILE`` stands for.

        Args:
            text: The path, after a label and an equals sign where all rows have one label.

        Returns:
            The file.

        Raises:
            DatasetError: The path names an environment variable that is not set.
        """
        found = None if Path(text).is_file() else _NAMED.fullmatch(text)
        path, label = (text, None) if found is None else (found[2], found[1])
        try:
            return cls(Path(path if is_there(Path(path)) else expanded(path)), label)
        except ValueError as error:
            raise DatasetError(f"--labels: {error}") from error


@dataclass(frozen=True)
class QueryLabels:
    """Which queries have which labels."""

    frame: pl.DataFrame
    """``query_id`` and ``label``; each pair once."""
    notes: list[str]
    """What a reader must know: rows without a query, queries without a label."""


def read_labels(
    files: Sequence[LabelFile], queries: pl.DataFrame, taken: Collection[str] = ()
) -> QueryLabels:
    """Read files of labels and find the queries that they label.

    A row has ``query_id``, or ``query_img_path`` and ``query_txt`` (M-BEIR's fields, or the other names that
    CIRCUS has for them): it then labels every query whose reference image has that file name and whose
    captions have those words, whatever their case and punctuation, and without *and*, which joins captions.
    Where a row has both and its id is none of the set's, image and text decide.

    Args:
        files: The files.
        queries: All queries of the set (``tables.QUERIES``).
        taken: Names that a label cannot have: those of the parts that metrics are broken down by anyway.

    Returns:
        The labels.

    Raises:
        DatasetError: A file is missing or wrong, labels none of the queries, or has a label that is taken; it
            names file, row and reason.
    """
    import polars as pl

    queries_of = _Finder(queries)
    pairs: dict[tuple[str, str], None] = {}
    notes: list[str] = []
    for file in files:
        rows, unknown = 0, 0
        hint = ""
        for row in _rows(file.path):
            label = _label(row) if file.label is None else file.label
            if label in taken:
                raise row.error(f"the label {label!r} is a part of the data set itself: choose another name")
            found = queries_of(row)
            hint = hint or ("" if found else queries_of.hint(row))
            rows, unknown = rows + 1, unknown + (not found)
            pairs |= dict.fromkeys((query, label) for query in found)
        if rows == unknown:
            what = f"none of its {rows:,} rows is" if rows else "has no rows, so none is"
            raise DatasetError(f"{what} a query of this data set and split{hint}", file=file.path)
        if unknown:
            notes.append(
                f"{file.path}: {unknown:,} of {rows:,} rows are no query of this data set and split{hint}"
            )
    frame = pl.DataFrame(list(pairs), schema=["query_id", "label"], orient="row")
    if bare := queries.height - frame["query_id"].n_unique():
        notes.append(f"{bare:,} of {queries.height:,} queries have no label")
    return QueryLabels(frame, notes)


class _Finder:
    """Finds the queries that a row means."""

    def __init__(self, queries: pl.DataFrame) -> None:
        self._ids = set(queries["query_id"])
        self._references = {_stem(reference) for reference in queries["reference_id"]}
        self._by_content: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for query, reference, captions in queries.select("query_id", "reference_id", "captions").iter_rows():
            self._by_content.setdefault((_stem(reference), _words(" ".join(captions))), []).append(query)

    def __call__(self, row: Row) -> list[str]:
        query = row.text(_ID) if _given(row, _ID) else None
        if query is not None and query in self._ids:
            return [query]
        if _has_image(row):
            key = _stem(_field(row, _IMAGE)), _words(_field(row, _TEXT, blank=True))
            return self._by_content.get(key, [])
        if query is None:
            raise row.error(f"has neither {_ID!r} nor {_IMAGE[0]!r} with {_TEXT[0]!r}")
        return []

    def hint(self, row: Row) -> str:
        """Where and how a row that means no query is spelt otherwise than one that there is."""
        if _has_image(row):
            name = _stem(_field(row, _IMAGE))
            near = meant(name, self._references)
        else:
            name = row.text(_ID)
            near = meant(name, self._ids)
        return f", first {shown(name)} ({row.where}){near}"


def _given(row: Row, name: str) -> bool:
    """Whether a row has a field; CIRCUS's traces have some as null."""
    return row.values.get(name) is not None


def _has_image(row: Row) -> bool:
    return any(_given(row, name) for name in _IMAGE)


def _field(row: Row, names: Sequence[str], *, blank: bool = False) -> str:
    """The text under the first of several names that a row has."""
    return row.text(next((name for name in names if _given(row, name)), names[0]), blank=blank)


def _stem(image: str) -> str:
    """A reference's name without folder and ending; COCO's numbers without zeros in front, and without what
    stands before them in the names of 2014.
    """
    path = PurePosixPath(image)
    stem = path.stem if path.suffix.lower() in (".png", ".jpg", ".jpeg") else path.name
    of_2014 = _COCO_NAME.fullmatch(stem)
    stem = stem if of_2014 is None else of_2014[1]
    return (stem.lstrip("0") or "0") if stem.isdigit() else stem


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in _WORD.findall(text.casefold()) if word != "and")


def _label(row: Row) -> str:
    label = _field(row, _OWN_LABEL)
    if not _LABEL.fullmatch(label):
        raise row.error(f"'label' must be of letters, digits, '_', '-' and '.', not {label!r}")
    return label


def _rows(path: Path) -> Iterator[Row]:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return read_json_lines(path, _PURPOSE)
        case ".parquet":
            return _parquet_rows(path)
        case other:
            raise DatasetError(f"{other!r} files are not read: use .jsonl or .parquet", file=path)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import polars as pl

    try:
        frame = pl.read_parquet(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"there is no such file ({_PURPOSE})", file=path) from None
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DatasetError(f"not a readable Parquet file: {error}", file=path) from error
    frame = frame.select([name for name in _FIELDS if name in frame.columns])
    for number, values in enumerate(frame.iter_rows(named=True)):
        present = {name: value for name, value in values.items() if value is not None}
        yield Row(path, f"row {number} (counting from 0)", present)
