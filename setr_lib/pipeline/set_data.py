"""The queries and the images of an evaluation set, read from its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.pipeline.removals import check_gallery, gallery_rule
from setr_lib.progress import Progress, silent
from setr_lib.records import GalleryRecord, QueriesRecord

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.benchmarks.image_folders import FolderListing
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
        listings: The folders that were listed: the gallery's, and that of references outside of it; none
            where annotation files list the images.
    """

    frame: pl.DataFrame
    record: GalleryRecord
    listings: tuple[FolderListing, ...] = ()

    @property
    def faulty(self) -> int:
        """Images that are missing or broken."""
        return self.frame.height - self.frame.filter(status="ok").height

    @property
    def warnings(self) -> list[str]:
        """What of the folders is not in the gallery, in sentences."""
        return [sentence for listing in self.listings for sentence in (*listing.faults, *listing.notes)]


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


def images_of(
    context: PipelineContext, key: str, progress: Progress = silent, *, accept_removals: bool = False
) -> InspectedImages:
    """Look at every image that an evaluation set ranks: path, size, content fingerprint, status.

    Args:
        context: The settings, and the vector store with what is stored of the gallery.
        key: The evaluation set.
        progress: Told how many images are inspected.
        accept_removals: Whether any number of images that are gone may be removed from the vector store.

    Returns:
        The images.

    Raises:
        DatasetError: A file is missing or wrong.
        RemovalRefusedError: So much of the gallery is gone that consent is needed.
    """
    from setr_lib.benchmarks.folder_gallery import gallery_listing, reference_listing
    from setr_lib.benchmarks.image_ids import read_and_check_image_ids
    from setr_lib.datasets import coverage, evaluation_set, inspect_gallery, load_gallery

    evaluated = evaluation_set(context.settings, key)
    listings = [found for found in (gallery_listing(evaluated), reference_listing(evaluated)) if found]
    listed = load_gallery(context.settings, key)
    read_and_check_image_ids(evaluated, gallery=listed)  # before any embedding
    gallery = inspect_gallery(listed, progress, evaluated.pixels)
    rule = gallery_rule(context, evaluated, "gallery_images", accepted=accept_removals)
    check_gallery(context, evaluated.gallery_key, gallery, rule, listings)
    return InspectedImages(gallery, GalleryRecord(coverage=coverage(gallery)), tuple(listings))
