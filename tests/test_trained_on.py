"""What a version was trained on: kept with its bundle, and read again."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from setr_lib.benchmarks import EvaluationSet
from setr_lib.benchmarks.registry import benchmark_of
from setr_lib.training.trained_on import (
    TRAINED_IMAGES,
    TRAINED_TRIPLETS,
    TrainedOn,
    TrainedOnError,
    trained_images,
    trained_triplets,
)

IMAGES = pl.DataFrame({"image_id": ["a", "b", "a"], "fingerprint": ["1", None, "1"], "status": ["ok"] * 3})
TRIPLETS = pl.DataFrame({"reference_id": ["a"], "modification": ["red"], "target_id": ["c"]})


def made() -> TrainedOn:
    return TrainedOn(
        "cirr's train triplets",
        trained_images(IMAGES, "cirr"),
        trained_triplets(TRIPLETS, "cirr"),
        "benchmark",
        ("cirr",),
    )


def test_it_comes_back_from_its_folder(tmp_path: Path) -> None:
    first, again = made(), TrainedOn.read(made().write(tmp_path / "trained_on"))
    assert_frame_equal(again.images, first.images)
    assert_frame_equal(again.triplets, first.triplets)
    assert (again.source, again.triplet_kind, again.benchmarks) == (
        "cirr's train triplets",
        "benchmark",
        ("cirr",),
    )
    assert again.images.rows() == [("cirr", "a", "1"), ("cirr", "b", None), ("cirr", "c", None)]
    assert again.tags == {
        "setr.trained_on": "cirr's train triplets",
        "setr.trained_images": "3",
        "setr.trained_triplets": "1",
    }


@pytest.mark.parametrize("damage", ["trained_on.json", "images.parquet", "triplets.parquet"])
def test_a_damaged_folder_is_named(tmp_path: Path, damage: str) -> None:
    folder = made().write(tmp_path)
    (folder / damage).write_text("{}", encoding="utf-8")
    with pytest.raises(TrainedOnError, match=f"{folder / damage}: .*`setr repair registry`"):
        TrainedOn.read(folder)


def test_what_is_no_record_is_refused() -> None:
    images, triplets = TRAINED_IMAGES.to_frame(), TRAINED_TRIPLETS.to_frame()
    with pytest.raises(TrainedOnError, match="'file' with 0 triplets"):
        TrainedOn("words", images, triplets, "file")
    with pytest.raises(TrainedOnError, match="'none' with 1 triplets"):
        TrainedOn("words", images, trained_triplets(TRIPLETS, "x"))
    for source in ("", "a; b"):
        with pytest.raises(TrainedOnError, match="without a semicolon"):
            TrainedOn(source, images)


def test_what_builds_on_another_was_trained_on_both() -> None:
    base = TrainedOn("pictures", trained_images(IMAGES, "training"))
    both = base.joined(made())
    assert both.source == "pictures and cirr's train triplets"
    assert (both.triplet_kind, both.benchmarks) == ("benchmark", ("cirr",))
    assert both.images.height == 5 and both.triplets.height == 1
    assert made().joined(base).triplet_kind == "benchmark"


@pytest.mark.parametrize(
    ("kind", "split", "namespace"),
    [
        ("circo", "val", "coco"),
        ("lasco", "train", "coco"),
        ("genecis", "focus_object", "coco"),
        ("genecis", "focus_attribute", "genecis"),
        ("cirr", "val", "cirr"),
        ("fashioniq", "val", "fashioniq"),
        ("icir", "all", "icir"),
        ("folder", "all", "folder shop"),
    ],
)
def test_ids_mean_something_within_a_namespace(kind: str, split: str, namespace: str) -> None:
    benchmark = benchmark_of(kind)
    evaluated = EvaluationSet("shop", "shop", benchmark, split, "all", Path("root"), None)
    assert benchmark.image_namespace(evaluated) == namespace
