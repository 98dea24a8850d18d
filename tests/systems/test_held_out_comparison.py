"""Two versions on the same held-out triplets: which triplets count, and what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_lessons import small_data

from setr_lib.pipeline.held_out_comparison import compared_again
from setr_lib.registry.measure import MeasuredAgain
from setr_lib.systems.data import SystemData
from setr_lib.training.trained_on import TRAINED_IMAGES, TrainedOn

CHAMPION, MINE = [1, 1, 1, 11, 11, 11], [11, 1, 1, 1, 1, 1]
"""Ranks of today's six held-out triplets, each of which shows two neighbours of a ring of six images."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SystemData:
    return small_data(tmp_path_factory.mktemp("pictures"))


def mine(data: SystemData) -> pl.DataFrame:
    return data.held_out.with_columns(rank=pl.Series(MINE, dtype=pl.Int64()))


def compared(data: SystemData, learned: dict[str, str] | None, before: pl.DataFrame) -> float | MeasuredAgain:
    """With a champion that was trained on pictures of the data, by the names that they had then."""
    if learned is None:
        return compared_again(data, np.array(CHAMPION), mine(data), None, before)
    prints = dict(data.images.select("image_id", "fingerprint").iter_rows())
    rows = [("training", name, prints[image]) for name, image in learned.items()]
    of = TrainedOn("images", pl.DataFrame(rows, TRAINED_IMAGES, orient="row"))
    return compared_again(data, np.array(CHAMPION), mine(data), of, before)


def test_triplets_with_images_that_the_champion_was_trained_on_count_for_neither(data: SystemData) -> None:
    """Under whatever name; its own held-out images were not trained on."""
    before = pl.DataFrame({"reference_id": ["12.png"], "target_id": ["03.png"]})
    learned = {"old.png": "10.png", "12.png": "12.png", "00.png": "00.png"}
    found = compared(data, learned, before)
    assert isinstance(found, MeasuredAgain)
    assert (found.champion, found.own) == (50.0, 100.0), "of the second to the fifth triplet"
    assert found.words.startswith(
        ", less 2 of 6 triplets with images that it was trained on; paired on 4 triplets: +50.0 points ("
    )


@pytest.mark.parametrize("learned", [None, {"00.png": "00.png", "12.png": "12.png"}])
def test_all_triplets_count_where_it_was_trained_on_none_or_does_not_say(
    data: SystemData, learned: dict[str, str] | None
) -> None:
    before = pl.DataFrame({"reference_id": ["12.png"], "target_id": ["12.png"]})
    found = compared(data, learned, before)
    assert isinstance(found, MeasuredAgain)
    assert (found.champion, found.own) == (50.0, None)
    assert found.words.startswith("; paired on 6 triplets: +33.3 points (")


def test_where_it_was_trained_on_all_of_them_nothing_can_be_compared(data: SystemData) -> None:
    before = pl.DataFrame({"reference_id": ["01.png"], "target_id": ["02.png"]})
    found = compared(data, {f"{n}.png": f"{n}.png" for n in (10, 12, 14)}, before)
    assert isinstance(found, MeasuredAgain) and found.champion is None
    assert "was trained on images of every held-out triplet" in found.words


def test_a_version_that_was_ranked_on_others_is_compared_by_its_own_figure(data: SystemData) -> None:
    before = pl.DataFrame({"reference_id": [], "target_id": []}, schema_overrides={"reference_id": pl.String})
    assert compared_again(data, np.array(CHAMPION), mine(data)[1:], None, before) == 50.0


def test_a_triplet_that_is_there_twice_counts_once_where_they_are_paired(tmp_path: Path) -> None:
    data = small_data(tmp_path)
    twice = SystemData(data.source, pl.concat([data.triplets, data.triplets[-1:]]), data.images)
    before = pl.DataFrame({"reference_id": ["12.png"], "target_id": ["12.png"]})
    ranks = np.array([*CHAMPION, CHAMPION[-1]])
    found = compared_again(twice, ranks, mine(data), None, before)
    assert isinstance(found, MeasuredAgain)
    assert found.champion == pytest.approx(300 / 7) and "paired on 6 triplets" in found.words
