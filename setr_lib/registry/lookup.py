"""Look-ups in MLflow's SQLite file without importing MLflow, which takes seconds: a search needs no more.

Only a file whose tables are of the revision that the installed MLflow makes is read so, and only for what is
a plain look-up there. Wherever there is a doubt (another revision, a busy or damaged file, workspaces),
nothing is answered, and the caller asks MLflow's client, which has the errors, too.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setr_lib.errors import SetrError
from setr_lib.registry import database

_PATIENCE = 20.0
"""Seconds for which another process may be writing."""
_DELETED = "Deleted_Internal"
"""The stage that MLflow gives to a deleted version."""
_WORKSPACES = ("MLFLOW_WORKSPACE", "MLFLOW_ENABLE_WORKSPACES")


@dataclass(frozen=True)
class StoredVersion:
    """A version as MLflow stores it.

    Attributes:
        version: Its number.
        run_id: The run that logged its model.
        source: The URI of its logged model.
        tags: Its tags.
        aliases: Its aliases.
    """

    version: str
    run_id: str | None
    source: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]


class Lookup:
    """MLflow's SQLite file, read.

    Args:
        file: The file, which is complete; see :func:`lookup_of`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def aliased(self, model: str, alias: str) -> str | None:
        """The version of a registered model that holds an alias.

        Args:
            model: The registered model.
            alias: The alias.

        Returns:
            The version; None where none holds it.

        Raises:
            sqlite3.Error: The file cannot be read.
        """
        rows = self._rows(
            "SELECT version FROM registered_model_aliases "
            "WHERE workspace = 'default' AND name = ? AND alias = ?",
            (model, alias),
        )
        return str(rows[0][0]) if rows else None

    def version(self, model: str, version: str) -> StoredVersion | None:
        """A version of a registered model.

        Args:
            model: The registered model.
            version: Its number.

        Returns:
            The version; None where there is none.

        Raises:
            sqlite3.Error: The file cannot be read.
        """
        of = "workspace = 'default' AND name = ? AND version = ?"
        rows = self._rows(
            f"SELECT run_id, source FROM model_versions WHERE {of} AND current_stage IS NOT ?",
            (model, version, _DELETED),
        )
        if not rows:
            return None
        run_id, source = rows[0]
        tags = self._rows(f"SELECT key, value FROM model_version_tags WHERE {of}", (model, version))
        aliases = self._rows(
            f"SELECT alias FROM registered_model_aliases WHERE {of} ORDER BY alias",
            (model, version),
        )
        return StoredVersion(version, run_id, str(source), dict(tags), tuple(alias for (alias,) in aliases))

    def location(self, model_id: str) -> str | None:
        """Where the artifacts of a logged model are.

        Args:
            model_id: The logged model.

        Returns:
            The location; None where there is no such model.

        Raises:
            sqlite3.Error: The file cannot be read.
        """
        rows = self._rows(
            "SELECT artifact_location FROM logged_models WHERE model_id = ? AND lifecycle_stage = 'active'",
            (model_id,),
        )
        return str(rows[0][0]) if rows else None

    def _rows(self, query: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
        address = f"{self._file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE)) as connection:
            return connection.execute(query, values).fetchall()


def lookup_of(file: Path | None) -> Lookup | None:
    """Look-ups in a store's SQLite file.

    Args:
        file: The file; None for a store that is none.

    Returns:
        They; None where MLflow's client must be asked.
    """
    if file is None or any(os.environ.get(name) for name in _WORKSPACES):
        return None
    try:
        found = database.look(file)
    except SetrError:
        return None
    known = database.schema()
    if known is None or found.state != "whole" or found.revision != known.newest:
        return None
    return Lookup(file)
