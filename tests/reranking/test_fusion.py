"""Fusion: orders are total, stable and what each formula says; re-ranking the top K cannot touch recall at K
or beyond.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setr_lib.evaluation.metrics import values_from_ranks
from setr_lib.reranking.fusion import Fusion, fuse, probability_of_yes

KINDS: list[Fusion] = ["judge", "cosine_judge", "reciprocal_rank"]
# Coarse values on a grid, so that ties are common.
values = st.integers(-4, 4).map(float)
judged = st.one_of(values, st.just(float("nan")))
rows = st.lists(st.tuples(judged, values), max_size=12)


def arrays(rows: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    ids = [f"i{(7 * place) % 13}" for place in range(len(rows))]
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), ids


@given(rows, st.sampled_from(KINDS))
def test_an_order_is_a_permutation_with_judged_first_and_scores_down(
    rows: list[tuple[float, float]], kind: Fusion
) -> None:
    judge, coarse, ids = arrays(rows)
    order, scores = fuse(kind, judge, coarse, ids)
    assert sorted(order.tolist()) == list(range(len(rows)))
    ordered = scores[order]
    known = ~np.isnan(ordered)
    assert (np.isnan(scores) == np.isnan(judge)).all()
    assert not (known[1:] & ~known[:-1]).any()
    assert (np.diff(ordered[known]) <= 0).all()
    keys = [
        (bool(np.isnan(scores[p])), 0.0 if np.isnan(scores[p]) else -scores[p], -coarse[p], ids[p])
        for p in order.tolist()
    ]
    assert keys == sorted(keys), "ties break by coarse score, then by id"


@given(rows, st.sampled_from(KINDS), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_of_the_rows(
    rows: list[tuple[float, float]], kind: Fusion, random: np.random.Generator
) -> None:
    judge, coarse, ids = arrays(rows)
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    order, _ = fuse(kind, judge, coarse, ids)
    again, _ = fuse(kind, judge[shuffled], coarse[shuffled], [ids[place] for place in shuffled])
    assert [ids[place] for place in order] == [ids[shuffled[place]] for place in again]


@given(st.lists(st.tuples(values, values), min_size=1, max_size=12))
def test_the_limits_of_the_weight(rows: list[tuple[float, float]]) -> None:
    judge, coarse, ids = arrays(rows)
    by_coarse = fuse("cosine_judge", judge, coarse, ids, weight=0.0)[0]
    assert by_coarse.tolist() == sorted(range(len(ids)), key=lambda p: (-coarse[p], ids[p]))
    by_judge = fuse("judge", judge, coarse, ids)[0]
    assert fuse("cosine_judge", judge, coarse, ids, weight=1e9)[0].tolist() == by_judge.tolist()


def test_formulas() -> None:
    judge, coarse = np.array([3.0, -1.0, 0.5]), np.array([0.2, 0.9, 0.4])
    scores = fuse("cosine_judge", judge, coarse, ["a", "b", "c"], weight=2.0)[1]
    assert np.allclose(scores, coarse + 2 / (1 + np.exp(-judge)))
    order, scores = fuse("reciprocal_rank", judge, coarse, ["a", "b", "c"])
    assert np.allclose(scores, [1 / 61 + 1 / 63, 1 / 63 + 1 / 61, 1 / 62 + 1 / 62])
    assert order.tolist() == [1, 0, 2], "a and b tie; b has the better coarse score"
    with pytest.raises(ValueError, match="unknown fusion"):
        fuse("sum", judge, coarse, ["a", "b", "c"])  # pyright: ignore[reportArgumentType]


def test_the_judge_alone_never_ties_by_saturation() -> None:
    judge = np.array([40.0, 41.0, 42.0], dtype=np.float32)
    assert fuse("judge", judge, np.zeros(3), ["a", "b", "c"])[0].tolist() == [2, 1, 0]
    assert probability_of_yes(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_a_random_judge_lands_where_theory_says() -> None:
    """It spreads what stage 1 found evenly over the K that it orders: R@k becomes k / K of R@K, whatever
    stage 1's order.
    """
    depth, queries = 50, 4000
    rng = np.random.default_rng(3)
    coarse, ids = np.linspace(1, 0, depth), [f"i{place:02d}" for place in range(depth)]
    found = np.minimum(
        rng.geometric(0.06, queries) - 1, depth
    )  # the target's place in stage 1; some are not in K
    ranks = np.full((queries, 1), np.inf)
    for query in np.flatnonzero(found < depth):
        order, _ = fuse("judge", rng.standard_normal(depth), coarse, ids)
        ranks[query] = 1 + int(np.flatnonzero(order == found[query])[0])
    values = values_from_ranks("cirr", ranks, np.ones(queries, dtype=np.int64))
    recall = {k: float(values[f"R@{k}"].mean()) for k in (1, 5, 10, 50)}
    assert recall[50] == np.mean(found < depth), "re-ranking K leaves recall at K as it was"
    for k in (1, 5, 10):
        expected = recall[50] * k / depth
        assert abs(recall[k] - expected) < 4 * np.sqrt(expected * (1 - expected) / queries)
