"""``setr`` as a person meets it: what it prints, where errors go, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from setr_lib.cli import main
from setr_lib.commands.env import environment
from setr_lib.settings import load_settings


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
    assert "make demo" not in error
    assert "setr env --write" in error and "dagster job execute -m setr_assets.definitions" in error
    (config.parent / "Makefile").write_text("all:\ndemo: setup\n\techo\n", encoding="utf-8")
    main(["--config", str(config), *command])
    error = capsys.readouterr().err
    assert "or run `make demo`" in error and "dagster" not in error


def test_errors_are_one_message_without_traceback(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "search", "image.png", "make it red"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("setr: ")
    assert "gallery_embeddings" in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("text", "named"),
    [("[coarse]\ntop_k = 0\n", "coarse.top_k"), ("[nonsense]\n", "nonsense"), ("a = \n", "not valid TOML")],
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
