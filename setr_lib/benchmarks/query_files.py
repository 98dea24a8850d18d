"""The file of queries of a folder of one's own: which of the files that lie there it is."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath

from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.query_tables import READ, SPREADSHEETS
from setr_lib.decoding import EXPORT
from setr_lib.paths import kind_of

_NAMES = ("queries", "query")
_ALSO = ("triplets", "triplet", "annotations", "annotation")
"""What else people call files of queries; such a file is named, not read."""
_CLOSE = 0.75
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar", ".tar", ".tgz")
_OTHER = (
    *(
        ".txt",
        ".tab",
        ".xml",
        ".yaml",
        ".yml",
        ".pkl",
        ".pickle",
        ".feather",
        ".arrow",
        ".ipc",
        ".avro",
        ".orc",
    ),
    *(".sqlite", ".db", ".dta", ".sav", ".html", ".pq", ""),
)
"""Endings of tables that are not read; a file named ``queries`` without any ending is one, too."""
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif")
_FOLDERS = 200
"""Folders below the root that are looked into for a file of queries."""


@dataclass(frozen=True)
class FoundQueries:
    """What was found of a data set's queries."""

    path: Path | None
    """The file; None where there is none."""
    notes: list[str] = field(default_factory=list)
    """What a person must know: a file by another name that is read, files that are not."""


def find_queries(root: Path, dataset: str, others: tuple[Path, ...] = ()) -> FoundQueries:
    """The file of queries under a data set's root, where settings name none.

    Args:
        root: The root.
        dataset: The data set's name, for messages.
        others: More folders in which a file of queries is looked for, and named but not read.

    Returns:
        The one file that can be read, whatever the case of its name; none where there is no file of queries.

    Raises:
        DatasetError: There are two that can be read, or only ones that cannot; it says what to do.
    """
    names = sorted(_files(root))
    candidates = [name for name in names if _stem(name) in _NAMES and _ending(name) is not None]
    read = [name for name in candidates if _ending(name) in READ]
    unread = [name for name in candidates if name not in read]
    key = f"[datasets.{dataset}] queries"
    if len(read) > 1:
        reason = (
            f"there are {len(read)} files of queries, {' and '.join(read)}: name the one to read as {key}"
        )
        raise DatasetError(reason, file=root)
    if read:
        return FoundQueries(root / read[0], [*_odd_name(root, read[0]), *_passed_over(root, read[0], unread)])
    if unread:
        raise DatasetError(_advice(_ending(unread[0]) or ""), file=root / unread[0])
    like = [name for name in names if "queries" in _words(name) and _ending(name) is not None]
    if like:
        raise DatasetError(
            f"there is {' and '.join(like[:3])}, and no file queries.csv, .tsv, .jsonl, .json or .parquet: "
            f"name the file of queries as {key}, or move it away if the folder is to be searched only",
            file=root,
        )
    return FoundQueries(None, [*_elsewhere(root, others, key), *_maybe(root, names, key)])


def _files(root: Path) -> Iterator[str]:
    """Names in ``root`` that may be files of queries: no folder, no hidden or lock file. A link that leads
    nowhere is one: reading it says so."""
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                hidden = entry.name.startswith((".", "~$"))
                if not hidden and (not entry.is_dir() or PurePath(entry.name).suffix.lower() in READ):
                    yield entry.name
    except OSError:
        return  # whoever lists the images says so


def _ending(name: str) -> str | None:
    """The ending of a table, in lower case; None of anything else."""
    path = PurePath(name.lower())
    if path.suffix in _PACKED:
        return path.suffix
    known = path.suffix in READ or path.suffix in SPREADSHEETS or path.suffix in _OTHER
    return path.suffix if known else None


def _stem(name: str) -> str:
    """The name without its endings: ``queries`` of ``queries.csv.gz``."""
    path = PurePath(name.casefold())
    if path.suffix in _PACKED:
        path = path.with_suffix("")
        return path.stem if _ending(path.name) else path.name
    return path.stem


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z]+", _stem(name))


def _odd_name(root: Path, name: str) -> list[str]:
    if name in [f"queries{ending}" for ending in READ]:
        return []
    return [f"{root / name} is read as the file of queries"]


def _passed_over(root: Path, read: str, unread: list[str]) -> list[str]:
    return [f"{root / name} is not read: {read} is" for name in unread]


def _advice(ending: str) -> str:
    if ending in SPREADSHEETS:
        return f"is a spreadsheet, which is not read: {EXPORT}"
    if ending in _PACKED:
        return "is a compressed file of queries, which is not read: unpack it first"
    what = f"{ending!r} files are" if ending else "a file without an ending is"
    return f"is named as the queries are, and {what} not read: use {', '.join(READ)}"


def _elsewhere(root: Path, others: tuple[Path, ...], key: str) -> Iterator[str]:
    """Files of queries beside the root, above it, and in a folder of it."""
    try:
        with os.scandir(root) as entries:
            folders = [Path(entry.path) for entry in islice((e for e in entries if e.is_dir()), _FOLDERS)]
    except OSError:
        folders = []
    for folder in dict.fromkeys([*others, root.parent, *sorted(folders)]):
        for ending in READ:
            file = folder / f"queries{ending}"
            if folder != root and kind_of(file) == "file":
                yield f"no file of queries is in {root}, and {file} is not read: name it as {key} to use it"


def _names_queries(words: list[str]) -> bool:
    """Whether a file's name has a word for queries, or one that is spelt nearly so."""
    known = any(word in _ALSO for word in words)
    return known or any(difflib.get_close_matches(word, _NAMES, n=1, cutoff=_CLOSE) for word in words)


def _maybe(root: Path, names: list[str], key: str) -> Iterator[str]:
    for name in names:
        words = _words(name)
        is_table = _names_queries(words) and _ending(name) in (*READ, *SPREADSHEETS)
        is_other = "queries" in words and PurePath(name.lower()).suffix not in _PICTURES
        if is_table or is_other:
            yield f"no file of queries is in {root}, and {name} is not read: name it as {key} if it is one"
