"""The SQLite file of a local MLflow store: made whole or not at all, and looked at before MLflow opens it.

MLflow makes its tables by some sixty migrations, which a kill can leave half done: no later run gets beyond
them. So a new file is made beside and renamed when it is complete. A half-made one is known by its schema's
revision and by having no rows; it is set aside, and made anew. An older one with rows is left as it is, since
MLflow would change it in place.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shlex
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from setr_lib.damage import as_told, damaged
from setr_lib.faults import file_fault
from setr_lib.files import sqlite_address, sqlite_path
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.locations import is_own, moved, relocate_own
from setr_lib.settings import Settings

State = Literal["absent", "empty", "half-made", "whole", "older", "newer"]
SET_ASIDE = "set-aside"
"""The folder, below the storage root, of files that were at fault and are kept."""
QUIET = 3.0
"""Seconds for which a half-made file must not have changed: else another process is making it."""
_MAKING = 120.0
"""Seconds for which another process may be making it."""
_BESIDE = ("", "-journal", "-wal", "-shm")
"""The files of a SQLite database, by what their names end in."""
_NO_DATA = ("alembic_version", "workspaces")
"""Tables in which migrations themselves write rows."""
_REVISION = re.compile(r"^(down_revision|revision)\s*(?::[^=]+)?=\s*[\"'(\[]*([0-9a-f]+)", re.MULTILINE)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schema:
    """The revisions of MLflow's tables that the installed MLflow knows, and the newest of them."""

    known: frozenset[str]
    newest: str


@dataclass(frozen=True)
class Found:
    """What a SQLite file of MLflow is.

    Attributes:
        state: ``empty`` has no table. ``half-made`` is of an older revision (or of none), and has no row:
            its first creation was broken off. ``older`` and ``newer`` are of another MLflow.
        revision: Of its tables; None for none.
    """

    state: State
    revision: str | None = None


@lru_cache(maxsize=1)
def schema() -> Schema | None:
    """The revisions that the installed MLflow knows, read from its migrations without importing it.

    Returns:
        The revisions; None where its migrations are not found, or are not a chain with one end.
    """
    found = importlib.util.find_spec("mlflow")
    places = [] if found is None else found.submodule_search_locations or []
    files = [file for place in places for file in (Path(place) / "store/db_migrations/versions").glob("*.py")]
    revisions: set[str] = set()
    before: set[str] = set()
    for file in files:
        told = dict(_REVISION.findall(file.read_text(encoding="utf-8")))
        if "revision" in told:
            revisions.add(told["revision"])
            before.add(told.get("down_revision", ""))
    ends = revisions - before
    return Schema(frozenset(revisions), ends.pop()) if len(ends) == 1 else None


def look(database: Path) -> Found:
    """What is in a SQLite file; MLflow is not imported, and the file stays as it is.

    Args:
        database: The file.

    Returns:
        What it is; ``whole`` where the installed MLflow's revisions cannot be told.

    Raises:
        RegistryError: It is no file, no database, or a database of something else.
    """
    if not os.path.lexists(database):
        return Found("absent")
    if not database.is_file():
        raise damaged("registry", database, file_fault(database) or "is no file", RegistryError)
    try:
        return _looked(database)
    except sqlite3.Error as error:
        raise as_told(error, "registry", database, RegistryError) from error


def prepare(database: Path, artifact_root: Path, experiment: str) -> None:
    """Make the file where there is none, and refuse one that MLflow would change in place.

    The caller holds the lock of the store's first creation.

    Args:
        database: The file.
        artifact_root: The folder of its experiments' artifacts; it is not made.
        experiment: The experiment that a new file has.

    Raises:
        RegistryError: Another version of MLflow wrote it, or it cannot be made.
    """
    found = _settled(database)
    if found.state == "older":
        raise RegistryError(older(database, found))
    if found.state == "newer":
        raise RegistryError(newer(database, found))
    if found.state in ("half-made", "empty"):
        kept = _set_aside(database)
        _logger.warning(
            "%s: its creation had been broken off, and it held no run; it is made anew, the old file is %s",
            database,
            kept,
        )
    if found.state != "whole":
        _make(database, artifact_root, experiment)


def repair(settings: Settings, look_only: bool) -> list[str]:
    """What a moved project or a broken-off creation has left in a project's own file, mended.

    Args:
        settings: They say where the file and its artifacts are.
        look_only: Change nothing: say what would be done.

    Returns:
        A sentence for each thing; nothing for a sound file, and for a store of another kind.

    Raises:
        RegistryError: The file cannot be read or written.
    """
    file, root = sqlite_path(settings.tracking_uri), settings.artifact_root
    if file is None:
        return []
    found = look(file)
    if found.state in ("older", "newer"):
        return [older(file, found) if found.state == "older" else newer(file, found)]
    if found.state == "half-made":
        kept = "" if look_only else f"; it is {_set_aside(file)} now"
        return [f"its creation was broken off, and it holds no run: the next use makes it anew{kept}"]
    if found.state != "whole" or not is_own(file, root):
        return []
    done = moved(file, root) if look_only else relocate_own(file, root)
    if done.before is None:
        return []
    return [f"{done.changed} locations of artifacts were below {done.before}: they are below {root}"]


def older(database: Path, found: Found) -> str:
    """What to do about a file of an older MLflow, in words.

    Args:
        database: The file.
        found: What it is.

    Returns:
        A message that ends with the commands.
    """
    name, address = shlex.quote(str(database)), shlex.quote(sqlite_address(database))
    newest = known.newest if (known := schema()) else "another"
    return (
        f"{database}: an older MLflow made it (its tables are of revision {found.revision or 'none'}, the "
        f"installed MLflow's of {newest}), or its upgrade was broken off; SETR does not change it. End what "
        "has it open (`mlflow ui`, `dagster dev`), keep a copy, upgrade it, and put the copy back should "
        f"that fail:\n  cp {name} {name}.before-upgrade\n  mlflow db upgrade {address}"
    )


def newer(database: Path, found: Found) -> str:
    """What to do about a file of a newer MLflow, in words.

    Args:
        database: The file.
        found: What it is.

    Returns:
        The message.
    """
    return (
        f"{database}: a newer MLflow made it (its tables are of revision {found.revision}, which the "
        "installed MLflow does not know): install the MLflow that made it, or put a backup in its place"
    )


def _looked(database: Path) -> Found:
    try:
        return _read(database, "ro")
    except sqlite3.OperationalError:
        # What a killed process had not committed is taken back first, which needs writing.
        return _read(database, "rw")


def _read(database: Path, mode: str) -> Found:
    address = f"{database.absolute().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=20)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if not any(not name.startswith(("alembic_", "sqlite_")) for name in tables):
            return Found("empty")
        if "experiments" not in tables:
            raise RegistryError(
                f"{database}: a database, but not one of MLflow (it has the tables {', '.join(tables[:5])}): "
                "name another in registry.tracking_uri, or move it away"
            )
        revision = _revision(connection) if "alembic_version" in tables else None
        known = schema()
        if known is None or revision == known.newest:
            return Found("whole", revision)
        if revision is not None and revision not in known.known:
            return Found("newer", revision)
        data = [name for name in tables if name not in _NO_DATA and not name.startswith("sqlite_")]
        has_rows = any(connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone() for name in data)
        return Found("older" if has_rows else "half-made", revision)


def _revision(connection: sqlite3.Connection) -> str | None:
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return found[0] if found else None


def _settled(database: Path) -> Found:
    """What is in the file, once no other process (``mlflow ui``, say) is about to make its tables."""
    ends = time.monotonic() + _MAKING
    found, seen = look(database), _stamps(database)
    while found.state in ("half-made", "empty") and time.monotonic() < ends:
        time.sleep(QUIET)
        if (now := _stamps(database)) == seen:
            return found
        found, seen = look(database), now
    return found


def _stamps(database: Path) -> list[tuple[int, int]]:
    files = [Path(f"{database}{end}") for end in _BESIDE]
    states = [file.stat() for file in files if file.exists()]
    return [(state.st_mtime_ns, state.st_size) for state in states]


def _set_aside(database: Path) -> Path:
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-registry"
    taken = len(list((database.parent / SET_ASIDE).glob(f"{name}*")))
    folder = database.parent / SET_ASIDE / (f"{name}-{taken + 1}" if taken else name)
    try:
        folder.mkdir(parents=True)
        for end in reversed(_BESIDE):  # the database itself last: until then it is found again
            file = Path(f"{database}{end}")
            if file.exists():
                file.rename(folder / file.name)
    except OSError as error:
        raise RegistryError(
            f"{database}: its creation was broken off, and it cannot be set aside in {folder} "
            f"({error.strerror}): move it away"
        ) from error
    return folder / database.name


def _make(database: Path, artifact_root: Path, experiment: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    beside = database.with_name(f".{database.name}.making")
    try:
        _remove(beside)  # what a killed process has left
        root = artifact_root.resolve()
        store = SqlAlchemyStore(sqlite_address(beside), root.as_uri())
        try:
            store.create_experiment(experiment, (root / experiment).as_uri())
        finally:
            store._dispose_engine()
        _publish(beside, database)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise RegistryError(f"{database}: MLflow's database cannot be made ({error})") from error
    finally:
        _remove(beside)


def _publish(beside: Path, database: Path) -> None:
    """Give the complete file its name, unless another process has made one meanwhile."""
    try:
        os.link(beside, database)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not database.exists():
            beside.rename(database)


def _remove(database: Path) -> None:
    for end in _BESIDE:
        Path(f"{database}{end}").unlink(missing_ok=True)
