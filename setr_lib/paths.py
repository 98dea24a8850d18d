"""Paths as people write them: home folders and environment variables in them, and what may be written to."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Literal, TypeAlias

_VARIABLE = re.compile(r"\$(?:(\$)|\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


Kind: TypeAlias = Literal["file", "folder", "other", "hidden"]


def kind_of(path: Path) -> Kind | None:
    """What is at a path; never raises.

    Args:
        path: A file or folder; links are followed.

    Returns:
        ``hidden`` where this user may not look at it, so that it may be anything or nothing; ``other`` of a
        pipe, a device and the like; None where nothing is there.
    """
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return "hidden"
    except (OSError, ValueError):
        return None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def expanded(text: str) -> str:
    """A path with ``~``, ``~user``, ``$NAME`` and ``${NAME}`` replaced; ``$$`` is a dollar sign.

    Args:
        text: The path as it was written.

    Returns:
        The path.

    Raises:
        ValueError: A variable is not set or empty, or there is no such user; the message names it.
    """
    if "$" not in text and not text.startswith("~"):
        return text
    found = _VARIABLE.sub(lambda match: _value(match, text), text)
    if not found.startswith("~"):
        return found
    try:
        return str(Path(found).expanduser())
    except RuntimeError as error:
        raise ValueError(
            f"no home folder is known for {Path(found).parts[0]!r}: write the path out"
        ) from error


def _value(match: re.Match[str], text: str) -> str:
    dollar, braced, plain = match.groups()
    if dollar:
        return "$"
    name = plain or braced or ""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{match[0]} in {text!r} is no environment variable: write ${{NAME}}, or $$ for a $")
    value = os.environ.get(name, "")
    if not value:
        state = "empty" if name in os.environ else "not set"
        raise ValueError(
            f"the environment variable {name} in {text!r} is {state}: set it, or write $$ for a $"
        )
    return value


def unwritable_folder(folder: Path) -> str | None:
    """Why nothing can be written into a folder, which may still have to be made; None where it can.

    Args:
        folder: The folder.

    Returns:
        The end of a sentence that begins with the folder's path.
    """
    try:
        there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
        if not there.is_dir():
            what = "leads nowhere" if there.is_symlink() and not there.exists() else "is a file"
            return f"{what}: name a folder" if there == folder else f"cannot be made: {there} is no folder"
        if not os.access(there, os.W_OK | os.X_OK):
            return (
                "cannot be written to" if there == folder else f"cannot be made: {there} cannot be written to"
            )
    except (OSError, ValueError) as error:
        return f"cannot be used: {getattr(error, 'strerror', None) or error}"
    return None


def unwritable_file(file: Path) -> str | None:
    """Why a file cannot be written; None where it can. One that is there already is not looked at.

    Args:
        file: The file.

    Returns:
        The end of a sentence that begins with the file's path.
    """
    try:
        if file.is_dir():
            return "cannot be written: it is a folder: name a file"
        if os.path.lexists(file) and not file.is_file():
            return "cannot be written: it is no regular file"
    except (OSError, ValueError) as error:
        return f"cannot be used: {getattr(error, 'strerror', None) or error}"
    reason = unwritable_folder(file.parent)
    return None if reason is None else f"cannot be written: {file.parent} {reason}"
