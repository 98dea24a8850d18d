"""The random floor: what a random ranker gets, in closed form, with its spread, and as rankings.

The closed forms are the metrics' own (``Metric.chance``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from setr_lib.benchmarks import Benchmark, benchmark_of
from setr_lib.benchmarks.metrics import SUBSET, RandomPools
from setr_lib.evaluation.intervals import Interval
from setr_lib.evaluation.metrics import (
    PER_QUERY,
    Values,
    per_query_frame,
    summarise,
    values_from_ranks,
)
from setr_lib.evaluation.pools import Pools, pools_of
from setr_lib.evaluation.protocols import reported_metrics, scored_queries
from setr_lib.tables import RANKINGS, conform

_CHUNK = 128
"""Queries simulated at once."""


def _drawn_from(benchmark: Benchmark, queries: pl.DataFrame, pools: Pools) -> RandomPools:
    subsets = (
        pools.subset_sizes(queries) if SUBSET in benchmark.pools else np.zeros(queries.height, dtype=np.int64)
    )
    return RandomPools(pools.sizes(benchmark, queries), pools.targets(queries), subsets)


def expected_per_query(
    benchmark: Benchmark | str, queries: pl.DataFrame, gallery: pl.DataFrame
) -> pl.DataFrame:
    """What a random ranker of the rankable gallery images gets on average for each query.

    Args:
        benchmark: A benchmark, or its kind.
        queries: ``tables.QUERIES``; those without known targets are left out.
        gallery: ``image_id``, ``galleries`` and optionally ``status``. A target that cannot be ranked is
            never found.

    Returns:
        A ``PER_QUERY`` frame, values from 0 to 1; empty on a hidden split.
    """
    benchmark, scored = benchmark_of(benchmark), scored_queries(queries)
    if scored.is_empty():
        return pl.DataFrame(schema=PER_QUERY)
    drawn = _drawn_from(benchmark, scored, pools_of(gallery))
    return per_query_frame(
        benchmark, scored, {metric.name: metric.chance(drawn) for metric in benchmark.metrics}
    )


def random_floor(
    benchmark: Benchmark | str, queries: pl.DataFrame, gallery: pl.DataFrame
) -> dict[str, float]:
    """What a random ranker gets on average, in closed form.

    Args:
        benchmark: A benchmark, or its kind.
        queries: ``tables.QUERIES``.
        gallery: ``image_id``, ``galleries`` and optionally ``status``.

    Returns:
        Metric -> the mean of :func:`expected_per_query` (0 to 1); empty on a hidden split.
    """
    return summarise(expected_per_query(benchmark, queries, gallery))


def _distinct_ranks(pool: int, count: int, samples: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """samples x count: ranks of ``count`` images in random orders of ``pool`` images."""
    if count * count > pool:  # collisions would be frequent: shuffle outright
        return rng.permuted(np.tile(np.arange(1.0, pool + 1), (samples, 1)), axis=1)[:, :count]
    ranks = rng.integers(1, pool + 1, size=(samples, count))
    while count > 1:
        ordered = np.sort(ranks, axis=1)
        clashes = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        if not clashes.any():
            break
        ranks[clashes] = rng.integers(
            1, pool + 1, size=(int(clashes.sum()), count)
        )  # rejection keeps it uniform
    return ranks.astype(np.float64)


def _simulated_ranks(
    sizes: npt.NDArray[np.int64], flags: Sequence[Sequence[bool]], samples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(queries * samples) x targets, infinite for targets that cannot be ranked."""
    ranks = np.full((len(flags), samples, max(len(query_flags) for query_flags in flags)), np.inf)
    for row, (size, there) in enumerate(zip(sizes, flags, strict=True)):
        if any(there):
            ranks[row][:, np.flatnonzero(there)] = _distinct_ranks(int(size), sum(there), samples, rng)
    return ranks.reshape(len(flags) * samples, -1)


def _simulated_values(
    benchmark: Benchmark, queries: pl.DataFrame, pools: Pools, samples: int, rng: np.random.Generator
) -> Values:
    """For each metric queries x samples."""
    drawn = _drawn_from(benchmark, queries, pools)
    ranks = _simulated_ranks(drawn.sizes, drawn.reachable, samples, rng)
    truths = np.repeat(np.array([len(flags) for flags in drawn.reachable]), samples)
    subset_ranks = None
    if SUBSET in benchmark.pools:
        first = [flags[:1] for flags in drawn.reachable]
        subset_ranks = _simulated_ranks(drawn.subset_sizes, first, samples, rng)[:, 0]
    values = values_from_ranks(benchmark, ranks, truths, subset_ranks)
    return {name: metric_values.reshape(queries.height, samples) for name, metric_values in values.items()}


def random_intervals(
    benchmark: Benchmark | str,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Where 95 % of random rankers land on exactly these queries, by simulation.

    Args:
        benchmark: A benchmark, or its kind.
        queries: ``tables.QUERIES``; those without known targets are left out.
        gallery: ``image_id``, ``galleries`` and optionally ``status``.
        samples: Random rankers.
        seed: Of their draws.

    Returns:
        Metric -> interval (0 to 1); empty on a hidden split.
    """
    benchmark, scored = benchmark_of(benchmark), scored_queries(queries)
    if scored.is_empty():
        return {}
    pools, rng = pools_of(gallery), np.random.default_rng(seed)
    chunks = [scored.slice(start, _CHUNK) for start in range(0, scored.height, _CHUNK)]
    parts = [_simulated_values(benchmark, chunk, pools, samples, rng) for chunk in chunks]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    row_numbers = np.arange(scored.height, dtype=np.float64)
    # The frame knows which queries each metric is made of; row numbers in place of values say which rows
    # those are.
    rows = per_query_frame(benchmark, scored, dict.fromkeys(values, row_numbers))
    sources = {reported.name: reported.metric.name for reported in reported_metrics(benchmark, scored)}
    return {
        str(metric): _spread(values[sources[str(metric)]], chosen)
        for (metric,), chosen in rows.group_by("metric", maintain_order=True)
    }


def _spread(values: npt.NDArray[np.float64], rows: pl.DataFrame) -> Interval:
    """Where 95 % of the columns of queries x samples ``values`` land; ``rows`` gives each stratum's row
    numbers.
    """
    strata = [
        part["value"].cast(pl.Int64).to_numpy() for _, part in rows.group_by("stratum", maintain_order=True)
    ]
    draws = np.mean([values[members].mean(axis=0) for members in strata], axis=0)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(float(low), float(high))


def _random_list(candidates: list[str], without: str | None, k: int, rng: np.random.Generator) -> list[str]:
    drawn = rng.choice(len(candidates), size=min(k + 1, len(candidates)), replace=False)
    return [candidates[index] for index in drawn if candidates[index] != without][:k]


def random_rankings(
    queries: pl.DataFrame, gallery: pl.DataFrame, seed: int = 0, *, k: int = 50
) -> pl.DataFrame:
    """Rankings in random order. Scores are made up so as to fall with the rank.

    Queries with a subset (CIRR's) get no reference in their list, and their subset's members in random order
    too.

    Args:
        queries: ``tables.QUERIES``.
        gallery: ``image_id``, ``galleries`` and optionally ``status``.
        seed: Of the orders.
        k: Images of each gallery list, at most.

    Returns:
        A ``tables.RANKINGS`` frame.
    """
    pools, rng = pools_of(gallery), np.random.default_rng(seed)
    ids: list[str] = []
    kinds: list[str] = []
    images: list[str] = []
    ranks: list[int] = []
    columns = ("query_id", "reference_id", "gallery", "subset_ids")
    for query_id, reference, name, subset in queries.select(columns).iter_rows():
        lists = [("gallery", _random_list(pools.images.get(name, []), reference if subset else None, k, rng))]
        if subset:
            members = [member for member in subset if pools.has(name, member)]
            lists.append(("subset", _random_list(members, None, len(members), rng)))
        for pool, ranked in lists:
            ids += [query_id] * len(ranked)
            kinds += [pool] * len(ranked)
            images += ranked
            ranks += range(1, len(ranked) + 1)
    score = 1 / np.asarray(ranks, dtype=np.float64)
    frame = pl.DataFrame(
        {
            "query_id": ids,
            "pool": kinds,
            "rank": ranks,
            "image_id": images,
            "score": score,
            "coarse_score": score,
        }
    ).with_columns(pl.lit(None, dtype=pl.Float64).alias("judge_score"))
    return conform(frame, RANKINGS, "random rankings")
