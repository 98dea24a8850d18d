"""The check of a data set's queries against its gallery: are the images that they name there?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from setr_lib.benchmarks.benchmark import Benchmark
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.near_ids import meant, near_ids
from setr_lib.benchmarks.sets import EvaluationSet

if TYPE_CHECKING:
    import polars as pl

_NAMED = {"reference_id": "references", "target_ids": "targets", "subset_ids": "subset members"}
"""Columns of queries that name gallery images, and their words in messages."""
_NEEDED = {"reference_id": "its reference", "target_ids": "any of its targets"}
"""Columns of which a gallery must have at least one image, and what a query then has there."""


def check_image_ids(
    evaluation_set: EvaluationSet, queries: pl.DataFrame, gallery: pl.DataFrame
) -> tuple[str, ...]:
    """Look for every image that queries name among the ids of their gallery.

    A reference or target may well be elsewhere; where not a single one is in the gallery, ids are spelt in
    two ways, and every metric would be 0.

    Args:
        evaluation_set: The set, for messages.
        queries: All of its queries (``tables.QUERIES``).
        gallery: Its gallery; ``image_id`` is read. An empty one is not compared.

    Returns:
        A sentence for each kind of image of which some are not in the gallery.

    Raises:
        DatasetError: No query has its reference in the gallery, or none of those that have targets has any
            of them there.
    """
    if gallery.is_empty():
        return ()
    warnings: list[str] = []
    benchmark = evaluation_set.benchmark
    for column, what in _NAMED.items():
        named = _named_images(queries, column)
        unknown = named.filter(~named["image_id"].is_in(gallery["image_id"].implode()))
        if unknown.is_empty():
            continue
        if column in _NEEDED and unknown.height == named.height:
            raise DatasetError(_total_miss(evaluation_set, column, named, gallery))
        query, image = unknown.row(0)
        hint = meant(image, gallery["image_id"].to_list(), benchmark.image_folder(evaluation_set))
        warnings.append(
            f"{unknown.height:,} of the {named.height:,} {what} of queries are not in the gallery, first "
            f"{image!r} of query {query!r}{hint}"
        )
    return tuple(warnings)


def read_and_check_image_ids(
    evaluation_set: EvaluationSet, *, queries: pl.DataFrame | None = None, gallery: pl.DataFrame | None = None
) -> tuple[str, ...]:
    """:func:`check_image_ids` of a set of which one table is known already; the other is read.

    Args:
        evaluation_set: The set whose files are read.
        queries: All of its queries, where they are known.
        gallery: Its gallery, where it is known.

    Returns:
        As for :func:`check_image_ids`; nothing where queries or gallery cannot be read: whoever needs them
        says so.

    Raises:
        DatasetError: As for :func:`check_image_ids`.
    """
    from setr_lib.benchmarks.loading import read_gallery, read_queries

    try:
        queries = read_queries(evaluation_set) if queries is None else queries
        gallery = read_gallery(evaluation_set) if gallery is None else gallery
    except DatasetError:
        return ()
    return check_image_ids(evaluation_set, queries, gallery)


def _named_images(queries: pl.DataFrame, column: str) -> pl.DataFrame:
    """``query_id`` and ``image_id`` of every image that ``column`` names; a blank names none."""
    import polars as pl

    named = queries.select("query_id", image_id=column)
    if isinstance(named.schema["image_id"], pl.List):
        named = named.explode("image_id")
    return named.filter(pl.col("image_id").is_not_null() & (pl.col("image_id") != ""))


def _total_miss(
    evaluation_set: EvaluationSet, column: str, named: pl.DataFrame, gallery: pl.DataFrame
) -> str:
    query, image = named.row(0)
    known = gallery["image_id"].to_list()
    benchmark = evaluation_set.benchmark
    found = near_ids(known).near(image, benchmark.image_folder(evaluation_set))
    similar, why = (known[0], "") if found is None else (found.id, f" ({found.reason})")
    if type(benchmark).gallery is Benchmark.gallery:
        folder = benchmark.image_folder(evaluation_set)
        rule = f"an image's id is its path below image_root ({folder})"
    else:
        rule = f"an image's id is the one that the gallery of {benchmark.name} gives it"
    return (
        f"{evaluation_set.key}: none of its {named['query_id'].n_unique():,} queries has "
        f"{_NEEDED[column]} in the gallery: query {query!r} names {image!r}, and the gallery has e.g. "
        f"{similar!r}{why}; {rule}: name images so in the queries of [datasets.{evaluation_set.dataset}]"
    )


def similar_id(image: str, known: Sequence[str]) -> str:
    """The id that is most like an unknown one.

    Args:
        image: The unknown id.
        known: The ids that there are, at least one.

    Returns:
        The nearest (:class:`setr_lib.benchmarks.near_ids.NearIds`), else the first.
    """
    found = near_ids(known).near(image)
    return known[0] if found is None else found.id
