"""Files of the storage that this user may not read or write: made so where they are this user's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from setr_lib.repairs.aside import Finding, SetAside


def permitted(places: list[Path], aside: SetAside) -> list[Finding]:
    """Look at the permissions of a part's files and folders; those of this user's own are mended.

    Args:
        places: Its files and folders.
        aside: Says whether to change anything.

    Returns:
        What was found.
    """
    found = (_looked_at(path, aside) for place in places for path in _below(place))
    return [finding for finding in found if finding is not None]


def _below(place: Path) -> Iterator[Path]:
    """A place, then what is in it: a folder before its content, so that it can be listed by then."""
    if place.is_symlink() or not place.exists():
        return
    yield place
    if place.is_dir() and os.access(place, os.R_OK | os.X_OK):
        for each in sorted(place.iterdir()):
            yield from _below(each)


def _looked_at(path: Path, aside: SetAside) -> Finding | None:
    state = path.stat()
    needed = stat.S_IRUSR | stat.S_IWUSR | (stat.S_IXUSR if path.is_dir() else 0)
    if state.st_uid == os.getuid():
        if state.st_mode & needed == needed and os.access(path, os.W_OK):
            return None
    elif os.access(path, os.R_OK | os.W_OK):
        return None
    fault = "may not be read or written by this user"
    if aside.look_only:
        return Finding(path, fault, "would be made writable", mended=False)
    try:
        path.chmod(state.st_mode | needed)
    except OSError as error:
        way = f"left ({error.strerror}): give it to this user, or mount its disk for writing"
        return Finding(path, fault, way, mended=False)
    return Finding(path, fault, "made writable")
