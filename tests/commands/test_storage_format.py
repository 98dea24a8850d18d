"""The format number of the storage: written with what is first stored, read before anything else."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from setr_lib.cli import main
from setr_lib.pipeline import context as contexts
from setr_lib.pipeline import storage_format
from setr_lib.pipeline.context import pipeline_context
from setr_lib.pipeline.storage_format import FormatError, format_problem, stamp, use_format
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import IMPORTED_CAPTIONS


@pytest.fixture(autouse=True)
def fresh_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "_contexts", {})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "setr.toml").write_text("[miniature]\nsize = 0.01\n")
    return load_settings(tmp_path / "setr.toml")


def number(settings: Settings) -> object:
    path = settings.storage_root / "format.json"
    return json.loads(path.read_text())["format"] if path.exists() else None


def stored(settings: Settings, text: str | None = None) -> None:
    """Something is stored, and a format number where ``text`` has one."""
    settings.storage_root.mkdir(exist_ok=True)
    (settings.storage_root / "tables").mkdir(exist_ok=True)
    if text is not None:
        (settings.storage_root / "format.json").write_text(text)


def test_nothing_is_made_where_nothing_is_stored(settings: Settings) -> None:
    use_format(settings)
    stamp(settings)
    assert main(["--config", str(settings.base_dir / "setr.toml"), "leaderboard"]) in (0, 1)
    assert not settings.storage_root.exists()


def test_a_first_table_is_stored_with_its_format(settings: Settings) -> None:
    pipeline_context(settings).tables.write(
        "imported_captions", IMPORTED_CAPTIONS.to_frame(), IMPORTED_CAPTIONS, "a"
    )
    assert number(settings) == storage_format.FORMAT


def test_a_first_command_that_stores_something_leaves_the_format(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(settings: Settings, **options: bool) -> int:
        stored(settings)  # the command draws for seconds; what is asked is what is left around it
        return 0

    monkeypatch.setattr("setr_lib.commands.miniature.write", draw)
    assert main(["--config", str(settings.base_dir / "setr.toml"), "miniature", "write"]) == 0
    assert number(settings) == storage_format.FORMAT


def test_a_project_of_before_is_taken_as_the_first_format_and_stamped(settings: Settings) -> None:
    stored(settings)
    pipeline_context(settings)
    assert number(settings) == 1
    written = (settings.storage_root / "format.json").stat().st_mtime_ns
    use_format(settings)
    stamp(settings)
    assert (settings.storage_root / "format.json").stat().st_mtime_ns == written


def test_a_newer_format_is_refused_by_every_way_in(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(settings, '{"format": 7, "setr": "9.1.0"}')
    with pytest.raises(FormatError, match=r"was written by SETR 9\.1\.0 \(format 7\)"):
        pipeline_context(settings)
    config = ["--config", str(settings.base_dir / "setr.toml")]
    for command in (["leaderboard"], ["plan", "--counts-only"], ["list", "methods"], ["doctor"]):
        assert main([*config, *command]) != 0
        captured = capsys.readouterr()
        assert "install SETR 9.1.0 or a later one" in captured.err and "Traceback" not in captured.err
    assert main([*config, "doctor", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["status"] == "storage refused"
    assert (settings.storage_root / "format.json").read_text() == '{"format": 7, "setr": "9.1.0"}'


def test_a_dagster_run_of_a_newer_format_is_refused_before_its_first_step(settings: Settings) -> None:
    import dagster as dg

    from setr_assets.resources import context_resource

    stored(settings, '{"format": 7}')
    begun: list[str] = []

    @dg.asset(required_resource_keys={"setr"})
    def step() -> None:
        begun.append("step")

    with pytest.raises(Exception) as raised:
        dg.materialize([step], resources={"setr": context_resource(settings)})
    assert "a newer SETR (format 7)" in str(raised.value) + str(raised.value.__cause__)
    assert begun == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "1"}', '{"format": true}', '{"format": 0}', "{}"]
)
def test_a_number_that_cannot_be_read_is_told_with_what_to_write(settings: Settings, text: str) -> None:
    stored(settings, text)
    with pytest.raises(FormatError, match=r'format\.json: holds no format number.*\{"format": 1\}'):
        use_format(settings)
    assert "holds no format number" in (format_problem(settings) or "")


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """SETR as if it were of format 3; what its two migrations did."""
    done: list[str] = []
    monkeypatch.setattr(storage_format, "FORMAT", 3)
    steps = {1: lambda root: done.append("1 to 2"), 2: lambda root: done.append("2 to 3")}
    monkeypatch.setattr(storage_format, "MIGRATIONS", steps)
    yield done


def test_a_folder_in_its_place_is_told_with_what_to_do(settings: Settings) -> None:
    stored(settings)
    (settings.storage_root / "format.json").mkdir()
    with pytest.raises(FormatError, match=r"format\.json: cannot be read .*: move it away"):
        use_format(settings)


def test_an_older_format_is_migrated_step_by_step_and_once(settings: Settings, third: list[str]) -> None:
    stored(settings)
    use_format(settings)
    assert third == ["1 to 2", "2 to 3"] and number(settings) == 3
    use_format(settings)
    assert len(third) == 2


def test_a_migration_that_is_broken_off_goes_on_where_it_was(
    settings: Settings, third: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(root: Path) -> None:
        raise RuntimeError("power cut")

    stored(settings)
    steps = dict(storage_format.MIGRATIONS)
    monkeypatch.setattr(storage_format, "MIGRATIONS", {**steps, 2: fails})
    with pytest.raises(RuntimeError):
        use_format(settings)
    assert number(settings) == 2
    monkeypatch.setattr(storage_format, "MIGRATIONS", steps)
    use_format(settings)
    assert third == ["1 to 2", "2 to 3"]


def test_two_that_begin_at_once_migrate_once(settings: Settings, third: list[str]) -> None:
    stored(settings)
    threads = [threading.Thread(target=use_format, args=(settings,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert third == ["1 to 2", "2 to 3"] and number(settings) == 3


def test_an_older_format_without_a_way_is_refused_with_what_to_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_format, "FORMAT", 2)
    stored(settings, '{"format": 1}')
    with pytest.raises(FormatError, match=r"is of format 1, which this SETR .* cannot bring up to date"):
        use_format(settings)
    assert number(settings) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_storage_that_may_only_be_read_is_read_and_not_migrated(
    settings: Settings, third: list[str]
) -> None:
    stored(settings)
    settings.storage_root.chmod(0o500)
    try:
        with pytest.raises(FormatError, match="cannot be written to"):
            use_format(settings)
        storage_format.FORMAT = 1
        use_format(settings)
        assert number(settings) is None and third == []
    finally:
        settings.storage_root.chmod(0o700)


def test_a_storage_that_refuses_the_number_is_used_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, value: object) -> None:
        raise PermissionError(30, "Read-only file system", str(path))

    monkeypatch.setattr(storage_format, "write_json", refuse)
    stored(settings)
    pipeline_context(settings)
    assert number(settings) is None


def _begin(folder: str) -> None:
    use_format(load_settings(Path(folder) / "setr.toml"))


def test_two_processes_that_begin_at_once_leave_one_whole_number(settings: Settings) -> None:
    stored(settings)
    forks = multiprocessing.get_context("fork")
    started = [forks.Process(target=_begin, args=(str(settings.base_dir),)) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4
    assert number(settings) == 1
    assert [path.name for path in settings.storage_root.iterdir() if path.suffix == ".part"] == []
