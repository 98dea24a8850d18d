"""What is damaged on disk, or cannot be written, in one line: which file, what is wrong with it, and which
``setr repair NAME`` mends it.

Libraries say this in their own words (SQLite, LanceDB, Polars, safetensors, MLflow, the system), over many
lines and without a way out. Code that reads or writes something of SETR's storage does it inside
:func:`told`, or through an object that :func:`guarded` wraps; :func:`explain` is for what gets past both.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

from setr_lib.errors import SetrError
from setr_lib.faults import file_fault, lance_faults, sqlite_fault
from setr_lib.paths import unwritable_folder

Part = Literal["vectors", "tables", "cache", "registry", "checkpoints", "reports", "dagster"]
"""A part of what lies on disk, as ``setr repair`` names it."""
PARTS: Mapping[Part, str] = {
    "vectors": "the LanceDB tables: vectors of images and captions",
    "tables": "the tables and records of the assets (Parquet, JSON)",
    "cache": "what model calls gave: captions, compositions, judge scores (SQLite)",
    "registry": "the MLflow store: trainings, registered models, their files",
    "checkpoints": "the checkpoints, notes and results of trainings",
    "reports": "the report pages",
    "dagster": "the run history of Dagster (DAGSTER_HOME)",
}
"""What :data:`Part` names, in words."""
Places: TypeAlias = Sequence[tuple[Part, Path]]
"""Where the files of each part lie; of a part with several places, its database first."""
COMMAND = re.compile(r"`setr repair \w+`")
"""How a message names the command that mends something."""

_LOG = logging.getLogger(__name__)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_WORDS = re.compile(
    r"no space left on device|database or disk is full|disk quota exceeded|os error (28|122|27)\b", re.I
)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_DENIED_WORDS = re.compile(
    r"permission denied|read-?only (file system|database)|operation not permitted|os error (13|1|30)\b", re.I
)
_DENIED_FAULT = "may not be read or written by this user, or lies on a disk that is read-only"
_SQLITE_WORDS = re.compile(
    r"not a database|disk image is malformed|disk I/O error|unable to open database|readonly database|"
    r"no such (table|column)|duplicate column|decode to UTF-8|can't locate revision|is locked",
    re.I,
)
_SQLITE_LIBRARIES = ("sqlite3", "sqlalchemy", "alembic")
_BUSY_WORDS = re.compile(r"database( table| schema)? is locked", re.I)
_LANCE_WORDS = re.compile(
    r"LanceError\((IO|Arrow|Schema)\)|corrupt file|panicked|os error \d+|Table '.*' was not found|Protobuf|"
    r"Invalid input, (file|Invalid direct|Unknown Lance|Global buffer|Column \d)"
)
_LANCE_FILE = re.compile(r"[^\s:,'\"]+\.(?:lance|manifest|json|txn|arrow|bin|idx)\b")
_FULL = 1 << 20
"""Bytes: with less than this free, an I/O error of SQLite is put down to the disk's being full."""

_DATABASES = (".db", ".sqlite")
_FILES = (*_DATABASES, ".json", ".parquet", ".safetensors", ".html", ".jpg", ".yaml", ".lock")
"""How the names of files end that SETR writes; a folder in their place is wrong."""

KindT = TypeVar("KindT", bound=SetrError)
AnyT = TypeVar("AnyT")


class DamagedError(SetrError):
    """Something of SETR's storage cannot be read or written; one line with the file, what is wrong with it,
    and the command that mends it.
    """


class NoSpaceError(SetrError):
    """There is no space left on a disk; one line with the disk, what is free, and what is kept."""


def repair_command(part: Part) -> str:
    """The command that mends a part.

    Args:
        part: The part.

    Returns:
        The command as a user types it.
    """
    return f"setr repair {part}"


def damaged(
    part: Part,
    path: Path | str,
    fault: str,
    kind: Callable[[str], KindT] = DamagedError,
    then: str = "run this again",
) -> KindT:
    """The error that something is damaged.

    Args:
        part: What it is a part of.
        path: The file or folder.
        fault: What is wrong with it, as the rest of a sentence: ``is cut or overwritten``.
        kind: The class of the error.
        then: What to do after the repair.

    Returns:
        The error, of one line.
    """
    words = f"{path}: {fault}: run `{repair_command(part)}`, which keeps what is whole, then {then}"
    if fault == _DENIED_FAULT and _is_anothers(Path(path)):
        words = f"{path}: {fault}; it belongs to another user: be that user, or have it given to this one"
    return kind(one_line(words))


def _is_anothers(path: Path) -> bool:
    try:
        return hasattr(os, "getuid") and path.stat().st_uid != os.getuid()
    except OSError:
        return False


def one_line(text: str) -> str:
    """A text with all its white space, line ends included, as single blanks.

    Args:
        text: Any text.

    Returns:
        The line.
    """
    return " ".join(text.split())


@contextmanager
def told(part: Part, path: Path | str, kind: Callable[[str], SetrError] = DamagedError) -> Iterator[None]:
    """Tell what a block that only reads or writes a file of SETR's raises as damage of that file.

    Args:
        part: The part that the file belongs to.
        path: The file or folder.
        kind: The class of the error for damage.

    Raises:
        SetrError: In place of any other exception. ``NoSpaceError`` where the disk is full.
    """
    try:
        yield
    except (SetrError, MemoryError):
        raise
    except Exception as error:
        raise as_told(error, part, path, kind) from error


def as_told(
    error: BaseException,
    part: Part,
    path: Path | str,
    kind: Callable[[str], KindT] = DamagedError,
    then: str = "run this again",
) -> SetrError:
    """An exception about a known file, in words.

    Args:
        error: The exception.
        part: The part that the file belongs to.
        path: The file or folder.
        kind: The class of the error for damage.
        then: What to do after the repair.

    Returns:
        The error to raise.
    """
    words = _words_of(error)
    if no_space(error) or ("disk I/O error" in words and _free_at(Path(path)) < _FULL):
        return no_space_error(path)
    if _BUSY_WORDS.search(words):
        return kind(f"{path}: another process is writing it: wait for its end, then {then}")
    if _is_denied(error) and not os.path.lexists(path) and (why := unwritable_folder(Path(path))):
        return kind(f"{path}: {why}: make it writable, or set another [storage] root; then {then}")
    return damaged(part, path, _fault_of(error, Path(path), words), kind, then)


def of_database(error: BaseException) -> bool:
    """Whether an exception says that a SQLite file cannot be used as it is.

    Args:
        error: The exception.

    Returns:
        True where it, or what caused it, does; False for a row that a database refuses.
    """
    is_sqlite = any(type(each).__module__.startswith(_SQLITE_LIBRARIES) for each in chain(error))
    words = _words_of(error)
    return (is_sqlite or "(sqlite3." in words) and _SQLITE_WORDS.search(words) is not None


def no_space(error: BaseException) -> bool:
    """Whether an exception says that a disk is full, in whatever words.

    Args:
        error: The exception.

    Returns:
        True where it, or what caused it, does.
    """
    for each in chain(error):
        if isinstance(each, OSError) and each.errno in _NO_ROOM:
            return True
    return _NO_ROOM_WORDS.search(_words_of(error)) is not None


def no_space_error(path: Path | str) -> NoSpaceError:
    """The error that the disk of a path is full.

    Args:
        path: What was written.

    Returns:
        The error, of one line.
    """
    disk = _disk_of(Path(path))
    usage = shutil.disk_usage(disk)
    where = f"{_mega(usage.free)} free of {_mega(usage.total)}"
    return NoSpaceError(
        f"no space left on the disk {disk} ({where}), where {path} is written: what was finished is kept, "
        "nothing is left half written; make room (`setr doctor` says how much is needed) and run this again"
    )


def explain(error: BaseException, places: Places) -> SetrError | None:
    """What an exception from anywhere says of SETR's storage, or of a file that may not be looked at.

    Args:
        error: The exception.
        places: Where each part lies.

    Returns:
        The error to show in its place; None where it is about something else.
    """
    if isinstance(error, SetrError):
        return error
    if no_space(error):
        named = next((path for path in _paths_of(error)), None)
        return no_space_error(named or places[0][1])
    for path in _paths_of(error):
        if part := _part_of(path, places):
            return as_told(error, part, path)
    words = _words_of(error)
    if of_database(error):
        part = _of_library(error)
        place = next((path for name, path in places if name == part), None)
        return None if place is None else as_told(error, part, _database_in(place))
    if "LanceError" in words:
        folder = next(path for name, path in places if name == "vectors")
        return as_told(error, "vectors", lance_place(words, folder))
    return _denied_elsewhere(error)


def _denied_elsewhere(error: BaseException) -> SetrError | None:
    """That a file or folder which is not of SETR's storage (pictures, models) may not be looked at."""
    for each in chain(error):
        if isinstance(each, PermissionError) and each.filename:
            path = os.fsdecode(each.filename) if isinstance(each.filename, bytes) else str(each.filename)
            return SetrError(
                f"{path}: this user may not look at it or use it (permission denied): have it made readable, "
                "or name another"
            )
    return None


@contextmanager
def explained(places: Places) -> Iterator[None]:
    """Tell what a block raises as damage or lack of space where :func:`explain` knows it; all else passes.

    Args:
        places: Where each part lies.

    Raises:
        SetrError: In place of an exception that is about SETR's storage.
    """
    try:
        yield
    except SetrError:
        raise
    except Exception as error:
        if (found := explain(error, places)) is not None:
            raise found from error
        raise


def guarded(thing: AnyT, translate: Callable[[BaseException], SetrError | None], module: str) -> AnyT:
    """An object of a library whose methods, and those of the library's objects that they give, raise errors
    for people.

    Args:
        thing: The object.
        translate: Gives the error to raise in place of an exception; None to let it pass.
        module: What the modules of the library's own classes begin with.

    Returns:
        Something that behaves like ``thing``.
    """
    return cast("AnyT", _Guarded(thing, translate, module))


class _Guarded:
    """The proxy of :func:`guarded`."""

    def __init__(
        self, thing: object, translate: Callable[[BaseException], SetrError | None], module: str
    ) -> None:
        self._thing, self._translate, self._module = thing, translate, module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._wrapped(self._tried(lambda: getattr(self._thing, name)))

    def __len__(self) -> int:
        return self._tried(lambda: len(cast("Any", self._thing)))

    def __repr__(self) -> str:
        return repr(self._thing)

    def _tried(self, attempt: Callable[[], Any]) -> Any:
        try:
            return attempt()
        except (SetrError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if (told := self._translate(error)) is not None:
                raise told from error
            raise

    def _wrapped(self, value: Any) -> Any:
        if callable(value) and not isinstance(value, type):
            return lambda *args, **kwargs: self._wrapped(self._tried(lambda: value(*args, **kwargs)))
        if type(value).__module__.startswith(self._module):
            return _Guarded(value, self._translate, self._module)
        return value


def noticed(text: str) -> None:
    """Say that something damaged was passed over and is made again; nothing fails.

    Args:
        text: One line.
    """
    _LOG.warning("%s", one_line(text))


class Notices(logging.Handler):
    """Gives what :func:`noticed` says to a callback while it is entered.

    Args:
        say: Told of each line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the line on."""
        self._say(record.getMessage())

    def __enter__(self) -> Notices:
        """Listen."""
        _LOG.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        _LOG.removeHandler(self)


def lance_told(error: BaseException, folder: Path, table: str | None, kind: type[KindT]) -> SetrError | None:
    """What LanceDB says of the files of a database, in words.

    Args:
        error: The exception.
        folder: The database's folder.
        table: The table that was worked on, where it is known.
        kind: The class of the error for damage.

    Returns:
        The error to raise; None where the exception is about something else.
    """
    words = _words_of(error)
    if no_space(error):
        return no_space_error(folder)
    if not isinstance(error, OSError) and not _LANCE_WORDS.search(words) and not _is_panic(error):
        return None
    path = lance_place(words, folder if table is None else folder / f"{table}.lance")
    return damaged("vectors", path, _fault_of(error, path, words), kind)


def _is_panic(error: BaseException) -> bool:
    """Whether a library in Rust has met something that it thought impossible."""
    return type(error).__name__ in ("RustPanic", "PanicException")


def lance_place(words: str, folder: Path) -> Path:
    """The file that an error of LanceDB names, else the folder.

    Args:
        words: The error.
        folder: The database's folder.

    Returns:
        A path.
    """
    for found in _LANCE_FILE.findall(words):
        path = Path(found if found.startswith("/") else f"/{found}")
        if path.is_relative_to(folder.absolute().parent):
            return path
    return folder


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, what caused it, what caused that, and so on.

    Args:
        error: The exception.

    Yields:
        Each once.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _words_of(error: BaseException) -> str:
    return " | ".join(str(each) for each in chain(error))


def _paths_of(error: BaseException) -> list[Path]:
    """The files that system errors name; of a renaming, where to first."""
    system = [each for each in chain(error) if isinstance(each, OSError)]
    named = [name for each in system for name in (each.filename2, each.filename)]
    paths = [
        Path(os.fsdecode(name)).absolute() for name in named if isinstance(name, (str, bytes, os.PathLike))
    ]
    return [*dict.fromkeys(paths)]


def _part_of(path: Path, places: Places) -> Part | None:
    """The part whose place is the nearest above a path."""
    found: tuple[int, Part] | None = None
    for part, place in places:
        depth = len(place.absolute().parts)
        if path.is_relative_to(place.absolute()) and (found is None or depth > found[0]):
            found = depth, part
    return None if found is None else found[1]


def _of_library(error: BaseException) -> Part:
    """Whose database an error of SQLite is of: the library whose code is the innermost that uses it."""
    files: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    for file in reversed(files):
        if f"{os.sep}mlflow{os.sep}" in file:
            return "registry"
        if f"{os.sep}dagster{os.sep}" in file:
            return "dagster"
    return "cache"


def _number_of(error: BaseException) -> int | None:
    """The system's number of an error, where it or what caused it has one."""
    system = next((each for each in chain(error) if isinstance(each, OSError) and each.errno), None)
    return None if system is None else system.errno


def _is_denied(error: BaseException) -> bool:
    return _number_of(error) in _DENIED or _DENIED_WORDS.search(_words_of(error)) is not None


def _fault_of(error: BaseException, path: Path, words: str) -> str:
    """What is wrong with a file, in words that no library chose."""
    number = _number_of(error)
    if _is_denied(error):
        return _DENIED_FAULT
    if path.suffix == ".lance" and path.parent.name != "data" and path.exists():
        file, fault = next(iter(lance_faults(path).items()), (path, "cannot be read: cut or overwritten"))
        return fault if file == path else f"cannot be read: {file.relative_to(path)} {fault}"
    if path.suffix in _FILES or not path.is_dir():
        if number not in (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
            return f"cannot be read or written ({os.strerror(number or 0)})"
        if (fault := file_fault(path)) is not None:
            return fault
        if number in (errno.ENOTDIR, errno.EEXIST):
            return "is a file where a folder should be"
    else:
        return "holds something that cannot be read or written"
    if path.suffix in _DATABASES:
        return sqlite_fault(path) or "is a database with something else in it than SETR wrote"
    return "is cut or overwritten"


def _database_in(place: Path) -> Path:
    """Of the databases below a folder the first that is damaged; the place itself where it is a file."""
    if not place.is_dir():
        return place
    return next((path for path in sorted(place.rglob("*.db")) if sqlite_fault(path)), place)


def _disk_of(path: Path) -> Path:
    """The folder at which the disk of a path begins."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return place


def _free_at(path: Path) -> int:
    return shutil.disk_usage(_disk_of(path)).free


def _mega(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
