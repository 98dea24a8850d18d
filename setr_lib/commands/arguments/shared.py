"""What the arguments of several commands share: how a command is added, types of values."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from setr_lib.commands.arguments.parser import Parser
from setr_lib.paths import expanded
from setr_lib.settings import Settings

Command: TypeAlias = Callable[[Settings, argparse.Namespace], int]
"""A handler: carries out one command, and returns the exit status."""
Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
_SHOWN = 50
"""Characters of a path that is too long which a message has."""


def add_command(
    commands: Subparsers, name: str, *, help: str, examples: tuple[str, ...], text: str = ""
) -> Parser:
    """Add a command with its help: what it does, its arguments, examples.

    What is set by the parser's ``set_defaults``: ``command``, the handler; ``anywhere``, where the command
    makes sense without a settings file (it is then told that there is none, unless ``tells_place`` is False);
    ``looks_at_place`` False, where it works in a project that was moved; ``immediate``, a handler of the
    options alone, in place of ``command``, for which no settings are read.

    Args:
        commands: The subparsers that it is added to.
        name: Its name.
        help: What it does, in one line.
        examples: Command lines, each as one types it, at least one. A test parses each.
        text: More for its own help than the line, if anything: paragraphs, with an empty line between them.

    Returns:
        The command's parser.
    """
    return commands.add_parser(
        name,
        help=help,
        description="\n\n".join(
            map(_wrapped, [f"{help[0].upper()}{help[1:]}.", *text.split("\n\n")])
        ).rstrip(),
        epilog="\n  ".join(("examples:" if len(examples) > 1 else "example:", *examples)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, max(shutil.get_terminal_size().columns - 2, 40))


def add_set(command: argparse.ArgumentParser) -> None:
    """Add the argument of a command that works on one data set, or on all.

    Args:
        command: The command's parser.
    """
    command.add_argument(
        "dataset", nargs="?", metavar="SET", help="one data set or evaluation set only (default: all)"
    )


class VersionAction(argparse.Action):
    """``--version``: prints SETR's version, Python's, and where the code is; then ends the program."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version, and stop")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from setr_lib.commands.version import version_words

        print(version_words())
        parser.exit()


def path(text: str) -> Path:
    """A path as it is where it is there, else with what the shell left of ``~`` and variables expanded.

    Args:
        text: What the command line has.

    Returns:
        The path.

    Raises:
        argparse.ArgumentTypeError: It is empty or too long for the system, or a variable in it is not set.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty (a variable that is not set?)")
    try:
        named = Path(text if os.path.lexists(text) else expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    try:
        named.lstat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise argparse.ArgumentTypeError(
                f"{text[:_SHOWN]!r}... is too long for a path or a name: shorten it"
            ) from error
    return named


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
