"""What a ranking is ordered by, in words."""

import pytest

from setr_lib.pipeline.reranking import FusionInUse
from setr_lib.reranking.order import coarse_order, fused_order, stated_fusion


@pytest.mark.parametrize(
    ("fusion", "options", "words"),
    [
        ("cosine_judge", {"weight": 0.5}, "cosine + 0.5 P(Yes)"),
        ("cosine_judge", {}, "cosine + P(Yes)"),
        ("reciprocal_rank", {}, "1 / (60 + rank by cosine) + 1 / (60 + rank by the judge)"),
        (
            "reciprocal_rank",
            {"is_cosine": False, "is_logit": False},
            "1 / (60 + rank by the method) + 1 / (60 + rank by the re-ranker)",
        ),
        ("judge", {}, "the judge alone: logit(Yes) - logit(No)"),
        ("judge", {"is_logit": False}, "the re-ranker's score alone"),
        ("judge", {"is_logit": False, "is_listwise": True}, "the re-ranker's own order"),
    ],
)
def test_a_fusion_is_a_formula_in_words(fusion, options, words):
    assert fused_order(fusion, **options).words == words


def test_stage_1_says_whether_its_scores_are_cosines():
    assert coarse_order().words == "cosine"
    assert coarse_order(is_cosine=False).words == "the method's score"
    assert not coarse_order().is_fused


def test_neighbours_of_reciprocal_rank_are_told_apart():
    order = fused_order("reciprocal_rank")
    neighbours = [1 / (60 + rank) + 1 / (60 + rank) for rank in (49, 50)]
    assert len({order.number(score) for score in neighbours}) == 2


@pytest.mark.parametrize("how", ["by the settings", "no calibration yet: materialize reranking_fusion"])
@pytest.mark.parametrize(
    ("fusion", "weight"), [("judge", 1.0), ("cosine_judge", 0.25), ("reciprocal_rank", 1.0)]
)
def test_what_a_record_states_is_read_back(fusion, weight, how):
    assert stated_fusion(FusionInUse(fusion, weight, how).words) == (fusion, weight)


@pytest.mark.parametrize("words", ["", "of an earlier version", "cosine_judge, w = much (x)", "judges (x)"])
def test_words_that_state_no_fusion_are_none(words):
    assert stated_fusion(words) is None
