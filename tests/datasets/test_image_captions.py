"""Captions of a gallery's images: which count, and which files are refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from setr_lib.datasets import DatasetError, load_gallery, load_image_captions
from setr_lib.settings import Settings
from tests.datasets.conftest import write_json

Build = Callable[..., Settings]


def entry(image: str, *captions: str) -> dict[str, object]:
    return {"candidate": image, "captions": list(captions)}


def test_the_first_three_captions_of_the_gallerys_images(settings_for: Build, cirr_root: Path) -> None:
    write_json(
        cirr_root / "image_captions.json",
        [
            entry("dev-4-img0", "one ", "two\n lines", "", "three", "four"),
            entry("test1-0-img0", "of another split"),
            entry("dev-1-img0"),
            entry("dev-0-img0", "alone"),
        ],
    )
    settings = settings_for("cirr", cirr_root, splits=["val"])
    frame = load_image_captions(settings, "cirr-val")
    assert frame is not None
    assert frame.rows() == [
        ("dev-0-img0", ["alone"]),
        ("dev-4-img0", ["one", "two lines", "three"]),
    ]


def test_a_data_set_without_a_file_has_none(settings_for: Build, cirr_root: Path) -> None:
    assert load_image_captions(settings_for("cirr", cirr_root, splits=["val"]), "cirr-val") is None


def test_settings_may_name_another_file(settings_for: Build, cirr_root: Path, tmp_path: Path) -> None:
    elsewhere = write_json(tmp_path / "mine.json", [entry("dev-0-img0", "mine")])
    settings = settings_for("cirr", cirr_root, splits=["val"], image_captions=elsewhere)
    frame = load_image_captions(settings, "cirr-val")
    assert frame is not None and frame.height == 1
    settings = settings_for("cirr", cirr_root, splits=["val"], image_captions=tmp_path / "absent.json")
    with pytest.raises(DatasetError, match=r"absent\.json: there is no such file"):
        load_image_captions(settings, "cirr-val")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "must be a list of objects"),
        ([["dev-0-img0"]], r"row 0 .*must be an object"),
        ([{"captions": ["x"]}], "the key 'candidate' is missing"),
        ([{"candidate": "dev-0-img0"}], "the key 'captions' is missing"),
        ([{"candidate": "dev-0-img0", "captions": "x"}], "'captions' must be a list"),
        ([entry("dev-0-img0", "x"), {"candidate": "dev-1-img0", "captions": [3]}], r"row 1 .*must be text"),
        ([entry("dev-0-img0", "x"), entry("dev-0-img0", "y")], "duplicate image 'dev-0-img0'"),
        ([entry("someone-else", "x")], "has a caption of none of the 8 images of cirr-val"),
    ],
)
def test_a_malformed_file_is_refused(
    settings_for: Build, cirr_root: Path, content: object, reason: str
) -> None:
    write_json(cirr_root / "image_captions.json", content)
    with pytest.raises(DatasetError, match=reason) as caught:
        load_image_captions(settings_for("cirr", cirr_root, splits=["val"]), "cirr-val")
    assert "image_captions.json" in str(caught.value)


@pytest.mark.parametrize(("split", "images", "without"), [("val", 2297, 2), ("test1", 2315, 1)])
def test_the_real_file(settings_for: Build, real_data: Path, split: str, images: int, without: int) -> None:
    settings = settings_for("cirr", real_data / "cirr", splits=[split])
    frame = load_image_captions(settings, f"cirr-{split}")
    assert frame is not None
    assert load_gallery(settings, f"cirr-{split}").height == images
    assert frame.height == images - without
    assert frame["captions"].list.len().unique().to_list() == [3]
