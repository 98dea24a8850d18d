"""Paths in settings and on the command line, and places that nothing can be written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from setr_lib.cli import main
from setr_lib.commands.exchange_texts import is_export
from setr_lib.commands.outputs import check_output_file, check_output_folder
from setr_lib.errors import SetrError
from setr_lib.paths import expanded
from setr_lib.settings import SettingsError, load_settings

ROOT = getattr(os, "geteuid", lambda: 1)() == 0


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SETR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("BLANK", "")
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("plain/x", "plain/x"),
        ("~/x", "/home/someone/x"),
        ("$DATA/x", "/data/x"),
        ("${DATA}/x/$DATA", "/data/x//data"),
        ("a/~/x", "a/~/x"),
        ("$HOME/x", "/home/someone/x"),
        ("$$DATA/x", "$DATA/x"),
        ("50$/x", "50$/x"),
        ("100%/x", "100%/x"),
    ],
)
def test_home_and_variables_are_expanded(text: str, path: str) -> None:
    assert expanded(text) == path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$NOWHERE/x", "the environment variable NOWHERE in '$NOWHERE/x' is not set"),
        ("${NOWHERE}/x", "the environment variable NOWHERE in"),
        ("$BLANK/x", "the environment variable BLANK in '$BLANK/x' is empty"),
        ("${NO-WHERE}/x", "${NO-WHERE} in '${NO-WHERE}/x' is no environment variable"),
        ("~nobody-of-this-name/x", "write the path out"),
    ],
)
def test_what_cannot_be_expanded_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        expanded(text)
    assert said in str(caught.value)


SETTINGS = """
[storage]
root = "$DATA/var"
[models.encoder]
name = "local-dir:${DATA}/clip"
[models.judge]
name = "~/judge"
prompts = "$DATA/prompts"
[models.reranker]
name = "$DATA/reranker"
[spaces.other]
kind = "open_clip"
options = { name = "local-dir:$DATA/other" }
[registry]
tracking_uri = "sqlite:///$DATA/mlflow.db"
[training]
captions = "$DATA/captions.jsonl"
image_root = "~/images"
[datasets.mine]
kind = "folder"
root = "~/pictures"
image_root = "$DATA/pictures"
queries = "${DATA}/queries.csv"
image_captions = "$DATA/captions.json"
"""


def test_every_path_of_the_settings_is_expanded(tmp_path: Path) -> None:
    file = tmp_path / "setr.toml"
    file.write_text(SETTINGS)
    found = load_settings(file)
    mine = found.datasets["mine"]
    assert [str(path) for path in (mine.root, mine.image_root, mine.queries, mine.image_captions)] == [
        "/home/someone/pictures",
        "/data/pictures",
        "/data/queries.csv",
        "/data/captions.json",
    ]
    assert str(found.training.captions) == "/data/captions.jsonl"
    assert str(found.training.image_root) == "/home/someone/images"
    assert found.storage_root == Path("/data/var")
    assert found.encoder_name == "local-dir:/data/clip"
    assert found.models.judge.name == "/home/someone/judge"
    assert found.models.judge.prompts == "/data/prompts"
    assert found.models.reranker.name == "/data/reranker"
    assert found.space_options("other")["name"] == "local-dir:/data/other"
    assert found.tracking_uri == "sqlite:////data/mlflow.db"
    assert found.resolve_text("$DATA/words.txt") == Path("/data/words.txt")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[storage]\nroot = '$NOWHERE/var'", "storage.root"),
        ("[datasets.mine]\nkind = 'folder'\nroot = '${NOWHERE}'", "datasets.mine.root"),
        ("[models.judge]\nname = '$NOWHERE/judge'", "models.judge.name"),
        ("[registry]\ntracking_uri = 'sqlite:///$NOWHERE/x.db'", "registry.tracking_uri"),
    ],
)
def test_an_undefined_variable_is_refused_by_key_and_name(tmp_path: Path, text: str, key: str) -> None:
    (tmp_path / "setr.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "setr.toml")
    assert f"{key}: the environment variable NOWHERE in" in str(caught.value)


def test_paths_of_the_command_line_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    (tmp_path / "setr.toml").write_text("[datasets.mine]\nkind = 'folder'\nroot = '.'\n")
    (tmp_path / "queries.csv").write_text("reference,modification,target\na.png,red,b.png\n")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    command = ["--config", "${HERE}/setr.toml", "score", "mine", "--split", "all"]
    assert main([*command, "$HERE/none.json"]) == 1
    assert f"setr: {tmp_path}/none.json: cannot be read" in capsys.readouterr().err
    (tmp_path / "$NOWHERE.json").write_text('{"0": ["b.png"]}')
    assert main([*command, "$NOWHERE.json"]) == 0  # there is a file of that very name
    with pytest.raises(SystemExit) as stopped:
        main([*command, "$NOWHERE/ranking.json"])
    assert stopped.value.code == 2
    assert "the environment variable NOWHERE in '$NOWHERE/ranking.json' is not set" in capsys.readouterr().err
    monkeypatch.setenv("SETR_CONFIG", "$HERE/setr.toml")
    assert load_settings().datasets["mine"].root == Path()


def never(file: Path) -> bool:
    return False


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("file", "is a file: name a folder"),
        ("file/below", "cannot be made: "),
        ("file/below/deeper", "file is no folder"),
        ("gone", "leads nowhere"),
        pytest.param(
            "locked", "cannot be written to", marks=pytest.mark.skipif(ROOT, reason="root may write anywhere")
        ),
    ],
)
def test_a_folder_that_nothing_can_be_written_into(tmp_path: Path, output: str, said: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "gone").symlink_to(tmp_path / "away")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(SetrError, match=f"--output .*{said}"):
        check_output_folder(tmp_path / output)
    check_output_folder(tmp_path / "new" / "deeper")
    check_output_folder(tmp_path)
    check_output_folder(None)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("folder", "it is a folder: name a file"),
        ("file/below.png", "is a file: name a folder"),
        ("file", "is there already, and no file of this command: name another, or remove it"),
    ],
)
def test_a_file_that_cannot_be_written(tmp_path: Path, output: str, said: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SetrError, match=f"--output .*{said}"):
        check_output_file(tmp_path / output, never)
    check_output_file(tmp_path / "file", lambda file: True)
    check_output_file(tmp_path / "empty", never)
    check_output_file(tmp_path / "new" / "file", never)
    check_output_file(None, never)


def test_an_earlier_export_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text('{"dataset": "cirr", "image_id": "a", "model": "m"}\n')
    (tmp_path / "mine.jsonl").write_text('{"image": "a"}\n')
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\xff")
    assert [is_export(path) for path in sorted(tmp_path.iterdir())] == [False, True, False]


@pytest.mark.parametrize(
    "command",
    [
        ["submit", "cirr"],
        ["search", "photo.png", "red"],
        ["captions", "export"],
        ["compositions", "export"],
        ["texts", "export", "none"],
        ["miniature", "train"],
    ],
)
def test_output_is_checked_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (tmp_path / "setr.toml").write_text("[datasets.cirr]\nroot = 'none'\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    assert main(["--config", "setr.toml", *command, "--output", "photo.png"]) == 1
    assert "setr: --output photo.png: is " in capsys.readouterr().err
    assert (tmp_path / "photo.png").read_bytes() == before
