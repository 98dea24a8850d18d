"""Command lines that messages name, as they can be typed where this process was started."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def typed(arguments: str, program: str = "setr") -> str:
    """A command line of a program of this installation, as a person types it here.

    Args:
        arguments: What follows the program's name, e.g. ``run mine``.
        program: The program.

    Returns:
        The line: with the program's name alone where the shell finds this installation's one by it, else
        with its path (``.venv/bin/setr run mine``); by Python where the installation has no such program.
    """
    own = Path(sys.executable).parent / program
    found = shutil.which(program)
    if not own.is_file():
        known = found is not None or program != "setr"
        start = program if known else f"{shlex.quote(sys.executable)} -m setr_lib.cli"
    elif found is not None and os.path.realpath(found) == os.path.realpath(own):
        start = program
    else:
        start = shlex.quote(_from_here(own))
    return f"{start} {arguments}"


def _from_here(file: Path) -> str:
    """A file's path from the current folder, where it is below that; else its whole path."""
    try:
        return str(file.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(file)
