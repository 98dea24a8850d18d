"""A durable key -> text store for results that cost a model call (captions, compositions, judge scores).

Keys are digests of everything that determines the result, so an entry is never stale and is never overwritten
with something else. Beside each entry stands the version of the keys (``KEY_VERSION``), because a digest does
not tell it. SQLite keeps all safe under SIGKILL: a batch is there whole or not at all.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from setr_lib.damage import damaged, told
from setr_lib.hashing import digest_strings, digests_with_last
from setr_lib.pixel_rules import PIXELS_VERSION

_LOG = logging.getLogger(__name__)
KEY_VERSION = PIXELS_VERSION
"""The version of the keys that are written now. Keys of an earlier one named pictures otherwise, and are not
found any more; those of results without a picture stayed as they were."""
_LOOKUP_CHUNK = 500  # below SQLite's limit of bound variables
_LOG_PAGES = 8192  # of 4 KiB, in SQLite's log before they are written back to the file: 32 MiB
COLUMNS = ["key", "value", "made_at", "key_version"]
"""Of the table of each kind; tables of an earlier version of SETR lack the last."""


class ContentCache:
    """One table of one SQLite file. Safe for several processes and threads; writes are short transactions.

    Args:
        path: The file; its folder is made.
        kind: The table's name, a plain identifier.

    Raises:
        ValueError: ``kind`` is not one.
        SetrError: The file is damaged, cannot be written, or the disk is full; so do its methods.
    """

    def __init__(self, path: Path, kind: str) -> None:
        if not kind.isidentifier():
            raise ValueError(f"a cache kind is a plain identifier, not {kind!r}")
        self.path, self.kind = path, kind
        self._lock = threading.Lock()
        with told("cache", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _connect(path)
        weakref.finalize(self, self._connection.close)
        with self._transaction() as connection:
            connection.execute(table_of(kind))
            found = [row[1] for row in connection.execute(f"PRAGMA table_info({kind})")]
            if found[:3] != COLUMNS[:3] or set(found) - set(COLUMNS):
                raise damaged("cache", path, f"has a table {kind} with other columns than SETR writes")
            _add_key_version(connection, kind)

    @staticmethod
    def key_of(*parts: str) -> str:
        """The key of a result: a digest of all that determines it.

        Args:
            parts: Ids, digests and texts, in a fixed order.

        Returns:
            The digest.
        """
        return digest_strings(parts)

    @staticmethod
    def keys_of(parts: Sequence[str], last: Iterable[str]) -> list[str]:
        """The keys of results that differ in their last part alone.

        Args:
            parts: What all have, as of :meth:`key_of`.
            last: The last part of each.

        Returns:
            ``key_of(*parts, each)`` for each of ``last``.
        """
        return digests_with_last(parts, last)

    def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """The stored values among ``keys``; absent keys are absent from the answer.

        Args:
            keys: The keys.

        Returns:
            Key -> text.
        """
        return self._look_up("value", keys)

    def get_numbers(self, keys: Iterable[str]) -> dict[str, float]:
        """The stored numbers among ``keys``; an entry that is not a finite number counts as absent, with a
        warning.

        Args:
            keys: The keys.

        Returns:
            Key -> number.
        """
        numbers = {key: _number(value) for key, value in self.get_many(keys).items()}
        bad = sum(value is None for value in numbers.values())
        if bad:
            _LOG.warning(
                "%s: %d kept %s are not finite numbers: they are made anew", self.path, bad, self.kind
            )
        return {key: value for key, value in numbers.items() if value is not None}

    def put_numbers(self, values: Mapping[str, float]) -> None:
        """Store numbers in one transaction.

        Args:
            values: Key -> number.

        Raises:
            ValueError: One is not finite; none is stored.
        """
        bad = {key: value for key, value in values.items() if not math.isfinite(value)}
        if bad:
            raise ValueError(
                f"{len(bad)} of {len(values)} {self.kind} are not finite, e.g. {min(bad.items())}"
            )
        self.put_many({key: repr(float(value)) for key, value in values.items()})

    def times_of(self, keys: Iterable[str]) -> dict[str, float]:
        """When each of ``keys`` was stored, in seconds since 1970; absent keys are absent from the answer.

        Args:
            keys: The keys.

        Returns:
            Key -> time.
        """
        return self._look_up("made_at", keys)

    def _look_up(self, column: str, keys: Iterable[str]) -> dict[str, Any]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Any] = {}
        with self._transaction() as connection:
            for start in range(0, len(wanted), _LOOKUP_CHUNK):
                chunk = wanted[start : start + _LOOKUP_CHUNK]
                marks = ",".join("?" * len(chunk))
                found.update(
                    connection.execute(f"SELECT key, {column} FROM {self.kind} WHERE key IN ({marks})", chunk)
                )
        return found

    def put_many(self, values: Mapping[str, str]) -> None:
        """Store texts in one transaction.

        Args:
            values: Key -> text.
        """
        now = time.time()
        with self._transaction() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO {self.kind} (key, value, made_at, key_version) VALUES (?, ?, ?, ?)",
                [(key, value, now, KEY_VERSION) for key, value in values.items()],
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, alone, in a transaction that is undone where it fails."""
        with told("cache", self.path), self._lock, self._connection as connection:
            yield connection


def table_of(kind: str) -> str:
    """The SQL that makes the table of a kind where there is none.

    Args:
        kind: A plain identifier.

    Returns:
        The statement.
    """
    columns = "key TEXT PRIMARY KEY, value TEXT NOT NULL, made_at REAL NOT NULL"
    return f"CREATE TABLE IF NOT EXISTS {kind} ({columns})"


def _add_key_version(connection: sqlite3.Connection, kind: str) -> None:
    """The column of a table that an earlier version of SETR made, whose entries have an empty one."""
    if "key_version" in {row[1] for row in connection.execute(f"PRAGMA table_info({kind})")}:
        return
    try:
        connection.execute(f"ALTER TABLE {kind} ADD COLUMN key_version TEXT NOT NULL DEFAULT ''")
    except sqlite3.OperationalError as error:
        if "duplicate column" not in str(error):  # else another process was faster
            raise


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to keep: closing one makes SQLite tidy its log and wait for the disk, too much for every
    batch.
    """
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    # A killed process loses nothing, a power cut the last batches; waiting for the disk at every batch is
    # slow.
    connection.execute("PRAGMA synchronous=NORMAL")
    # Keys are digests: every batch changes pages all over the file, which would be written back again and
    # again.
    connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
    return connection
