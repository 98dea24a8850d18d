"""The measures of a judge on held-out pairs, against direct counting."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setr_lib.reranking.held_out import HeldOutError, area_under_curve, measure
from tests.reranking import judge_worlds as worlds

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_in_the_right_order(positive: list[float], negative: list[float]) -> None:
    expected = np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative])
    assert area_under_curve(np.array(positive), np.array(negative)) == pytest.approx(expected)


def test_a_random_judge_is_at_chance_and_a_perfect_one_at_one() -> None:
    pairs = worlds.pairs(groups=400, held_out=100)
    labels = pairs["label"].to_numpy()
    random = measure(pairs, np.random.default_rng(0).normal(size=pairs.height))
    assert random.auc == pytest.approx(0.5, abs=0.04)
    assert random.accuracy == pytest.approx(0.5, abs=0.04)
    perfect = measure(pairs, np.where(labels, 1.0, -1.0))
    assert (perfect.auc, perfect.accuracy) == (1.0, 1.0)
    assert perfect.accuracy_by_kind == dict.fromkeys(["positive", *perfect.auc_by_kind], 1.0)
    assert perfect.as_metrics("held_out")["held_out_auc_coarse_negative"] == 1.0


def test_always_yes_is_half_right_whatever_the_balance() -> None:
    pairs = worlds.pairs()
    assert measure(pairs, np.ones(pairs.height)).accuracy == 0.5


def test_one_label_alone_cannot_be_measured() -> None:
    pairs = worlds.pairs().filter(pl.col("label"))
    with pytest.raises(HeldOutError, match="only one label"):
        measure(pairs, np.zeros(pairs.height))
