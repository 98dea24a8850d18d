"""The floor: what a ranker that knows nothing gets, in closed form, by its spread, and as rankings to feed onwards.

For a query with R rankable targets in a pool of N: P(the single target is among the first K) = min(K, N) / N;
P(any is) = 1 - C(N-R, K) / C(N, K); and the expected average precision at K is
sum over i <= min(K, N) of (R/N) (1/i) (1 + (i-1)(R-1)/(N-1)), divided by min(number of ground truths, K).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from setr_lib.evaluation.intervals import Interval
from setr_lib.evaluation.metrics import (
    PER_QUERY,
    Values,
    per_query_frame,
    summarise,
    values_from_ranks,
)
from setr_lib.evaluation.pools import Pools, pools_of
from setr_lib.evaluation.protocols import (
    AVERAGE,
    PRECISION_DEPTHS,
    RECALL_DEPTHS,
    SUBSET_DEPTHS,
    check_kind,
    scored_queries,
)
from setr_lib.tables import RANKINGS, conform

_CHUNK = 128
"""Queries simulated at once."""


def _chance_of_any(pool: int, relevant: int, depth: int) -> float:
    drawn = np.arange(min(depth, pool))
    return float(1 - np.prod(np.maximum(pool - relevant - drawn, 0) / (pool - drawn)))


def _expected_precision(pool: int, relevant: int, truths: int, depth: int) -> float:
    if relevant == 0:
        return 0.0
    ranks = np.arange(1, min(depth, pool) + 1)
    others = (ranks - 1) * (relevant - 1) / max(pool - 1, 1)
    return float(relevant / pool * ((1 + others) / ranks).sum() / min(truths, depth))


def _subset_chances(
    kind: str, queries: pl.DataFrame, pools: Pools
) -> tuple[npt.NDArray[np.int64], list[bool]] | None:
    """How many members each query's subset has, and whether the target is one that can be ranked."""
    if kind != "cirr":
        return None
    return pools.subset_sizes(queries), [flags[0] for flags in pools.targets(queries)]


def _expected(kind: str, queries: pl.DataFrame, pools: Pools) -> Values:
    sizes = pools.sizes(kind, queries)
    flags = pools.targets(queries)
    cases = [(int(size), sum(each), len(each), each[0]) for size, each in zip(sizes, flags, strict=True)]
    values: Values = {}
    for depth in RECALL_DEPTHS[kind]:
        if kind == "folder":
            chances = [_chance_of_any(size, found, depth) for size, found, _, _ in cases]
        else:
            chances = [min(depth, size) / size if single else 0.0 for size, _, _, single in cases]
        values[f"R@{depth}"] = np.array(chances)
    for depth in PRECISION_DEPTHS.get(kind, ()):
        precisions = [_expected_precision(size, found, truths, depth) for size, found, truths, _ in cases]
        values[f"mAP@{depth}"] = np.array(precisions)
    if (subset := _subset_chances(kind, queries, pools)) is not None:
        for depth in SUBSET_DEPTHS:
            pairs = zip(*subset, strict=True)
            values[f"R_subset@{depth}"] = np.array(
                [min(depth, size) / size if there and size else 0.0 for size, there in pairs]
            )
        values[AVERAGE] = (values["R@5"] + values["R_subset@1"]) / 2
    return values


def expected_per_query(kind: str, queries: pl.DataFrame, gallery: pl.DataFrame) -> pl.DataFrame:
    """What a random ranker of the rankable gallery images gets on average for each query: a ``PER_QUERY`` frame.

    ``queries``: ``tables.QUERIES`` (those without known targets are left out); ``gallery``: ``image_id``, ``galleries``
    and optionally ``status``. A target that cannot be ranked is never found. Empty on a hidden split.
    """
    scored = scored_queries(queries)
    if scored.is_empty():
        return pl.DataFrame(schema=PER_QUERY)
    return per_query_frame(kind, scored, _expected(check_kind(kind), scored, pools_of(gallery)))


def random_floor(kind: str, queries: pl.DataFrame, gallery: pl.DataFrame) -> dict[str, float]:
    """Metric -> the mean of :func:`expected_per_query` (0 to 1), in closed form. Empty on a hidden split."""
    return summarise(expected_per_query(kind, queries, gallery))


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
    sizes: npt.NDArray[np.int64], flags: list[list[bool]], samples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(queries * samples) x targets, infinite for targets that cannot be ranked."""
    ranks = np.full((len(flags), samples, max(len(each) for each in flags)), np.inf)
    for row, (size, there) in enumerate(zip(sizes, flags, strict=True)):
        if any(there):
            ranks[row][:, np.flatnonzero(there)] = _distinct_ranks(int(size), sum(there), samples, rng)
    return ranks.reshape(len(flags) * samples, -1)


def _simulated_values(
    kind: str, queries: pl.DataFrame, pools: Pools, samples: int, rng: np.random.Generator
) -> Values:
    """For each metric queries x samples."""
    flags = pools.targets(queries)
    ranks = _simulated_ranks(pools.sizes(kind, queries), flags, samples, rng)
    truths = np.repeat(np.array([len(each) for each in flags]), samples)
    subset_ranks = None
    if (subset := _subset_chances(kind, queries, pools)) is not None:
        sizes, there = subset
        subset_ranks = _simulated_ranks(sizes, [[each] for each in there], samples, rng)[:, 0]
    values = values_from_ranks(kind, ranks, truths, subset_ranks)
    return {name: each.reshape(queries.height, samples) for name, each in values.items()}


def random_intervals(
    kind: str, queries: pl.DataFrame, gallery: pl.DataFrame, *, samples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Metric -> where 95 % of random rankers land on exactly these queries (0 to 1), by simulation."""
    scored = scored_queries(queries)
    if scored.is_empty():
        return {}
    pools, rng = pools_of(gallery), np.random.default_rng(seed)
    chunks = [scored.slice(start, _CHUNK) for start in range(0, scored.height, _CHUNK)]
    parts = [_simulated_values(check_kind(kind), chunk, pools, samples, rng) for chunk in chunks]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    row_numbers = np.arange(scored.height, dtype=np.float64)
    # The frame knows which queries each metric is made of; row numbers in place of values say which rows those are.
    rows = per_query_frame(kind, scored, dict.fromkeys(values, row_numbers))
    return {
        str(metric): _spread(values[str(metric).partition("/")[0]], chosen)
        for (metric,), chosen in rows.group_by("metric", maintain_order=True)
    }


def _spread(values: npt.NDArray[np.float64], rows: pl.DataFrame) -> Interval:
    """Where 95 % of the columns of queries x samples ``values`` land; ``rows`` gives each stratum's row numbers."""
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
    """A ``tables.RANKINGS`` frame of a ranker that knows nothing: the first ``k`` of a random order for each query.

    Queries with a subset (CIRR's) get no reference in their list, and their subset's members in random order too.
    Scores are made up so as to fall with the rank.
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
