"""What can still be read of a damaged SQLite file: table by table, row by row, into a new file.

A range of rows that cannot be read is halved until only the unreadable rows are left out, as ``.recover`` of
the SQLite shell does with pages. A file that was cut is read as far as it goes; a header that was overwritten
is written anew.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_BUDGET = 50_000
"""Ranges of one table that may fail before the rest of it is given up."""
_HIGHEST = 1 << 40
"""The row number up to which is looked, where the file does not tell its last one."""
_START = b"SQLite format 3\x00"
_PAGE = 4096

Row = tuple[Any, ...]


@dataclass
class Salvaged:
    """What was read of a damaged file.

    Attributes:
        rows: Rows that were kept, by table.
        broken: Tables that had unreadable rows.
    """

    rows: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Rows that were kept, of all tables."""
        return sum(self.rows.values())


def unreadable_rows(path: Path) -> bool:
    """Whether a file that SQLite calls whole has texts that are none.

    Args:
        path: The file.

    Returns:
        True where a row cannot be read.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
                return True
            for name, _ in _tables(connection):
                for _row in connection.execute(f'SELECT * FROM "{name}"'):
                    pass
    except sqlite3.Error as error:
        return "locked" not in str(error)
    return False


def salvage(
    damaged: Path, fresh: Path, is_sound: Callable[[str, Sequence[Any]], bool] = lambda *_: True
) -> Salvaged:
    """Copy the readable rows of a damaged file, its log included, into a new one.

    Args:
        damaged: The file; it is only read.
        fresh: The new file; not there yet. It is not written where nothing can be read.
        is_sound: Whether a row of a table (its name, its values) is worth keeping.

    Returns:
        What was kept.
    """
    with TemporaryDirectory(prefix=".salvage-", dir=fresh.parent) as folder:
        copy, result = Path(folder) / "copy.db", Path(folder) / "fresh.db"
        for end in ("", "-wal"):
            if (part := damaged.with_name(damaged.name + end)).is_file():
                shutil.copyfile(part, copy.with_name(copy.name + end))
        _leave_out_half_a_page(copy)
        found = Salvaged()
        with (
            contextlib.closing(_opened(copy)) as source,
            contextlib.closing(sqlite3.connect(result)) as target,
        ):
            target.execute("PRAGMA journal_mode=OFF")
            target.execute("PRAGMA synchronous=OFF")
            tables = _tables(source)
            for name, statement in tables:
                with contextlib.suppress(sqlite3.Error):  # a statement that was overwritten makes no table
                    target.execute(statement)
                    _copy_table(source, target, name, found, is_sound)
            for statement in _others(source):
                with contextlib.suppress(sqlite3.Error):  # an index may not fit what is left
                    target.execute(statement)
            target.commit()
        if found.rows:
            result.replace(fresh)
    return found


def _leave_out_half_a_page(copy: Path) -> None:
    """A file that was cut within a page has half a row in it, which SQLite would fill with zeros."""
    with copy.open("r+b") as file:
        header = file.read(18)
        page = int.from_bytes(header[16:18], "big") if header.startswith(_START) else _PAGE
        page = 1 << 16 if page == 1 else page
        size = file.seek(0, 2)
        if page >= 512 and size % page and size > page:
            file.truncate(size - size % page)


def _opened(copy: Path) -> sqlite3.Connection:
    """A connection that takes damage as it comes."""
    connection = _tolerant(copy)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError:
        connection.close()
        _write_header(copy)
        connection = _tolerant(copy)
    return connection


def _tolerant(copy: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(copy, isolation_level=None)
    with contextlib.suppress(sqlite3.Error):
        # Lets a file that is shorter than its header says be opened.
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("PRAGMA cell_size_check=ON")
    return connection


def _write_header(copy: Path) -> None:
    """The 100 bytes at the beginning as SQLite writes them for a file of this size and of its usual pages."""
    with TemporaryDirectory(prefix=".header-", dir=copy.parent) as folder:
        other = Path(folder) / "other.db"
        with contextlib.closing(sqlite3.connect(other)) as connection:
            connection.execute("CREATE TABLE t (x)")
            connection.commit()
        header = bytearray(other.read_bytes()[:100])
    size = copy.stat().st_size
    if size < _PAGE or not header.startswith(_START):
        return
    header[28:32] = struct.pack(">I", size // _PAGE)
    header[32:40] = bytes(8)  # no free pages are known
    header[92:96] = header[24:28]  # what the number of pages is valid for
    with copy.open("r+b") as file:
        file.write(header)


def _tables(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Name and statement of each table, as far as they can be read."""
    found: list[tuple[str, str]] = []
    with contextlib.suppress(sqlite3.Error):
        statement = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        for name, sql in connection.execute(statement):
            if isinstance(name, str) and isinstance(sql, str) and '"' not in name:
                found.append((name, sql))
    return found


def _others(connection: sqlite3.Connection) -> list[str]:
    found: list[str] = []
    with contextlib.suppress(sqlite3.Error):
        statement = "SELECT sql FROM sqlite_master WHERE type != 'table' AND sql IS NOT NULL"
        found.extend(sql for (sql,) in connection.execute(statement) if isinstance(sql, str))
    return found


def _copy_table(
    source: sqlite3.Connection,
    target: sqlite3.Connection,
    name: str,
    found: Salvaged,
    is_sound: Callable[[str, Sequence[Any]], bool],
) -> None:
    reader = _Reader(source, name)
    marks = ",".join("?" * len(target.execute(f'SELECT * FROM "{name}" LIMIT 0').description))
    kept = 0
    for _number, *values in reader.rows():
        if not is_sound(name, values):
            reader.failures += 1
            continue
        with contextlib.suppress(sqlite3.Error):  # twice the same key, or a value that may not be: damage
            statement = f'INSERT INTO "{name}" VALUES ({marks})'
            kept += target.execute(statement, values).rowcount
    found.rows[name] = kept
    if reader.failures:
        found.broken.append(name)


class _Reader:
    """Reads a table by ranges of row numbers; those that fail are halved."""

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self.failures = 0
        self._connection = connection
        self._highest = f'SELECT max(rowid) FROM "{table}"'
        self._select = f'SELECT rowid, * FROM "{table}" NOT INDEXED'

    def rows(self) -> Iterator[Row]:
        """Each readable row once: its number, then its values."""
        highest = _HIGHEST
        with contextlib.suppress(sqlite3.Error):
            highest = self._connection.execute(f"{self._highest}").fetchone()[0] or 0
        last = -1
        for row in self._between(0, highest):
            if row[0] > last:
                last = row[0]
                yield row

    def _between(self, low: int, high: int) -> Iterator[Row]:
        ranges = [(low, high)]
        while ranges and self.failures < _BUDGET:
            low, high = ranges.pop()
            try:
                for row in self._connection.execute(
                    f"{self._select} WHERE rowid BETWEEN ? AND ? ORDER BY rowid", (low, high)
                ):
                    if not low <= row[0] <= high:
                        raise sqlite3.DatabaseError("a row of another range")
                    yield row
                    low = row[0] + 1
            except (sqlite3.Error, UnicodeError, OverflowError):
                self.failures += 1
                if low < high:
                    middle = (low + high) // 2
                    ranges += [(middle + 1, high), (low, middle)]
