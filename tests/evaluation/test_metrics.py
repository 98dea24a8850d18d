"""The official metrics against values worked out by hand, against slow plain-loop definitions, and by
property.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setr_lib.benchmarks import DatasetError
from setr_lib.evaluation.metrics import evaluate
from setr_lib.evaluation.rankings import RankingError
from setr_lib.tables import QUERIES

Make = Callable[..., pl.DataFrame]
LONG = [f"n{number}" for number in range(60)]
"""Images that are nobody's target."""


def with_hits(hits: dict[int, str], length: int = 50) -> list[str]:
    """A list of ``length`` images with the given ones at the given (1-based) ranks."""
    return [hits.get(rank, LONG[rank]) for rank in range(1, length + 1)]


@pytest.fixture
def cirr(queries_of: Make) -> pl.DataFrame:
    members = ["t", "a", "b", "c", "d"]
    return queries_of(
        [
            {"query_id": str(number), "reference_id": "r", "target_ids": ["t"], "subset_ids": members}
            for number in range(4)
        ]
    )


def test_cirr_by_hand(cirr: pl.DataFrame, rankings_of: Make) -> None:
    lists = {
        "0": with_hits({1: "t"}),
        "1": with_hits({5: "t"}),
        "2": with_hits({11: "t"}),
        "3": with_hits({}),
    }
    subsets = {
        "0": ["t", "a", "b", "c", "d"],
        "1": ["a", "t", "b", "c", "d"],
        "2": ["t", "a", "b", "c", "d"],
        "3": ["a", "b", "c", "t", "d"],
    }
    found = evaluate("cirr", cirr, rankings_of(lists, subsets))
    assert found.summary == {
        "R@1": 0.25,
        "R@5": 0.5,
        "R@10": 0.5,
        "R@50": 0.75,
        "R_subset@1": 0.5,
        "R_subset@2": 0.75,
        "R_subset@3": 0.75,
        "Avg": 0.5,
    }
    assert found.left_out == {}
    average = found.per_query.filter(metric="Avg")
    assert average["value"].to_list() == [1.0, 0.5, 0.5, 0.0]


def test_cirr_without_subset_lists_leaves_their_metrics_out(cirr: pl.DataFrame, rankings_of: Make) -> None:
    found = evaluate("cirr", cirr, rankings_of({str(number): with_hits({1: "t"}) for number in range(4)}))
    assert list(found.summary) == ["R@1", "R@5", "R@10", "R@50"]
    assert set(found.left_out) == {"R_subset@1", "R_subset@2", "R_subset@3", "Avg"}


def test_cirr_subset_lists_alone_leave_recall_out(cirr: pl.DataFrame, rankings_of: Make) -> None:
    lists = {str(number): ["a", "t", "b", "c", "d"] for number in range(4)}
    found = evaluate("cirr", cirr, rankings_of({}, lists))
    assert found.summary == {"R_subset@1": 0.0, "R_subset@2": 1.0, "R_subset@3": 1.0}
    assert set(found.left_out) == {"R@1", "R@5", "R@10", "R@50", "Avg"}
    assert found.unranked == 0
    with pytest.raises(RankingError, match="1 queries have no subset ranking, the first: '3'"):
        evaluate("cirr", cirr, rankings_of({}, {query: ids for query, ids in lists.items() if query != "3"}))


def test_fashioniq_of_fewer_categories_and_short_lists_says_both(queries_of: Make, rankings_of: Make) -> None:
    queries = queries_of([{"query_id": "0", "reference_id": "r", "target_ids": ["t"], "gallery": "shirt"}])
    found = evaluate("fashioniq", queries, rankings_of({"0": with_hits({1: "t"}, length=20)}))
    assert list(found.summary) == ["R@10/shirt"]
    assert "mean of 3 categories; there is only shirt" in found.left_out["R@10"]
    assert found.left_out["R@50"] == "a ranking is only 20 long"


def test_cirr_takes_the_three_names_of_a_submission(cirr: pl.DataFrame, rankings_of: Make) -> None:
    lists = {str(number): with_hits({1: "t"}) for number in range(4)}
    subsets = {str(number): ["a", "b", "t"] for number in range(4)}
    assert evaluate("cirr", cirr, rankings_of(lists, subsets)).summary["R_subset@3"] == 1.0


def test_fashioniq_headline_is_the_mean_of_categories_not_of_queries(
    queries_of: Make, rankings_of: Make
) -> None:
    categories = ["dress", "dress", "dress", "shirt", "toptee"]
    queries = queries_of(
        [
            {"query_id": str(number), "reference_id": "r", "target_ids": ["t"], "gallery": category}
            for number, category in enumerate(categories)
        ]
    )
    ranks = [10, 11, 60, 1, 50]
    lists = {str(number): with_hits({rank: "t"}) for number, rank in enumerate(ranks)}
    lists["0"][0] = "r"  # the reference may be ranked
    found = evaluate("fashioniq", queries, rankings_of(lists))
    assert found.summary == pytest.approx(
        {
            "R@10": (1 / 3 + 1 + 0) / 3,
            "R@50": (2 / 3 + 1 + 1) / 3,
            "R@10/dress": 1 / 3,
            "R@50/dress": 2 / 3,
            "R@10/shirt": 1,
            "R@50/shirt": 1,
            "R@10/toptee": 0,
            "R@50/toptee": 1,
        }
    )


def test_fashioniq_of_fewer_categories_has_no_mean(queries_of: Make, rankings_of: Make) -> None:
    queries = queries_of([{"query_id": "0", "reference_id": "r", "target_ids": ["t"], "gallery": "shirt"}])
    found = evaluate("fashioniq", queries, rankings_of({"0": with_hits({1: "t"})}))
    assert list(found.summary) == ["R@10/shirt", "R@50/shirt"]
    assert set(found.left_out) == {"R@10", "R@50"}


def test_circo_by_hand(queries_of: Make, rankings_of: Make) -> None:
    queries = queries_of(
        [
            {"query_id": "0", "reference_id": "r", "target_ids": ["t", "u", "v"], "aspects": ["negation"]},
            {
                "query_id": "1",
                "reference_id": "r",
                "target_ids": [f"g{n}" for n in range(8)],
                "aspects": ["negation", "addition"],
            },
        ]
    )
    lists = {"0": with_hits({2: "u", 4: "t"}), "1": with_hits({1: "g3", 2: "g1", 7: "g0"})}
    found = evaluate("circo", queries, rankings_of(lists)).summary
    first = (1 / 2 + 2 / 4) / 3
    second = {5: (1 + 1) / 5, 10: (1 + 1 + 3 / 7) / 8}  # divided by min(8 ground truths, K)
    assert found["mAP@5"] == pytest.approx((first + second[5]) / 2)
    for depth in (10, 25, 50):
        assert found[f"mAP@{depth}"] == pytest.approx((first + second[10]) / 2)
    assert (found["R@5"], found["R@10"]) == (0.5, 1.0)  # the single target: the first ground truth
    assert found["mAP@10/negation"] == pytest.approx((first + second[10]) / 2)
    assert found["mAP@10/addition"] == pytest.approx(second[10])


def test_folder_counts_any_target(queries_of: Make, rankings_of: Make) -> None:
    queries = queries_of(
        [
            {"query_id": "0", "reference_id": "r", "target_ids": ["t", "u"]},
            {"query_id": "1", "reference_id": "r", "target_ids": []},
        ]
    )
    found = evaluate("folder", queries, rankings_of({"0": with_hits({1: "u", 6: "t"})}))
    assert found.summary == pytest.approx(
        {"R@1": 1, "R@5": 1, "R@10": 1, "R@50": 1, "mAP@10": (1 + 2 / 6) / 2}
    )
    assert found.per_query["query_id"].unique().to_list() == ["0"]


def test_a_hidden_split_has_no_metrics(cirr: pl.DataFrame, rankings_of: Make) -> None:
    hidden = cirr.with_columns(pl.lit([], dtype=pl.List(pl.String)).alias("target_ids"))
    found = evaluate("cirr", hidden, rankings_of({"0": with_hits({})}))
    assert found.summary == {}
    assert found.per_query.is_empty()


def test_short_lists_leave_deep_metrics_out_unless_they_are_whole(
    queries_of: Make, rankings_of: Make, gallery_of: Make
) -> None:
    queries = queries_of([{"query_id": "0", "reference_id": "n1", "target_ids": ["n2"]}])
    lists = rankings_of({"0": LONG[:20]})
    found = evaluate("folder", queries, lists)
    assert list(found.summary) == ["R@1", "R@5", "R@10", "mAP@10"]
    assert "only 20 long" in found.left_out["R@50"]
    whole = gallery_of(dict.fromkeys(LONG[:21], ("all",)), broken=[LONG[20]])
    assert evaluate("folder", queries, lists, whole).summary["R@50"] == 1.0
    larger = gallery_of(dict.fromkeys(LONG[:21], ("all",)))
    assert "R@50" not in evaluate("folder", queries, lists, larger).summary


def _row(frame: pl.DataFrame, **values: Any) -> pl.DataFrame:
    return pl.concat([frame, pl.DataFrame([values], schema=frame.schema)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda frame: frame.drop("rank"), "no column"),
        (lambda frame: frame.cast({"rank": pl.Float64}), "whole numbers"),
        (lambda frame: frame.with_columns(pl.lit(None, dtype=pl.String).alias("image_id")), "empty in"),
        (lambda frame: frame.with_columns(pl.lit("all").alias("pool")), "the pool"),
        (lambda frame: frame.with_columns(pl.col("rank") + 1), "1, 2, 3"),
        (lambda frame: frame.filter(pl.col("rank") != 3), "1, 2, 3"),
        (lambda frame: _row(frame, query_id="0", pool="gallery", rank=50, image_id="x"), "1, 2, 3"),
        (lambda frame: _row(frame, query_id="0", pool="gallery", rank=51, image_id="t"), "ranked twice"),
        (
            lambda frame: _row(frame, query_id="9", pool="gallery", rank=1, image_id="t"),
            "unknown queries: '9'",
        ),
        (
            lambda frame: _row(frame, query_id="0", pool="gallery", rank=51, image_id="r"),
            "takes the reference out",
        ),
        (
            lambda frame: _row(frame, query_id="0", pool="subset", rank=6, image_id="n1"),
            "none of the members of its subset",
        ),
        (
            lambda frame: frame.filter((pl.col("query_id") != "2") | (pl.col("pool") != "gallery")),
            "1 queries have no gallery",
        ),
        (
            lambda frame: frame.filter((pl.col("query_id") != "2") | (pl.col("pool") != "subset")),
            "1 queries have no subset",
        ),
    ],
)
def test_a_faulty_ranking_is_refused(
    cirr: pl.DataFrame, rankings_of: Make, change: Callable[[pl.DataFrame], pl.DataFrame], reason: str
) -> None:
    ids = [str(number) for number in range(4)]
    rankings = rankings_of(
        {each: with_hits({1: "t"}) for each in ids}, {each: ["t", "a", "b", "c", "d"] for each in ids}
    )
    evaluate("cirr", cirr, rankings)
    with pytest.raises(RankingError, match=reason):
        evaluate("cirr", cirr, change(rankings))


def test_an_image_of_another_gallery_is_refused(
    queries_of: Make, rankings_of: Make, gallery_of: Make
) -> None:
    queries = queries_of([{"query_id": "0", "reference_id": "a", "target_ids": ["b"], "gallery": "dress"}])
    gallery = gallery_of({"a": ["dress"], "b": ["dress"], "c": ["shirt"]})
    with pytest.raises(RankingError, match="'c', which is not in the gallery 'dress'"):
        evaluate("fashioniq", queries, rankings_of({"0": ["b", "c"]}), gallery)


def test_a_query_without_ranking_can_count_as_a_miss(cirr: pl.DataFrame, rankings_of: Make) -> None:
    rankings = rankings_of({str(number): with_hits({1: "t"}) for number in range(3)})
    found = evaluate("cirr", cirr, rankings, unranked="miss")
    assert found.summary["R@1"] == 0.75
    assert found.unranked == 1


def test_unknown_kind_is_refused(cirr: pl.DataFrame, rankings_of: Make) -> None:
    with pytest.raises(DatasetError, match=r"no benchmark 'coco'; known: .*circo, .*fashioniq, "):
        evaluate("coco", cirr, rankings_of({}))


# --- by property, against plain loops


def plain_average_precision(ranked: list[str], truths: list[str], depth: int) -> float:
    hits, total = 0, 0.0
    for rank, image in enumerate(ranked[:depth], start=1):
        if image in truths:
            hits += 1
            total += hits / rank
    return total / min(len(truths), depth)


@st.composite
def circo_cases(draw: st.DrawFn) -> tuple[pl.DataFrame, dict[str, list[str]]]:
    images = [f"i{number:02d}" for number in range(60)]
    rows, lists = [], {}
    for number in range(draw(st.integers(1, 5))):
        truths = draw(st.lists(st.sampled_from(images[1:]), min_size=1, max_size=14, unique=True))
        aspects = draw(st.lists(st.sampled_from(["x", "y", "z"]), unique=True))
        rows.append(
            {
                "query_id": str(number),
                "reference_id": images[0],
                "modification": "m",
                "captions": ["m"],
                "target_ids": truths,
                "subset_ids": [],
                "gallery": "all",
                "aspects": aspects,
            }
        )
        lists[str(number)] = draw(st.permutations(images))[:50]
    return pl.DataFrame(rows, schema=QUERIES), lists


@settings(max_examples=40, deadline=None)
@given(case=circo_cases(), seed=st.integers(0, 2**16))
def test_circo_equals_plain_loops_is_bounded_monotone_and_order_free(
    rankings_of: Make, case: tuple[pl.DataFrame, dict[str, list[str]]], seed: int
) -> None:
    queries, lists = case
    rankings = rankings_of(lists)
    found = evaluate("circo", queries, rankings).summary
    truths = dict(queries.select("query_id", "target_ids").iter_rows())
    for depth in (5, 10, 25, 50):
        plain = [plain_average_precision(lists[each], truths[each], depth) for each in lists]
        assert found[f"mAP@{depth}"] == pytest.approx(np.mean(plain), abs=1e-12)
        recalls = [float(truths[each][0] in lists[each][:depth]) for each in lists]
        assert found[f"R@{depth}"] == pytest.approx(np.mean(recalls), abs=1e-12)
    for aspect in ("x", "y", "z"):
        chosen = queries.filter(pl.col("aspects").list.contains(aspect))["query_id"].to_list()
        plain = [plain_average_precision(lists[each], truths[each], 10) for each in chosen]
        assert (f"mAP@10/{aspect}" in found) == bool(plain)
        if plain:
            assert found[f"mAP@10/{aspect}"] == pytest.approx(np.mean(plain), abs=1e-12)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["R@5"] <= found["R@10"] <= found["R@25"] <= found["R@50"]
    shuffled = evaluate(
        "circo",
        queries.sample(fraction=1, shuffle=True, seed=seed),
        rankings.sample(fraction=1, shuffle=True, seed=seed),
    )
    assert shuffled.summary == pytest.approx(found, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    better=st.integers(0, 11),
    data=st.data(),
)
def test_recall_is_monotone_in_k_and_in_the_ranking(
    queries_of: Make, rankings_of: Make, ranks: list[int], better: int, data: st.DataObject
) -> None:
    rows = [
        {
            "query_id": str(n),
            "reference_id": "r",
            "target_ids": ["t"],
            "subset_ids": ["t", "a", "b", "c", "d"],
        }
        for n in range(len(ranks))
    ]
    queries = queries_of(rows)
    subsets = {str(n): data.draw(st.permutations(["t", "a", "b", "c", "d"])) for n in range(len(ranks))}

    def summary(places: list[int]) -> dict[str, float]:
        lists = {str(n): with_hits({place: "t"}) for n, place in enumerate(places)}
        return evaluate("cirr", queries, rankings_of(lists, subsets)).summary

    found = summary(ranks)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["R@1"] <= found["R@5"] <= found["R@10"] <= found["R@50"]
    assert found["R_subset@1"] <= found["R_subset@2"] <= found["R_subset@3"]
    assert found["Avg"] == pytest.approx((found["R@5"] + found["R_subset@1"]) / 2)
    for depth in (1, 5, 10, 50):
        assert found[f"R@{depth}"] == pytest.approx(np.mean([rank <= depth for rank in ranks]))
    improved = [1 if n == better % len(ranks) else rank for n, rank in enumerate(ranks)]
    assert all(new >= found[name] for name, new in summary(improved).items())


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_reordering_the_first_k_changes_no_recall_at_k_or_beyond(
    queries_of: Make, rankings_of: Make, data: st.DataObject
) -> None:
    queries = queries_of([{"query_id": "0", "reference_id": "r", "target_ids": ["n7", "n3"]}])
    before = LONG[:50]
    depth = data.draw(st.sampled_from([5, 10, 50]))
    after = [*data.draw(st.permutations(before[:depth])), *before[depth:]]
    old, new = (evaluate("folder", queries, rankings_of({"0": each})).summary for each in (before, after))
    for beyond in (5, 10, 50):
        if beyond >= depth:
            assert old[f"R@{beyond}"] == new[f"R@{beyond}"]


def test_cirr_test1_size_takes_seconds(queries_of: Make) -> None:
    n, rng = 4148, np.random.default_rng(0)
    names = [f"i{number}" for number in range(2315)]
    orders = [rng.choice(2315, 57, replace=False) for _ in range(n)]
    queries = queries_of(
        [
            {
                "query_id": str(row),
                "reference_id": names[order[0]],
                "target_ids": [names[order[1 + row % 56]]],
                "subset_ids": [names[order[index]] for index in {1 + row % 56, 52, 53, 54, 55, 56}][:5],
            }
            for row, order in enumerate(orders)
        ]
    )
    rankings = pl.DataFrame(
        {
            "query_id": np.repeat(np.arange(n), 50).astype(str),
            "pool": "gallery",
            "rank": np.tile(np.arange(1, 51, dtype=np.int32), n),
            "image_id": [names[index] for order in orders for index in order[1:51]],
        }
    )
    start = time.perf_counter()
    found = evaluate("cirr", queries, rankings)
    assert time.perf_counter() - start < 5
    assert found.summary["R@50"] == pytest.approx(np.mean([row % 56 < 50 for row in range(n)]))
