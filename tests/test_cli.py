"""``setr`` as a person meets it: what it prints, where errors go, and how it exits."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from setr_lib.cli import main
from setr_lib.commands.env import environment
from setr_lib.pipeline.storage import or_run_everything
from setr_lib.settings import load_settings
from setr_lib.typed import typed


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "setr.toml"
    path.write_text('[datasets.cirr]\nkind = "cirr"\nroot = "cirr"\nsplits = ["val"]\n', encoding="utf-8")
    return path


def test_leaderboard_before_any_evaluation_is_an_empty_array(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "leaderboard", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == []
    assert "materialize evaluation_report" in printed.err


@pytest.mark.parametrize("command", [["leaderboard"], ["search", "image.png", "make it red"]])
def test_what_is_not_made_yet_is_made_by_a_command_that_is_there(
    config: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    main(["--config", str(config), *command])
    error = capsys.readouterr().err
    asked = shlex.split(error.split("or run `")[1].split("`")[0])
    assert asked[asked.index("run") :] == (
        ["run"] if command == ["leaderboard"] else ["run", "cirr-val", "--until", "gallery_embeddings"]
    )
    assert shutil.which(asked[0]), "the command can be typed as it is printed"
    assert "make demo" not in error and "dagster" not in error


def test_errors_are_one_message_without_traceback(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "search", "image.png", "make it red"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("setr: ")
    assert "gallery_embeddings" in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[coarse]\ntop_k = 0\n", "coarse.top_k"),
        ("[nonsense]\n", "nonsense"),
        ("a = \n", "not valid TOML"),
        (
            "[models.judge]\ndtype = 'auto'\n\n[models.judge]\n",
            "line 4: the section [models.judge] is there already: put its keys into that one",
        ),
        ("[coarse]\ntop_k = 9\ntop_k = 8\n", "line 3: this key is there already: leave one of the two"),
    ],
)
def test_broken_settings_file_names_file_and_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    path = tmp_path / "setr.toml"
    path.write_text(text, encoding="utf-8")
    assert main(["--config", str(path), "leaderboard"]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert named in error


def test_missing_settings_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "none.toml"), "env"]) == 1
    assert "no such settings file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["search", "image.png"], ["plan", "--limit", "0"], ["search", "a", "b", "--k", "x"]],
)
def test_wrong_command_line_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: setr" in capsys.readouterr().err


def test_unknown_data_set_is_answered_with_the_known_ones(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "search", "a.png", "x", "--dataset", "coco"]) == 1
    assert "cirr-val" in capsys.readouterr().err


def test_plan_without_data_says_which_file_is_missing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "plan", "--counts-only"]) == 1
    printed = capsys.readouterr()
    assert "split.rc2.val.json" in printed.out.replace("\n", "")


def test_env_is_printed_and_written_beside_the_settings(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = environment(load_settings(config))
    env_file = config.parent / ".env"
    env_file.write_text("MINE=1\n", encoding="utf-8")
    assert main(["--config", str(config), "env", "--write"]) == 0
    printed = capsys.readouterr().out
    assert f"DAGSTER_HOME={config.parent / 'dagster_home'}" in printed.splitlines()
    written = env_file.read_text(encoding="utf-8")
    assert written.startswith("MINE=1\n")
    assert all(f"{name}=" in written for name in expected)
    assert main(["--config", str(config), "env", "--write", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert env_file.read_text(encoding="utf-8") == written
    assert (config.parent / "dagster_home" / "dagster.yaml").is_file()


def test_env_values_with_spaces_are_read_back_by_dotenv(tmp_path: Path) -> None:
    from dotenv import dotenv_values

    folder = tmp_path / "my work #1"
    folder.mkdir()
    path = folder / "setr.toml"
    path.write_text("", encoding="utf-8")
    assert main(["--config", str(path), "env", "--write", "--quiet"]) == 0
    assert dotenv_values(folder / ".env") == environment(load_settings(path))


def test_the_miniatures_own_command_is_named_where_it_makes_what_is_missing(config: Path) -> None:
    (config.parent / "Makefile").write_text("all:\ndemo: setup\n\techo\n", encoding="utf-8")
    text = config.read_text(encoding="utf-8").replace('["val"]', '["val", "test1"]')
    config.write_text(text, encoding="utf-8")
    settings = load_settings(config)
    assert or_run_everything(settings, "cirr-val").endswith("run cirr-val`, or `make demo`")
    # A run without names leaves hidden splits out.
    assert or_run_everything(settings, "cirr-test1").endswith("run cirr-test1`")


def test_a_program_that_the_shell_does_not_find_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "venv").mkdir()
    for name in ("python", "setr"):
        (tmp_path / "venv" / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / "venv" / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert typed("run mine") == "venv/setr run mine"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert typed("run mine") == f"{tmp_path}/venv/setr run mine"
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}/venv")
    assert typed("run mine") == "setr run mine"
    (tmp_path / "venv" / "setr").unlink()
    assert typed("run mine") == f"{tmp_path}/venv/python -m setr_lib.cli run mine"
