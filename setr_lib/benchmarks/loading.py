"""From an evaluation set to its two tables: picks the reader of the set's kind."""

from __future__ import annotations

from types import ModuleType

import polars as pl

from setr_lib.benchmarks import circo, cirr, fashioniq, folder
from setr_lib.benchmarks.records import gallery_frame, query_frame
from setr_lib.benchmarks.sets import EvaluationSet

_READERS: dict[str, ModuleType] = {"cirr": cirr, "fashioniq": fashioniq, "circo": circo, "folder": folder}


def read_queries(evaluation_set: EvaluationSet) -> pl.DataFrame:
    """The set's ``tables.QUERIES`` frame. Raises ``DatasetError``."""
    return query_frame(_READERS[evaluation_set.kind].queries(evaluation_set))


def read_gallery(evaluation_set: EvaluationSet) -> pl.DataFrame:
    """The set's gallery: ``image_id``, ``path``, ``galleries``. Raises ``DatasetError``."""
    return gallery_frame(_READERS[evaluation_set.kind].gallery(evaluation_set))
