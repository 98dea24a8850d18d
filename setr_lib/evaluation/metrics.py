"""The official metrics of CIRR, FashionIQ and CIRCO, computed for all queries at once.

Definitions (from the benchmarks' own code; checked against hand-computed values in the tests):

- CIRR: R@K of ``target_hard`` in the ranking without the reference; R_subset@K among the five other members of the
  image set, by their own ranking (pool ``subset``); Avg = (R@5 + R_subset@1) / 2.
- FashionIQ: R@10 and R@50 in the category's gallery, the reference kept; the headline is the unweighted mean of the
  three categories.
- CIRCO: mAP@K = mean over queries of [sum over ranks i <= K of precision(i) * relevant(i)] / min(number of ground
  truths, K); R@K of the single target (the first ground truth); mAP@10 for each semantic aspect.
- A folder of one's own: R@K is whether *any* target is among the first K, mAP@10 as CIRCO's.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from setr_lib.evaluation.pools import pools_of
from setr_lib.evaluation.protocols import (
    ASPECT_METRIC,
    AVERAGE,
    PRECISION_DEPTHS,
    RECALL_DEPTHS,
    SUBSET_DEPTHS,
    base_metrics,
    check_kind,
    metric_names,
    scored_queries,
)
from setr_lib.evaluation.rankings import RankingError, check_rankings, unranked_queries

Values = dict[str, npt.NDArray[np.float64]]
"""For each metric one value (0 to 1) per query."""

PER_QUERY = pl.Schema(
    {"query_id": pl.String(), "stratum": pl.String(), "metric": pl.String(), "value": pl.Float64()}
)
"""``stratum`` is the query's gallery: FashionIQ's category, else ``all``. Means are taken within strata, then over."""

_CATEGORIES = 3


@dataclass(frozen=True)
class Evaluation:
    """What a ranking is worth."""

    kind: str
    per_query: pl.DataFrame
    """A :data:`PER_QUERY` frame, in the order of the metrics, then of the queries."""
    summary: dict[str, float]
    """Metric -> value from 0 to 1, in the order of the benchmark's tables; empty on a hidden split."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Metric -> why it could not be computed (lists too short, no subset ranking, a category missing); categories and
    aspects are spelt out."""
    unranked: int = 0
    """Queries without a ranking, counted as misses."""


def left_out_sentences(left_out: Mapping[str, str]) -> list[str]:
    """One sentence for each reason, naming every metric that it keeps out."""
    metrics: dict[str, list[str]] = {}
    for metric, reason in left_out.items():
        metrics.setdefault(reason, []).append(metric)
    return [f"left out: {', '.join(names)}: {reason}" for reason, names in metrics.items()]


def values_from_ranks(
    kind: str,
    ranks: npt.NDArray[np.float64],
    truths: npt.NDArray[np.int64],
    subset_ranks: npt.NDArray[np.float64] | None = None,
) -> Values:
    """Metric values from where the targets ended up: the definitions themselves, over n queries.

    ``ranks``: n x t, the 1-based rank of each target, infinite where it is not ranked (or to fill a row); the first
    column is the single target. ``truths``: n, how many targets each query has. ``subset_ranks``: n, the single
    target's rank among CIRR's five members.
    """
    single = ranks[:, 0] if kind != "folder" else ranks.min(axis=1)
    values: Values = {f"R@{depth}": (single <= depth).astype(np.float64) for depth in RECALL_DEPTHS[kind]}
    if kind in PRECISION_DEPTHS:
        ordered = np.sort(ranks, axis=1)
        precision = np.arange(1, ranks.shape[1] + 1) / ordered  # at each hit; 0 where the rank is infinite
        for depth in PRECISION_DEPTHS[kind]:
            total = np.where(ordered <= depth, precision, 0.0).sum(axis=1)
            values[f"mAP@{depth}"] = total / np.minimum(truths, depth)
    if subset_ranks is not None:
        for depth in SUBSET_DEPTHS:
            values[f"R_subset@{depth}"] = (subset_ranks <= depth).astype(np.float64)
        values[AVERAGE] = (values["R@5"] + values["R_subset@1"]) / 2
    return values


def _target_ranks(queries: pl.DataFrame, rankings: pl.DataFrame) -> npt.NDArray[np.float64]:
    """n x (largest number of targets): where each target is ranked, infinite where it is not."""
    width = int(queries["target_ids"].list.len().max() or 1)  # pyright: ignore[reportArgumentType]
    ranks = np.full((queries.height, width), np.inf)
    positions = pl.int_ranges(pl.col("target_ids").list.len())
    targets = queries.select(
        "query_id", pl.col("target_ids").alias("image_id"), pl.row_index("_row"), positions.alias("_column")
    ).explode("image_id", "_column")
    hits = targets.join(rankings, on=["query_id", "image_id"])
    ranks[hits["_row"].to_numpy(), hits["_column"].to_numpy()] = hits["rank"].to_numpy()
    return ranks


def _lengths(
    queries: pl.DataFrame, lists: pl.DataFrame, whole: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.float64]:
    """How deep each query's list goes: infinite where it has all of the ``whole`` images that there are to rank.

    A query without a list limits no depth either: it is a miss at any.
    """
    counted = lists.group_by("query_id").len("_length")
    joined = queries.select("query_id").join(counted, on="query_id", how="left", maintain_order="left")
    lengths = joined["_length"].cast(pl.Float64).fill_null(np.inf).to_numpy()
    return lengths if whole is None else np.where(lengths >= whole, np.inf, lengths)


def _left_out(
    kind: str, queries: pl.DataFrame, rankings: pl.DataFrame, gallery: pl.DataFrame | None
) -> dict[str, str]:
    """The metrics that the lists cannot give, each with the reason: a category is judged by its own lists."""
    pools = None if gallery is None else pools_of(gallery)
    sizes = None if pools is None else pools.sizes(kind, queries)
    members = None if pools is None else pools.subset_sizes(queries)
    there = _pools_there(kind, rankings)
    lengths = _lengths(queries, rankings.filter(pool="gallery"), sizes)
    subset_lengths = _lengths(queries, rankings.filter(pool="subset"), members)
    reasons: dict[str, str] = {}
    for metric in metric_names(kind, queries):
        if metric == AVERAGE:
            if {"R@5", "R_subset@1"} & reasons.keys():
                reasons[metric] = "it needs R@5 and R_subset@1"
            continue
        of_subsets = metric.startswith("R_subset@")
        if ("subset" if of_subsets else "gallery") not in there:
            reasons[metric] = f"there is no {'subset ranking' if of_subsets else 'ranking of the gallery'}"
            continue
        counting = _members(metric, queries).to_numpy()
        shortest = (subset_lengths if of_subsets else lengths)[counting].min(initial=np.inf)
        if _depth(metric) > shortest:
            reasons[metric] = f"a ranking is only {shortest:.0f} long"
    if _partial_mean(kind, queries):
        categories = queries["gallery"].unique(maintain_order=True)
        for metric in base_metrics(kind):  # too short a list is the better reason: it is the categories' too
            reasons.setdefault(
                metric, f"it is the mean of three categories; there is only {', '.join(categories)}"
            )
    return reasons


def _depth(metric: str) -> int:
    """K of ``R@K/part``."""
    return int(metric.partition("/")[0].partition("@")[2])


def _members(metric: str, queries: pl.DataFrame) -> pl.Series:
    """Whether each query counts for ``metric``: all do, but for one of a category or an aspect."""
    base, _, part = metric.partition("/")
    if not part:
        return pl.repeat(True, queries.height, eager=True)
    return queries["aspects"].list.contains(part) if base == ASPECT_METRIC else queries["gallery"] == part


def _partial_mean(kind: str, queries: pl.DataFrame) -> bool:
    """Whether FashionIQ's means would be of fewer than its three categories: they are then left out."""
    return kind == "fashioniq" and queries["gallery"].n_unique() != _CATEGORIES


def per_query_frame(
    kind: str, queries: pl.DataFrame, values: Values, left_out: Container[str] = ()
) -> pl.DataFrame:
    """The :data:`PER_QUERY` frame of ``values`` (one per query of ``queries``), categories and aspects spelt out.

    The metrics ``left_out`` have no rows.
    """
    frames = [
        queries.select(
            "query_id",
            pl.col("gallery").alias("stratum"),
            pl.lit(metric).alias("metric"),
            pl.Series("value", values[base]),
        ).filter(_members(metric, queries))
        for metric in metric_names(kind, queries)
        if metric not in left_out
        and (base := metric.partition("/")[0]) in values
        and not (metric == base and _partial_mean(kind, queries))
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=PER_QUERY)


def summarise(per_query: pl.DataFrame) -> dict[str, float]:
    """Metric -> mean within each stratum, then the unweighted mean over strata (FashionIQ's headline)."""
    means = per_query.group_by("metric", "stratum", maintain_order=True).agg(pl.col("value").mean())
    rows = means.group_by("metric", maintain_order=True).agg(pl.col("value").mean()).rows()
    return {str(metric): float(value) for metric, value in rows}


def _pools_there(kind: str, rankings: pl.DataFrame) -> list[str]:
    """The pools that a ranking answers: CIRR's two files may come alone, and so may their lists."""
    there = [pool for pool in ("gallery", "subset") if not rankings.filter(pool=pool).is_empty()]
    return there if kind == "cirr" and there else ["gallery"]


def _refuse_unranked(kind: str, queries: pl.DataFrame, rankings: pl.DataFrame) -> None:
    """Every query must have a list in every pool that any query has one in."""
    for pool in _pools_there(kind, rankings):
        missing = unranked_queries(queries, rankings, pool)
        if not missing.is_empty():
            raise RankingError(f"{missing.len()} queries have no {pool} ranking, the first: {missing[0]!r}")


def evaluate(
    dataset_kind: str,
    queries: pl.DataFrame,
    rankings: pl.DataFrame,
    gallery: pl.DataFrame | None = None,
    *,
    unranked: Literal["refuse", "miss"] = "refuse",
) -> Evaluation:
    """Score ``rankings`` (``tables.RANKINGS``; its score columns are not needed) of ``queries`` (``tables.QUERIES``).

    Queries without known targets are left out. ``gallery`` (``image_id``, ``galleries``, optional ``status``) makes two
    things possible: refusing images outside a query's gallery, and computing a metric whose K is larger than a list that
    holds the whole gallery; without it such metrics are left out, and said so. A query without a ranking is refused, or
    with ``unranked="miss"`` counts as a miss; a CIRR ranking of subsets alone has no R@K, and the other way round. Raises
    ``RankingError``, ``ProtocolError``.
    """
    kind = check_kind(dataset_kind)
    check_rankings(kind, queries, rankings, gallery)
    scored = scored_queries(queries)
    missing = unranked_queries(scored, rankings, _pools_there(kind, rankings)[0])
    if unranked == "refuse":
        _refuse_unranked(kind, scored, rankings)
    if scored.is_empty():
        return Evaluation(kind, pl.DataFrame(schema=PER_QUERY), {})
    lists, subsets = rankings.filter(pool="gallery"), rankings.filter(pool="subset")
    subset_ranks = _target_ranks(scored, subsets)[:, 0] if kind == "cirr" and subsets.height else None
    truths = scored["target_ids"].list.len().cast(pl.Int64).to_numpy()
    values = values_from_ranks(kind, _target_ranks(scored, lists), truths, subset_ranks)
    left_out = _left_out(kind, scored, rankings, gallery)
    per_query = per_query_frame(kind, scored, values, left_out)
    return Evaluation(kind, per_query, summarise(per_query), left_out, missing.len())
