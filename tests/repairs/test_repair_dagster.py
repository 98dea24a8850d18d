"""Damaged run history of Dagster, a damaged registry, a full disk: what is shown, and the way out."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from damages import Damage, a_file, a_folder, assert_told, cut, garbage, mend, name_of, text

from setr_assets.failures import failing_in_words
from setr_assets.instance import persistent_instance
from setr_assets.where_next import tell_what_failed
from setr_lib.cli import main
from setr_lib.content_cache import ContentCache
from setr_lib.damage import NoSpaceError, Part, explain, explained, no_space
from setr_lib.errors import SetrError
from setr_lib.faults import sqlite_fault
from setr_lib.files import write_json, write_text
from setr_lib.pipeline.context import pipeline_context
from setr_lib.pipeline.storage import Tables, places_of
from setr_lib.registry.store import MlflowRegistry
from setr_lib.repairs.sqlite_rows import salvage
from setr_lib.runners import RunRequest
from setr_lib.settings import Settings
from setr_lib.spaces.vector_store import GalleryStore
from setr_lib.tables import METRICS


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DAGSTER_HOME with a run in it."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        instance.add_run(dg.DagsterRun(job_name="full_pipeline"))
    return home


def runs() -> int:
    with persistent_instance() as instance:
        return instance.get_runs_count()


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *(("history/runs.db", damage) for damage in (cut, garbage, a_folder)),
        *(("schedules/schedules.db", damage) for damage in (cut, garbage)),
        ("history/runs/index.db", garbage),
        ("dagster.yaml", text("{")),
        ("dagster.yaml", garbage),
        ("history", a_file),
    ],
    ids=name_of,
)
def test_a_damaged_history_is_told_by_a_run_and_begun_anew(
    home: Path, tmp_path: Path, file: str, damage: Damage
) -> None:
    damage(home / file)
    with pytest.raises(SetrError) as told, explained(places_of(Settings(base_dir=tmp_path))):
        runs()
        with persistent_instance() as instance:
            instance.get_asset_keys()
    assert_told(str(told.value), "dagster", home / file)
    assert mend(tmp_path, "dagster") == 0
    runs()
    assert list((tmp_path / "var" / "set-aside").glob(f"*-dagster/**/{Path(file).name}"))


def test_the_rows_of_a_history_that_is_damaged_in_places_are_kept(home: Path, tmp_path: Path) -> None:
    path = home / "history" / "runs.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE more (number INTEGER, words TEXT)")
        connection.executemany("INSERT INTO more VALUES (?, ?)", [(n, "x" * 300) for n in range(500)])
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'more'").fetchone()[0]
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    assert root < pages - 5
    with path.open("r+b") as file:
        file.seek((pages - 3) * page)
        file.write(np.random.default_rng(0).bytes(page))
    with pytest.raises(SetrError) as told, explained(places_of(Settings(base_dir=tmp_path))):
        runs()
        raise sqlite3.DatabaseError("database disk image is malformed")
    assert "setr repair" in str(told.value)
    assert mend(tmp_path, "dagster") == 0
    assert runs() == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(DISTINCT number) FROM more").fetchone()[0] >= 470


def test_the_command_stands_at_the_end_of_what_a_run_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = ["a.json: is empty: run `setr repair tables`, which keeps", "b: run `setr repair tables`, then"]
    request = RunRequest(Settings(base_dir=tmp_path))
    tell_what_failed(request, dict(zip("ab", reasons, strict=True)), ["run"], 1.0)
    last = capsys.readouterr().err.splitlines()[-5:]
    assert sum("`setr repair tables`" in line for line in last) == 1


def test_what_was_interrupted_goes_on_with_the_same_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings.model_validate({"base_dir": tmp_path, "evaluation": {"limit": 5}})
    request = RunRequest(settings, ("mine",), until="coarse_rankings")
    tell_what_failed(request, {"queries": "interrupted"}, ["run"], 1.0)
    told = capsys.readouterr().err
    assert "run mine --until coarse_rankings --limit 5` goes on from there" in told
    assert ": interrupted; everything" in told and "failed" not in told


def test_a_failing_step_gives_dagster_one_line(tmp_path: Path) -> None:
    context = pipeline_context(Settings(base_dir=tmp_path))
    (tmp_path / "var" / "cache").mkdir(parents=True)
    context.settings.cache_path.write_bytes(b"x" * 5000)
    with pytest.raises(dg.Failure) as failed, failing_in_words(context):
        context.cache("captions")
    assert_told(failed.value.description or "", "cache", context.settings.cache_path)
    assert failed.value.allow_retries is False
    with pytest.raises(dg.Failure) as failed, failing_in_words(context):
        (tmp_path / "var" / "reports").write_text("x", encoding="utf-8")
        (context.settings.report_root / "page").mkdir()
    assert_told(failed.value.description or "", "reports", context.settings.report_root)
    with pytest.raises(ZeroDivisionError), failing_in_words(context):
        _ = 1 / 0


def test_a_damaged_history_is_the_last_line_of_a_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    garbage(home / "history" / "runs.db")
    (tmp_path / "setr.toml").write_text('[datasets.cirr]\nkind = "cirr"\nroot = "cirr"\n', encoding="utf-8")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.setenv(name, "unused")
    assert main(["--config", str(tmp_path / "setr.toml"), "run"]) == 1
    assert_told(capsys.readouterr().err.splitlines()[-1], "dagster", "runs.db")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database with a registered model; made once, as its migrations take seconds."""
    folder = tmp_path_factory.mktemp("store")
    settings = Settings(base_dir=folder)
    client = MlflowRegistry.from_settings(settings).client
    client.create_registered_model("setr-reranker")
    return folder / "var" / "mlflow.db"


@pytest.mark.parametrize("damage", [cut, garbage, a_folder, text("x"), text("")], ids=name_of)
def test_a_damaged_registry_is_told_and_set_aside(store: Path, tmp_path: Path, damage: Damage) -> None:
    settings = Settings(base_dir=tmp_path)
    path = tmp_path / "var" / "mlflow.db"
    (settings.artifact_root / "setr" / "models" / "m-1").mkdir(parents=True)
    shutil.copyfile(store, path)
    damage(path)
    with pytest.raises(SetrError) as told:
        _ = MlflowRegistry.from_settings(settings).client
    assert_told(str(told.value), "registry", path)
    mend(tmp_path, "registry")
    assert not path.exists()
    assert list((tmp_path / "var" / "set-aside").glob("*-registry/mlflow.db"))


def test_the_rows_of_a_registry_that_is_damaged_in_places_are_kept(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(store, path)
    kept = salvage(path, tmp_path / "fresh.db")
    assert kept.broken == []
    registry = MlflowRegistry(f"sqlite:///{tmp_path / 'fresh.db'}", tmp_path / "artifacts")
    assert [model.name for model in registry.client.search_registered_models()] == ["setr-reranker"]
    assert registry.model("setr-reranker").champion() is None


def test_a_whole_registry_stays_as_it_is(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "var" / "mlflow.db"
    path.parent.mkdir()
    shutil.copyfile(store, path)
    assert mend(tmp_path, "registry") == 0
    assert not (tmp_path / "var" / "set-aside").exists()
    registry = MlflowRegistry.from_settings(Settings(base_dir=tmp_path))
    assert [model.name for model in registry.client.search_registered_models()] == ["setr-reranker"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte; needs the right to mount one."""
    folder = tmp_path / "var"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_in_one_line_by_whatever_writes(full_disk: Path) -> None:
    settings = Settings(base_dir=full_disk.parent)
    kept = settings.report_root / "page.html"
    write_text(kept, "page")
    noise = np.random.default_rng(0).bytes(2_000_000).hex()
    rows = [{"metric": noise[start : start + 2000]} for start in range(0, len(noise), 2000)]
    frame = pl.DataFrame(rows, schema=METRICS)
    store = GalleryStore(settings.lancedb_uri)

    def fill_cache() -> None:
        ContentCache(settings.cache_path, "captions").put_many({f"{n}": "x" * 5000 for n in range(400)})

    for write in (
        lambda: write_text(kept, "x" * 2_000_000),
        lambda: Tables(settings).write("leaderboard", frame, METRICS),
        fill_cache,
        lambda: store.connect("t").create_table("t", frame.to_arrow()),
    ):
        with pytest.raises(NoSpaceError) as told, explained(places_of(settings)):
            write()
        words = str(told.value)
        assert words.startswith(f"no space left on the disk {full_disk} (") and "\n" not in words
        assert "1.0 MB" in words and "is kept" in words and "Error" not in words
        assert kept.read_text() == "page"
        assert not list(settings.storage_root.rglob("*.part")), "nothing half written"


def test_a_full_disk_is_known_by_the_system_itself(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, Path("/dev/full").open("w", encoding="utf-8") as file:
        file.write("x")
        file.flush()
    assert no_space(raised.value)
    told = explain(raised.value, places_of(Settings(base_dir=tmp_path)))
    assert isinstance(told, NoSpaceError)


@pytest.mark.parametrize(
    "error", [ValueError("no"), OSError(2, "No such file", "/etc/nothing"), KeyError("run")]
)
def test_what_is_not_about_the_storage_is_left_as_it_is(tmp_path: Path, error: Exception) -> None:
    assert explain(error, places_of(Settings(base_dir=tmp_path / "project"))) is None
    with pytest.raises(type(error)) as raised, explained(places_of(Settings(base_dir=tmp_path / "project"))):
        raise error
    assert raised.value is error


def test_doctor_names_damage(tmp_path: Path) -> None:
    from setr_lib.commands.disk_checks import damage_checks

    settings = Settings(base_dir=tmp_path)
    assert damage_checks(settings) == []
    write_json(settings.table_path("queries", "cirr-val").with_suffix(".json"), {"of": 1})
    ContentCache(settings.cache_path, "captions").put_many({str(n): "x" * 100 for n in range(1000)})
    assert damage_checks(settings) == []
    cut(settings.table_path("queries", "cirr-val").with_suffix(".json"))
    garbage(settings.cache_path)
    (Path(settings.lancedb_uri) / "t.lance").mkdir(parents=True)
    details = [check.detail for check in damage_checks(settings)]
    assert [detail.partition("`")[2] for detail in details] == [
        "setr repair vectors`",
        "setr repair tables`",
        "setr repair cache`",
    ]


def test_damage_that_ends_a_command_of_dagster_is_its_last_line(home: Path, tmp_path: Path) -> None:
    garbage(home / "history" / "runs.db")
    program = tmp_path / "dagster" / "__main__.py"
    program.parent.mkdir()
    program.write_text(
        "import sqlite3\nfrom pathlib import Path\n"
        "from setr_assets.failures import explain_at_the_end\nfrom setr_lib.settings import Settings\n"
        f"explain_at_the_end(Settings(base_dir=Path({str(tmp_path)!r})))\n"
        f"sqlite3.connect({str(home / 'history' / 'runs.db')!r}).execute('SELECT * FROM runs')\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert_told(done.stderr.splitlines()[-1], "dagster", home / "history" / "runs.db")


def test_a_database_that_may_only_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.db"
    made = sqlite3.connect(path)
    made.execute("PRAGMA journal_mode = wal")
    made.execute("CREATE TABLE runs (id)")
    made.commit()
    made.close()
    connect = sqlite3.connect

    def of_a_reader(address: str, **options: Any) -> sqlite3.Connection:
        if "immutable" not in address:
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return connect(address, **options)

    monkeypatch.setattr(sqlite3, "connect", of_a_reader)
    assert sqlite_fault(path, "runs") is None
    assert sqlite_fault(path, "others") == "is a database without the table others"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\x07" * (len(content) - 4096))
    assert sqlite_fault(path, "runs") == "is cut or overwritten in places"


def test_what_belongs_to_another_user_is_not_sent_to_a_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = PermissionError(13, "Permission denied", str(tmp_path / "runs.db"))
    (tmp_path / "runs.db").write_bytes(b"x")
    places: list[tuple[Part, Path]] = [("dagster", tmp_path)]
    assert "run `setr repair dagster`" in str(explain(error, places))
    monkeypatch.setattr(os, "getuid", lambda: -1)
    told = str(explain(error, places))
    assert "belongs to another user" in told and "repair" not in told
