"""The miniature on disk: official layouts that the ordinary loaders read, the same bytes for the same
seed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from setr_lib.datasets import (
    evaluation_sets,
    inspect_gallery,
    load_gallery,
    load_queries,
    load_training_images,
)
from setr_lib.hashing import fingerprint_file
from setr_lib.miniature.worlds import plan_dataset, write_miniature
from setr_lib.settings import DatasetSettings, Settings, TrainingSettings

SIZE = 0.04


def settings_for(root: Path) -> Settings:
    splits = {
        "cirr": ["train", "val", "test1"],
        "fashioniq": ["train", "val", "test"],
        "circo": ["val", "test"],
    }
    datasets = {
        name: DatasetSettings(kind=name, root=root / name, splits=wanted)  # pyright: ignore[reportArgumentType]
        for name, wanted in splits.items()
    }
    training = TrainingSettings(captions=root / "training" / "captions.jsonl")
    return Settings(datasets=datasets, training=training)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("miniature")
    assert write_miniature(root, seed=3, size=SIZE, training_images=24, processes=1)
    yield root


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): fingerprint_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_writes_the_same_bytes_however_many_processes_draw(world: Path, tmp_path: Path) -> None:
    write_miniature(tmp_path, seed=3, size=SIZE, training_images=24, processes=2)
    assert contents(tmp_path) == contents(world)


def test_another_seed_is_another_world_of_the_same_size(world: Path, tmp_path: Path) -> None:
    write_miniature(tmp_path, seed=4, size=SIZE, training_images=24, processes=1)
    mine, other = contents(world), contents(tmp_path)
    assert len(mine) == len(other)
    assert not set(mine.values()) & {
        value for name, value in other.items() if name.endswith((".png", ".jpg"))
    }


def test_a_written_world_is_left_alone_and_a_half_written_part_is_written_again(tmp_path: Path) -> None:
    assert write_miniature(tmp_path, seed=1, size=0.02, training_images=8, processes=1)
    assert not write_miniature(tmp_path, seed=1, size=0.02, training_images=8, processes=1)
    before = contents(tmp_path)
    (tmp_path / "cirr" / "miniature.json").unlink()
    assert write_miniature(tmp_path, seed=1, size=0.02, training_images=8, processes=1)
    assert contents(tmp_path) == before


def test_every_set_loads_and_every_image_is_there(world: Path) -> None:
    settings = settings_for(world)
    for each in evaluation_sets(settings):
        queries, gallery = load_queries(settings, each.key), inspect_gallery(load_gallery(settings, each.key))
        assert queries.height and gallery["status"].eq("ok").all(), each.key
        assert queries["target_ids"].list.len().gt(0).all() != each.hidden
        assert gallery["width"].eq(192).all()


def test_a_cirr_query_has_one_subset_of_six_and_its_target_is_not_its_reference(world: Path) -> None:
    queries = load_queries(settings_for(world), "cirr-val")
    assert queries["subset_ids"].list.len().eq(5).all()
    for row in queries.iter_rows(named=True):
        assert row["target_ids"][0] in row["subset_ids"]
        assert row["reference_id"] not in row["subset_ids"]


def test_circo_has_several_ground_truths_and_fashioniq_two_captions(world: Path) -> None:
    settings = settings_for(world)
    circo = load_queries(settings, "circo-val")
    assert circo["target_ids"].list.len().gt(1).any()
    fashion = load_queries(settings, "fashioniq-val")
    assert fashion["captions"].list.len().eq(2).all()
    assert (fashion["reference_id"] != fashion["target_ids"].list.first()).all()


def test_hidden_splits_carry_no_targets_in_their_files(world: Path) -> None:
    for name in (
        "cirr/captions/cap.rc2.test1.json",
        "circo/annotations/test.json",
        "fashioniq/captions/cap.dress.test.json",
    ):
        for entry in json.loads((world / name).read_text()):
            assert not {"target", "target_hard", "target_soft", "target_img_id", "gt_img_ids"} & set(entry), (
                name
            )


def test_training_captions_name_the_background_and_share_no_image_with_a_gallery(world: Path) -> None:
    settings = settings_for(world)
    training = load_training_images(settings)
    assert training.height == 24
    drawn = {fingerprint_file(Path(path)) for path in training["path"]}
    for each in evaluation_sets(settings):
        gallery = inspect_gallery(load_gallery(settings, each.key))
        assert not drawn & set(gallery["fingerprint"]), each.key


def test_keys_and_types_are_those_of_the_official_files(world: Path) -> None:
    real = Path(__file__).parents[3] / "shared" / "data"
    if not real.is_dir():
        pytest.skip("the official annotation files are not here (../shared/data)")
    for name in (
        "cirr/captions/cap.rc2.val.json",
        "cirr/captions/cap.rc2.test1.json",
        "fashioniq/captions/cap.dress.val.json",
        "fashioniq/captions/cap.shirt.test.json",
        "circo/annotations/val.json",
        "circo/annotations/test.json",
    ):
        official, drawn = (json.loads((root / name).read_text())[0] for root in (real, world))
        assert shape_of(drawn) == shape_of(official), name


def shape_of(value: object) -> object:
    """Keys and types, values apart; the keys of a table of soft targets are image names, so only their type
    counts.
    """
    if isinstance(value, dict):
        if all(isinstance(each, float) for each in value.values()):
            return "scores by name"
        return {key: shape_of(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])]
    return type(value).__name__


def test_a_target_is_the_only_one_of_its_kind_in_its_cirr_gallery() -> None:
    plan = plan_dataset("cirr", Path("cirr"), 3, 0.2)
    shown = {drawing.path.stem: drawing.picture.foreground for drawing in plan.drawings}
    for split, folder in {"val": "dev", "test1": "test1"}.items():
        gallery = Counter(kind for name, kind in shown.items() if name.startswith(f"{folder}-"))
        queries: Any = plan.documents[Path("cirr/captions") / f"cap.rc2.{split}.json"]
        assert queries
        for query in queries:
            assert gallery[shown[query["reference"]]] == 1
            if split == "val":
                assert gallery[shown[query["target_hard"]]] == 1
