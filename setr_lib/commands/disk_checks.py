"""What ``setr doctor`` tells of damage on disk: as far as names, sizes, and the first and last bytes of files
tell it. ``setr repair NAME --look`` reads every file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from setr_lib.commands.check import Check
from setr_lib.damage import Part, repair_command
from setr_lib.faults import file_fault, lance_faults, link_fault, sqlite_start_fault
from setr_lib.pipeline.storage import TABLES, places_of
from setr_lib.repairs.dagster_home import layout_fault
from setr_lib.settings import Settings

_DATABASES = (".db", ".sqlite")
_ENDS = {".parquet": b"PAR1", ".json": b"}"}


def damage_checks(settings: Settings) -> list[Check]:
    """A check for each part of the storage in which something is damaged.

    Args:
        settings: They say where it lies.

    Returns:
        The checks, with the command that mends each; none where nothing is found.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or settings.base_dir / "dagster_home")
    return [
        *(check for part, place in places_of(settings) for check in _checks(part, list(_place(place)))),
        *_checks("vectors", list(_vectors(Path(settings.lancedb_uri)))),
        *_checks("tables", list(_tables(settings.storage_root / TABLES))),
        *_checks("cache", list(_database(settings.cache_path))),
        *_checks("dagster", list(_dagster(home))),
    ]


def _checks(part: Part, found: list[tuple[Path, str]]) -> list[Check]:
    if not found:
        return []
    path, fault = found[0]
    more = f", and {len(found) - 1:,} more" if len(found) > 1 else ""
    return [Check("on disk", str(path), "broken", f"{fault}{more}: run `{repair_command(part)}`")]


def _vectors(folder: Path) -> Iterator[tuple[Path, str]]:
    for table in sorted(folder.glob("*.lance")) if folder.is_dir() else []:
        yield from lance_faults(table).items()


def _tables(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.suffix in _ENDS:
            fault = file_fault(path)
            if fault is None and not _ends_with(path, _ENDS[path.suffix]):
                fault = "is cut or overwritten"
            if fault is not None:
                yield path, fault


def _database(path: Path) -> Iterator[tuple[Path, str]]:
    if (path.exists() or path.is_symlink()) and (fault := sqlite_start_fault(path)) is not None:
        yield path, fault


def _place(place: Path) -> Iterator[tuple[Path, str]]:
    """A place that is a dead link, or a file where a folder should be."""
    if (fault := link_fault(place)) is not None:
        yield place, fault
    elif place.is_file() and place.suffix not in _DATABASES:
        yield place, "is a file where a folder should be"


def _dagster(home: Path) -> Iterator[tuple[Path, str]]:
    if home.is_dir() and (found := layout_fault(home)) is not None:
        yield found
    for path in sorted(home.rglob("*.db")) if home.is_dir() else []:
        yield from _database(path)


def _ends_with(path: Path, end: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(-min(64, path.stat().st_size), os.SEEK_END)
        return file.read().rstrip().endswith(end)
