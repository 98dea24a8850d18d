"""The format number of a project's storage: by which rules its tables, vectors and caches were written.

It lies in ``format.json`` in the storage root, written when something is first stored there. A command or run
of another SETR reads it before anything else: an older format is migrated, or refused in words where it
cannot be; a newer one is refused. A storage without a number is one of before there were numbers: format 1.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.files import write_json

if TYPE_CHECKING:
    from setr_lib.settings import Settings

FORMAT = 1
"""The format that this SETR reads and writes. Raise it with a change that an earlier SETR would misread, or
that misreads what an earlier SETR wrote, and say in :data:`MIGRATIONS` how the earlier one becomes it."""
FIRST = 1
"""The format of a storage without a number."""
FILE = "format.json"
MIGRATIONS: Mapping[int, Callable[[Path], None]] = {}
"""By format, what makes a storage root of that format one of the next. Each must be able to begin again where
it was broken off: the number is written after it."""


class FormatError(SetrError):
    """The storage was written by another SETR's rules, and cannot be used as it is."""


def use_format(settings: Settings) -> None:
    """See that the storage is of this SETR's format: migrate an older one, refuse what cannot be used.

    Nothing is made where nothing is stored yet.

    Args:
        settings: They say where the storage root is.

    Raises:
        FormatError: It is newer, or older and cannot be migrated (or not written to), or its number is not
            readable; the message says what to do.
    """
    root = settings.storage_root
    found = _stored(root)
    if found is None and _is_empty(root):
        return
    if found is None and FORMAT == FIRST:
        _stamp(root, FORMAT)
    number = FIRST if found is None else found[0]
    if number > FORMAT:
        raise FormatError(_newer(root, *(found or (number, ""))))
    if number < FORMAT:
        _migrate(root)


def stamp(settings: Settings) -> None:
    """Write this SETR's format into a storage in which something is stored and that has no number yet.

    A storage that may only be read is left as it is: without a number it counts as the first format.

    Args:
        settings: They say where the storage root is.
    """
    root = settings.storage_root
    if not (root / FILE).exists() and not _is_empty(root):
        _stamp(root, FORMAT)


def stamp_before_writing(root: Path) -> None:
    """Write this SETR's format into a storage root that holds nothing yet, before its first table.

    Args:
        root: The storage root, which need not exist.
    """
    if not (root / FILE).exists() and _is_empty(root):
        _stamp(root, FORMAT)


def format_problem(settings: Settings) -> str | None:
    """Why the storage cannot be used, without changing anything.

    Args:
        settings: They say where the storage root is.

    Returns:
        The words; None where it can be used, or migrated.
    """
    root = settings.storage_root
    try:
        found = _stored(root)
    except FormatError as error:
        return str(error)
    if found is None:
        return None
    number = found[0]
    if number > FORMAT:
        return _newer(root, *found)
    lacking = [step for step in range(number, FORMAT) if step not in MIGRATIONS]
    return _too_old(root, number) if lacking else None


def _stored(root: Path) -> tuple[int, str] | None:
    """The number in a storage root, and the version of SETR that wrote it; None where there is none."""
    path = root / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        number, version = values["format"], str(values.get("setr", ""))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        remedy = "move it away" if path.is_dir() else "make it readable"
        raise FormatError(f"{path}: cannot be read ({error.strerror}): {remedy}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        number, version = None, ""
    if not isinstance(number, int) or isinstance(number, bool) or number < FIRST:
        raise FormatError(
            f"{path}: holds no format number: it was cut or edited. If this version of SETR wrote this "
            f'storage, write {{"format": {FORMAT}}} into it, then run this again'
        )
    return number, version


def _is_empty(root: Path) -> bool:
    """Whether nothing is stored in a storage root (which may be a dead link, or a file: told elsewhere)."""
    try:
        return not any(path.name != FILE and not path.name.startswith(".") for path in root.iterdir())
    except OSError:
        return True


def _stamp(root: Path, number: int) -> None:
    """Write a format number. Of two processes that begin at once both write the same, each as a whole file;
    where nothing may be written, nothing is.
    """
    with contextlib.suppress(OSError):
        write_json(root / FILE, {"format": number, "setr": _version()})


def _migrate(root: Path) -> None:
    """Take a storage to today's format, one format at a time; one process does it, another waits for it."""
    with _alone(root):
        number = (_stored(root) or (FIRST, ""))[0]  # another process may have done it meanwhile
        while number < FORMAT:
            step = MIGRATIONS.get(number)
            if step is None:
                raise FormatError(_too_old(root, number))
            step(root)
            number += 1
            write_json(root / FILE, {"format": number, "setr": _version()})


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock of a storage root; refuse one that cannot be written to."""
    path = root / f".{FILE}.lock"
    try:
        file = path.open("a")
    except OSError as error:
        raise FormatError(
            f"{root}: was written by an earlier SETR, and has to be brought to format {FORMAT}, but it "
            f"cannot be written to ({error.strerror}): make it writable, or copy the project and use the copy"
        ) from error
    with file:
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _newer(root: Path, number: int, version: str) -> str:
    by = f"SETR {version}" if version else "a newer SETR"
    return (
        f"{root}: was written by {by} (format {number}), and this is SETR {_version()}, which knows format "
        f"{FORMAT} at most: install {by} or a later one, or name another folder in [storage] root; nothing "
        "was read or changed"
    )


def _too_old(root: Path, number: int) -> str:
    return (
        f"{root}: is of format {number}, which this SETR ({_version()}, format {FORMAT}) cannot bring up to "
        "date: set the folder aside, or name another in [storage] root, then run everything again; captions "
        "and compositions can be taken along: export them with the earlier SETR (`setr captions export`), "
        "and import them here"
    )


def _version() -> str:
    try:
        return metadata.version("setr")
    except metadata.PackageNotFoundError:  # a source tree without an installation
        return "unknown"
