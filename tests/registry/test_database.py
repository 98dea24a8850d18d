"""MLflow's SQLite file is made whole or not at all, whenever its making is killed, and no data is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: TID253
from sqlalchemy import event
from sqlalchemy.engine import Engine

from setr_lib.registry import database
from setr_lib.registry.database import look, prepare, repair, schema
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.store import MlflowRegistry
from setr_lib.settings import Settings

POINTS = (3, 230)
"""Statements of the migrations after which a process is killed: amid the first tables, and later."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "QUIET", 0.2)


def killed_after(statements: int, work: Callable[[], object]) -> None:
    """Do ``work`` in another process, which is killed after so many of the statements that change tables."""
    child = os.fork()
    if child == 0:
        count = 0

        @event.listens_for(Engine, "after_cursor_execute")
        def strike(connection, cursor, statement, *rest):  # pyright: ignore[reportUnusedFunction]
            nonlocal count
            count += not statement.lstrip().upper().startswith(("SELECT", "PRAGMA"))
            if count == statements:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            work()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "it was over before"


def registry_in(folder: Path) -> MlflowRegistry:
    return MlflowRegistry(f"sqlite:///{folder / 'mlflow.db'}", folder / "mlartifacts")


def run_in(folder: Path) -> str:
    """Make a run, and what the store then has."""
    registry = registry_in(folder)
    with registry.runs.start("a run", {}) as run:
        return run.run_id


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole store with a run."""
    folder = tmp_path_factory.mktemp("whole")
    run_in(folder)
    return folder / "mlflow.db"


def copy(made: Path, folder: Path) -> Path:
    store = folder / "mlflow.db"
    store.write_bytes(made.read_bytes())
    return store


def changed(store: Path, *statements: str) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_new_store_has_its_experiments_below_the_artifact_root(made: Path) -> None:
    assert look(made) == database.Found("whole", getattr(schema(), "newest", None))
    client = registry_in(made.parent).client
    root = (made.parent / "mlartifacts").as_uri()
    found = {each.name: each.artifact_location for each in client.search_experiments()}
    assert found == {"Default": f"{root}/0", "setr": f"{root}/setr"}
    assert sorted(path.name for path in made.parent.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


@pytest.mark.parametrize("statements", POINTS)
def test_a_killed_creation_is_made_anew(tmp_path: Path, statements: int) -> None:
    killed_after(statements, lambda: registry_in(tmp_path).client)
    assert look(tmp_path / "mlflow.db").state == "absent"
    assert run_in(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


@pytest.mark.parametrize("statements", POINTS)
def test_what_mlflow_left_half_made_is_set_aside_and_made_anew(
    tmp_path: Path, statements: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "mlflow.db"
    killed_after(statements, lambda: SqlAlchemyStore(f"sqlite:///{store}", str(tmp_path)))
    assert look(store).state in ("half-made", "empty")
    before = store.read_bytes()
    assert run_in(tmp_path)
    assert look(store).state == "whole"
    (kept,) = (tmp_path / "set-aside").rglob("mlflow.db")
    assert kept.read_bytes() == before or look(kept).state in ("half-made", "empty")
    assert str(kept) in caplog.text and "it held no run" in caplog.text


def test_a_store_of_an_older_mlflow_is_refused_with_the_commands_and_stays_as_it_is(
    made: Path, tmp_path: Path
) -> None:
    known = schema()
    assert known is not None
    store = copy(made, tmp_path)
    changed(
        store,
        f"UPDATE alembic_version SET version_num = '{min(known.known - {known.newest})}'",
        "DROP TABLE jobs",  # what makes MLflow upgrade it by itself
    )
    before = store.read_bytes()
    with pytest.raises(RegistryError) as told:
        run_in(tmp_path)
    last = str(told.value).splitlines()[-2:]
    assert last == [f"  cp {store} {store}.before-upgrade", f"  mlflow db upgrade sqlite:///{store}"]
    assert store.read_bytes() == before


def test_a_half_upgraded_store_with_runs_is_never_set_aside(made: Path, tmp_path: Path) -> None:
    store = copy(made, tmp_path)
    changed(store, "DELETE FROM alembic_version")
    with pytest.raises(RegistryError, match="or its upgrade was broken off"):
        run_in(tmp_path)
    assert store.is_file() and not (tmp_path / "set-aside").exists()


def test_a_store_of_a_newer_mlflow_is_refused(made: Path, tmp_path: Path) -> None:
    store = copy(made, tmp_path)
    changed(store, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(RegistryError, match=r"a newer MLflow made it .*ffffffffffff.*: install the MLflow"):
        run_in(tmp_path)


def test_what_is_no_store_of_mlflow_is_refused_in_one_line(tmp_path: Path) -> None:
    store = tmp_path / "mlflow.db"
    store.write_bytes(b"no database" * 500)
    words = r"mlflow\.db: is not a database: cut or overwritten: run `setr repair registry`"
    with pytest.raises(RegistryError, match=words) as told:
        run_in(tmp_path)
    assert len(str(told.value).splitlines()) == 1
    store.unlink()
    changed(store, "CREATE TABLE mine (name TEXT)")
    with pytest.raises(RegistryError, match=r"a database, but not one of MLflow .*mine"):
        run_in(tmp_path)
    store.unlink()
    store.mkdir()
    with pytest.raises(RegistryError, match="is a folder where a file should be: run `setr repair registry`"):
        run_in(tmp_path)


def test_of_two_processes_that_open_an_empty_file_at_once_both_find_a_store(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    children = [os.fork(), 0]
    if children[0] != 0:
        children[1] = os.fork()
    if 0 in children:
        try:
            run_in(tmp_path)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    registry = registry_in(tmp_path)
    assert len(registry.client.search_runs([registry.found_experiment().experiment_id])) == 2


def test_a_store_that_another_process_is_making_is_waited_for(made: Path, tmp_path: Path) -> None:
    """``mlflow ui`` makes the file in place: while it changes, it is not set aside."""
    store, run = tmp_path / "mlflow.db", threading.Event()
    with closing(sqlite3.connect(store)) as other:
        other.execute("CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY)")
        other.commit()

        def go_on() -> None:
            for number in range(12):
                other_table = f"CREATE TABLE more_{number} (x INTEGER)"
                changed(store, other_table)
                time.sleep(0.05)
            store.write_bytes(made.read_bytes())
            run.set()

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(go_on)
            prepare(store, tmp_path / "mlartifacts", "setr")
            done.result()
    assert run.is_set() and look(store).state == "whole"
    assert not (tmp_path / "set-aside").exists()


def test_a_repair_says_what_it_does_and_does_it_once(made: Path, tmp_path: Path) -> None:
    settings = Settings(base_dir=tmp_path)
    store = tmp_path / "var" / "mlflow.db"
    assert repair(settings, False) == []
    store.parent.mkdir()
    store.write_bytes(made.read_bytes())
    before, now = made.parent / "mlartifacts", settings.artifact_root
    for look_only in (True, False):  # of two experiments and a run
        words = f"3 locations of artifacts were below {before}: they are below {now}"
        assert repair(settings, look_only) == [words]
    assert repair(settings, False) == []

    with closing(sqlite3.connect(store)) as connection, connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f"DELETE FROM {table}")
    (words,) = repair(settings, True)
    assert "its creation was broken off" in words and store.is_file()
    assert "set-aside" in repair(settings, False)[0]
    assert not store.exists() and list((tmp_path / "var/set-aside").rglob("mlflow.db"))
