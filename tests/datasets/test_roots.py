"""A root that is one folder too high or too low is refused with the path to write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from setr_lib.benchmarks.audit import examine
from setr_lib.datasets import DatasetError, evaluation_set, load_gallery, load_queries
from setr_lib.datasets.images import find_images
from setr_lib.settings import Settings

Build = Callable[..., Settings]
FILES = {
    "cirr": ("captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"),
    "fashioniq": tuple(
        f"{folder}.{category}.val.json"
        for folder in ("captions/cap", "image_splits/split")
        for category in ("dress", "shirt", "toptee")
    ),
    "circo": ("annotations/val.json",),
    "genecis": ("genecis/focus_object.json",),
    "icir": ("query_files.csv", "database_files.csv"),
    "lasco": ("lasco_val.json", "lasco_val_corpus.json"),
}
SPLITS = {"genecis": "focus_object", "icir": "all"}


def official(root: Path, kind: str) -> Path:
    for name in FILES[kind]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("[]")
    return root


def key_of(kind: str) -> str:
    split = SPLITS.get(kind, "val")
    return kind if split == "all" else f"{kind}-{split}"


def settings_of(settings_for: Build, kind: str, root: Path) -> Settings:
    split = SPLITS.get(kind, "val")
    return settings_for(kind, root, **({} if split == "all" else {"splits": [split]}))


@pytest.mark.parametrize("kind", FILES)
def test_a_root_one_folder_too_high_or_too_low(settings_for: Build, tmp_path: Path, kind: str) -> None:
    right = official(tmp_path / "data" / "set", kind)
    for wrong, level in ((right.parent, "too high"), (right / "captions", "too low")):
        wrong.mkdir(exist_ok=True)
        built = settings_of(settings_for, kind, wrong)
        said = f'root is one folder {level}: write root = "{right}" in [datasets.{kind}]'
        with pytest.raises(DatasetError) as caught:
            load_queries(built, key_of(kind))
        assert str(caught.value).endswith(said)
        found = examine(evaluation_set(built, key_of(kind)), find_images)
        assert found.problems[0] == f"{wrong}: {said}"


def test_images_that_lie_as_the_old_root_says_stay_there(settings_for: Build, cirr_root: Path) -> None:
    """SEARLE's layout: ``CIRR/dev`` beside ``CIRR/cirr/captions``."""
    outer = cirr_root.parent / "CIRR"
    shutil.copytree(cirr_root, outer / "cirr")
    (outer / "dev").mkdir()
    Image.new("RGB", (4, 4)).save(outer / "dev" / "dev-0-img0.png")
    with pytest.raises(DatasetError) as caught:
        load_queries(settings_for("cirr", outer), "cirr-val")
    lines = f'write root = "{outer / "cirr"}" and image_root = "{outer}" in [datasets.cirr]'
    assert lines in str(caught.value)
    mended = settings_for("cirr", outer / "cirr", image_root=outer)
    assert load_gallery(mended, "cirr-val")["path"][0] == str(outer / "dev" / "dev-0-img0.png")


@pytest.mark.parametrize("wrong", ["", "dev", "zzz"])
def test_an_image_root_one_folder_too_high_or_too_low(
    settings_for: Build, cirr_root: Path, tmp_path: Path, wrong: str
) -> None:
    images = tmp_path / "images"
    for path in load_gallery(settings_for("cirr", cirr_root), "cirr-val")["path"]:
        made = images / Path(path).relative_to(cirr_root)
        made.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(made)
    (images / "zzz").mkdir()
    given = images / wrong if wrong else images.parent
    built = settings_for("cirr", cirr_root, image_root=given)
    found = examine(evaluation_set(built, "cirr-val"), find_images)
    assert any(f'images are there with image_root = "{images}"' in problem for problem in found.problems)
    right = settings_for("cirr", cirr_root, image_root=images)
    told = examine(evaluation_set(right, "cirr-val"), find_images).problems
    assert not any("images are there" in problem for problem in told), told


def test_several_folders_that_fit_are_all_named(settings_for: Build, tmp_path: Path) -> None:
    one, other = official(tmp_path / "data" / "a", "circo"), official(tmp_path / "data" / "b", "circo")
    with pytest.raises(DatasetError) as caught:
        load_queries(settings_for("circo", tmp_path / "data"), "circo-val")
    assert f'such files are in 2 folders: write root = "{one}" or "{other}"' in str(caught.value)


def test_a_root_that_is_spelt_otherwise(settings_for: Build, tmp_path: Path) -> None:
    right = official(tmp_path / "data" / "CIRCO", "circo")
    with pytest.raises(DatasetError) as caught:
        load_queries(settings_for("circo", tmp_path / "data" / "circo"), "circo-val")
    assert f"did you mean {right}? (the two differ in upper and lower case)" in str(caught.value)


def test_where_nothing_fits_nothing_is_said(settings_for: Build, circo_root: Path) -> None:
    (circo_root / "annotations/val.json").rename(circo_root / "annotations/other.json")
    with pytest.raises(DatasetError) as caught:
        load_queries(settings_for("circo", circo_root), "circo-val")
    assert str(caught.value).endswith("is the path in setr.toml right?")
    assert json.loads((circo_root / "annotations/other.json").read_text())
