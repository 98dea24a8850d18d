"""What the arguments of several commands share: types of values."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from setr_lib.paths import expanded
from setr_lib.settings import Settings

Command: TypeAlias = Callable[[Settings, argparse.Namespace], int]
"""A handler: carries out one command, and returns the exit status."""
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Subparsers, name: str, *, help: str, examples: tuple[str, ...], text: str = ""
) -> argparse.ArgumentParser:
    """Add a command with its help: what it does, its arguments, examples.

    Args:
        commands: The subparsers that it is added to.
        name: Its name.
        help: What it does, in one line.
        examples: Command lines, each as one types it, at least one. A test parses each.
        text: More for its own help than the line, if anything.

    Returns:
        The command's parser.
    """
    if not examples:
        raise ValueError(f"{name}: no example")
    return commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}." + (f"\n\n{text}" if text else ""),
        epilog="\n  ".join(("examples:" if len(examples) > 1 else "example:", *examples)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def path(text: str) -> Path:
    """A path as it is where it is there, else with what the shell left of ``~`` and variables expanded.

    Args:
        text: What the command line has.

    Returns:
        The path.

    Raises:
        argparse.ArgumentTypeError: A variable in it is not set.
    """
    try:
        return Path(text if os.path.lexists(text) else expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    """A whole number above 0.

    Args:
        text: What the command line has.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value
