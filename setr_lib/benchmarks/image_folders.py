"""The listing of image folders: every image below a folder, and all that is there and is not listed.

The one place that walks through folders of images. The order depends on names alone. A real folder is listed
once, under its real name, whatever links lead to it; so links cannot make a loop.
"""

from __future__ import annotations

import errno
import heapq
import mimetypes
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from setr_lib.benchmarks.errors import DatasetError
from setr_lib.image_formats import how_to_read, readable_endings
from setr_lib.paths import kind_of

TOOL_FOLDERS = frozenset(
    {
        "@__thumb",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "@sharebin",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "__macosx",
        "found.000",
        "lost+found",
        "lost.dir",
        "network trash folder",
        "recycler",
        "system volume information",
        "temporary items",
    }
)
"""Folders that network storage, archive tools and file systems leave among images, in lower case."""
_TOOL_FILES = frozenset({"desktop.ini", "ehthumbs.db", "icon\r", "thumbs.db"})
_SHOWN = 3
_LONGEST_ENDING = 12


@dataclass(frozen=True)
class FolderRules:
    """What of a folder is listed.

    Attributes:
        inside: Folders in which links to folders may end; the listed folder itself is one.
        outside_links: Whether links to folders are followed wherever they end.
        never: Folders of SETR's own, which are never listed.
        own_files: Paths of the data set's files that are no images, and need no mention.
        setting: What allows links that end elsewhere, for the message.
    """

    inside: tuple[Path, ...] = ()
    outside_links: bool = False
    never: tuple[Path, ...] = ()
    own_files: frozenset[str] = frozenset()
    setting: str = "outside_links = true"


@dataclass(frozen=True)
class FolderListing:
    """What was found below a folder.

    Attributes:
        folder: The folder.
        names: The images, as paths from the folder with ``/``, sorted.
        endings: How many files are not read, by ending in lower case; ``""`` for files without one.
        unlisted: Folders whose images are not known, by their path from the folder, and why.
        misnamed: Files and folders whose names UTF-8 cannot hold, escaped.
        outside: Links to folders that end elsewhere and are not followed, and where they lead.
        repeated: Links to folders that are listed under their real names, and where they lead.
        setting: What allows links that end elsewhere.
    """

    folder: Path
    names: tuple[str, ...] = ()
    endings: Mapping[str, int] = field(default_factory=dict)
    unlisted: Mapping[str, str] = field(default_factory=dict)
    misnamed: tuple[str, ...] = ()
    outside: Mapping[str, str] = field(default_factory=dict)
    repeated: Mapping[str, str] = field(default_factory=dict)
    setting: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether every image that belongs to the listing is in it."""
        return not self.unlisted and not self.misnamed

    @property
    def faults(self) -> list[str]:
        """Why the listing is not whole, in sentences that name the folder; empty where it is."""
        found: list[str] = []
        if self.unlisted:
            shown = [f"{self._path(name)} ({why})" for name, why in self.unlisted.items()]
            found.append(
                f"{self.folder}: {_count(len(shown), 'folder')} below it cannot be listed, so the gallery is "
                f"not whole: {_some(shown)}: make it readable, or take it away"
            )
        if self.misnamed:
            found.append(
                f"{self.folder}: {_count(len(self.misnamed), 'file or folder', 'files or folders')} left out "
                f"whose name is not UTF-8: {_some(self.misnamed)}: rename it"
            )
        return found

    @property
    def notes(self) -> list[str]:
        """What was passed over by rule, in sentences that name the folder."""
        found: list[str] = []
        if self.outside:
            found.append(
                f"{self.folder}: {_count(len(self.outside), 'link')} to folders elsewhere not followed: "
                f"{_some(self._links(self.outside))}; {self.setting} follows such links"
            )
        if self.repeated:
            found.append(
                f"{self.folder}: {_count(len(self.repeated), 'link')} to folders that are listed already, "
                f"under their own names: {_some(self._links(self.repeated))}"
            )
        if self.endings:
            found.append(f"{self.folder}: {endings_in_words(self.endings)}")
        return found

    def _path(self, name: str) -> str:
        return str(self.folder / name)

    def _links(self, links: Mapping[str, str]) -> list[str]:
        return [f"{self._path(name)} -> {target}" for name, target in links.items()]


def endings_in_words(endings: Mapping[str, int]) -> str:
    """How many files are not read as images, most frequent endings first.

    Args:
        endings: Count by ending; ``""`` for files without one.

    Returns:
        A sentence without a full stop.
    """
    ways = how_to_read()
    parts = [
        f"{count:,} {ending or 'without an ending'}" + (f" ({ways[ending]})" if ending in ways else "")
        for ending, count in sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    ]
    total = sum(endings.values())
    return f"{_count(total, 'file')} not read as images: {', '.join(parts)}"


def list_folder(folder: Path, dataset: str, rules: FolderRules | None = None) -> FolderListing:
    """List every image below a folder.

    Left out are hidden files and folders, what network storage and archive tools leave
    (:data:`TOOL_FOLDERS`), and SETR's own folders. Links to files are images like others, wherever they end.
    Links to folders are followed where they end in one of ``rules.inside``, or ``rules.outside_links`` says
    so; a folder that is listed under its own name is not listed again.

    Args:
        folder: The folder; it may be a link itself.
        dataset: The data set's name, for messages.
        rules: What is listed; by default links may end in the folder only.

    Returns:
        The images, and what is not among them.

    Raises:
        DatasetError: There is no such folder, it cannot be listed, or it is one of SETR's own.
    """
    if (kind := kind_of(folder)) != "folder":
        hidden = "this user may not look at the image folder (permission denied)"
        why = hidden if kind == "hidden" else "there is no such image folder"
        raise DatasetError(f"[datasets.{dataset}]: {why}", file=folder)
    walk = _Walk(folder, rules or FolderRules())
    if walk.top in walk.never:
        raise DatasetError(
            f"[datasets.{dataset}]: this is a folder of SETR's own, which is never a gallery: name another",
            file=folder,
        )
    try:
        walk.run()
    except OSError as error:
        raise DatasetError(
            f"[datasets.{dataset}]: the image folder cannot be listed ({_reason(error)})", file=folder
        ) from error
    return walk.listing


class _Walk:
    """A walk through a folder: real folders first, then links in the order of their names."""

    def __init__(self, folder: Path, rules: FolderRules) -> None:
        self.folder, self.rules = folder, rules
        self.top = os.path.realpath(folder)
        self.inside = [self.top, *map(os.path.realpath, rules.inside)]
        self.never = set(map(os.path.realpath, rules.never))
        self.readable = readable_endings()
        self.seen: set[str] = set()
        self.links: list[str] = []
        self.names: list[str] = []
        self.misnamed: list[str] = []
        self.endings: Counter[str] = Counter()
        self.unlisted: dict[str, str] = {}
        self.outside: dict[str, str] = {}
        self.repeated: dict[str, str] = {}

    def run(self) -> None:
        """Walk. Raises ``OSError`` where the folder itself cannot be listed."""
        self._descend("", self.top)
        while self.links:
            self._follow(heapq.heappop(self.links))

    @property
    def listing(self) -> FolderListing:
        return FolderListing(
            folder=self.folder,
            names=tuple(sorted(self.names)),
            endings=dict(sorted(self.endings.items())),
            unlisted=dict(sorted(self.unlisted.items())),
            misnamed=tuple(sorted(self.misnamed)),
            outside=dict(sorted(self.outside.items())),
            repeated=dict(sorted(self.repeated.items())),
            setting=self.rules.setting,
        )

    def _descend(self, name: str, real: str) -> None:
        """List a real folder, called ``name`` from the top, and all real folders below it."""
        pending = [(name, real)]
        while pending:
            name, real = pending.pop()
            if real in self.seen or real in self.never:
                continue
            self.seen.add(real)
            below = [self._visited(name, entry) for entry in self._entries(name)]
            folders = [(found, os.path.join(real, Path(found).name)) for found in below if found is not None]
            pending += reversed(folders)

    def _entries(self, name: str) -> list[os.DirEntry[str]]:
        found: list[os.DirEntry[str]] = []
        try:
            with os.scandir(os.path.join(self.folder, name)) as entries:
                found.extend(entries)  # what was read before an error stays
        except OSError as error:
            if not name:
                raise
            self.unlisted[name] = _reason(error)
        return sorted(found, key=lambda entry: entry.name)

    def _visited(self, folder: str, entry: os.DirEntry[str]) -> str | None:
        """Note what an entry is; its name from the top where it is a real folder to go into."""
        if entry.name.startswith("."):
            return None
        name = f"{folder}/{entry.name}" if folder else entry.name
        try:
            is_link = entry.is_symlink()
            is_folder = entry.is_dir(follow_symlinks=False) or (is_link and entry.is_dir())
        except OSError as error:
            self.unlisted[_escaped(name)] = _reason(error)
            return None
        if is_folder and entry.name.casefold() in TOOL_FOLDERS:
            return None
        if _escaped(entry.name) != entry.name:
            if is_folder or is_link or self._ending(entry.name) in self.readable:
                self.misnamed.append(_escaped(name))
            else:
                self.endings[_escaped(self._ending(entry.name))] += 1
            return None
        if is_folder and self._ending(entry.name) in self.readable:
            self.names.append(
                name
            )  # called as a picture: one that cannot be read; what is in it is listed, too
        if is_folder and not is_link:
            return name
        if is_folder or (is_link and self._leads_to_no_folder(entry)):
            heapq.heappush(self.links, name)
        else:
            self._file(name, entry)
        return None

    def _leads_to_no_folder(self, entry: os.DirEntry[str]) -> bool:
        """Whether a link that leads nowhere may have been a folder's: its ending is no file's."""
        known = self._ending(entry.name) in self.readable or mimetypes.guess_type(entry.name)[0] is not None
        return not known and not os.path.exists(entry.path)

    def _file(self, name: str, entry: os.DirEntry[str]) -> None:
        ending = self._ending(entry.name)
        if ending in self.readable:
            self.names.append(name)
        elif entry.path not in self.rules.own_files and entry.name.casefold() not in _TOOL_FILES:
            self.endings[ending] += 1

    @staticmethod
    def _ending(name: str) -> str:
        ending = os.path.splitext(name)[1].lower()
        return ending if len(ending) <= _LONGEST_ENDING and " " not in ending else ""

    def _follow(self, name: str) -> None:
        """Go where a link to a folder leads, if that is allowed and new."""
        path = os.path.join(self.folder, name)
        target = os.path.realpath(path)
        if target in self.seen:
            self.repeated[name] = target
        elif not self.rules.outside_links and not _is_inside(target, self.inside):
            self.outside[name] = target
        elif not os.path.isdir(target):
            self.unlisted[name] = f"the link leads to {target}, which is no folder that is there"
        elif not _is_inside(target, self.never) or _is_inside(self.top, self.never):
            self._descend(name, target)


def _is_inside(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "its links lead in a circle"
    return error.strerror or str(error)


def _escaped(name: str) -> str:
    """A file's name as text that UTF-8 can hold: bytes that are none as ``\\udc..``."""
    return name.encode("utf-8", "backslashreplace").decode()


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
