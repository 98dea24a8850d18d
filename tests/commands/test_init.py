"""``setr init``: a first settings file that says what it does and loads, or a refusal that says why not."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from setr_lib.cli import main
from setr_lib.commands.init import data_set_name, section
from setr_lib.commands.init import look as look_at
from setr_lib.datasets import evaluation_sets, load_queries
from setr_lib.settings import Settings, load_settings
from tests.tiny_judges import tiny_picture

Output = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four pictures, one in a folder of it; the current folder is the one around it."""
    folder = tmp_path / "My Photos"
    (folder / "dogs").mkdir(parents=True)
    for name in ("a.png", "b.png", "dogs/rex.png", "dogs/rex 2.png"):
        (folder / name).write_bytes(tiny_picture(len(name)))
    monkeypatch.chdir(tmp_path)
    return folder


def queries(file: Path, rows: str) -> Path:
    file.write_text(f"reference,modification,targets\n{rows}", encoding="utf-8")
    return file


def test_the_file_has_the_defaults_and_the_data_set(photos: Path, tmp_path: Path, capsys: Output) -> None:
    assert main(["init", "My Photos"]) == 0
    made = load_settings(tmp_path / "setr.toml")
    (only,) = evaluation_sets(made)
    assert (only.key, only.root, only.has_queries) == ("my-photos", photos, False)
    defaults = Settings(base_dir=tmp_path, datasets=made.datasets)
    assert made.model_dump() == defaults.model_dump()
    out = capsys.readouterr().out
    assert "data set 'my-photos', 4 pictures" in out
    asked = [
        shlex.split(line.strip().split("   ")[0]) for line in out.splitlines() if re.match(r"  \S", line)
    ]
    assert [command[1] for command in asked] == ["doctor", "plan", "run", "search"]
    assert asked[2][2:] == ["my-photos", "--until", "gallery_embeddings"]
    assert Path(asked[3][2]).is_file(), "the example can be typed as it is printed"


def test_every_line_of_the_data_set_says_what_it_does(photos: Path, tmp_path: Path) -> None:
    queries(tmp_path / "q.csv", "a.png,make it red,b.png\nb.png,at night,\n")
    assert main(["init", "My Photos", "--queries", "q.csv"]) == 0
    text = (tmp_path / "setr.toml").read_text(encoding="utf-8")
    lines = text.split("[datasets.my-photos]\n")[1].split("\n\n")[0].splitlines()
    assert [line.split(" = ")[0] for line in lines] == ["kind", "root", "queries"]
    assert all(" # " in line for line in lines)
    assert "2 queries, 1 of them with targets" in lines[2]
    made = load_settings(tmp_path / "setr.toml")
    assert load_queries(made, "my-photos").height == 2


def test_queries_in_the_folder_are_found_and_measured(photos: Path, capsys: Output) -> None:
    queries(photos / "queries.csv", "a.png,make it red,b.png\n")
    assert main(["init", str(photos)]) == 0
    out = capsys.readouterr().out
    assert "1 query" in out and "run my-photos " in out and "--until" not in out
    assert "--limit" not in out, "one query needs no trial"


def test_many_queries_are_tried_on_a_few_first(photos: Path, capsys: Output) -> None:
    queries(photos / "queries.csv", "a.png,make it red,b.png\n" * 6)
    assert main(["init", str(photos)]) == 0
    assert "run my-photos --limit 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("reference,caption\na.png,make it red\n", "'caption'"),
        ("reference,modification,targets\na.png,make it red,c.png\n", "'c.png'"),
        ("reference,modification,targets\na.png,,b.png\n", "'modification' is empty"),
    ],
)
def test_wrong_queries_are_named_and_nothing_is_written(
    photos: Path, tmp_path: Path, capsys: Output, table: str, said: str
) -> None:
    (tmp_path / "q.csv").write_text(table, encoding="utf-8")
    assert main(["init", "My Photos", "--queries", "q.csv"]) == 1
    error = capsys.readouterr().err
    assert said in error and "q.csv" in error
    assert not (tmp_path / "setr.toml").exists()


def test_a_settings_file_is_never_changed(photos: Path, tmp_path: Path, capsys: Output) -> None:
    text = '[datasets.my-photos]\nkind = "folder"\nroot = "elsewhere"\n'
    (tmp_path / "setr.toml").write_text(text, encoding="utf-8")
    assert main(["init", "My Photos"]) == 1
    printed = capsys.readouterr()
    assert (tmp_path / "setr.toml").read_text(encoding="utf-8") == text
    assert "stays as it is" in printed.err
    added = tomllib.loads(text + printed.out)
    assert added["datasets"]["my-photos-2"]["root"] == "My Photos"
    (tmp_path / "setr.toml").write_text(text.replace("elsewhere", "My Photos"), encoding="utf-8")
    assert main(["init", "My Photos"]) == 1
    printed = capsys.readouterr()
    assert "has this folder already, as the data set 'my-photos'" in printed.err and printed.out == ""


def test_a_broken_settings_file_above_is_no_hindrance(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (tmp_path / "setr.toml").write_text("a = \n", encoding="utf-8")
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert main(["init", str(photos)]) == 0
    assert f"in place of {tmp_path / 'setr.toml'}" in capsys.readouterr().out
    assert load_settings(below / "setr.toml").datasets["my-photos"].root == photos


def test_queries_for_a_folder_that_is_there_are_a_line_to_add(
    photos: Path, tmp_path: Path, capsys: Output
) -> None:
    assert main(["init", "My Photos"]) == 0
    capsys.readouterr()
    queries(tmp_path / "q.csv", "a.png,make it red,b.png\n")
    assert main(["init", "My Photos", "--queries", "q.csv"]) == 1
    printed = capsys.readouterr()
    assert "as the data set 'my-photos': put this line into its section" in printed.err
    assert tomllib.loads(printed.out) == {"queries": "q.csv"}


@pytest.mark.parametrize("name", [b"new\nline", b"\x1b[31m", b"latin-\xe9"])
def test_a_folder_that_settings_cannot_name_is_refused_and_nothing_is_written(
    photos: Path, tmp_path: Path, capsys: Output, name: bytes
) -> None:
    named = Path(os.fsdecode(name))
    try:
        photos.rename(tmp_path / named)
    except OSError:
        pytest.skip("this file system has no such names")
    assert main(["init", str(named)]) == 1
    assert "rename it" in capsys.readouterr().err
    assert not (tmp_path / "setr.toml").exists()


def test_an_example_that_begins_with_a_dash_can_be_typed(
    photos: Path, tmp_path: Path, capsys: Output
) -> None:
    photos.rename(tmp_path / "-p")
    assert main(["init", "--", "-p"]) == 0
    assert "search ./-p/a.png " in capsys.readouterr().out


@pytest.mark.parametrize("made", ["nothing", "file", "empty", "texts"])
def test_what_is_no_folder_of_pictures_is_refused(photos: Path, capsys: Output, made: str) -> None:
    other = photos.parent / "other"
    if made == "file":
        other.write_text("x", encoding="utf-8")
    elif made != "nothing":
        other.mkdir()
        if made == "texts":
            (other / "notes.txt").write_text("x", encoding="utf-8")
    assert main(["init", "other"]) == 1
    error = capsys.readouterr().err
    expected = {"nothing": "no such folder", "file": "is a file", "empty": "no picture", "texts": "txt"}
    assert expected[made] in error
    assert not (photos.parent / "setr.toml").exists()


def test_pictures_that_cannot_be_read_are_told(photos: Path, tmp_path: Path, capsys: Output) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("x", encoding="utf-8")
    assert main(["init", "My Photos"]) == 0
    error = capsys.readouterr().err
    assert "1 of 5 pictures that were opened cannot be read (broken.jpg: " in error and ".txt" in error
    assert main(["--quiet", "init", "My Photos"]) == 1, "there is one now"


def test_the_example_is_a_picture_that_can_be_read(photos: Path, capsys: Output) -> None:
    (photos / "a.png").write_bytes(b"no picture")
    assert main(["init", "My Photos"]) == 0
    assert "search 'My Photos/b.png'" in capsys.readouterr().out


def test_pictures_none_of_which_can_be_read_make_no_project(
    photos: Path, tmp_path: Path, capsys: Output
) -> None:
    for picture in photos.rglob("*.png"):
        picture.write_bytes(b"no picture")
    assert main(["init", "My Photos"]) == 1
    assert "4 of 4 pictures that were opened cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "setr.toml").exists()


def test_where_a_variable_names_other_settings_the_new_ones_are_not_said_to_be_used(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    other = tmp_path / "other.toml"
    other.write_text("", encoding="utf-8")
    monkeypatch.setenv("SETR_CONFIG", str(other))
    assert main(["init", "My Photos"]) == 0
    printed = capsys.readouterr()
    assert "in place of" not in printed.out
    assert f"commands use {other} and not this file: `unset SETR_CONFIG`" in printed.err


@pytest.mark.parametrize(
    "typed", [["init", "My Photos", "--config", "x.toml"], ["--config", "x.toml", "init", "."]]
)
def test_another_name_for_the_settings_file_is_refused(
    photos: Path, tmp_path: Path, capsys: Output, typed: list[str]
) -> None:
    assert main(typed) == 1
    assert "takes no --config" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.toml"))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/data/Été 2024", "ete-2024"),
        ("/data/shop_images", "shop-images"),
        ("/data/cirr", "mine"),
        ("/", "mine"),
        ("/data/日本", "mine"),
    ],
)
def test_the_data_set_is_called_as_the_folder_where_that_can_be(folder: str, name: str) -> None:
    assert data_set_name(Path(folder)) == name
    assert data_set_name(Path(folder), frozenset({name, f"{name}-2"})) == f"{name}-3"


def test_odd_paths_are_stated_so_that_they_are_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    odd = tmp_path / '~a "$HOME" b\\c'
    odd.mkdir()
    (odd / "a.png").write_bytes(tiny_picture(0))
    monkeypatch.chdir(tmp_path)
    stated = tomllib.loads(section(look_at(odd, None, tmp_path)))["datasets"]
    ((name, described),) = stated.items()
    (tmp_path / "setr.toml").write_text(section(look_at(odd, None, tmp_path)), encoding="utf-8")
    read = load_settings(tmp_path / "setr.toml")
    assert read.resolve(read.datasets[name].root).samefile(odd)
    assert described["kind"] == "folder"
    assert main(["init", str(odd)]) == 1
    assert f"has this folder already, as the data set {name!r}" in capsys.readouterr().err
