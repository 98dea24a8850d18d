"""LaSCo: its query files and its two kinds of corpus file, recall worked out by hand, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from setr_lib.cli import main
from setr_lib.datasets import DatasetError, evaluation_set, evaluation_sets, load_gallery, load_queries
from setr_lib.settings import Settings
from setr_lib.tables import QUERIES

Build = Callable[..., Settings]

VAL = [42, 73, 74, 133, 136, 139]


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def coco(number: int, split: str = "val") -> str:
    return f"{split}2014/COCO_{split}2014_{number:012d}.jpg"


def row(qid: int, query: int, text: str, target: int, split: str = "val") -> dict[str, Any]:
    return {
        "qid": qid,
        "query-image": [query, coco(query, split)],
        "query-text": text,
        "target-image": [target, coco(target, split)],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "lasco"
    rows = [
        row(42000, 42, "The person is riding the bike ", 73),
        row(42001, 42, "There are two dogs", 74),
        row(133002, 133, "It is night", 136),
    ]
    write_json(folder / "lasco_val.json", rows)
    corpus = [{"id": number, "path": f"val/{coco(number)}"} for number in VAL]
    write_json(folder / "lasco_val_corpus.json", corpus)
    write_json(folder / "lasco_train.json", [row(9000, 9, "The cat is black", 25, "train")])
    write_json(folder / "lasco_train_corpus.json", {str(number): coco(number, "train") for number in (9, 25)})
    return folder


@pytest.fixture
def command(root: Path) -> list[str]:
    config = root.parent / "setr.toml"
    config.write_text('[storage]\nroot = "var"\n[datasets.lasco]\nroot = "lasco"\n', encoding="utf-8")
    return ["--config", str(config)]


def test_queries_and_gallery_of_both_splits(root: Path, settings_for: Build) -> None:
    settings = settings_for("lasco", root, splits=["train", "val"])
    queries = load_queries(settings, "lasco-val")
    assert queries.schema == QUERIES
    assert queries.select("query_id", "reference_id", "modification", "target_ids").rows() == [
        ("42000", "42", "The person is riding the bike", ["73"]),
        ("42001", "42", "There are two dogs", ["74"]),
        ("133002", "133", "It is night", ["136"]),
    ]
    gallery = load_gallery(settings, "lasco-val")
    assert gallery["image_id"].to_list() == [str(number) for number in VAL]
    assert gallery["path"][0] == f"{root}/{coco(42)}", "the corpus of val has another folder before it"
    train = load_gallery(settings, "lasco-train")
    assert train.select("image_id", "path").rows() == [
        ("9", f"{root}/{coco(9, 'train')}"),
        ("25", f"{root}/{coco(25, 'train')}"),
    ]
    assert load_queries(settings, "lasco-train")["target_ids"].to_list() == [["25"]]


def test_val_is_evaluated_unless_settings_say_otherwise(root: Path, settings_for: Build) -> None:
    assert [each.key for each in evaluation_sets(settings_for("lasco", root))] == ["lasco-val"]


def test_the_authors_repository_keeps_the_files_under_downloads(root: Path, settings_for: Build) -> None:
    before = load_queries(settings_for("lasco", root), "lasco-val")
    (root / "downloads").mkdir()
    for file in root.glob("*.json"):
        file.rename(root / "downloads" / file.name)
    assert load_queries(settings_for("lasco", root), "lasco-val").equals(before)
    assert load_gallery(settings_for("lasco", root), "lasco-val")["path"][0] == f"{root}/{coco(42)}"


def test_a_qid_that_comes_again_is_another_query(root: Path, settings_for: Build) -> None:
    rows = [row(7000, 42, "one", 73), row(7000, 73, "two", 42), row(7000, 74, "three", 42)]
    write_json(root / "lasco_val.json", rows)
    found = load_queries(settings_for("lasco", root), "lasco-val")
    assert found["query_id"].to_list() == ["7000", "7000-2", "7000-3"]


def test_recall_is_of_the_target_and_keeps_the_reference(
    root: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ranked = {
        "42000": [42, 73, 74, 133, 136, 139],  # rank 2, behind the reference
        "42001": [74, 42, 73, 133, 136, 139],  # rank 1
        "133002": ["133", "42", "73", "74", "139", "136"],  # rank 6; ids as text will do
    }
    file = write_json(root.parent / "mine.json", ranked)
    assert main([*command, "score", "lasco", "--split", "val", str(file), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    found = {row["metric"]: row["value"] for row in rows}
    assert found == pytest.approx(
        {"R@1": 100 / 3, "R@5": 200 / 3, "R@10": 100.0, "R@50": 100.0, "R@100": 100.0}
    )
    assert {row["comparable"] for row in rows} == {False}
    assert "3 queries (official: 30,037)" in rows[0]["label"]
    assert "gallery of 6 images (official: 39,826)" in rows[0]["label"]


def test_without_the_corpus_rankings_are_scored_and_the_gallery_is_not_listed(
    root: Path, command: list[str], settings_for: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "lasco_val_corpus.json").unlink()
    ranked = {"42000": [73], "42001": [42], "133002": [136]}
    file = write_json(root.parent / "mine.json", ranked)
    assert main([*command, "score", "lasco", "--split", "val", str(file), "--json"]) == 0
    found = capsys.readouterr()
    assert {row["metric"]: row["value"] for row in json.loads(found.out)} == pytest.approx({"R@1": 200 / 3})
    assert "LaSCo's corpus is absent" in found.err
    with pytest.raises(DatasetError, match=r"lasco_val_corpus\.json: there is no such file"):
        load_gallery(settings_for("lasco", root), "lasco-val")


def test_circus_labels_name_images_by_their_files_of_2014(
    root: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = {
        "query_id": "lasco_q_test_133002",
        "query_text": "It is night.",
        "query_img_path": f"/data/LASCO/{coco(133)}",
        "pos_cand_list": ["lasco_img_136"],
    }
    labels = root.parent / "required.jsonl"
    labels.write_text(json.dumps(labelled) + "\n", encoding="utf-8")
    file = write_json(root.parent / "mine.json", {"42000": [73], "42001": [42], "133002": [136]})
    score = [*command, "score", "lasco", "--split", "val", str(file), "--json"]
    assert main([*score, "--labels", f"required={labels}"]) == 0
    found = {row["metric"]: row for row in json.loads(capsys.readouterr().out)}
    assert (found["R@1/required"]["value"], found["R@1/required"]["n_queries"]) == (100.0, 1)
    assert found["R@1"]["value"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("entry", [0, -3, 1.5, True, "042", "x", None])
def test_what_is_no_coco_id_is_refused_in_rankings(
    root: Path, command: list[str], capsys: pytest.CaptureFixture[str], entry: object
) -> None:
    file = write_json(root.parent / "mine.json", {"42000": [entry], "42001": [42], "133002": [136]})
    assert main([*command, "score", "lasco", "--split", "val", str(file)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "'42000'" in told and "positive whole number" in told


def test_the_doctor_counts_files_and_images(
    root: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "val2014").mkdir()
    for number in VAL[:4]:
        Image.new("RGB", (4, 4), "teal").save(root / coco(number))
    main([*command, "doctor", "lasco", "--json"])
    (found,) = json.loads(capsys.readouterr().out)["evaluation_sets"]
    assert (found["queries"], found["images"]["ok"], found["images"]["missing"]) == (3, 4, 2)
    problems = " ".join(found["problems"])
    assert "3 entries, officially 30,037" in problems and "6 entries, officially 39,826" in problems
    assert "cocodataset.org, 2014 Val images" in problems
    (root / "lasco_val.json").unlink()
    main([*command, "doctor", "lasco"])
    told = " ".join(capsys.readouterr().out.split())
    assert "lasco_val.json is missing" in told and "github.com/levymsn/LaSCo" in told


def test_train_has_no_published_counts_of_its_own(root: Path, settings_for: Build) -> None:
    train = evaluation_set(settings_for("lasco", root, splits=["train"]), "lasco-train")
    assert not train.has_official_counts
    assert [file.entries for file in train.benchmark.files(train)] == [None, None]


def changed(**values: Any) -> list[dict[str, Any]]:
    return [row(1000, 42, "one", 73), row(42001, 42, "two", 74) | values]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (changed(qid="42001"), "'qid' must be a whole number"),
        (changed(**{"query-text": "  "}), "'query-text' is empty"),
        (changed(**{"query-image": 42}), "'query-image' must be COCO's id and a path"),
        (changed(**{"target-image": [True, coco(1)]}), "'target-image' must be COCO's id and a path"),
        (changed(**{"target-image": [75, coco(75)]}), "'target-image' names the unknown image '75'"),
        ([changed()[0], {"qid": 42001}], "the key 'query-image' is missing"),
        ([changed()[0], "text"], "must be an object"),
    ],
)
def test_a_wrong_query_is_named(root: Path, settings_for: Build, rows: Any, reason: str) -> None:
    file = write_json(root / "lasco_val.json", rows)
    with pytest.raises(DatasetError) as caught:
        load_queries(settings_for("lasco", root), "lasco-val")
    assert caught.value.file == file
    assert str(caught.value.row).startswith("row 1 (counting from 0)")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("corpus", "place", "reason"),
    [
        ([{"id": 42, "path": coco(42)}, {"id": 42, "path": coco(42)}], "row 1", "duplicate image id 42"),
        ([{"id": 42, "path": coco(42)}, {"id": "73", "path": coco(73)}], "row 1", "'id' must be a whole"),
        ([{"id": 42, "path": coco(42)}, {"id": 73}], "row 1", "the key 'path' is missing"),
        ([{"id": 42, "path": f"../{coco(42)}"}], "row 0", "leaves the data folder"),
        ({"042": coco(42)}, "image '042'", "positive whole number"),
        ({"42": 42}, "image '42'", "must be text"),
        ("text", "None", "must be a list of images"),
    ],
)
def test_a_wrong_corpus_is_named(
    root: Path, settings_for: Build, corpus: object, place: str, reason: str
) -> None:
    file = write_json(root / "lasco_val_corpus.json", corpus)
    for load in (load_gallery, load_queries):
        with pytest.raises(DatasetError) as caught:
            load(settings_for("lasco", root), "lasco-val")
        assert caught.value.file == file
        assert str(caught.value.row).startswith(place) and reason in str(caught.value)
