"""The official files themselves: the published counts. Skipped where they are not at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from setr_lib.datasets import DatasetError, evaluation_sets, load_gallery, load_queries
from setr_lib.settings import Settings

Build = Callable[..., Settings]


def gallery_sizes(settings: Settings, key: str) -> dict[str, int]:
    return dict(load_gallery(settings, key)["galleries"].explode().value_counts().iter_rows())


@pytest.mark.parametrize(("split", "queries", "images"), [("val", 4181, 2297), ("test1", 4148, 2315)])
def test_cirr(settings_for: Build, real_data: Path, split: str, queries: int, images: int) -> None:
    settings = settings_for("cirr", real_data / "cirr", splits=[split])
    frame = load_queries(settings, f"cirr-{split}")
    assert frame.height == queries
    assert gallery_sizes(settings, f"cirr-{split}") == {"all": images}
    assert (frame["subset_ids"].list.len() == 5).all()
    assert (frame["target_ids"].list.len() == (split == "val")).all()


@pytest.mark.parametrize(
    ("split", "gallery", "queries", "images"),
    [
        ("val", "original", (2017, 2038, 1961), (3817, 6346, 5373)),
        ("val", "val", (2017, 2038, 1961), (2628, 3089, 2902)),
        ("train", "original", (5985, 5988, 6027), (11452, 19036, 16121)),
        ("test", "original", (2024, 2038, 2056), (3818, 6346, 5374)),
    ],
)
def test_fashioniq(
    settings_for: Build,
    real_data: Path,
    split: str,
    gallery: str,
    queries: tuple[int, ...],
    images: tuple[int, ...],
) -> None:
    settings = settings_for("fashioniq", real_data / "fashioniq", splits=[split], gallery=gallery)
    key = f"fashioniq-{split}"
    names = ("dress", "shirt", "toptee")
    counts = dict(load_queries(settings, key)["gallery"].value_counts().iter_rows())
    assert counts == dict(zip(names, queries, strict=True))
    assert gallery_sizes(settings, key) == dict(zip(names, images, strict=True))


def test_circo(settings_for: Build, real_data: Path) -> None:
    settings = settings_for("circo", real_data / "circo", splits=["val", "test"])
    val = load_queries(settings, "circo-val")
    assert (val.height, load_queries(settings, "circo-test").height) == (220, 800)
    truths = val["target_ids"].list.len()
    assert truths.sum() / val.height == pytest.approx(4.16, abs=0.005)
    assert (truths.min(), truths.max()) == (1, 14)
    aspects = dict(val["aspects"].explode().value_counts().iter_rows())
    assert aspects["statement_with_conjunction"] == 164
    assert aspects["negation"] == 21
    if not (real_data / "circo" / "COCO2017_unlabeled").exists():
        with pytest.raises(DatasetError, match="COCO 2017's list"):
            load_gallery(settings, "circo-val")


def test_official_counts_are_those_of_the_files(real_data: Path) -> None:
    datasets = {
        "cirr": {"kind": "cirr", "root": real_data / "cirr", "splits": ["val", "test1"]},
        "fashioniq": {
            "kind": "fashioniq",
            "root": real_data / "fashioniq",
            "splits": ["train", "val", "test"],
        },
    }
    settings = Settings.model_validate({"datasets": datasets})
    for each in evaluation_sets(settings):
        assert load_queries(settings, each.key).height == each.official_queries
        assert gallery_sizes(settings, each.key) == each.official_images


def test_targets_and_references_are_in_their_galleries(settings_for: Build, real_data: Path) -> None:
    settings = settings_for("fashioniq", real_data / "fashioniq")
    images = load_gallery(settings, "fashioniq-val").explode("galleries")
    queries = load_queries(settings, "fashioniq-val").with_columns(
        pl.col("target_ids").list.first().alias("target")
    )
    for column in ("reference_id", "target"):
        placed = queries.join(
            images, left_on=[column, "gallery"], right_on=["image_id", "galleries"], how="semi"
        )
        assert placed.height == queries.height
