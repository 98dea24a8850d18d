"""The random floor: closed forms against exhaustive enumeration and against simulated random rankers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from math import comb

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setr_lib.benchmarks.metrics import RandomPools, RecallAt
from setr_lib.evaluation.floor import random_floor, random_intervals, random_rankings
from setr_lib.evaluation.metrics import evaluate
from setr_lib.tables import RANKINGS

Make = Callable[..., pl.DataFrame]


def averaged_over_all_orders(
    kind: str, queries: pl.DataFrame, gallery: pl.DataFrame, rankings_of: Make
) -> dict[str, float]:
    """The exact expectation, for one query over a gallery small enough to try every order."""
    reference = queries["reference_id"][0]
    pool = [each for each in gallery.filter(status="ok")["image_id"] if kind != "cirr" or each != reference]
    summaries = [
        evaluate(kind, queries, rankings_of({queries["query_id"][0]: order}), gallery).summary
        for order in permutations(pool)
    ]
    return {name: float(np.mean([each[name] for each in summaries])) for name in summaries[0]}


@pytest.mark.parametrize("kind", ["circo", "folder", "cirr"])
@pytest.mark.parametrize("broken", [[], ["b"], ["a"]])
def test_closed_form_is_the_mean_over_all_orders(
    queries_of: Make, gallery_of: Make, rankings_of: Make, kind: str, broken: list[str]
) -> None:
    targets = ["a"] if kind == "cirr" else ["a", "b", "c"]
    queries = queries_of([{"query_id": "0", "reference_id": "r", "target_ids": targets, "subset_ids": []}])
    gallery = gallery_of(dict.fromkeys(["r", "a", "b", "c", "d"], ("all",)), broken)
    exact = averaged_over_all_orders(kind, queries, gallery, rankings_of)
    floor = random_floor(kind, queries, gallery)
    assert {name: floor[name] for name in exact} == pytest.approx(exact)


@given(st.data(), st.integers(1, 40), st.integers(1, 60))
def test_chance_of_any_target_is_hypergeometric(data: st.DataObject, size: int, depth: int) -> None:
    targets = data.draw(st.integers(0, size))
    pools = RandomPools(np.array([size]), [[True] * targets + [False]], np.zeros(1, dtype=np.int64))
    drawn = min(depth, size)
    expected = 1 - comb(size - targets, drawn) / comb(size, drawn)
    assert RecallAt(depth).chance(pools) == pytest.approx(expected)


@pytest.fixture
def cirr(queries_of: Make, gallery_of: Make) -> tuple[pl.DataFrame, pl.DataFrame]:
    names = [f"i{number:03d}" for number in range(200)]
    rows = [
        {
            "query_id": str(number),
            "reference_id": names[number],
            "target_ids": [names[(number + 1) % 200]],
            "subset_ids": [names[(number + step) % 200] for step in range(1, 6)],
        }
        for number in range(200)
    ]
    return queries_of(rows), gallery_of(dict.fromkeys(names, ("all",)))


@pytest.fixture
def circo(queries_of: Make, gallery_of: Make) -> tuple[pl.DataFrame, pl.DataFrame]:
    names = [f"i{number:03d}" for number in range(300)]
    rows = [
        {
            "query_id": str(number),
            "reference_id": names[0],
            "target_ids": names[1 + number : 2 + number + number % 14],
            "aspects": ["addition"] * (number % 2),
        }
        for number in range(120)
    ]
    return queries_of(rows), gallery_of(dict.fromkeys(names, ("all",)))


@pytest.fixture
def fashioniq(queries_of: Make, gallery_of: Make) -> tuple[pl.DataFrame, pl.DataFrame]:
    sizes = {"dress": 60, "shirt": 100, "toptee": 140}
    images = {f"{name}{number}": [name] for name, size in sizes.items() for number in range(size)}
    images["dress0"] = ["dress", "shirt"]
    rows = [
        {
            "query_id": f"{name}-{number}",
            "reference_id": f"{name}{number}",
            "target_ids": [f"{name}{number + 1}"],
            "gallery": name,
        }
        for name in sizes
        for number in range(50)
    ]
    return queries_of(rows), gallery_of(images)


def test_known_floors(
    cirr: tuple[pl.DataFrame, pl.DataFrame], fashioniq: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    floor = random_floor("cirr", *cirr)
    assert floor["R@1"] == pytest.approx(1 / 199)  # the reference is out of the pool
    assert floor["R_subset@1"] == pytest.approx(0.2)
    assert floor["Avg"] == pytest.approx((5 / 199 + 0.2) / 2)
    floor = random_floor("fashioniq", *fashioniq)
    assert floor["R@10"] == pytest.approx((10 / 60 + 10 / 101 + 10 / 140) / 3)  # the reference stays in
    assert floor["R@50/shirt"] == pytest.approx(50 / 101)


@pytest.mark.parametrize("kind", ["cirr", "circo", "fashioniq"])
def test_simulated_rankers_land_where_theory_says(request: pytest.FixtureRequest, kind: str) -> None:
    queries, gallery = request.getfixturevalue(kind)
    floor = random_floor(kind, queries, gallery)
    spread = random_intervals(kind, queries, gallery, samples=1000, seed=1)
    runs = [
        evaluate(kind, queries, random_rankings(queries, gallery, seed), gallery).summary
        for seed in range(30)
    ]
    assert list(floor) == list(spread) == list(runs[0])
    for name, expected in floor.items():
        values = np.array([run[name] for run in runs])
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - expected) < 4 * error + 1e-9, name
        inside = np.mean([spread[name].low <= value <= spread[name].high for value in values])
        assert inside >= 0.75, name
        assert spread[name].low <= expected <= spread[name].high


def test_random_rankings_are_rankings(cirr: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    queries, gallery = cirr
    rankings = random_rankings(queries, gallery, 3, k=20)
    assert rankings.schema == RANKINGS
    assert rankings.filter(pool="gallery").height == 200 * 20
    assert rankings.filter(pool="subset").height == 200 * 5
    assert rankings.equals(random_rankings(queries, gallery, 3, k=20))
    assert not rankings.equals(random_rankings(queries, gallery, 4, k=20))
    ordered = rankings.sort("query_id", "pool", "score", descending=[False, False, True])
    assert ordered["rank"].equals(rankings.sort("query_id", "pool", "rank")["rank"])


def test_images_that_cannot_be_ranked_are_not(queries_of: Make, gallery_of: Make) -> None:
    queries = queries_of(
        [{"query_id": "0", "reference_id": "r", "target_ids": ["a"], "subset_ids": ["a", "b", "c", "d", "e"]}]
    )
    gallery = gallery_of(dict.fromkeys(["r", "a", "b", "c", "d", "e"], ("all",)), broken=["a", "r"])
    rankings = random_rankings(queries, gallery)
    assert set(rankings["image_id"]) == {"b", "c", "d", "e"}
    assert set(random_floor("cirr", queries, gallery).values()) == {0.0}
    assert evaluate("cirr", queries, rankings, gallery).summary["R@50"] == 0.0


def test_a_hidden_split_has_no_floor(cirr: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    hidden = cirr[0].with_columns(pl.lit([], dtype=pl.List(pl.String)).alias("target_ids"))
    assert random_floor("cirr", hidden, cirr[1]) == random_intervals("cirr", hidden, cirr[1]) == {}
