"""An unknown id is answered with the known one that is meant, and with how the two differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from setr_lib.benchmarks.near_ids import NearIds, ids_in, meant, near_ids
from setr_lib.cli import main
from setr_lib.datasets import DatasetError, load_queries
from setr_lib.settings import Settings

KNOWN = [
    "dogs/Rex.jpg",
    "007.png",
    "caf\u00e9.png",
    "my dog.jpg",
    "12.webp",
    "a.jpg",
    "b.jpg",
    "deep/er/x.jpg",
]


@pytest.mark.parametrize(
    ("unknown", "known", "reason"),
    [
        ("Dogs/rex.JPG", "dogs/Rex.jpg", "upper and lower case"),
        ("cafe\u0301.png", "caf\u00e9.png", "the Unicode form of accents (NFC or NFD)"),
        ("\uff41.jpg", "a.jpg", "the Unicode form of a character"),
        ("dogs\\Rex.jpg", "dogs/Rex.jpg", "back-slashes"),
        (".\\dogs\\rex.jpg", "dogs/Rex.jpg", "back-slashes in place of '/', './' or a doubled '/' and upper"),
        ("my%20dog.jpg", "my dog.jpg", "URL escapes such as %20"),
        ("caf%C3%A9.png", "caf\u00e9.png", "URL escapes such as %20"),
        ("a", "a.jpg", "the ending, which is missing"),
        ("a.jpeg", "a.jpg", "the ending"),
        (" a.jpg ", "a.jpg", "blanks at the ends of a name"),
        ("a.jpg\u00a0", "a.jpg", "blanks at the ends of a name"),
        ("my  dog.jpg", "my dog.jpg", "blanks inside"),
        ("mydog.jpg", "my dog.jpg", "blanks inside"),
        ("./a.jpg", "a.jpg", "'./' or a doubled '/'"),
        ("dogs//Rex.jpg", "dogs/Rex.jpg", "'./' or a doubled '/'"),
        ("/data/pictures/dogs/Rex.jpg", "dogs/Rex.jpg", "an absolute path"),
        ("C:\\pictures\\a.jpg", "a.jpg", "an absolute path"),
        ("https://example.org/img/a.jpg", "a.jpg", "an address (URL)"),
        ("pictures/a.jpg", "a.jpg", "begins with the image folder's own name, 'pictures'"),
        ("images/val/a.jpg", "a.jpg", "the folder 'images/val' before the id"),
        ("Rex.jpg", "dogs/Rex.jpg", "lacks the folder"),
        ("cats/Rex.jpg", "dogs/Rex.jpg", "in another folder"),
        ("rex.JPG", "dogs/Rex.jpg", "lacks the folder, and the two differ in upper and lower case"),
        (
            "pictures/A.jpeg",
            "a.jpg",
            "own name, 'pictures', and the two differ in upper and lower case and the",
        ),
        ("\ufeffa.jpg", "a.jpg", "an invisible character (U+FEFF)"),
        ("a\u200b.jpg", "a.jpg", "an invisible character (U+200B)"),
        ("'a.jpg'", "a.jpg", "quotation marks"),
        ("12.0", "12.webp", "a whole number written with '.0'"),
        ("7.png", "007.png", "zeros in front of the number"),
        ("0007.png", "007.png", "zeros in front of the number"),
        ("a.jpg;b.jpg", "a.jpg", "2 ids in one cell, separated by ';'"),
        ("a.jpg, B.jpg", "a.jpg", "2 ids in one cell, separated by ','"),
        ("a.jpg|z.jpg", "a.jpg", "2 ids in one cell, separated by '|', and 'z.jpg' is not known"),
        ("['a.jpg', 'b.jpg']", "a.jpg", "2 ids in one cell, a list in brackets"),
        ("dogs/Reks.jpg", "dogs/Rex.jpg", "nearly the same letters"),
    ],
)
def test_the_nearest_known_id_is_named_with_the_reason(unknown: str, known: str, reason: str) -> None:
    found = NearIds(KNOWN).near(unknown, Path("/data/pictures"))
    assert found is not None
    assert found.id == known
    assert reason in found.reason


def test_nothing_is_named_where_nothing_is_like_it() -> None:
    assert meant("zebra-nine", KNOWN) == ""
    assert meant("", KNOWN) == ""
    assert meant("12346", ["12345", "22346"]) == ""
    assert meant("a.jpg", []) == ""
    assert meant("a.jpg", None) == ""


@pytest.mark.parametrize(
    ("cell", "ids"),
    [
        ("a.jpg", ["a.jpg"]),
        ('["a.jpg", "b.jpg"]', ["a.jpg", "b.jpg"]),
        ("['a.jpg', 'b.jpg']", ["a.jpg", "b.jpg"]),
        ("['a.jpg' 'b.jpg']", ["a.jpg", "b.jpg"]),
        ("[a.jpg, b.jpg]", ["a.jpg", "b.jpg"]),
        ("[7, 8]", ["7", "8"]),
        ("('a.jpg',)", ["a.jpg"]),
        ("[]", []),
        ("a.jpg; b.jpg;", ["a.jpg", "b.jpg"]),
        ("[" * 5000 + "]", ["[" * 4999]),
    ],
)
def test_ids_of_a_cell_that_holds_a_list(cell: str, ids: list[str]) -> None:
    assert ids_in(cell)[0] == ids


@settings(max_examples=150, deadline=None)
@given(st.sets(st.text(max_size=12), max_size=8), st.text(max_size=30))
def test_only_known_ids_are_named(known: set[str], unknown: str) -> None:
    found = NearIds(known).near(unknown)
    assert found is None or found.id in known


def test_a_hundred_thousand_ids_are_indexed_once() -> None:
    known = {f"folder{number % 50}/IMG_{number:06d}.JPG": None for number in range(100_000)}
    assert near_ids(known) is near_ids(known)
    for number in range(0, 100_000, 1_000):  # an index for each would take minutes
        assert f"did you mean 'folder{number % 50}/IMG_{number:06d}.JPG'" in meant(
            f"folder{number % 50}\\img_{number:06d}.jpg", known
        )


QUERIES = "reference,modification,targets\n{},make it red,{}\n"


@pytest.mark.parametrize(
    ("reference", "target", "said"),
    [
        ("A.PNG", "", "unknown image 'A.PNG': it is not in {root}; did you mean 'a.png'?"),
        ("a.png", "sub\\b.JPG", "did you mean 'sub/b.JPG'? (the two differ in back-slashes"),
        ("{root}/a.png", "", "did you mean 'a.png'? (this is an absolute path"),
        ("a.png", "b.JPG", "did you mean 'sub/b.JPG'? (this lacks the folder"),
    ],
)
def test_references_and_targets_of_a_folder(
    settings_for: Callable[..., Settings], folder_root: Path, reference: str, target: str, said: str
) -> None:
    text = QUERIES.format(reference.format(root=folder_root), target)
    (folder_root / "queries.csv").write_text(text)
    with pytest.raises(DatasetError) as caught:
        load_queries(settings_for("folder", folder_root), "folder")
    assert said.format(root=folder_root) in str(caught.value)
    assert caught.value.row == "line 2"


def test_official_files_texts_and_rankings_tell_it_too(
    tmp_path: Path, cirr_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "setr.toml"
    config.write_text('[datasets.cirr]\nroot = "cirr"\n[training]\ncaptions = "train.jsonl"\n')
    row = {"image_id": "DEV-1-img0", "dataset": "cirr", "caption": "red", "model": "m", "prompt_hash": "p"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    assert main(["--config", str(config), "captions", "import", str(tmp_path / "captions.jsonl")]) == 1
    assert "did you mean 'dev-1-img0'? (the two differ in upper and lower case)" in capsys.readouterr().err
    row = {"query_id": "07", "dataset": "cirr", "composition": {}, "model": "m", "prompt_hash": "p"}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row))
    assert main(["--config", str(config), "compositions", "import", str(tmp_path / "texts.jsonl")]) == 1
    assert "did you mean '7'? (the two differ in zeros in front of the number)" in capsys.readouterr().err
    (tmp_path / "train.jsonl").write_text('{"image": "Photo.png", "caption": "teal"}\n')
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    assert main(["--config", str(config), "doctor", "--quick", "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["training"]["problems"]
    assert problems == [
        "training images: 1 of 1 are missing, first 'Photo.png'; did you mean 'photo.png'? "
        "(the two differ in upper and lower case)"
    ]
    captions = cirr_root / "captions/cap.rc2.val.json"
    rows = json.loads(captions.read_text())
    rows[0]["target_hard"] = "dev-2-img0.png"
    captions.write_text(json.dumps(rows))
    assert main(["--config", str(config), "doctor", "cirr", "--quick", "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any(
        "did you mean 'dev-2-img0'? (the two differ in the ending, which the id does" in p for p in problems
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.txt", "a.txt is there, and .txt files are not read here: save it as PNG"),
        ("sub/b", "sub/b is there, and files without an ending are not read here"),
        ("c.txt", ""),
        ("../a.txt", ""),
        ("nul\0.txt", ""),
        ("x" * 300, ""),
    ],
)
def test_a_file_that_is_there_and_is_not_read_is_told(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "pictures/sub").mkdir(parents=True)
    for file in ("a.txt", "pictures/a.txt", "pictures/sub/b"):
        (tmp_path / file).write_bytes(b"x")
    told = meant(name, ["zzz.png"], tmp_path / "pictures")
    assert words in told if words else told == ""
