"""What ``setr doctor`` tells of damaged places before a run does."""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_lib.cli import main


@pytest.mark.parametrize("name", ["cache", "tables", "lancedb", "reports", "checkpoints"])
@pytest.mark.parametrize("linked", [False, True], ids=["file", "dead link"])
def test_a_file_or_a_dead_link_in_the_place_of_a_folder_is_told(
    tmp_path: Path, name: str, linked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "setr.toml").write_text("", encoding="utf-8")
    place = tmp_path / "var" / name
    place.parent.mkdir()
    place.symlink_to("/nowhere/at/all") if linked else place.write_text("x", encoding="utf-8")
    assert main(["--config", str(tmp_path / "setr.toml"), "doctor"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert (
        f"on disk {place}: broken: is a {'link that leads nowhere' if linked else 'file where a folder'}"
        in told
    )


@pytest.mark.parametrize(("name", "content"), [("dagster.yaml", "- a: ["), ("history", "x")])
def test_damaged_settings_and_folders_of_dagster_are_told(
    tmp_path: Path,
    name: str,
    content: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "dagster_home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    home.mkdir()
    (home / name).write_text(content, encoding="utf-8")
    (tmp_path / "setr.toml").write_text("", encoding="utf-8")
    main(["--config", str(tmp_path / "setr.toml"), "doctor"])
    told = " ".join(capsys.readouterr().out.split())
    assert f"{home / name}: broken" in told and "`setr repair dagster`" in told
