"""Command lines that messages name, as they can be typed where this process was started."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_LONG = 60
"""Characters of a command that still has its explanation beside it."""


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


def explained_commands(commands: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Commands and what they do, for a person to choose from.

    Args:
        commands: Each command line, and what it does.

    Yields:
        Lines: what a command does is beside it, below it where the command is long.
    """
    width = max((len(command) for command, _ in commands if len(command) <= _LONG), default=0)
    for command, words in commands:
        if len(command) <= _LONG:
            yield f"  {command:{width}}   {words}"
        else:
            yield f"  {command}"
            yield f"  {'':{width}}   {words}"


def _from_here(file: Path) -> str:
    """A file's path from the current folder, where it is below that; else its whole path."""
    try:
        return str(file.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(file)
