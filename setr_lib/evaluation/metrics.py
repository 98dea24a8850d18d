"""A benchmark's metrics, computed for all queries at once: values per query, means, and what could not be
computed.

What each metric is belongs to ``setr_lib.benchmarks.metrics``; which ones a benchmark has, to its class.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from setr_lib.benchmarks import Benchmark, Metric, benchmark_of
from setr_lib.benchmarks.metrics import GALLERY, SUBSET, WHOLE, TargetRanks
from setr_lib.evaluation.pools import pools_of
from setr_lib.evaluation.protocols import reported_metrics, scored_queries
from setr_lib.evaluation.rankings import RankingError, check_rankings, unranked_queries

Values = dict[str, npt.NDArray[np.float64]]
"""For each metric one value (0 to 1) per query."""

PER_QUERY = pl.Schema(
    {"query_id": pl.String(), "stratum": pl.String(), "metric": pl.String(), "value": pl.Float64()}
)
"""``stratum`` is the query's gallery: FashionIQ's category, else ``all``; ``all`` too for metrics that are no
macro mean, and where every query has a gallery of its own. Means are taken within strata, then over."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a ranking."""

    per_query: pl.DataFrame
    """A :data:`PER_QUERY` frame, in the order of the metrics, then of the queries."""
    summary: dict[str, float]
    """Metric -> value from 0 to 1, in the order of the benchmark's tables; empty on a hidden split."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Metric -> why it could not be computed (lists too short, no subset ranking, a category missing);
    categories and aspects are spelt out."""
    unranked: int = 0
    """Queries without a ranking, counted as misses."""


def left_out_sentences(left_out: Mapping[str, str]) -> list[str]:
    """One sentence for each reason, naming every metric that it keeps out.

    Args:
        left_out: Metric -> why it could not be computed.

    Returns:
        The sentences.
    """
    metrics: dict[str, list[str]] = {}
    for metric, reason in left_out.items():
        metrics.setdefault(reason, []).append(metric)
    return [f"left out: {', '.join(names)}: {reason}" for reason, names in metrics.items()]


def values_from_ranks(
    benchmark: Benchmark | str,
    ranks: npt.NDArray[np.float64],
    truths: npt.NDArray[np.int64],
    subset_ranks: npt.NDArray[np.float64] | None = None,
) -> Values:
    """The benchmark's metrics from where the targets ended up, over n queries.

    Args:
        benchmark: A benchmark, or its kind.
        ranks: n x t, the 1-based rank of each target, infinite where it is not ranked (or to fill a row); the
            first column is the first target.
        truths: n, how many targets each query has.
        subset_ranks: n, the first target's rank in the query's subset; without it, metrics of subsets are
            left out.

    Returns:
        Metric name -> n values from 0 to 1.
    """
    found = TargetRanks(ranks, truths, subset_ranks)
    return {
        metric.name: metric.values(found)
        for metric in benchmark_of(benchmark).metrics
        if subset_ranks is not None or SUBSET not in metric.pools
    }


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


def _counts_ties(benchmark: Benchmark, lists: pl.DataFrame) -> bool:
    """Whether a target is ranked behind the images of its score: a ranking file need not have scores."""
    return benchmark.ties_count_against and "score" in lists.columns and lists["score"].count() > 0


def _behind_ties(lists: pl.DataFrame) -> pl.DataFrame:
    """``lists`` with every image ranked as the last of those that follow each other with its score; images
    without one (a ranking file's) stay where they are.
    """
    runs = lists.sort("query_id", "rank").with_columns(
        pl.col("score").rle_id().over("query_id").alias("_run")
    )
    last = pl.col("rank").max().over("query_id", "_run")
    return runs.with_columns(pl.when(pl.col("score").is_null()).then("rank").otherwise(last).alias("rank"))


def _lengths(
    queries: pl.DataFrame, lists: pl.DataFrame, whole: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.float64]:
    """How deep each query's list goes: infinite where it has all of the ``whole`` images that there are to
    rank.

    A query without a list limits no depth either: it is a miss at any.
    """
    counted = lists.group_by("query_id").len("_length")
    joined = queries.select("query_id").join(counted, on="query_id", how="left", maintain_order="left")
    lengths = joined["_length"].cast(pl.Float64).fill_null(np.inf).to_numpy()
    return lengths if whole is None else np.where(lengths >= whole, np.inf, lengths)


def _left_out(
    benchmark: Benchmark, queries: pl.DataFrame, rankings: pl.DataFrame, gallery: pl.DataFrame | None
) -> dict[str, str]:
    """The metrics that the lists cannot give, each with the reason: a category is judged by its own lists."""
    pools = None if gallery is None else pools_of(gallery)
    whole = {
        GALLERY: None if pools is None else pools.sizes(benchmark, queries),
        SUBSET: None if pools is None else pools.subset_sizes(queries),
    }
    there = _pools_there(benchmark, rankings)
    lengths = {pool: _lengths(queries, rankings.filter(pool=pool), whole[pool]) for pool in whole}
    beyond = _counts_ties(benchmark, rankings)
    reasons: dict[str, str] = {}
    for reported in reported_metrics(benchmark, queries):
        counting = reported.members(queries).to_numpy()
        shortest = {pool: of_pool[counting].min(initial=np.inf) for pool, of_pool in lengths.items()}
        if reason := _reason(reported.metric, there, shortest, beyond=beyond):
            reasons[reported.name] = reason
    if _partial_mean(benchmark, queries):
        categories = queries["gallery"].unique(maintain_order=True)
        for metric in benchmark.metrics:  # too short a list is the better reason: it is the categories' too
            reasons.setdefault(
                metric.name,
                (
                    f"it is the mean of {len(benchmark.categories)} categories; there is only "
                    f"{', '.join(categories)}"
                ),
            )
    return reasons


def _reason(
    metric: Metric, there: Container[str], shortest: Mapping[str, float], *, beyond: bool
) -> str | None:
    """Why lists of these pools, at least as long as these, cannot give ``metric``; None where they can.

    ``beyond``: whether an image beyond the first K must be seen, too: the K-th may have its score.
    """
    if metric.parts:
        lacking = any(_reason(part, there, shortest, beyond=beyond) for part in metric.parts)
        return f"it needs {' and '.join(part.name for part in metric.parts)}" if lacking else None
    for pool in sorted(metric.pools):
        if pool not in there:
            return f"there is no {'ranking of the gallery' if pool == GALLERY else f'{pool} ranking'}"
        if metric.depth == WHOLE and shortest[pool] < np.inf:
            return f"it needs the whole gallery ranked, and a ranking is only {shortest[pool]:.0f} long"
        if metric.depth > shortest[pool]:
            return f"a ranking is only {shortest[pool]:.0f} long"
        if beyond and metric.depth == shortest[pool]:
            return f"a ranking is only {shortest[pool]:.0f} long: whether the next score is equal is not seen"
    return None


def _partial_mean(benchmark: Benchmark, queries: pl.DataFrame) -> bool:
    """Whether means would be of fewer than the benchmark's categories: they are then left out."""
    return bool(benchmark.categories) and queries["gallery"].n_unique() != len(benchmark.categories)


def per_query_frame(
    benchmark: Benchmark, queries: pl.DataFrame, values: Values, left_out: Container[str] = ()
) -> pl.DataFrame:
    """The values of each query as a table, with metrics of single categories and aspects.

    Args:
        benchmark: Names the metrics and how they are broken down.
        queries: ``tables.QUERIES``, n rows.
        values: Metric -> n values from 0 to 1.
        left_out: Names of reported metrics that get no rows.

    Returns:
        A :data:`PER_QUERY` frame.
    """
    by_gallery = not benchmark.gallery_per_query
    frames = [
        queries.select(
            "query_id",
            (pl.col("gallery") if by_gallery and reported.metric.macro else pl.lit("all")).alias("stratum"),
            pl.lit(reported.name).alias("metric"),
            pl.Series("value", values[reported.metric.name]),
        ).filter(reported.members(queries))
        for reported in reported_metrics(benchmark, queries)
        if reported.name not in left_out
        and reported.metric.name in values
        and not (not reported.part and _partial_mean(benchmark, queries))
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=PER_QUERY)


def summarise(per_query: pl.DataFrame) -> dict[str, float]:
    """The means of metrics: within each stratum, then unweighted over strata (FashionIQ's headline).

    Args:
        per_query: A :data:`PER_QUERY` frame.

    Returns:
        Metric -> mean, 0 to 1.
    """
    means = per_query.group_by("metric", "stratum", maintain_order=True).agg(pl.col("value").mean())
    rows = means.group_by("metric", maintain_order=True).agg(pl.col("value").mean()).rows()
    return {str(metric): float(value) for metric, value in rows}


def with_labels(evaluation: Evaluation, labels: pl.DataFrame) -> Evaluation:
    """An evaluation with every metric also for the queries of each label (``R@10/composition_required``).

    Args:
        evaluation: Of any ranking.
        labels: ``query_id`` and ``label``, each pair once.

    Returns:
        The evaluation with further metrics, in the order of labels, then of metrics. A label whose queries
        have no values (their targets are hidden) has none.
    """
    whole = evaluation.per_query.filter(~pl.col("metric").str.contains("/", literal=True))
    parts = [
        whole.join(labels.filter(label=label), on="query_id", how="semi", maintain_order="left").with_columns(
            metric=pl.col("metric") + f"/{label}"
        )
        for label in labels["label"].unique().sort()
    ]
    per_query = pl.concat([evaluation.per_query, *parts])
    return replace(evaluation, per_query=per_query, summary=summarise(per_query))


def _pools_there(benchmark: Benchmark, rankings: pl.DataFrame) -> list[str]:
    """The pools that a ranking answers: where there are several (CIRR), each may come alone."""
    there = [pool for pool in benchmark.pools if not rankings.filter(pool=pool).is_empty()]
    return there or [GALLERY]


def _refuse_unranked(benchmark: Benchmark, queries: pl.DataFrame, rankings: pl.DataFrame) -> None:
    """Every query must have a list in every pool that any query has one in."""
    for pool in _pools_there(benchmark, rankings):
        missing = unranked_queries(queries, rankings, pool)
        if not missing.is_empty():
            raise RankingError(f"{missing.len()} queries have no {pool} ranking, the first: {missing[0]!r}")


def evaluate(
    benchmark: Benchmark | str,
    queries: pl.DataFrame,
    rankings: pl.DataFrame,
    gallery: pl.DataFrame | None = None,
    *,
    unranked: Literal["refuse", "miss"] = "refuse",
) -> Evaluation:
    """The benchmark's metrics of a ranking. Queries without known targets are left out.

    Args:
        benchmark: A benchmark, or its kind (``"cirr"``).
        queries: ``tables.QUERIES``.
        rankings: ``tables.RANKINGS``; its score columns are not needed. Where a query has two pools (CIRR),
            each of them may come alone; the other's metrics are then left out.
        gallery: ``image_id``, ``galleries``, optional ``status``. It makes two things possible: refusing
            images outside a query's gallery, and computing a metric whose K is larger than a list that holds
            the whole gallery; without it such metrics are left out, and said so.
        unranked: Whether a query without a ranking is refused, or counts as a miss.

    Returns:
        Values per query and means, 0 to 1.

    Raises:
        RankingError: The ranking breaks the benchmark's rules.
        ProtocolError: The gallery has no column that is needed.
        DatasetError: There is no such benchmark.
    """
    benchmark = benchmark_of(benchmark)
    check_rankings(benchmark, queries, rankings, gallery)
    scored = scored_queries(queries)
    missing = unranked_queries(scored, rankings, _pools_there(benchmark, rankings)[0])
    if unranked == "refuse":
        _refuse_unranked(benchmark, scored, rankings)
    if scored.is_empty():
        return Evaluation(pl.DataFrame(schema=PER_QUERY), {})
    lists, subsets = rankings.filter(pool=GALLERY), rankings.filter(pool=SUBSET)
    ranks_subsets = SUBSET in benchmark.pools and not subsets.is_empty()
    subset_ranks = _target_ranks(scored, subsets)[:, 0] if ranks_subsets else None
    truths = scored["target_ids"].list.len().cast(pl.Int64).to_numpy()
    placed = _behind_ties(lists) if _counts_ties(benchmark, lists) else lists
    values = values_from_ranks(benchmark, _target_ranks(scored, placed), truths, subset_ranks)
    left_out = _left_out(benchmark, scored, rankings, gallery)
    per_query = per_query_frame(benchmark, scored, values, left_out)
    return Evaluation(per_query, summarise(per_query), left_out, missing.len())
