"""From an evaluation set to its two tables, whatever its benchmark reads them from."""

from __future__ import annotations

import polars as pl

from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.records import LISTED_COLUMNS, gallery_frame, query_frame
from setr_lib.benchmarks.sets import EvaluationSet
from setr_lib.tables import GALLERY, QUERIES, conform


def read_queries(evaluation_set: EvaluationSet) -> pl.DataFrame:
    """The queries of a set.

    Args:
        evaluation_set: Names the benchmark, the split and where its files are.

    Returns:
        A ``tables.QUERIES`` frame in the official order.

    Raises:
        DatasetError: A file is missing or wrong, or two queries have one id; it names file, row and reason.
    """
    found = evaluation_set.benchmark.queries(evaluation_set)
    frame = (
        conform(found, QUERIES, f"queries of {evaluation_set.key}")
        if isinstance(found, pl.DataFrame)
        else query_frame(found)
    )
    return _distinct(frame, "query_id", evaluation_set)


def read_gallery(evaluation_set: EvaluationSet) -> pl.DataFrame:
    """The gallery of a set; no image is opened.

    Args:
        evaluation_set: Names the benchmark, the split, the gallery and where its files are.

    Returns:
        A frame of ``image_id``, ``path`` (absolute) and ``galleries``.

    Raises:
        DatasetError: A file is missing or wrong, or two images have one id; it names file, row and reason.
    """
    found = evaluation_set.benchmark.gallery(evaluation_set)
    if isinstance(found, pl.DataFrame):
        schema = pl.Schema({name: GALLERY[name] for name in LISTED_COLUMNS})
        found = conform(found, schema, f"gallery of {evaluation_set.key}")
    else:
        found = gallery_frame(found)
    return _distinct(found, "image_id", evaluation_set)


def _distinct(frame: pl.DataFrame, column: str, evaluation_set: EvaluationSet) -> pl.DataFrame:
    """``frame`` if no two rows have one id: what follows joins by it."""
    twice = frame.filter(pl.col(column).is_duplicated())
    if not twice.is_empty():
        what = evaluation_set.benchmark.name
        raise DatasetError(
            f"{evaluation_set.key}: {what} gives the {column} {twice[column][0]!r} more than once"
        )
    return frame
