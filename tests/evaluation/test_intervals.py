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
    query_intervals,
    wilson_interval,
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
    # Within each category all queries agree: no draw differs from another, though the categories differ.
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


def wilson_by_search(hits: int, queries: int) -> tuple[float, float]:
    """The ends of Wilson's interval by what it is: abs(share - p) = z sqrt(p (1 - p) / n), by halving."""

    def distance(p: float) -> float:
        return abs(hits / queries - p) - 1.959963984540054 * (p * (1 - p) / queries) ** 0.5

    ends = []
    for outside in (0.0, 1.0):
        rejected, kept = outside, hits / queries
        if distance(rejected) <= 0:
            ends.append(outside)
            continue
        for _ in range(100):
            middle = (rejected + kept) / 2
            rejected, kept = (middle, kept) if distance(middle) > 0 else (rejected, middle)
        ends.append(kept)
    return ends[0], ends[1]


@pytest.mark.parametrize(
    ("hits", "queries"), [(0, 30), (30, 30), (1, 30), (15, 30), (3, 10), (0, 1), (70, 220)]
)
def test_wilson_s_interval_is_what_the_score_test_does_not_reject(hits: int, queries: int) -> None:
    assert wilson_interval(hits, queries) == pytest.approx(wilson_by_search(hits, queries), abs=1e-9)


def test_wilson_s_interval_of_no_hit_in_thirty_is_the_known_one() -> None:
    low, high = wilson_interval(0, 30)  # z^2 / (n + z^2)
    assert low == 0 and high == pytest.approx(3.841458820694124 / 33.841458820694124)


def test_a_proportion_that_is_the_same_for_all_queries_has_wilson_s_interval() -> None:
    none, every = per_query([0.0] * 30), per_query([1.0] * 30, "R@5")
    found = query_intervals(pl.concat([none, every]), {"R@1", "R@5"})
    assert found["R@1"] == pytest.approx(wilson_by_search(0, 30))
    assert found["R@5"] == pytest.approx(wilson_by_search(30, 30))
    assert query_intervals(per_query([0.0] * 500), {"R@1"})["R@1"] == pytest.approx(wilson_by_search(0, 500))


def test_few_hits_or_misses_of_few_queries_have_wilson_s_interval_and_all_else_the_bootstrap_s() -> None:
    def which(hits: int, queries: int, metric: str = "R@1/dress") -> str:
        frame = per_query([1.0] * hits + [0.0] * (queries - hits), metric)
        (found,) = query_intervals(frame, {"R@1"}).values()
        if found == pytest.approx(wilson_by_search(hits, queries), abs=1e-9):
            return "wilson"
        return "bootstrap" if found == bootstrap_interval(frame, metric) else "?"

    assert which(4, 49) == which(45, 49) == which(1, 30) == "wilson"
    assert which(5, 49) == which(44, 49) == which(15, 30) == "bootstrap"
    assert which(1, 50) == which(1, 300) == which(299, 300) == "bootstrap"


def test_another_metric_that_is_the_same_for_all_queries_has_no_interval() -> None:
    frame = pl.concat([per_query([0.0] * 30, "mAP@5"), per_query([0.25] * 9, "mAP@10/negation")])
    assert query_intervals(frame, {"R@1"}) == {"mAP@5": None, "mAP@10/negation": None}
    some = per_query([0.0, 0.5, 0.25] * 10, "mAP@5")
    assert query_intervals(some, {"R@1"})["mAP@5"] == bootstrap_interval(some, "mAP@5")


def test_wilson_s_interval_over_strata_puts_the_distances_together() -> None:
    counts = {"dress": (9, 9), "shirt": (0, 5), "toptee": (7, 7)}
    frame = pl.concat(
        [per_query([1.0] * hits + [0.0] * (n - hits), stratum=name) for name, (hits, n) in counts.items()]
    )
    found = query_intervals(frame, {"R@1"})["R@1"]
    ends = [(hits / n, *wilson_by_search(hits, n)) for hits, n in counts.values()]
    below = sum((share - low) ** 2 for share, low, _ in ends) ** 0.5 / 3
    above = sum((high - share) ** 2 for share, _, high in ends) ** 0.5 / 3
    assert found == pytest.approx((2 / 3 - below, 2 / 3 + above))


def test_a_small_proportion_of_few_queries_is_covered_about_as_often_as_the_interval_says() -> None:
    rng = np.random.default_rng(4)
    frames = [per_query(rng.random(30) < 0.04) for _ in range(300)]
    intervals = [query_intervals(frame, {"R@1"}, samples=200)["R@1"] for frame in frames]
    covered = np.mean([found is not None and found.low <= 0.04 <= found.high for found in intervals])
    assert covered >= 0.9, "the bootstrap's covers 0.04 in about seven of ten"


def test_nothing_to_resample_is_no_interval() -> None:
    assert bootstrap_intervals(pl.DataFrame(schema=PER_QUERY)) == {}
