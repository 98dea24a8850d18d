"""Notes that a training keeps beside its checkpoints, read with care: one that is damaged is put aside, said,
and made again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from setr_lib.damage import noticed
from setr_lib.faults import json_fault
from setr_lib.files import read_json

DAMAGED = "damaged-"
"""How the names of files and folders begin that a training has put aside."""


def read_note(
    path: Path, run: str | None, is_sound: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    """The note of a training.

    Args:
        path: The JSON file.
        run: Digest of the training, which the note has as ``run``; None for any.
        is_sound: Whether the note has what is read of it, in the right types and numbers.

    Returns:
        The note; None where there is none, where it is another training's, or where it was damaged and is put
        aside.
    """
    if not path.exists():
        return None
    fault, note = json_fault(path), read_json(path)
    if note is not None:
        theirs = note.get("run")
        if run is not None and isinstance(theirs, str) and theirs != run:
            return None
        with suppress(KeyError, TypeError, ValueError, AttributeError, IndexError):
            if isinstance(theirs, str) and is_sound(note):
                return note
        fault = "lacks what SETR writes there"
    put_aside(path, fault or "cannot be read", "it is made again")
    return None


def put_aside(path: Path, fault: str, consequence: str) -> None:
    """Rename something damaged, so that nothing reads it, and say so.

    Args:
        path: The file or folder.
        fault: What is wrong with it, as the rest of a sentence.
        consequence: What happens now, as a sentence.
    """
    number, target = 1, path.with_name(f"{DAMAGED}{path.name}")
    while target.exists():
        number += 1
        target = path.with_name(f"{DAMAGED}{path.name}.{number}")
    path.rename(target)
    noticed(
        f"{path} {fault}: kept as {target.name}; {consequence} (`setr repair checkpoints` clears it away)"
    )


def is_numbers(value: Any, count: int, kind: type | tuple[type, ...] = (int, float)) -> bool:
    """Whether a value of a note is a list of so many numbers.

    Args:
        value: The value.
        count: How many.
        kind: Of which Python type.

    Returns:
        True where it is.
    """
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(each, kind) and not isinstance(each, bool) for each in value)
    )
