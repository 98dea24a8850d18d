"""The choice of a fusion: it follows whoever knows better, and never looks at queries that cannot tell."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from setr_lib.reranking.fusion import fuse
from setr_lib.reranking.fusion_choice import WITHOUT_A_SUM, WITHOUT_EVIDENCE, choose_fusion
from setr_lib.tables import RANKINGS

QUERIES, DEPTH = 120, 20
TARGETS = {f"q{query}": {f"i{query % DEPTH}"} for query in range(QUERIES)}


def rankings(judge_knows: float, coarse_knows: float) -> pl.DataFrame:
    """Judged rankings in which each score is noise plus so much knowledge of the target."""
    rng = np.random.default_rng(0)
    rows = []
    for query, targets in TARGETS.items():
        images = [f"i{place}" for place in range(DEPTH)]
        truth = np.array([image in targets for image in images], dtype=float)
        coarse = coarse_knows * truth + rng.normal(size=DEPTH)
        judge = judge_knows * truth + rng.normal(size=DEPTH)
        order = np.argsort(-coarse)
        rows += [
            {
                "query_id": query,
                "pool": "gallery",
                "rank": rank,
                "image_id": images[place],
                "score": coarse[place],
                "coarse_score": coarse[place],
                "judge_score": judge[place],
            }
            for rank, place in enumerate(order, start=1)
        ]
    return pl.DataFrame(rows, schema=RANKINGS)


def test_a_judge_that_knows_all_is_trusted_alone() -> None:
    choice = choose_fusion(rankings(judge_knows=50, coarse_knows=0), TARGETS)
    assert (choice.fusion, choice.weight) == ("judge", 1.0)
    assert choice.trials.row(0, named=True)["mean_reciprocal_rank"] == 1.0


def test_where_both_know_something_they_are_put_together() -> None:
    both = rankings(judge_knows=2, coarse_knows=2)
    choice = choose_fusion(both, TARGETS)
    assert choice.fusion != "judge"
    best = choice.trials.filter(pl.col("mean_reciprocal_rank") == pl.col("mean_reciprocal_rank").max())
    assert choice.fusion in best["fusion"]


def test_a_judge_that_knows_nothing_gets_little_weight() -> None:
    choice = choose_fusion(rankings(judge_knows=0, coarse_knows=4), TARGETS)
    assert choice.fusion == "cosine_judge"
    assert choice.weight <= 0.5


def test_of_weights_that_the_queries_cannot_tell_apart_the_least_is_taken() -> None:
    judged = rankings(judge_knows=1, coarse_knows=2)
    choice = choose_fusion(judged, TARGETS)
    tried = choice.trials.filter(fusion="cosine_judge")
    best = tried.sort("mean_reciprocal_rank").row(-1, named=True)
    taken = tried.filter(weight=choice.weight).row(0, named=True)
    assert taken["weight"] < best["weight"]
    assert 0 < best["mean_reciprocal_rank"] - taken["mean_reciprocal_rank"] < 0.03
    assert choose_fusion(judged, TARGETS, tuple(reversed(tried["weight"]))).weight == choice.weight


def test_a_lesser_weight_that_is_clearly_worse_is_not_taken() -> None:
    choice = choose_fusion(rankings(judge_knows=2, coarse_knows=2), TARGETS)
    assert (choice.fusion, choice.weight) == ("cosine_judge", 4.0)


def test_the_trials_say_what_fuse_does() -> None:
    judged = rankings(judge_knows=1, coarse_knows=1)
    row = choose_fusion(judged, TARGETS).trials.filter(fusion="cosine_judge", weight=0.5).row(0, named=True)
    ranks = []
    for (query,), frame in judged.group_by("query_id", maintain_order=True):
        images = frame["image_id"].to_list()
        order, _ = fuse(
            "cosine_judge", frame["judge_score"].to_numpy(), frame["coarse_score"].to_numpy(), images, 0.5
        )
        ranks.append(1 + [images[place] in TARGETS[str(query)] for place in order].index(True))
    assert row["mean_reciprocal_rank"] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert row["top_1"] == pytest.approx(np.mean(np.array(ranks) == 1))


def test_queries_that_stage_1_lost_are_left_out() -> None:
    judged = rankings(judge_knows=50, coarse_knows=0)
    lost = {**TARGETS, "q0": {"elsewhere"}}
    assert choose_fusion(judged, lost).trials["queries"].unique().to_list() == [QUERIES - 1]
    nothing = choose_fusion(judged, {})
    assert (nothing.fusion, nothing.weight) == WITHOUT_EVIDENCE
    assert nothing.trials["queries"].unique().to_list() == [0]


def test_scores_that_cannot_be_added_up_are_never_added_up() -> None:
    judged = rankings(judge_knows=2, coarse_knows=2)
    choice = choose_fusion(judged, TARGETS, summable=False)
    assert choice.trials["fusion"].to_list() == ["judge", "reciprocal_rank"]
    assert choice.trials.drop("weight").equals(choose_fusion(judged, TARGETS).trials[[0, -1]].drop("weight"))
    nothing = choose_fusion(judged, {}, summable=False)
    assert (nothing.fusion, nothing.weight) == WITHOUT_A_SUM
