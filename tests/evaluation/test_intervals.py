"""Bootstrap intervals: hold the estimate, cover as often as they say, respect strata, and compare pairs."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setr_lib.evaluation.intervals import (
    bootstrap_interval,
    bootstrap_intervals,
    paired_difference,
    paired_differences,
)
from setr_lib.evaluation.metrics import PER_QUERY, summarise
from setr_lib.evaluation.rankings import RankingError


def per_query(values: list[float] | np.ndarray, metric: str = "R@1", stratum: str = "all") -> pl.DataFrame:
    rows = [(f"{stratum}-{n}", stratum, metric, float(value)) for n, value in enumerate(values)]
    return pl.DataFrame(rows, schema=PER_QUERY, orient="row")


def test_interval_is_that_of_the_normal_approximation() -> None:
    values = np.repeat([1.0, 0.0], [400, 600])
    low, high = bootstrap_interval(per_query(values), "R@1", samples=4000)
    error = 1.96 * np.sqrt(0.4 * 0.6 / 1000)
    assert low == pytest.approx(0.4 - error, abs=0.003)
    assert high == pytest.approx(0.4 + error, abs=0.003)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    frames = [per_query(rng.random(200) < 0.3) for _ in range(200)]
    intervals = [bootstrap_interval(frame, "R@1", samples=300) for frame in frames]
    covered = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert 0.89 <= covered <= 0.99


def test_strata_are_resampled_apart() -> None:
    # Within each category all queries agree: there is nothing to be unsure about, though the categories
    # differ.
    frame = pl.concat(
        [
            per_query([1.0] * 9, stratum="dress"),
            per_query([0.0] * 5, stratum="shirt"),
            per_query([1.0] * 7, stratum="toptee"),
        ]
    )
    assert bootstrap_interval(frame, "R@1", samples=200) == pytest.approx((2 / 3, 2 / 3))


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    seed=st.integers(0, 2**16),
)
def test_bounds_seed_and_order(values: list[float], seed: int) -> None:
    frame = per_query(values)
    low, high = bootstrap_interval(frame, "R@1", samples=200, seed=seed)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    shuffled = frame.sample(fraction=1, shuffle=True, seed=seed)
    assert bootstrap_interval(shuffled, "R@1", samples=200, seed=seed) == (low, high)


def test_a_metrics_interval_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(2)
    first, second = per_query(rng.random(50), "R@1"), per_query(rng.random(50), "R@5")
    some = per_query(rng.random(20), "mAP@10/negation")
    together = bootstrap_intervals(pl.concat([first, second, some]), samples=300)
    assert list(together) == ["R@1", "R@5", "mAP@10/negation"]
    assert together["R@5"] == pytest.approx(bootstrap_interval(second, "R@5", samples=300))
    assert together["mAP@10/negation"] == pytest.approx(
        bootstrap_interval(some, "mAP@10/negation", samples=300)
    )


def test_paired_difference_sees_what_separate_intervals_do_not() -> None:
    rng = np.random.default_rng(3)
    base = (rng.random(1000) < 0.5).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:20]] = 1.0  # 20 queries gained, none lost
    a, b = per_query(better), per_query(base)
    found = paired_difference(a, b, "R@1")
    assert found.difference == pytest.approx(0.02)
    assert 0 < found.low < 0.02 < found.high
    assert bootstrap_interval(a, "R@1").low < bootstrap_interval(b, "R@1").high  # the intervals overlap
    turned = paired_difference(b, a, "R@1")
    assert turned == pytest.approx((-found.difference, -found.high, -found.low))


def test_paired_difference_of_equals_is_nothing() -> None:
    frame = per_query([0.0, 1.0, 1.0])
    assert paired_difference(frame, frame.reverse(), "R@1") == (0.0, 0.0, 0.0)


def test_paired_differences_weigh_strata_as_the_summary_does() -> None:
    a = pl.concat([per_query([1.0, 0.0, 1.0], stratum="dress"), per_query([0.0], stratum="shirt")])
    b = pl.concat([per_query([0.0, 0.0, 1.0], stratum="dress"), per_query([1.0], stratum="shirt")])
    found = paired_differences(a, b)["R@1"].difference
    assert found == pytest.approx(summarise(a)["R@1"] - summarise(b)["R@1"])
    assert found == pytest.approx((1 / 3 - 1) / 2)


def test_other_queries_cannot_be_compared() -> None:
    with pytest.raises(RankingError, match="the same queries"):
        paired_difference(per_query([1.0, 0.0]), per_query([1.0]), "R@1")
    with pytest.raises(RankingError, match="no value of 'R@2'"):
        paired_difference(per_query([1.0]), per_query([1.0]), "R@2")


def test_nothing_to_resample_is_no_interval() -> None:
    assert bootstrap_intervals(pl.DataFrame(schema=PER_QUERY)) == {}
