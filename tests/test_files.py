"""Files are written as a whole: what is there stays until its successor is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_lib.files import read_json, replacing, shown_address, write_json, write_text


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "made" / "page.html"
    write_text(path, "first")
    with pytest.raises(ValueError, match="half"), replacing(path) as partial:
        partial.write_text("second, by hal")
        assert path.read_text() == "first"
        raise ValueError("half")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    assert path.read_text() == "first"


def test_a_file_is_as_readable_as_any_other_of_its_owner(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "whole", "text")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_read_back_and_what_is_no_object_is_none(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    assert read_json(path) is None
    write_json(path, {"caption": "ein Stern, größer"})
    assert read_json(path) == {"caption": "ein Stern, größer"}
    for content in ("[1]", "{"):
        path.write_text(content)
        assert read_json(path) is None


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql+psycopg2://me:secret@host:5432/mlflow", "postgresql+psycopg2://me:***@host:5432/mlflow"),
        ("mysql://me:p@ss/word@host/mlflow", "mysql://me:***@host/mlflow"),
        ("postgresql://me@host/mlflow", "postgresql://me@host/mlflow"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////home/a:b@c/mlflow.db", "sqlite:////home/a:b@c/mlflow.db"),
    ],
)
def test_a_shown_address_has_no_password(address: str, shown: str) -> None:
    assert shown_address(address) == shown


def test_commands_show_no_password_of_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from setr_lib.cli import main

    monkeypatch.setenv("MLFLOW_PG_PASSWORD", "hunter2")
    path = tmp_path / "setr.toml"
    address = "postgresql+psycopg2://me:${MLFLOW_PG_PASSWORD}@127.0.0.1:1/mlflow"
    path.write_text(f'[registry]\ntracking_uri = "{address}"\n', encoding="utf-8")
    main(["--config", str(path), "doctor", "--json"])
    told = "".join(capsys.readouterr())
    assert "me:***@127.0.0.1" in told and "hunter2" not in told
