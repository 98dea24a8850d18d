"""Confidence intervals: the bootstrap over queries, for one ranking and for the difference of two.

The percentile bootstrap: queries are drawn with replacement within their stratum (FashionIQ's category), the
statistic (mean within strata, then over strata) is taken of each draw, and the interval is the 2.5 to 97.5 %
range of the draws. It speaks of the choice of queries only, not of how a model was trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from setr_lib.evaluation.rankings import RankingError

SAMPLES = 2000
SEED = 5
_TAILS = (0.025, 0.975)
_BLOCK = 4_000_000
"""Drawn indices held at once: 32 MB."""

_Matrix = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """The middle 95 % of the bootstrap's draws."""

    low: float
    high: float


class Difference(NamedTuple):
    """By how much one ranking beats another on the same queries, with the middle 95 % of the bootstrap's
    draws.
    """

    difference: float
    low: float
    high: float


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
