"""Train splits of the miniature: official layouts, pictures of their own, nothing else touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from setr_lib.cli import main
from setr_lib.datasets import (
    DatasetError,
    evaluation_sets,
    inspect_gallery,
    inspect_training_images,
    load_gallery,
    split_triplets,
    train_split,
)
from setr_lib.hashing import fingerprint_file
from setr_lib.miniature import train_worlds, worlds
from setr_lib.miniature.difficulty import Difficulty
from setr_lib.miniature.source import Miniature
from setr_lib.miniature.train_worlds import plan_train
from setr_lib.miniature.worlds import MiniatureError, Plan, plan_dataset
from setr_lib.progress import silent
from setr_lib.settings import Settings
from setr_lib.sources import ensure_train_split, sources_in_use

NAMES = ("cirr", "fashioniq", "lasco")
SIZE = 0.02


def settings_in(folder: Path, **training: Any) -> Settings:
    datasets = {
        name: {"kind": name, "root": f"var/miniature/{name}", "train_root": f"var/miniature/train/{name}"}
        for name in NAMES
    }
    return Settings.model_validate(
        {
            "base_dir": folder,
            "datasets": datasets,
            "training": training,
            "miniature": {"seed": 3, "size": SIZE, "training_images": 16},
        }
    )


def contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): fingerprint_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, dict[str, str]]]:
    """Settings whose train splits are drawn, and the files that were there before."""
    settings = settings_in(tmp_path_factory.mktemp("with_train"))
    Miniature(settings).prepare(silent)
    before = contents(settings.miniature_root)
    for name in NAMES:
        ensure_train_split(settings, name)
    yield settings, before


def test_train_splits_are_drawn_when_asked_for_and_leave_every_other_file_as_it_was(
    drawn: tuple[Settings, dict[str, str]],
) -> None:
    settings, before = drawn
    assert not any(name.startswith("train/") for name in before)
    after = contents(settings.miniature_root)
    assert {name: digest for name, digest in after.items() if not name.startswith("train/")} == before
    stamps = {f"train/{name}/miniature.json" for name in NAMES}
    assert stamps <= after.keys()
    for name in NAMES:
        ensure_train_split(settings, name)
    assert contents(settings.miniature_root) == after, "what is current is not drawn again"


def test_every_triplet_is_read_and_every_image_is_there(drawn: tuple[Settings, dict[str, str]]) -> None:
    settings, _ = drawn
    for name in NAMES:
        found = train_split(settings, name)
        wanted = {"cirr": 4 * 4, "lasco": 4 * 4, "fashioniq": 3 * 6}[name]
        assert found.triplets.height == wanted, name
        assert found.triplets["modification"].str.len_chars().gt(3).all()
        assert inspect_training_images(found.image_frame)["status"].eq("ok").all(), name


def test_no_train_picture_is_a_gallery_picture(drawn: tuple[Settings, dict[str, str]]) -> None:
    settings, _ = drawn
    shown = {
        fingerprint
        for each in evaluation_sets(settings)
        for fingerprint in inspect_gallery(load_gallery(settings, each.key))["fingerprint"]
    }
    for name in NAMES:
        images = inspect_training_images(train_split(settings, name).image_frame)["fingerprint"]
        assert images.n_unique() == images.len()
        assert not set(images) & shown, name


def test_settings_that_train_on_a_split_have_it_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(worlds, "_carry_out", lambda plan, *_: names.append(plan.name))
    settings = settings_in(tmp_path, dataset="cirr")
    with pytest.raises(DatasetError, match="there is no such file"):
        train_split(settings, "cirr")
    Miniature(settings).prepare(silent)
    assert names == ["cirr", "fashioniq", "circo", "training", "lasco", "train/cirr"]


def test_a_train_split_elsewhere_is_a_use_of_the_miniature(tmp_path: Path) -> None:
    def used(train_root: str, **training: str) -> list[str]:
        datasets = {"cirr": {"kind": "cirr", "root": "/data/cirr", "train_root": train_root}}
        values = {"base_dir": tmp_path, "datasets": datasets, "training": training}
        return [source.name for source in sources_in_use(Settings.model_validate(values))]

    assert used("var/miniature/train/cirr", dataset="cirr") == ["miniature"]
    assert used("var/miniature/train/cirr") == used("/data/train", dataset="cirr") == []


def test_doctor_counts_the_triplets_and_says_how_to_draw_them(
    drawn: tuple[Settings, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _ = drawn
    config = tmp_path / "setr.toml"
    config.write_text(
        f'[storage]\nroot = "{settings.storage_root}"\n[datasets.cirr]\n'
        f'root = "{settings.miniature_root}/cirr"\ntrain_root = "{settings.miniature_root}/train/cirr"\n'
        '[training]\ndataset = "cirr"\n',
        encoding="utf-8",
    )
    main(["--config", str(config), "doctor", "--json", "--quick"])
    found = json.loads(capsys.readouterr().out)["training"]
    assert (found["dataset"], found["triplets"], found["missing"]) == ("cirr", 16, 0)
    image = next((settings.miniature_root / "train/cirr/train").rglob("*.png"))
    hidden = image.with_suffix(".away")
    image.rename(hidden)
    try:
        main(["--config", str(config), "doctor", "--quick"])
    finally:
        hidden.rename(image)
    page = " ".join(capsys.readouterr().out.split())
    assert "in 16 triplets of cirr's train split; training images: 1 of" in page
    assert "`setr miniature write --train` draws it" in page


# At the documented size, planned and not drawn.


def train(name: str, **dials: Any) -> Plan:
    return plan_train(name, Path(name), 0, 1.0, Difficulty(**dials))


@pytest.mark.parametrize(("name", "triplets"), [("cirr", 800), ("fashioniq", 900), ("lasco", 800)])
def test_there_are_enough_triplets_at_the_documented_size(name: str, triplets: int) -> None:
    documents = train(name).documents
    counted = [
        len(document)
        for path, document in documents.items()
        if isinstance(document, list) and ("cap." in path.name or path.name == "lasco_train.json")
    ]
    assert sum(counted) == triplets


def test_no_scene_of_cirrs_train_split_is_in_its_galleries_on_any_background() -> None:
    galleries = plan_dataset("cirr", Path("cirr"), 0, 1.0)
    shown = {each.picture.foreground for each in galleries.drawings}
    scenes = [each.picture.foreground for each in train("cirr").drawings]
    assert len(set(scenes)) == len(scenes) == 1200
    assert not set(scenes) & shown


def test_no_garment_of_the_train_split_answers_a_query_or_is_in_a_gallery_as_it_is() -> None:
    galleries = plan_dataset("fashioniq", Path("fashioniq"), 0, 1.0)
    pictures = {each.path.stem: each.picture for each in galleries.drawings}
    asked = set()
    for category in ("dress", "shirt", "toptee"):
        entries: Any = galleries.documents[Path(f"fashioniq/captions/cap.{category}.val.json")]
        for entry in entries:
            asked |= {pictures[entry[key]].foreground for key in ("candidate", "target")}
    drawn = [each.picture for each in train("fashioniq").drawings]
    assert len(drawn) == 1800
    assert not {picture.foreground for picture in drawn} & asked
    assert not set(drawn) & set(pictures.values())


def test_train_texts_have_every_kind_of_edit_that_queries_have() -> None:
    texts = " / ".join(
        entry["caption"]
        for path, document in train("cirr").documents.items()
        if path.name.startswith("cap.") and isinstance(document, list)
        for entry in document
    )
    for words in ("add ", "remove the", "instead of the", "larger", "trade places", "two ", "to the left of"):
        assert words in texts, words


def test_cirr_train_rows_hold_what_official_ones_do() -> None:
    entries: Any = train("cirr").documents[Path("cirr/captions/cap.rc2.train.json")]
    assert len({entry["pairid"] for entry in entries}) == len(entries)
    for entry in entries:
        members = entry["img_set"]["members"]
        assert len(set(members)) == 6
        assert {entry["reference"], entry["target_hard"]} <= set(members)


def test_groups_of_a_train_split_are_held_out_whole(drawn: tuple[Settings, dict[str, str]]) -> None:
    settings, _ = drawn
    splits = split_triplets(train_split(settings, "cirr").triplets, 0.3, 0)
    assert set(splits) == {"train", "held_out"}


def test_where_no_garment_is_left_the_message_names_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_worlds, "_TRIES", 50)
    with pytest.raises(MiniatureError, match="near_misses or size"):
        plan_train("fashioniq", Path("x"), 0, 2.5, Difficulty())
