"""The queries and the images of an evaluation set, read from its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.progress import Progress, silent
from setr_lib.records import GalleryRecord, QueriesRecord

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.context import PipelineContext


@dataclass(frozen=True)
class ReadQueries:
    """The queries of an evaluation set.

    Attributes:
        frame: A QUERIES table, cut at ``evaluation.limit``.
        record: How many there are, and their digest.
        warnings: What is odd about the files, in sentences.
    """

    frame: pl.DataFrame
    record: QueriesRecord
    warnings: list[str]


@dataclass(frozen=True)
class InspectedImages:
    """The images that an evaluation set ranks.

    Attributes:
        frame: A GALLERY table.
        record: The share of the images that can be read.
    """

    frame: pl.DataFrame
    record: GalleryRecord

    @property
    def faulty(self) -> int:
        """Images that are missing or broken."""
        return self.frame.height - self.frame.filter(status="ok").height


def queries_of(context: PipelineContext, key: str) -> ReadQueries:
    """Read the queries of an evaluation set from its annotation files; no image is opened.

    Args:
        context: The settings.
        key: The evaluation set.

    Returns:
        The queries.

    Raises:
        DatasetError: A file is missing or wrong.
    """
    from setr_lib.benchmarks.image_ids import read_and_check_image_ids
    from setr_lib.datasets import evaluation_set, load_queries, take_queries
    from setr_lib.hashing import digest_strings

    every = load_queries(context.settings, key)
    read = evaluation_set(context.settings, key)
    warnings = [*read.benchmark.query_notes(read), *read_and_check_image_ids(read, queries=every)]
    kept = take_queries(every, context.settings.evaluation.limit)
    digest = digest_strings([kept.write_json()])
    return ReadQueries(kept, QueriesRecord(of=every.height, kept=kept.height, digest=digest), warnings)


def images_of(context: PipelineContext, key: str, progress: Progress = silent) -> InspectedImages:
    """Look at every image that an evaluation set ranks: path, size, content fingerprint, status.

    Args:
        context: The settings.
        key: The evaluation set.
        progress: Told how many images are inspected.

    Returns:
        The images.

    Raises:
        DatasetError: A file is missing or wrong.
    """
    from setr_lib.benchmarks.image_ids import read_and_check_image_ids
    from setr_lib.datasets import coverage, evaluation_set, inspect_gallery, load_gallery

    listed = load_gallery(context.settings, key)
    evaluated = evaluation_set(context.settings, key)
    read_and_check_image_ids(evaluated, gallery=listed)  # before any embedding
    gallery = inspect_gallery(listed, progress, evaluated.pixels)
    return InspectedImages(gallery, GalleryRecord(coverage=coverage(gallery)))
