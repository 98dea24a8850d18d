"""Files that are written as a whole: a reader, or a killed run, never sees half of one."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from setr_lib.damage import no_space, no_space_error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside its final place, and move it there when the ``with`` block ends without an error.

    Args:
        path: The final place; its folder is made, and a file that is there is replaced.

    Yields:
        Where to write, in the same folder: a path that does not exist yet.

    Raises:
        NoSpaceError: The disk is full; what was there before is there still.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except Exception as error:
        if no_space(error):
            raise no_space_error(path) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8.

    Args:
        path: The file; its folder is made.
        text: The text.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON.

    Args:
        path: The file; its folder is made.
        value: What ``json.dumps`` takes.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file.

    Args:
        path: The file.

    Returns:
        The object; None where there is no file, or none that holds an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


_SQLITE = "sqlite:///"


def sqlite_address(path: Path) -> str:
    """The address of a SQLite file, as SQLAlchemy and MLflow take it.

    Args:
        path: The file.

    Returns:
        ``sqlite:///`` and the path, in which a ``%`` and a ``?`` are escaped.
    """
    return _SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


def sqlite_path(address: str) -> Path | None:
    """The file that the address of a SQLite database names.

    Args:
        address: An address of any database or server.

    Returns:
        The path, relative where the address is; None for what is no SQLite file.
    """
    path = unquote(address.removeprefix(_SQLITE).partition("?")[0])
    if not address.startswith(_SQLITE) or not path or path.startswith((":memory:", "file:")):
        return None
    return Path(path)


def shown_address(address: str) -> str:
    """The address of a database or server as messages have it: without the password.

    Args:
        address: The address.

    Returns:
        ``postgresql://me:***@host/mlflow``; the address itself where it holds no password.
    """
    return re.sub(r"(://[^/:@]*):.+@", r"\1:***@", address, count=1)
