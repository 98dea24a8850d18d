"""What is wrong with a file, as the rest of a sentence: by its name, length and ends, or by reading it."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import struct
from pathlib import Path

_LANCE_END = b"LANC"
"""The last bytes of a whole data file or manifest of Lance."""
LANCE_SIDE_FOLDERS = ("_transactions", "_refs", "_refs/tags")
"""Folders of a table of Lance that hold no rows, and are made where they are missing."""
_SQLITE_START = b"SQLite format 3\x00"


def lance_faults(table: Path) -> dict[Path, str]:
    """What is wrong with the files of a table of LanceDB, as far as their ends and names tell.

    Args:
        table: The folder ``NAME.lance``.

    Returns:
        Fault by path; empty where nothing is found.
    """
    if not table.is_dir():
        return {table: "is a file where a folder should be"}
    versions = sorted((table / "_versions").glob("*.manifest"))
    if not versions:
        return {table: "has no manifest: nothing says what it holds"}
    found = {path: fault for path in versions if (fault := _lance_fault(path))}
    data = table / "data"
    if data.exists() and not data.is_dir():
        found[data] = "is a file where a folder should be"
    elif data.is_dir():
        files = data.glob("*.lance")
        found |= {path: fault for path in sorted(files) if (fault := _lance_fault(path))}
    for tag in sorted((table / "_refs" / "tags").glob("*.json")):
        if (fault := lance_tag_fault(tag)) is not None:
            found[tag] = fault
    for name in LANCE_SIDE_FOLDERS:
        if (table / name).is_file():
            found[table / name] = "is a file where a folder should be"
    return found


def lance_tag_fault(path: Path) -> str | None:
    """What is wrong with a tag of a table of LanceDB: a file that gives a version a name.

    Args:
        path: The file.

    Returns:
        The rest of a sentence; None where it is whole.
    """
    if (fault := json_fault(path)) is not None:
        return fault
    try:
        is_whole = type(json.loads(path.read_text(encoding="utf-8")).get("version")) is int
    except (OSError, ValueError):
        is_whole = False
    return None if is_whole else "names no version"


def _lance_fault(path: Path) -> str | None:
    if path.is_dir():
        return "is a folder where a file should be"
    size = path.stat().st_size
    if size < len(_LANCE_END):
        return "is empty" if size == 0 else "is cut or overwritten"
    with path.open("rb") as file:
        file.seek(-len(_LANCE_END), os.SEEK_END)
        return None if file.read() == _LANCE_END else "is cut or overwritten"


def file_fault(path: Path) -> str | None:
    """What is wrong with a place where a file should be, whatever it should hold.

    Args:
        path: The place.

    Returns:
        The rest of a sentence; None where it is a file with something in it, which may be read and written.
    """
    try:
        if path.is_dir():
            return "is a folder where a file should be"
        if (fault := link_fault(path)) is not None:
            return fault
        if not path.exists():
            inside = next((each for each in path.parents if os.path.lexists(each)), path.parent)
            if (fault := link_fault(inside)) is not None:
                return f"cannot be there: {inside} {fault}"
            return "is missing" if inside.is_dir() else f"cannot be there: {inside} is a file, not a folder"
        if not path.is_file():
            return "is a pipe, a socket or a device where a file should be"
        if path.stat().st_size == 0:
            return "is empty"
        if not os.access(path, os.R_OK):
            return "may not be read by this user"
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    return None


def link_fault(path: Path) -> str | None:
    """What is wrong with a link.

    Args:
        path: The place; it need not be a link.

    Returns:
        The rest of a sentence; None where it is no link, or one that leads to something.
    """
    if not path.is_symlink() or path.exists():
        return None
    try:
        to = path.readlink()
    except OSError as error:
        return f"is a link that cannot be read ({error.strerror})"
    return f"is a link that leads nowhere ({to}): is its disk away?"


def json_fault(path: Path) -> str | None:
    """What is wrong with a file that should hold a JSON object.

    Args:
        path: The file.

    Returns:
        The rest of a sentence; None where it is whole.
    """
    if (fault := file_fault(path)) is not None:
        return fault
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return "is not UTF-8 text"
    except (OSError, ValueError, RecursionError):
        return "is not JSON: cut or overwritten"
    return None if isinstance(value, dict) else "holds no JSON object"


def safetensors_fault(path: Path) -> str | None:
    """What is wrong with a safetensors file, as far as its header and its length tell.

    Args:
        path: The file.

    Returns:
        The rest of a sentence; None where it is whole.
    """
    if (fault := file_fault(path)) is not None:
        return fault
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if not 2 <= length <= size - 8:
                return "is cut or overwritten"
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error):
        return "is cut or overwritten"
    return None if 8 + length + max(ends, default=0) == size else "is cut or overwritten"


def sqlite_start_fault(path: Path) -> str | None:
    """What is wrong with a SQLite file, as far as its header and its length tell.

    Args:
        path: The file.

    Returns:
        The rest of a sentence; None where nothing is found.
    """
    if (fault := file_fault(path)) is not None:
        return fault
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(_SQLITE_START) or len(header) < 100:
        return "is not a database: cut or overwritten"
    page, pages = struct.unpack(">H", header[16:18])[0], struct.unpack(">I", header[28:32])[0]
    # The number of pages counts where whoever wrote last wrote it, too; a log beside may hold later pages.
    is_known = header[24:28] == header[92:96] and not path.with_name(f"{path.name}-wal").exists()
    whole = (1 << 16 if page == 1 else page) * pages
    return "is cut" if is_known and path.stat().st_size < whole else None


def sqlite_fault(path: Path, table: str | None = None) -> str | None:
    """What is wrong with a SQLite file; the whole file is read.

    Args:
        path: The file.
        table: A table that it must have.

    Returns:
        The rest of a sentence; None where it is whole.
    """
    try:
        if (fault := sqlite_start_fault(path)) is not None:
            return fault
        try:
            names = _tables_of_whole(f"{path.absolute().as_uri()}?mode=ro")
        except sqlite3.OperationalError as error:
            if not _MAY_NOT_WRITE.search(str(error)):
                raise
            # Its log cannot be made beside it by this user. Without one the file is all there is.
            if path.with_name(f"{path.name}-wal").exists():
                return None
            names = _tables_of_whole(f"{path.absolute().as_uri()}?mode=ro&immutable=1")
    except (OSError, sqlite3.Error) as error:
        if "is locked" in str(error):
            return None
        return "is cut or overwritten in places"
    if names is None:
        return "is cut or overwritten in places"
    if table is not None and table not in names:
        return f"is a database without the table {table}"
    return None


_MAY_NOT_WRITE = re.compile("readonly database|unable to open database")


def _tables_of_whole(uri: str) -> set[str] | None:
    """The tables of a SQLite file that is whole; None where it is not."""
    connection = sqlite3.connect(uri, uri=True, timeout=10)
    try:
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            return None
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    finally:
        connection.close()
