"""Train splits of benchmarks, from official files: triplets and paths of their images, and what is said where
there are none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import cirr_row, write_json

from setr_lib.benchmarks import Benchmark, EvaluationSet, QueryRecord
from setr_lib.benchmarks.registry import CATALOGUE
from setr_lib.datasets import (
    DatasetError,
    evaluation_sets,
    inspect_training_images,
    load_training_images,
    load_training_triplets,
    set_of_split,
    train_split,
)
from setr_lib.settings import Settings, SettingsError, load_settings
from setr_lib.tables import TRAINING_IMAGES, TRIPLETS

Build = Callable[..., Settings]


def write_cirr_train(root: Path) -> list[dict[str, Any]]:
    """Two pairs over three of four images; the image set of the second is not what a query's would be."""
    names = [f"train-{number}-0-img0" for number in range(4)]
    paths = {name: f"./train/{number}/{name}.png" for number, name in enumerate(names)}
    write_json(root / "image_splits/split.rc2.train.json", paths)
    rows = [cirr_row(0, names[0], names[2], names), cirr_row(1, names[2], names[1], names[:2])]
    write_json(root / "captions/cap.rc2.train.json", rows)
    return rows


def test_cirr_pairs_are_triplets_of_reference_text_and_hard_target(
    settings_for: Build, tmp_path: Path
) -> None:
    write_cirr_train(tmp_path)
    found = train_split(settings_for("cirr", tmp_path, image_root=tmp_path / "img_raw"), "cirr")
    assert (found.dataset, found.kind, found.split, found.source) == ("cirr", "cirr", "train", "cirr train")
    assert found.triplets.schema == TRIPLETS
    assert found.triplets.rows() == [
        ("train-0-0-img0", "edit 0", "train-2-0-img0"),
        ("train-2-0-img0", "edit 1", "train-1-0-img0"),
    ]
    assert dict(found.images) == {
        f"train-{number}-0-img0": f"{tmp_path}/img_raw/train/{number}/train-{number}-0-img0.png"
        for number in (0, 2, 1)
    }, "the images of triplets, not the fourth of the split"


def test_a_train_split_may_lie_elsewhere(settings_for: Build, tmp_path: Path) -> None:
    write_cirr_train(tmp_path / "train")
    settings = settings_for(
        "cirr", tmp_path / "cirr", image_root=tmp_path / "img_raw", train_root=tmp_path / "train"
    )
    images = train_split(settings, "cirr").images
    assert images["train-0-0-img0"] == f"{tmp_path}/train/train/0/train-0-0-img0.png"
    val, train = (set_of_split(settings, "cirr", split) for split in ("val", "train"))
    assert (val.root, val.image_root) == (tmp_path / "cirr", tmp_path / "img_raw")
    assert (train.root, train.image_root) == (tmp_path / "train", None)


def test_fashioniq_joins_its_captions_as_its_queries_do(settings_for: Build, tmp_path: Path) -> None:
    for category in ("dress", "shirt", "toptee"):
        names = [f"{category}-{number}" for number in range(3)] + ["BOTH"] * (category != "dress")
        write_json(tmp_path / f"image_splits/split.{category}.train.json", names)
        row = {"candidate": names[0], "target": names[-1], "captions": [" is red.", "has no sleeves?"]}
        write_json(tmp_path / f"captions/cap.{category}.train.json", [row])
    # A protocol that chooses another gallery is about evaluation: training has all images.
    found = train_split(settings_for("fashioniq", tmp_path, gallery="val"), "fashioniq")
    assert found.triplets.rows() == [
        ("dress-0", "is red and has no sleeves", "dress-2"),
        ("shirt-0", "is red and has no sleeves", "BOTH"),
        ("toptee-0", "is red and has no sleeves", "BOTH"),
    ]
    assert found.images["BOTH"] == f"{tmp_path}/images/BOTH.png"


def test_lasco_train_is_read_with_its_corpus(settings_for: Build, tmp_path: Path) -> None:
    row = {
        "qid": 7,
        "query-image": [11, "train2014/COCO_train2014_000000000011.jpg"],
        "query-text": "The dog sleeps ",
        "target-image": [12, "train2014/COCO_train2014_000000000012.jpg"],
    }
    write_json(tmp_path / "lasco_train.json", [row, row])
    corpus = {str(n): f"train2014/COCO_train2014_{n:012d}.jpg" for n in (11, 12, 13)}
    write_json(tmp_path / "downloads/lasco_train_corpus.json", corpus)
    found = train_split(settings_for("lasco", tmp_path), "lasco")
    assert found.triplets.rows() == [("11", "The dog sleeps", "12")] * 2
    assert found.images["12"] == f"{tmp_path}/train2014/COCO_train2014_000000000012.jpg"
    write_json(tmp_path / "downloads/lasco_train_corpus.json", {"11": corpus["11"]})
    with pytest.raises(DatasetError, match=r"row 0 .*'target-image' names the unknown image '12'"):
        train_split(settings_for("lasco", tmp_path), "lasco")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target_hard": "train-9-0-img0"}, "'target_hard' names the unknown image 'train-9-0-img0'"),
        ({"target_hard": "train-2-0-img0"}, "'target_hard' is the reference itself"),
        ({"caption": 3}, "'caption' must be text"),
        ({"reference": None}, "'reference' must be text"),
    ],
)
def test_a_faulty_row_is_named(
    settings_for: Build, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    rows = write_cirr_train(tmp_path)
    file = write_json(tmp_path / "captions/cap.rc2.train.json", [rows[0], rows[1] | change])
    with pytest.raises(DatasetError, match=reason) as caught:
        train_split(settings_for("cirr", tmp_path), "cirr")
    assert (caught.value.file, caught.value.row) == (file, "row 1 (counting from 0)")


def test_an_absent_file_is_named_with_where_it_comes_from(settings_for: Build, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"github\.com/Cuberick-Orion/CIRR") as caught:
        train_split(settings_for("cirr", tmp_path), "cirr")
    assert caught.value.file == tmp_path / "captions/cap.rc2.train.json"


@pytest.mark.parametrize("kind", ["circo", "genecis", "icir", "folder"])
def test_a_benchmark_without_a_train_split_says_so(settings_for: Build, tmp_path: Path, kind: str) -> None:
    settings = settings_for(kind, tmp_path)
    name = evaluation_sets(settings)[0].benchmark.name
    with pytest.raises(DatasetError, match=rf"\[datasets.{kind}\]: {name} has no train split; .*triplets"):
        train_split(settings, kind)


def test_a_data_set_that_is_not_configured_is_refused(settings_for: Build, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set 'cirr' in the settings, only circo"):
        train_split(settings_for("circo", tmp_path), "cirr")


class Wishes(Benchmark):
    """A benchmark of one's own, whose queries of the split ``learn`` have one or two targets, or none."""

    kind = "wishes"
    splits = ("learn", "test")
    train_split = "learn"

    def queries(self, evaluation_set: EvaluationSet) -> list[QueryRecord]:
        targets = [["b.png", "a.png"], [], ["a.png"]]
        return [QueryRecord(str(n), "c.png", f"text {n}", target_ids=each) for n, each in enumerate(targets)]


def test_a_benchmark_of_ones_own_trains_on_the_queries_of_the_split_that_it_names(
    settings_for: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CATALOGUE, "_own", {})
    CATALOGUE.register("wishes", Wishes)
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(b"")
    found = train_split(settings_for("wishes", tmp_path), "wishes")
    assert found.triplets.rows() == [("c.png", "text 0", "b.png"), ("c.png", "text 2", "a.png")]
    assert set(found.images) == {"a.png", "b.png", "c.png"}
    (tmp_path / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"names the image 'a\.png', which is not among the 3 images"):
        train_split(settings_for("wishes", tmp_path), "wishes")


# As [training].


def test_training_may_name_a_data_set(tmp_path: Path) -> None:
    rows = write_cirr_train(tmp_path / "cirr")
    config = tmp_path / "setr.toml"
    config.write_text('[datasets.cirr]\nroot = "cirr"\n[training]\ndataset = "cirr"\n', encoding="utf-8")
    settings = load_settings(config)
    assert settings.training.is_named
    triplets = load_training_triplets(settings)
    assert triplets is not None and triplets["target_id"].to_list() == [row["target_hard"] for row in rows]
    images = inspect_training_images(load_training_images(settings))
    assert images.schema == TRAINING_IMAGES
    assert images.select("image_id", "caption", "status").rows()[0] == ("train-0-0-img0", "", "missing")


@pytest.mark.parametrize("key", ["captions", "triplets", "image_root"])
def test_a_data_set_and_files_exclude_each_other(tmp_path: Path, key: str) -> None:
    config = tmp_path / "setr.toml"
    config.write_text(f'[training]\ndataset = "cirr"\n{key} = "x"\n', encoding="utf-8")
    with pytest.raises(SettingsError, match=f"dataset = 'cirr' .* and {key} would be .*: keep one"):
        load_settings(config)


# The official files.


def test_the_official_fashioniq_train_files(settings_for: Build, real_data: Path) -> None:
    found = train_split(settings_for("fashioniq", real_data / "fashioniq"), "fashioniq")
    assert found.triplets.height == 5985 + 5988 + 6027
    assert len(found.images) == 25136
    assert found.triplets["modification"].str.strip_chars().ne("").all()
    first = found.triplets.row(0)
    assert first == (
        "B003FGW7MK",
        "is solid black with no sleeves and is black with straps",
        "B008BHCT58",
    )


def test_the_official_cirr_files_in_place_of_train_ones(
    settings_for: Build, real_data: Path, tmp_path: Path
) -> None:
    """Val's files, which have the fields of train's, under train's names."""
    captions = real_data / "cirr/captions/cap.rc2.val.json"
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions/cap.rc2.train.json").write_bytes(captions.read_bytes())
    (tmp_path / "image_splits").mkdir()
    split = (real_data / "cirr/image_splits/split.rc2.val.json").read_bytes()
    (tmp_path / "image_splits/split.rc2.train.json").write_bytes(split)
    found = train_split(settings_for("cirr", tmp_path), "cirr")
    rows = json.loads(captions.read_text())
    assert found.triplets.select("reference_id", "target_id").rows() == [
        (row["reference"], row["target_hard"]) for row in rows
    ]


def test_the_official_cirr_train_images(settings_for: Build, real_data: Path) -> None:
    split = json.loads((real_data / "cirr/image_splits/split.rc2.train.json").read_text())
    assert len(split) == 16939
    train = real_data / "cirr/captions/cap.rc2.train.json"
    settings = settings_for("cirr", real_data / "cirr", image_root=Path("/images"))
    if not train.exists():
        with pytest.raises(DatasetError, match=r"it comes from github\.com/Cuberick-Orion/CIRR"):
            train_split(settings, "cirr")
        return
    found = train_split(settings, "cirr")
    assert found.triplets.height == 28225
    assert set(found.images) <= set(split)
    assert all(path.startswith("/images/train/") for path in found.images.values())


def test_triplets_are_a_plain_frame_that_joins_with_the_images(settings_for: Build, tmp_path: Path) -> None:
    write_cirr_train(tmp_path)
    found = train_split(settings_for("cirr", tmp_path), "cirr")
    joined = found.triplets.join(
        found.image_frame.select(pl.col("image_id").alias("target_id"), "path"), on="target_id"
    )
    assert joined.height == found.triplets.height
