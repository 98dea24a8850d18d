"""The check of ``--output`` before any work is done: a place that can be written to, with nothing of anybody
else's in the way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from setr_lib.errors import SetrError
from setr_lib.paths import unwritable_file, unwritable_folder


def check_output_folder(folder: Path | None) -> None:
    """Refuse a folder that nothing can be written into.

    Args:
        folder: What ``--output`` names; None where it was left out.

    Raises:
        SetrError: It is a file, or cannot be made or written to; the message says what to do.
    """
    if folder is not None and (reason := unwritable_folder(folder)) is not None:
        raise SetrError(f"--output {folder}: {reason}")


def check_output_file(file: Path | None, is_ours: Callable[[Path], bool]) -> None:
    """Refuse a file that cannot be written, or that is there and was not written by the same command.

    Args:
        file: What ``--output`` names; None where it was left out.
        is_ours: Whether a file that is there was written by the command, and may be replaced.

    Raises:
        SetrError: It is a folder, cannot be written, or would be overwritten; the message says what to do.
    """
    if file is None:
        return
    if (reason := unwritable_file(file)) is not None:
        raise SetrError(f"--output {file}: {reason}")
    if not file.exists():
        return
    if not os.access(file, os.W_OK):
        raise SetrError(f"--output {file}: cannot be written to")
    if file.stat().st_size and not is_ours(file):
        raise SetrError(
            f"--output {file}: is there already, and no file of this command: name another, or remove it"
        )
