"""The captions file and the triplet file that training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from setr_lib.datasets import (
    DatasetError,
    inspect_training_images,
    load_training_images,
    load_training_triplets,
)
from setr_lib.settings import Settings
from setr_lib.tables import TRAINING_IMAGES

CAPTIONS = (
    '{"image": "images/0.png", "caption": "a red dot"}\n{"image": '
    '"./images/1.png", "caption": " a blue dot '
    '"}\n'
)
TRIPLETS = (
    '{"reference": "images/0.png", "modification": "make it blue", "target": "images/1.png"}\n'
    '{"reference": "images/1.png", "modification": "make it red", "target": "images/0.png"}\n'
)


def settings_of(folder: Path, **training: Any) -> Settings:
    return Settings.model_validate({"training": training, "base_dir": folder})


def test_captions_are_read_and_inspected(tmp_path: Path) -> None:
    (tmp_path / "set/images").mkdir(parents=True)
    (tmp_path / "set/captions.jsonl").write_text(CAPTIONS)
    Image.new("RGB", (5, 3)).save(tmp_path / "set/images/0.png")
    images = load_training_images(settings_of(tmp_path, captions="set/captions.jsonl"))
    assert images.rows() == [
        ("images/0.png", str(tmp_path / "set/images/0.png"), "a red dot"),
        ("images/1.png", str(tmp_path / "set/images/1.png"), "a blue dot"),
    ]
    inspected = inspect_training_images(images)
    assert inspected.schema == TRAINING_IMAGES
    assert inspected["status"].to_list() == ["ok", "missing"]


def test_image_root_replaces_the_files_own_folder(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text(CAPTIONS)
    images = load_training_images(settings_of(tmp_path, captions="captions.jsonl", image_root="elsewhere"))
    assert images["path"][0] == str(tmp_path / "elsewhere/images/0.png")


def test_triplets_decide_over_captions(tmp_path: Path) -> None:
    (tmp_path / "triplets.jsonl").write_text(TRIPLETS)
    settings = settings_of(tmp_path, triplets="triplets.jsonl")
    assert load_training_images(settings)["image_id"].to_list() == ["images/0.png", "images/1.png"]
    triplets = load_training_triplets(settings)
    assert triplets is not None
    assert triplets.row(0) == ("images/0.png", "make it blue", "images/1.png")


def test_no_triplets_is_none(tmp_path: Path) -> None:
    assert load_training_triplets(settings_of(tmp_path)) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"image": "images/0.png", "caption": "again"}', "duplicate image 'images/0.png': line 1"),
        ('{"image": "../0.png", "caption": "x"}', "leaves the data folder"),
        ('{"image": 3, "caption": "x"}', "'image' must be text"),
        ('{"image": "a.png", "caption": " "}', "'caption' is empty"),
        ('{"image": "a.png"}', "the key 'caption' is missing"),
        ('{"image": "a.png", "caption": "x"', "not valid JSON"),
    ],
)
def test_a_faulty_captions_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "captions.jsonl").write_text(CAPTIONS + line)
    with pytest.raises(DatasetError, match=reason) as caught:
        load_training_images(settings_of(tmp_path, captions="captions.jsonl"))
    assert (caught.value.file, caught.value.row) == (tmp_path / "captions.jsonl", "line 3")


def test_a_triplet_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"reference": "a.png", "modification": "x", "target": "./a.png"}')
    with pytest.raises(DatasetError, match="the reference itself"):
        load_training_triplets(settings_of(tmp_path, triplets="t.jsonl"))


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="neither 'captions' nor 'triplets'"):
        load_training_images(settings_of(tmp_path, captions=None))
    with pytest.raises(DatasetError, match="no such file"):
        load_training_images(settings_of(tmp_path, captions="none.jsonl"))
