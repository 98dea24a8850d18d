"""The held-out part of training triplets: no image on both sides, whatever the triplets chain."""

from __future__ import annotations

from pathlib import Path
from random import Random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setr_lib.datasets import split_triplets, train_split
from setr_lib.datasets.held_out import split_in_words
from setr_lib.settings import Settings

pairs = st.tuples(st.integers(0, 40), st.integers(0, 40)).filter(lambda pair: pair[0] != pair[1])
graphs = st.lists(pairs, min_size=1, max_size=120)


def frame(edges: list[tuple[int, int]]) -> pl.DataFrame:
    rows = [(f"image {a:03d}", "text", f"image {b:03d}") for a, b in edges]
    return pl.DataFrame(rows, schema=["reference_id", "modification", "target_id"], orient="row")


def images_of(triplets: pl.DataFrame) -> set[str]:
    return {*triplets["reference_id"], *triplets["target_id"]}


@settings(max_examples=300, deadline=None)
@given(graphs, st.floats(0.05, 0.6), st.integers(0, 1000))
def test_no_image_is_on_both_sides_and_every_dropped_triplet_straddles(
    edges: list[tuple[int, int]], share: float, seed: int
) -> None:
    triplets = frame(edges)
    splits = split_triplets(triplets, share, seed)
    assert splits.len() == triplets.height
    train, held_out, dropped = (triplets.filter(splits == name) for name in ("train", "held_out", "dropped"))
    assert train.height + held_out.height + dropped.height == triplets.height
    assert not images_of(train) & images_of(held_out)
    # A chosen image is one that is not on the training side: the share is of images.
    every = images_of(triplets)
    wanted = min(max(round(len(every) * share), 2), len(every) - 2)
    if len(every) < 4:
        assert held_out.is_empty() and dropped.is_empty()
        return
    assert len(images_of(held_out)) <= wanted
    assert len(every - images_of(train)) > wanted / 2
    for reference, _, target in dropped.iter_rows():
        assert not {reference, target} <= images_of(train)
        assert not {reference, target} <= images_of(held_out)


@settings(max_examples=100, deadline=None)
@given(graphs, st.randoms(use_true_random=False))
def test_the_choice_is_the_seeds_alone_not_that_of_the_order(
    edges: list[tuple[int, int]], random: Random
) -> None:
    shuffled = random.sample(range(len(edges)), len(edges))
    one = split_triplets(frame(edges), 0.3, 5).to_list()
    other = split_triplets(frame([edges[row] for row in shuffled]), 0.3, 5).to_list()
    assert [one[row] for row in shuffled] == other


def test_another_seed_is_another_choice() -> None:
    triplets = frame([(2 * n, 2 * n + 1) for n in range(50)])
    assert split_triplets(triplets, 0.2, 1).to_list() != split_triplets(triplets, 0.2, 2).to_list()


def test_groups_that_share_no_image_are_held_out_whole() -> None:
    triplets = frame([(5 * n, 5 * n + k) for n in range(40) for k in (1, 2, 3, 4)])
    splits = split_triplets(triplets, 0.25, 0)
    assert (splits == "dropped").sum() == 0
    assert (splits == "held_out").sum() == 40


def chain(images: int) -> list[tuple[int, int]]:
    return [(n, n + 1) for n in range(images - 1)]


def test_a_chain_of_everything_is_cut_in_few_places() -> None:
    triplets = frame(chain(900))
    splits = split_triplets(triplets, 0.2, 3)
    held_out = images_of(triplets.filter(splits == "held_out"))
    assert len(held_out) == pytest.approx(180, abs=2)
    assert (splits == "dropped").sum() <= 2, "one region, cut at both ends"


def test_two_clusters_on_a_thread_are_parted_at_the_thread() -> None:
    """A region grows within its cluster first, whatever the names and the order of its images."""
    names = Random(4).sample(range(60), 60)
    inside = [(a, b) for start in (0, 30) for a in range(start, start + 30) for b in range(a + 1, start + 30)]
    edges = [(names[a], names[b]) for a, b in [*inside, (0, 30)]]
    splits = split_triplets(frame(edges), 0.5, 1)
    assert (splits == "dropped").sum() == 1
    assert (splits == "held_out").sum() == 30 * 29 // 2


def test_small_groups_beside_a_giant_are_on_both_sides() -> None:
    giant = chain(400)
    small = [(1000 + 2 * n, 1001 + 2 * n) for n in range(100)]
    triplets = frame([*giant, *small])
    splits = split_triplets(triplets, 0.25, 0).to_list()
    of_small = [split for split, (a, _) in zip(splits, [*giant, *small], strict=True) if a >= 1000]
    assert {"train", "held_out"} == set(of_small)


def test_how_many_are_where_is_told() -> None:
    splits = pl.Series(["train"] * 1200 + ["held_out"] * 3 + ["dropped"])
    assert split_in_words(splits) == (
        "1,200 triplets for training, 3 held out, 1 dropped for having an image on either side"
    )
    assert "dropped" not in split_in_words(splits.filter(splits != "dropped"))


def test_official_fashioniq_triplets_fall_into_small_groups(real_data: Path) -> None:
    datasets = {"fashioniq": {"kind": "fashioniq", "root": real_data / "fashioniq"}}
    triplets = train_split(Settings.model_validate({"datasets": datasets}), "fashioniq").triplets
    splits = split_triplets(triplets, 0.2, 0)
    assert (splits == "dropped").sum() == 0
    assert (splits == "held_out").sum() / triplets.height == pytest.approx(0.2, abs=0.03)


def test_a_group_is_not_cut_where_it_fits_whatever_its_size() -> None:
    """Two stars of more images than a region has, of eleven."""
    star = [(1000 * s, 1000 * s + k) for s in range(11) for k in range(1, 700)]
    splits = split_triplets(frame(star), 0.2, 2)
    assert (splits == "dropped").sum() == 0
    assert (splits == "held_out").sum() == 2 * 699
