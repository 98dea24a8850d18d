"""Pipes, folders and half pages where SETR's files should be: found without waiting for them, set aside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from damages import Damage, a_file, a_folder, assert_told, cut, gone, mend, name_of

from setr_lib.damage import Part
from setr_lib.errors import SetrError


def a_pipe(path: Path) -> None:
    gone(path)
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("cache", "var/cache/model_calls.sqlite"),
        ("registry", "var/mlflow.db"),
        ("dagster", "dagster_home/history/runs.db"),
        ("tables", "var/tables/queries/cirr-val.parquet"),
        ("checkpoints", "var/checkpoints/run/result.json"),
        ("checkpoints", "var/checkpoints/run/adapter"),
        ("reports", "var/reports/cirr-val"),
        ("reports", "var/reports/cirr-val/index.html"),
    ],
)
def test_a_pipe_is_set_aside(
    tmp_path: Path, part: Part, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text("x", encoding="utf-8")
    a_pipe(path)
    assert mend(tmp_path, part) == 0
    assert f"{path} is a" in capsys.readouterr().out
    assert not path.exists()
    assert mend(tmp_path, part) == 0
    assert "nothing is damaged" in capsys.readouterr().out


def test_a_pipe_in_the_place_of_the_database_is_called_one(tmp_path: Path) -> None:
    from setr_lib.registry.database import look

    os.mkfifo(tmp_path / "mlflow.db")
    with pytest.raises(SetrError) as told:
        look(tmp_path / "mlflow.db")
    assert_told(str(told.value), "registry", tmp_path / "mlflow.db", "a pipe")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter/adapter_config.json", a_folder),
        ("adapter/adapter_model.safetensors", a_folder),
        ("adapter", a_file),
    ],
    ids=name_of,
)
def test_what_stands_where_a_trainings_file_should_be_is_found(
    tmp_path: Path, name: str, damage: Damage
) -> None:
    path = tmp_path / "var/checkpoints/run" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")
    damage(path)
    assert mend(tmp_path, "checkpoints", "--look") == 1
    assert mend(tmp_path, "checkpoints") == 0
    assert not path.exists()


def test_half_a_report_page_is_set_aside(tmp_path: Path) -> None:
    page = tmp_path / "var/reports/cirr-val/index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<!doctype html><html><body>" + "a report " * 40 + "</body></html>\n", encoding="utf-8")
    assert mend(tmp_path, "reports", "--look") == 0
    cut(page)
    assert mend(tmp_path, "reports") == 0
    assert not page.exists()


def test_a_pipe_within_a_vector_table_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = tmp_path / "var/lancedb/t.lance/_versions"
    versions.mkdir(parents=True)
    os.mkfifo(versions / "1.manifest")
    assert mend(tmp_path, "vectors", "--look") == 1
    assert "1.manifest is a pipe" in capsys.readouterr().out
    assert mend(tmp_path, "vectors") == 0


def test_a_file_in_the_place_of_dagsters_home_makes_room_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    home = tmp_path / "dagster_home"
    home.write_text("x", encoding="utf-8")
    assert mend(tmp_path, "dagster") == 0
    assert "`setr env --write`" in capsys.readouterr().out
    assert home.is_dir()
