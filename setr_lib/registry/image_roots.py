"""Files that a request may name: only regular ones below folders that were allowed when the model was loaded.

A name is followed folder by folder from the root's own descriptor, each step relative to the one before and
none of them through a link that the system follows; a link is read and its target followed in the same way.
So nothing is looked at before it is opened, and what is opened cannot lie elsewhere, whoever moves files
meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from setr_lib.errors import SetrError
from setr_lib.registry.errors import RegistryError

ROOTS_VARIABLE = "SETR_IMAGE_ROOTS"
"""Folders (separated as in PATH) whose files may be named in place of image bytes; none by default."""
_MOST_LINKS = 40
"""Links that are followed for one name: as many as Linux follows."""
_STEP = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_FOLDER = _STEP | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", 0)
_FILE = _STEP | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class NoPictureError(SetrError):
    """There is no such file, or it may not be read; which of the two is not said."""


@dataclass(frozen=True)
class ImageRoots:
    """The folders whose files may be named.

    Attributes:
        folders: Absolute paths without links.
        given: The same as they were named, absolute: a request may begin a name with these, too.
    """

    folders: tuple[Path, ...] = ()
    given: tuple[Path, ...] = ()

    @classmethod
    def read(cls, configured: object, environment: Mapping[str, str] | None = None) -> ImageRoots:
        """The roots of a model that is being loaded; a request names none.

        Args:
            configured: ``image_roots`` of MLflow's ``model_config``: a folder, a list of folders, or None for
                those of ``SETR_IMAGE_ROOTS``.
            environment: Variables; those of the process by default.

        Returns:
            The roots; none where nobody has named any.

        Raises:
            RegistryError: ``configured`` is something else, or this system cannot follow names safely.
        """
        environment = os.environ if environment is None else environment
        if configured is None:
            names = [name for name in environment.get(ROOTS_VARIABLE, "").split(os.pathsep) if name]
        elif isinstance(configured, str):
            names = [configured]
        elif isinstance(configured, list | tuple):
            names = [str(name) for name in configured]
        else:
            raise RegistryError(
                f"model_config image_roots: a folder or a list of folders, not {configured!r}"
            )
        if names and not (os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")):
            raise RegistryError("image roots: this system cannot open files safely by name; send bytes")
        return cls(
            tuple(Path(name).resolve() for name in names), tuple(Path(name).absolute() for name in names)
        )

    def contents_of(self, name: str, most: int) -> bytes | None:
        """The bytes of a file that a request names.

        Args:
            name: Relative to one of the roots, or absolute and below one.
            most: Bytes of the file, at most.

        Returns:
            The bytes; None where there are more.

        Raises:
            NoPictureError: There is no regular file of that name below a root, or it cannot be read.
        """
        for root, given in zip(self.folders, self.given, strict=True):
            try:
                descriptor = _opened(root, _steps((root, given), name))
            except (OSError, ValueError, NoPictureError):
                continue
            with os.fdopen(descriptor, "rb") as file:
                try:
                    content = file.read(most + 1)
                except OSError:
                    continue
            return content if len(content) <= most else None
        raise NoPictureError("there is no picture of this name")


def _opened(root: Path, steps: list[str]) -> int:
    """A descriptor of the regular file below ``root`` to which ``steps`` lead, the last of them first."""
    opened = [os.open(root, _FOLDER)]
    links = 0
    try:
        while steps:
            step = steps.pop()
            if step == "..":
                if len(opened) == 1:
                    raise NoPictureError("above the root")
                os.close(opened.pop())
                continue
            found = os.stat(step, dir_fd=opened[-1], follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if links > _MOST_LINKS:
                    raise NoPictureError("a loop of links")
                target = os.readlink(step, dir_fd=opened[-1])
                if target.startswith("/"):
                    for descriptor in opened[1:]:
                        os.close(descriptor)
                    del opened[1:]
                steps += _steps((root,), target)
            elif steps:
                opened.append(os.open(step, _FOLDER, dir_fd=opened[-1]))
            elif stat.S_ISREG(found.st_mode):
                return _regular(os.open(step, _FILE, dir_fd=opened[-1]))
            else:
                break
        raise NoPictureError("no regular file")
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _regular(descriptor: int) -> int:
    """The descriptor, if what was opened is a regular file after all."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoPictureError("no regular file")
    return descriptor


def _steps(roots: Sequence[Path], name: str) -> list[str]:
    """The parts of a name below a root, the last of them first; an absolute one begins with one of the root's
    names.
    """
    path = PurePosixPath(name)
    if path.is_absolute():
        for root in roots:
            if path.is_relative_to(PurePosixPath(root)):
                return [*reversed(path.relative_to(PurePosixPath(root)).parts)]
        raise NoPictureError("not below the root")
    return [*reversed(path.parts)]
