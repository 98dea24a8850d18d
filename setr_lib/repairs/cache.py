"""``setr repair cache``: the file of what model calls gave. Every entry that can be read is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from setr_lib.content_cache import COLUMNS
from setr_lib.faults import file_fault, sqlite_fault
from setr_lib.repairs.aside import Finding, SetAside, refuse_in_use
from setr_lib.repairs.sqlite_rows import salvage, unreadable_rows
from setr_lib.settings import Settings

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def repair(settings: Settings, aside: SetAside) -> tuple[int, list[Finding]]:
    """Look at the cache; where it is damaged, copy its readable entries into a new file.

    Args:
        settings: They say where it lies.
        aside: Takes what is damaged.

    Returns:
        How many files are whole, and what was found.
    """
    path = settings.cache_path
    again = "the next run asks the models again for what is missing; `setr plan` says how much that is"
    folder = next((each for each in path.parents if each.exists()), path.parent)
    if not folder.is_dir():
        aside.take(folder)
        return 0, [Finding(folder, "is a file where a folder should be", aside.verb, again)]
    if not path.exists() and not path.is_symlink():
        return 0, _logs_alone(path, aside)
    fault = _fault(path)
    if fault is None:
        return 1, []
    if not path.is_file() or file_fault(path) == "is empty":
        aside.take(path)
        return 0, [Finding(path, fault, aside.verb, again), *_logs_alone(path, aside)]
    refuse_in_use(path)
    return 0, [_salvaged(path, fault, aside, again)]


def _salvaged(path: Path, fault: str, aside: SetAside, again: str) -> Finding:
    if aside.look_only:
        return Finding(path, fault, "its readable entries would be kept", again, mended=False)
    fresh = path.with_name(f".{path.name}.mended")
    fresh.unlink(missing_ok=True)
    kept = salvage(path, fresh, _is_entry)
    for end in ("", "-wal", "-shm"):
        aside.take(path.with_name(path.name + end))
    if kept.rows:
        fresh.replace(path)
    words = ", ".join(f"{rows:,} {kind}" for kind, rows in kept.rows.items()) or "none"
    return Finding(path, fault, f"{aside.verb}; entries kept: {words}", again)


def _fault(path: Path) -> str | None:
    if (fault := sqlite_fault(path)) is not None:
        return fault
    if unreadable_rows(path):
        return "has entries that cannot be read"
    return "has tables with other columns" if _other_columns(path) else None


def _other_columns(path: Path) -> bool:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        found = [
            [row[1] for row in connection.execute(f'PRAGMA table_info("{name}")')]
            for name in names
            if not name.startswith("sqlite_")
        ]
    return any(columns not in (COLUMNS, COLUMNS[:3]) for columns in found)


def _is_entry(_: str, values: Sequence[Any]) -> bool:
    """Whether a row is one that the cache wrote: a digest, a text, a time."""
    if len(values) not in (len(COLUMNS), len(COLUMNS) - 1):
        return False
    key, value, made_at = values[:3]
    # What was overwritten with zeros is text to SQLite still.
    is_text = isinstance(value, str) and not _CONTROL.search(value)
    return isinstance(key, str) and key.isprintable() and is_text and isinstance(made_at, float)


def _logs_alone(path: Path, aside: SetAside) -> list[Finding]:
    """A write-ahead log whose database is gone would be played into the next one."""
    found: list[Finding] = []
    for end in ("-wal", "-shm"):
        log = path.with_name(path.name + end)
        if log.exists():
            aside.take(log)
            found.append(Finding(log, "is the log of a database that is not there", aside.verb))
    return found
