"""Where MLflow says that artifacts are, and where they are now: a project's folder may be moved or copied.

MLflow writes an absolute location with each experiment, run, logged model and version. A location below a
folder of the artifact root's name (``.../var/mlartifacts/setr/models/m-1/artifacts``) has a tail
(``setr/models/m-1/artifacts``), by which it is found below the artifact root of today. Nothing here imports
MLflow.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from setr_lib.registry.errors import RegistryError

_ARTIFACTS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
    ("trace_tags", "value"),
)
_EXPERIMENTS = ("experiments", "artifact_location")
_DEFAULT_EXPERIMENT = 0
_PATIENCE = 20.0
"""Seconds for which another process may be writing."""


@dataclass(frozen=True)
class Relocation:
    """What :func:`relocate` has changed, or would.

    Attributes:
        changed: Locations that named another folder than today's.
        before: One of the folders that they named: an artifact root of earlier.
    """

    changed: int = 0
    before: Path | None = None

    def __bool__(self) -> bool:
        return self.changed > 0


def local_path(location: str | None) -> Path | None:
    """The folder of this machine that a location names.

    Args:
        location: An absolute path, or a URI.

    Returns:
        The path, whether or not it is there; None for a location that is no path of this machine.
    """
    if location is None:
        return None
    if location.startswith("/"):
        return Path(location)
    parts = urlsplit(location.partition("#")[0].partition("?")[0])
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        return None
    return Path(unquote(parts.path))


def present_path(location: str | None, artifact_root: Path) -> Path | None:
    """Where something is below the artifact root of today, by the tail of its location.

    Args:
        location: MLflow's location.
        artifact_root: The artifact root of today.

    Returns:
        The path, whether or not it is there; None where the location has no such tail.
    """
    tail = _tail(location, artifact_root.name)
    return None if tail is None else artifact_root.resolve() / tail


def artifact_folders(location: str | None, artifact_root: Path) -> list[Path]:
    """The folders of this machine where something is, that below the artifact root of today first.

    Args:
        location: MLflow's location.
        artifact_root: The artifact root of today.

    Returns:
        The folders that are there.
    """
    found = (present_path(location, artifact_root), local_path(location))
    return [folder for folder in dict.fromkeys(found) if folder is not None and folder.is_dir()]


def moved(database: Path, artifact_root: Path) -> Relocation:
    """What :func:`relocate` would change; the file is only read.

    Args:
        database: MLflow's SQLite file.
        artifact_root: The artifact root of today.

    Returns:
        How much, nothing where the file is not there.

    Raises:
        RegistryError: It cannot be read.
    """
    if not database.is_file():
        return Relocation()
    with _opened(database, "ro") as connection:
        return _told(_changes(connection, database, artifact_root), artifact_root.name)


def relocate(database: Path, artifact_root: Path) -> Relocation:
    """Write the present locations of artifacts into a SQLite file of a folder that was moved or copied.

    A location is changed where its artifacts are below the artifact root of today, or are nowhere else. An
    experiment's is changed, too, where the other folder is another project's: what is logged from now on must
    not go there. Locations of other kinds (another machine, a bucket) stay. All are changed, or none.

    Args:
        database: MLflow's SQLite file.
        artifact_root: The artifact root of today; it is not made.

    Returns:
        What was changed.

    Raises:
        RegistryError: The file cannot be read or written.
    """
    if not moved(database, artifact_root):
        return Relocation()
    with _opened(database, "rw") as connection:
        connection.execute("BEGIN IMMEDIATE")
        changes = _changes(connection, database, artifact_root)
        for change in changes:
            connection.execute(
                f"UPDATE {change.table} SET {change.column} = ? WHERE rowid = ?", (change.after, change.row)
            )
        connection.execute("COMMIT")
    return _told(changes, artifact_root.name)


def is_own(database: Path, artifact_root: Path) -> bool:
    """Whether a SQLite file is a project's own: beside its artifacts, and not a store that several use.

    Args:
        database: MLflow's SQLite file.
        artifact_root: The artifact root of the project.

    Returns:
        True where both are in one folder.
    """
    return _same(database.parent, artifact_root.parent)


def relocate_own(database: Path, artifact_root: Path) -> Relocation:
    """As :func:`relocate`, of a file that is the project's own and may be written; another is left as it is.

    Args:
        database: MLflow's SQLite file.
        artifact_root: The artifact root of today.

    Returns:
        What was changed.

    Raises:
        RegistryError: The file cannot be read or written.
    """
    if not is_own(database, artifact_root):
        return Relocation()
    if not (os.access(database, os.W_OK) and os.access(database.parent, os.W_OK)):
        return Relocation()  # who may only read it finds artifacts by their tails
    return relocate(database, artifact_root)


@dataclass(frozen=True)
class _Change:
    table: str
    column: str
    row: int
    before: str
    after: str


def _told(changes: list[_Change], name: str) -> Relocation:
    roots = [root for change in changes if (root := _root(change.before, name)) is not None]
    return Relocation(len(changes), roots[0] if roots else None)


def _changes(connection: sqlite3.Connection, database: Path, artifact_root: Path) -> list[_Change]:
    present = f"{artifact_root.resolve().as_uri()}/"
    return [
        _Change(table, column, row, before, after.as_uri())
        for table, column in (_EXPERIMENTS, *_ARTIFACTS)
        for row, before in _rows(connection, table, column, present)
        if (after := _after((table, column), before, database, artifact_root)) is not None
    ] + _default_experiment(connection, artifact_root)


def _rows(connection: sqlite3.Connection, table: str, column: str, but: str) -> list[tuple[int, str]]:
    """Row numbers and locations of this machine, those that begin with ``but`` left out."""
    if column not in _columns(connection, table):
        return []  # a schema of another MLflow
    only = "AND key = 'mlflow.artifactLocation'" if table == "trace_tags" else ""
    return connection.execute(
        f"SELECT rowid, {column} FROM {table} WHERE ({column} LIKE 'file:%' OR {column} LIKE '/%') "
        f"AND substr({column}, 1, ?) <> ? {only}",
        (len(but), but),
    ).fetchall()


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def _after(where: tuple[str, str], before: str, database: Path, artifact_root: Path) -> Path | None:
    """The present path of a location that names another one; None where it stays."""
    present, recorded = present_path(before, artifact_root), local_path(before)
    if present is None or recorded is None or present == recorded or _same(present, recorded):
        return None
    if present.is_dir() or not recorded.is_dir():
        return present
    root = _root(before, artifact_root.name)
    of_another = root is not None and root.with_name(database.name).is_file()
    return present if where == _EXPERIMENTS and of_another else None


def _same(first: Path, second: Path) -> bool:
    """Whether two paths are one: one of them goes through a symbolic link, say."""
    return os.path.realpath(first) == os.path.realpath(second)


def _default_experiment(connection: sqlite3.Connection, artifact_root: Path) -> list[_Change]:
    """MLflow's own experiment, whose artifacts are in ``mlruns`` of the folder that MLflow was started in:
    while nothing is in it, it is given a folder below the artifact root.
    """
    below_root = f"{artifact_root.resolve().as_uri()}/"
    before = dict(_rows(connection, *_EXPERIMENTS, below_root)).get(_DEFAULT_EXPERIMENT)
    if before is None or PurePosixPath(before).parts[-2:] != ("mlruns", "0"):
        return []
    for table in ("runs", "logged_models"):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        if (
            "experiment_id" in columns
            and connection.execute(
                f"SELECT 1 FROM {table} WHERE experiment_id = ? LIMIT 1", (_DEFAULT_EXPERIMENT,)
            ).fetchone()
        ):
            return []
    after = (artifact_root.resolve() / "0").as_uri()
    return [_Change(*_EXPERIMENTS, _DEFAULT_EXPERIMENT, before, after)]


def _tail(location: str | None, name: str) -> PurePosixPath | None:
    """What comes below the last folder called ``name``."""
    path = local_path(location)
    if path is None or ".." in path.parts or name not in path.parts[:-1]:
        return None
    last = len(path.parts) - 1 - path.parts[::-1].index(name)
    return PurePosixPath(*path.parts[last + 1 :]) if last + 1 < len(path.parts) else None


def _root(location: str, name: str) -> Path | None:
    """The artifact root that a location is below of."""
    path, tail = local_path(location), _tail(location, name)
    return None if path is None or tail is None else path.parents[len(tail.parts) - 1]


@contextmanager
def _opened(database: Path, mode: str) -> Iterator[sqlite3.Connection]:
    address = f"{database.absolute().as_uri()}?mode={mode}"
    try:
        with closing(
            sqlite3.connect(address, uri=True, timeout=_PATIENCE, isolation_level=None)
        ) as connection:
            yield connection
    except sqlite3.Error as error:
        doing = "read" if mode == "ro" else "written"
        raise RegistryError(f"{database}: cannot be {doing} ({error})") from error
