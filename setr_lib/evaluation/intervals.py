"""Confidence intervals: the bootstrap over queries, for one ranking and for the difference of two; Wilson's
interval of a proportion where the bootstrap is not sound.

The percentile bootstrap: queries are drawn with replacement within their stratum (FashionIQ's category), the
statistic (mean within strata, then over strata) is taken of each draw, and the interval is the 2.5 to 97.5 %
range of the draws. It speaks of the choice of queries only, not of how a model was trained.

Where every query of a stratum has the same value, no draw differs from another: an interval from 0.0 to 0.0
for no hit in 30 queries says nothing of other queries. :func:`query_intervals` then gives Wilson's score
interval (Wilson, JASA 22, 1927) of a proportion, a metric that is 0 or 1 for each query, and no interval of
any other metric. Wilson's is taken, too, for proportions over fewer than :data:`FEW_QUERIES` queries with
fewer than :data:`FEW_HITS` hits or misses: the bootstrap's then ends at 0 or 1 more often than not. Over
strata, the distances of the ends are put together as in ``averages`` (MOVER, Zou and Donner 2008).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from setr_lib.evaluation.rankings import RankingError

SAMPLES = 2000
SEED = 5
FEW_QUERIES, FEW_HITS = 50, 5
"""Below both, a proportion's interval is Wilson's."""
_TAILS = (0.025, 0.975)
_Z = NormalDist().inv_cdf(_TAILS[1])
_NO_WIDTH = 1e-9
_BLOCK = 4_000_000
"""Drawn indices held at once: 32 MB."""

_Matrix = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A 95 % interval: the middle of the bootstrap's draws, or Wilson's."""

    low: float
    high: float

    @property
    def has_no_width(self) -> bool:
        """Whether all draws of the bootstrap are the same, so that it is none."""
        return self.high - self.low < _NO_WIDTH


class Difference(NamedTuple):
    """By how much one ranking beats another on the same queries, with the middle 95 % of the bootstrap's
    draws.
    """

    difference: float
    low: float
    high: float

    @property
    def has_no_width(self) -> bool:
        """Whether every pair of queries has the same difference, so that there is no interval."""
        return self.high - self.low < _NO_WIDTH


def _resampled_means(values: _Matrix, samples: int, rng: np.random.Generator) -> _Matrix:
    """samples x m: column means of n x m ``values``, rows drawn with replacement (the same rows for all
    columns).
    """
    n = values.shape[0]
    block = max(1, _BLOCK // n)
    means = np.empty((samples, values.shape[1]))
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        # How often each row was drawn, times its values: one matrix product serves all metrics.
        weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = weights @ values / n
    return means


def _wide(per_query: pl.DataFrame) -> pl.DataFrame:
    """One row per query, sorted by id so that the order of the input changes nothing; a column per metric."""
    wide = per_query.pivot("metric", index=["stratum", "query_id"], values="value")
    return wide.sort("stratum", "query_id")


def _groups(wide: pl.DataFrame) -> Iterator[tuple[list[str], pl.DataFrame]]:
    """The metrics that the same queries have a value of, with those queries (aspects cover some of them
    only).
    """
    names = [name for name in wide.columns if name not in ("stratum", "query_id")]
    groups: dict[bytes, list[str]] = {}
    for name in names:
        groups.setdefault(wide[name].is_not_null().to_numpy().tobytes(), []).append(name)
    for members in groups.values():
        yield members, wide.filter(pl.col(members[0]).is_not_null())


def _draws(frame: pl.DataFrame, metrics: list[str], samples: int, seed: int) -> _Matrix:
    """samples x m: the statistic of each draw. Seeded anew, so a metric's interval does not depend on the
    others.
    """
    rng = np.random.default_rng(seed)
    strata = [part.select(metrics).to_numpy() for _, part in frame.group_by("stratum", maintain_order=True)]
    return np.mean([_resampled_means(values, samples, rng) for values in strata], axis=0)


def bootstrap_intervals(
    per_query: pl.DataFrame, *, samples: int = SAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """The 95 % interval of every metric of a ranking.

    Args:
        per_query: ``Evaluation.per_query``.
        samples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        Metric -> interval in the metric's unit (0 to 1).
    """
    intervals: dict[str, Interval] = {}
    for metrics, frame in _groups(_wide(per_query)):
        low, high = np.quantile(_draws(frame, metrics, samples, seed), _TAILS, axis=0)
        intervals |= {name: Interval(float(low[i]), float(high[i])) for i, name in enumerate(metrics)}
    return {name: intervals[name] for name in per_query["metric"].unique(maintain_order=True)}


def query_intervals(
    per_query: pl.DataFrame, proportions: Collection[str], *, samples: int = SAMPLES, seed: int = SEED
) -> dict[str, Interval | None]:
    """The 95 % interval of every metric of a ranking, by the method that suits it (see the module).

    Args:
        per_query: ``Evaluation.per_query``.
        proportions: The metrics whose value is 0 or 1 for each query, by name; their breakdowns
            (``R@10/dress``) are proportions, too.
        samples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        Metric -> interval in the metric's unit (0 to 1); None where there is none.
    """
    found: dict[str, Interval | None] = {}
    for metric, interval in bootstrap_intervals(per_query, samples=samples, seed=seed).items():
        counts = (
            _only(per_query, metric)
            .group_by("stratum", maintain_order=True)
            .agg(pl.col("value").sum().alias("hits"), pl.len().alias("queries"))
        )
        hits, queries = float(counts["hits"].sum()), int(counts["queries"].sum())
        few = queries < FEW_QUERIES and min(hits, queries - hits) < FEW_HITS
        if metric.partition("/")[0] not in proportions:
            found[metric] = None if interval.has_no_width else interval
        elif interval.has_no_width or few:
            found[metric] = _stratified_wilson(list(counts.select("hits", "queries").iter_rows()))
        else:
            found[metric] = interval
    return found


def wilson_interval(hits: float, queries: int) -> Interval:
    """Wilson's 95 % score interval of a proportion: the proportions that a two-sided score test at 5 % does
    not reject.

    Args:
        hits: Queries with the value 1.
        queries: All queries, at least one.

    Returns:
        The interval (0 to 1), around ``hits / queries``.
    """
    share, square = hits / queries, _Z * _Z
    center = share + square / (2 * queries)
    half = _Z * math.sqrt(share * (1 - share) / queries + square / (4 * queries * queries))
    scale = 1 + square / queries
    return Interval(
        min(share, max(0.0, (center - half) / scale)), max(share, min(1.0, (center + half) / scale))
    )


def _stratified_wilson(counts: list[tuple[float, int]]) -> Interval:
    """The interval of the mean over strata of proportions, from (hits, queries) of each."""
    shares = [hits / queries for hits, queries in counts]
    parts = [wilson_interval(hits, queries) for hits, queries in counts]
    mean = sum(shares) / len(shares)
    below = math.hypot(*(share - part.low for share, part in zip(shares, parts, strict=True)))
    above = math.hypot(*(part.high - share for share, part in zip(shares, parts, strict=True)))
    return Interval(max(0.0, mean - below / len(parts)), min(1.0, mean + above / len(parts)))


def bootstrap_interval(
    per_query: pl.DataFrame, metric: str, *, samples: int = SAMPLES, seed: int = SEED
) -> Interval:
    """The 95 % interval of one metric; see :func:`bootstrap_intervals`.

    Args:
        per_query: ``Evaluation.per_query``.
        metric: Its name.
        samples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        The interval (0 to 1).

    Raises:
        RankingError: There is no such metric in ``per_query``.
    """
    return bootstrap_intervals(_only(per_query, metric), samples=samples, seed=seed)[metric]


def _only(per_query: pl.DataFrame, metric: str) -> pl.DataFrame:
    chosen = per_query.filter(metric=metric)
    if chosen.is_empty():
        raise RankingError(
            f"there is no value of {metric!r}; there is {per_query['metric'].unique().to_list()}"
        )
    return chosen


def paired_differences(
    a: pl.DataFrame, b: pl.DataFrame, *, samples: int = SAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """The difference of two rankings over the same queries, for every metric that both have.

    An interval without zero means that another choice of queries would hardly turn the order.

    Args:
        a: ``Evaluation.per_query`` of the first ranking.
        b: That of the second.
        samples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        Metric -> ``a`` minus ``b`` (-1 to 1) with its 95 % interval; positive where ``a`` is better.

    Raises:
        RankingError: The two are not of the same queries.
    """
    common = [name for name in a["metric"].unique(maintain_order=True) if name in set(b["metric"])]
    both = pl.col("metric").is_in(common)
    key = ["query_id", "stratum", "metric"]
    first, second = a.filter(both), b.filter(both)
    paired = first.join(second, on=key, suffix="_b", maintain_order="left")
    if not paired.height == first.height == second.height:
        raise RankingError("two rankings can only be compared on the same queries")
    paired = paired.select(*key, (pl.col("value") - pl.col("value_b")).alias("value"))
    intervals = bootstrap_intervals(paired, samples=samples, seed=seed)
    means = paired.group_by("metric", "stratum").agg(pl.col("value").mean())
    means = dict(means.group_by("metric").agg(pl.col("value").mean()).iter_rows())
    return {name: Difference(float(means[name]), *interval) for name, interval in intervals.items()}


def paired_difference(
    a: pl.DataFrame, b: pl.DataFrame, metric: str, *, samples: int = SAMPLES, seed: int = SEED
) -> Difference:
    """:func:`paired_differences` of one metric.

    Args:
        a: ``Evaluation.per_query`` of the first ranking.
        b: That of the second.
        metric: The metric's name.
        samples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        ``a`` minus ``b`` (-1 to 1) with its 95 % interval.

    Raises:
        RankingError: One of the two has no value of the metric, or they are not of the same queries.
    """
    return paired_differences(_only(a, metric), _only(b, metric), samples=samples, seed=seed)[metric]
