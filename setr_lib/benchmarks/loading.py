"""From an evaluation set to its two tables, whatever its benchmark reads them from."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence

import polars as pl

from setr_lib.benchmarks.annotations import is_there
from setr_lib.benchmarks.benchmark import Benchmark
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.records import LISTED_COLUMNS, record_frame
from setr_lib.benchmarks.roots import root_hint
from setr_lib.benchmarks.sets import EvaluationSet
from setr_lib.errors import SetrError
from setr_lib.tables import GALLERY, QUERIES, TRIPLETS, conform


def read_queries(evaluation_set: EvaluationSet) -> pl.DataFrame:
    """The queries of a set.

    Args:
        evaluation_set: Names the benchmark, the split and where its files are.

    Returns:
        A ``tables.QUERIES`` frame in the official order.

    Raises:
        DatasetError: A file is missing or wrong, the benchmark's code raises anything or gives what is not a
            query, or two queries have one id; it names what is wrong, where, and the reason.
    """
    frame = _asked(evaluation_set, "queries", QUERIES, evaluation_set.benchmark.queries)
    return _distinct(frame, "query_id", evaluation_set)


def read_gallery(evaluation_set: EvaluationSet) -> pl.DataFrame:
    """The gallery of a set; no image is opened.

    Args:
        evaluation_set: Names the benchmark, the split, the gallery and where its files are.

    Returns:
        A frame of ``image_id``, ``path`` (absolute) and ``galleries``.

    Raises:
        DatasetError: A file is missing or wrong, the benchmark's code raises anything or gives what is not an
            image, or two images have one id; it names what is wrong, where, and the reason.
    """
    schema = pl.Schema({name: GALLERY[name] for name in LISTED_COLUMNS})
    frame = _asked(evaluation_set, "gallery", schema, evaluation_set.benchmark.gallery)
    return _distinct(frame, "image_id", evaluation_set)


def read_train_triplets(train: EvaluationSet) -> pl.DataFrame:
    """The triplets of a train split; no image is opened.

    Args:
        train: The set of the benchmark's ``train_split`` (``sets.train_set``).

    Returns:
        A ``tables.TRIPLETS`` frame in the official order.

    Raises:
        DatasetError: A file is missing or wrong, or the benchmark's code raises anything or gives what is
            not a triplet; it names what is wrong, where, and the reason.
    """
    return _asked(train, "train triplets", TRIPLETS, train.benchmark.train_triplets)


def _asked(
    evaluation_set: EvaluationSet,
    what: str,
    schema: pl.Schema,
    read: Callable[[EvaluationSet], Sequence[object] | pl.DataFrame],
) -> pl.DataFrame:
    """What a benchmark gives when it is asked for its queries or gallery, as a table; whatever its code
    raises is that data set's error."""
    whose = f"{what} of {evaluation_set.key} ({evaluation_set.benchmark.name})"
    try:
        found = read(evaluation_set)
        if isinstance(found, pl.DataFrame):
            return conform(found, schema, whose)
        return record_frame(found, schema, whose)
    except DatasetError as error:
        if error.file is not None and not is_there(error.file) and (hint := root_hint(evaluation_set)):
            raise DatasetError(error.reason + hint, file=error.file, row=error.row) from error
        raise
    except SetrError as error:
        raise DatasetError(str(error)) from error
    except Exception as error:
        said = f"{type(error).__name__}: {error}{_line_of(evaluation_set.benchmark, error)}"
        raise DatasetError(f"{whose} cannot be read: {said}") from error


def _line_of(benchmark: Benchmark, error: Exception) -> str:
    """Where in the benchmark's own file an error came from; empty where it was not there."""
    module = sys.modules.get(type(benchmark).__module__)
    file = getattr(module, "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({file}, line {lines[-1]})" if lines else ""


def _distinct(frame: pl.DataFrame, column: str, evaluation_set: EvaluationSet) -> pl.DataFrame:
    """``frame`` if no two rows have one id: what follows joins by it."""
    twice = frame.filter(pl.col(column).is_duplicated())
    if not twice.is_empty():
        what = evaluation_set.benchmark.name
        raise DatasetError(
            f"{evaluation_set.key}: {what} gives the {column} {twice[column][0]!r} more than once"
        )
    return frame
