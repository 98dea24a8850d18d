"""Where a repair puts what is damaged, and what it says of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from setr_lib.damage import Part, damaged
from setr_lib.errors import SetrError

FOLDER = "set-aside"
"""The folder below the storage root."""


class RepairError(SetrError):
    """Something cannot be repaired now; the message says why."""


@dataclass(frozen=True)
class Finding:
    """Something damaged.

    Attributes:
        path: The file or folder.
        fault: What is wrong with it, as the rest of a sentence.
        done: What was done, e.g. ``set aside``.
        again: What makes it again, as a sentence; empty where nothing is lost.
        mended: Whether the next run can do without it.
    """

    path: Path
    fault: str
    done: str
    again: str = ""
    mended: bool = True


class SetAside:
    """A folder of its own for each repair that finds something: ``set-aside/DATE-TIME-PART``.

    Args:
        storage_root: The storage root.
        part: The part that is repaired.
        look_only: Move nothing.
    """

    def __init__(self, storage_root: Path, part: Part, look_only: bool = False) -> None:
        self._root, self.look_only = storage_root.absolute(), look_only
        self._part: Part = part
        name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{part}"
        taken = [path.name for path in (self._root / FOLDER).glob(f"{name}*")]
        self.folder = self._root / FOLDER / (f"{name}-{len(taken) + 1}" if taken else name)
        self.used = False

    def take(self, path: Path) -> Path:
        """Move a file or folder here, under its path below the storage root.

        Args:
            path: What is damaged; something that is not there is passed over.

        Returns:
            Where it is now; where it was, if nothing is to be moved.

        Raises:
            SetrError: It cannot be moved.
        """
        path = path.absolute()
        if self.look_only or not (path.exists() or path.is_symlink()):
            return path
        below = path.relative_to(self._root) if path.is_relative_to(self._root) else Path(path.name)
        target = self.folder / below
        number = 1
        while target.exists():
            number += 1
            target = self.folder / below.with_name(f"{below.name}.{number}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
        except (OSError, shutil.Error) as error:
            words = error.strerror if isinstance(error, OSError) and error.strerror else "the copy failed"
            raise damaged(
                self._part, path, f"cannot be moved to {target} ({words}): make both writable"
            ) from error
        self.used = True
        return target

    @property
    def verb(self) -> str:
        """What becomes of something damaged, in words."""
        return "would be set aside" if self.look_only else "set aside"


def refuse_in_use(path: Path) -> None:
    """Refuse to touch a file that another process has open.

    Args:
        path: A file.

    Raises:
        RepairError: A process has it open; the message says which.
    """
    import psutil

    wanted, own = path.resolve(), psutil.Process().pid
    for process in psutil.process_iter(["pid", "name"]):
        if process.pid == own:
            continue
        try:
            files = {Path(file.path) for file in process.open_files()}
        except (psutil.Error, OSError):
            continue
        if wanted in files:
            raise RepairError(
                f"{path} is open in process {process.pid} ({process.info['name']}): stop it (a run, "
                "`make dev` or `mlflow ui`), then repair again"
            )
