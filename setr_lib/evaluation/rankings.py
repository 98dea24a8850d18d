"""Checks on a ranking before anything is computed from it: a wrong ranking is refused, never quietly
scored.
"""

from __future__ import annotations

import polars as pl

from setr_lib.benchmarks import Benchmark, RankingError
from setr_lib.benchmarks.near_ids import meant

__all__ = ["RankingError", "check_rankings", "unranked_queries"]

_KEY = ["query_id", "pool"]
_COLUMNS = [*_KEY, "rank", "image_id"]
_POOLS = ["gallery", "subset"]
_NAMED = 5


def _names(values: pl.Series) -> str:
    shown = ", ".join(repr(value) for value in values.head(_NAMED))
    return shown if values.len() <= _NAMED else f"{shown} and {values.len() - _NAMED} more"


def _check_columns(rankings: pl.DataFrame) -> None:
    missing = [name for name in _COLUMNS if name not in rankings.columns]
    if missing:
        raise RankingError(f"the ranking has no column {missing}")
    if not rankings.schema["rank"].is_integer():
        raise RankingError(f"the column 'rank' must hold whole numbers, not {rankings.schema['rank']}")
    for name in _COLUMNS:
        if count := rankings[name].null_count():
            raise RankingError(f"the ranking's column {name!r} is empty in {count} row(s)")
    if not (strange := rankings.filter(~pl.col("pool").is_in(_POOLS))["pool"].unique()).is_empty():
        raise RankingError(f"the ranking has the pool(s) {_names(strange)}: there are {_POOLS} only")


def _check_lists(rankings: pl.DataFrame) -> None:
    """Ranks 1, 2, 3 ... without gaps, and no image twice, in each query's list."""
    lists = rankings.group_by(_KEY).agg(
        twice=pl.col("image_id").is_duplicated().any(),
        gaps=(pl.col("rank").n_unique() < pl.len())
        | (pl.col("rank").min() != 1)
        | (pl.col("rank").max() != pl.len()),
    )
    if not (bad := lists.filter("twice").sort(_KEY)).is_empty():
        raise RankingError(f"an image is ranked twice for the query or queries {_names(bad['query_id'])}")
    if not (bad := lists.filter("gaps").sort(_KEY)).is_empty():
        raise RankingError(f"ranks must run 1, 2, 3 ...: they do not for {_names(bad['query_id'])}")


def _check_subsets(queries: pl.DataFrame, rankings: pl.DataFrame) -> None:
    members = queries.select("query_id", pl.col("subset_ids").alias("image_id")).explode("image_id")
    strange = rankings.filter(pool="subset").join(members, on=["query_id", "image_id"], how="anti")
    if not strange.is_empty():
        raise RankingError(
            f"the subset ranking of query {strange['query_id'][0]!r} holds {strange['image_id'][0]!r}, "
            "which is none of the members of its subset"
        )


def _check_references(benchmark: Benchmark, queries: pl.DataFrame, rankings: pl.DataFrame) -> None:
    references = queries.select("query_id", pl.col("reference_id").alias("image_id"))
    with_reference = (
        rankings.join(references, on=["query_id", "image_id"], how="semi")["query_id"].unique().sort()
    )
    if not with_reference.is_empty():
        raise RankingError(
            f"{benchmark.name} takes the reference out of every ranking; it is in {_names(with_reference)}"
        )


def _check_gallery(queries: pl.DataFrame, rankings: pl.DataFrame, gallery: pl.DataFrame) -> None:
    images = gallery.select("image_id", pl.col("galleries").alias("gallery")).explode("gallery")
    placed = rankings.filter(pool="gallery").join(queries.select("query_id", "gallery"), on="query_id")
    strange = placed.join(images, on=["image_id", "gallery"], how="anti")
    if not strange.is_empty():
        query, image, name = strange.select("query_id", "image_id", "gallery").row(0)
        known = images.filter(pl.col("gallery") == name)["image_id"].to_list()
        raise RankingError(
            f"the ranking of query {query!r} holds {image!r}, which is not in the gallery {name!r} "
            f"({strange.height} such entries){meant(image, known)}"
        )


def unranked_queries(queries: pl.DataFrame, rankings: pl.DataFrame, pool: str = "gallery") -> pl.Series:
    """Ids of the queries that have no ranking of ``pool``.

    Args:
        queries: ``tables.QUERIES``.
        rankings: ``query_id`` and ``pool`` of ``tables.RANKINGS``.
        pool: ``gallery`` or ``subset``.

    Returns:
        Query ids.
    """
    return queries.join(rankings.filter(pool=pool), on="query_id", how="anti")["query_id"]


def check_rankings(
    benchmark: Benchmark, queries: pl.DataFrame, rankings: pl.DataFrame, gallery: pl.DataFrame | None = None
) -> None:
    """Refuse a ranking that cannot be what the queries were answered with.

    Queries without a ranking are not refused here (see :func:`unranked_queries`).

    Args:
        benchmark: Says whether the reference is taken out.
        queries: ``tables.QUERIES``.
        rankings: ``query_id``, ``pool``, ``rank``, ``image_id`` of ``tables.RANKINGS``.
        gallery: ``image_id`` and ``galleries``; without it, images are not checked to be in the query's
            gallery.

    Raises:
        RankingError: Missing columns or values, gaps in the ranks, an image ranked twice, an unknown query, a
            subset entry that is not a member, a reference that the benchmark takes out, or an image outside
            the query's gallery.
    """
    _check_columns(rankings)
    _check_lists(rankings)
    unknown = rankings.join(queries, on="query_id", how="anti")["query_id"].unique().sort()
    if not unknown.is_empty():
        hint = meant(unknown[0], queries["query_id"].to_list())
        raise RankingError(f"the ranking answers unknown queries: {_names(unknown)}{hint}")
    _check_subsets(queries, rankings)
    if benchmark.removes_reference:
        _check_references(benchmark, queries, rankings)
    if gallery is not None:
        _check_gallery(queries, rankings, gallery)
