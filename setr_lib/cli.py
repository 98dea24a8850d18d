"""The ``setr`` command. This module reads the command line; the arguments of the commands are in
``setr_lib.commands.arguments``; the work is done in ``setr_lib.commands``.

A command's module is imported when that command runs, so that ``setr --help`` is immediate. Errors meant for
a person are printed as they are, without a traceback. What goes to standard output and standard error, and
the exit statuses, are those of ``docs/commands.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from setr_lib.commands.arguments import checks, project, results, running, texts
from setr_lib.commands.arguments.parser import Parser, leaves
from setr_lib.commands.arguments.shared import Command, Subparsers, VersionAction, path
from setr_lib.commands.console import quiet_if, say_error, talk
from setr_lib.commands.ending import ERROR, INTERRUPTED, end_process
from setr_lib.commands.project_file import NoProjectError, is_project, no_project_words
from setr_lib.commands.streams import guarded_output, open_closed
from setr_lib.damage import explained
from setr_lib.errors import SetrError
from setr_lib.escaping import visible_output
from setr_lib.settings import Settings, SettingsError, load_settings

_GROUPS = {
    "prepare": (running.add_init, checks.add_doctor, checks.add_plan),
    "run": (running.add_run, running.add_status),
    "look at results": (
        results.add_leaderboard,
        results.add_search,
        results.add_compare,
        results.add_score,
        results.add_submit,
    ),
    "when something is wrong": (checks.add_faults, checks.add_repair, checks.add_cache),
    "more": (
        project.add_list,
        texts.add_exchange,
        project.add_crop,
        project.add_environment,
        project.add_miniature,
        project.add_completion,
    ),
}
"""What adds the commands, grouped and in the order in which a newcomer uses them: so ``setr --help`` has
them.
"""


def program() -> NoReturn:
    """The ``setr`` program: run the command of the process's command line, and end the process."""
    open_closed()
    end_process(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status: 0, 1 after an error, 130 after an interruption, or what the command says.

    Raises:
        SystemExit: The command line is wrong (status 2), or help was asked for (0).
    """
    with guarded_output(), visible_output():
        try:
            status = _main(arguments)
            sys.stdout.flush()
        except SetrError as error:  # standard output cannot be written, say
            say_error(error)
            return ERROR
        except KeyboardInterrupt:
            say_error("interrupted; what was finished is kept")
            return INTERRUPTED
        except BrokenPipeError:
            _forget_output()
            return 0
        return status


def _forget_output() -> None:
    """The reader (head, less) has seen enough; Python would complain again when it flushes at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(arguments: Sequence[str] | None) -> int:
    reader = parser()
    try:
        if not (sys.argv[1:] if arguments is None else arguments):
            reader.print_help(sys.stderr)
            raise SystemExit(2)
        options = reader.parse_args(arguments)
    except SystemExit:
        sys.stdout.flush()  # of --help, --version: a full disk is an error, too
        raise
    with quiet_if(options.quiet):
        try:
            return _run(options)
        except SettingsError as error:
            if (told := getattr(options, "unreadable", None)) is not None:
                return told(error, options)
            raise


def _run(options: argparse.Namespace) -> int:
    if (immediate := getattr(options, "immediate", None)) is not None:
        return immediate(options)
    from setr_lib.commands.waiting_imports import waiting_imports
    from setr_lib.pipeline.storage import places_of
    from setr_lib.pipeline.storage_format import stamp, use_format

    settings = _settings(options)
    command: Command = options.command
    looks_only = not getattr(options, "looks_at_place", True)
    if not looks_only:
        use_format(settings)
        _look_at_place(settings)
    with explained(places_of(settings)), waiting_imports():
        try:
            return command(settings, options)
        finally:
            if not looks_only:
                stamp(settings)  # what a first command has stored is of this format


def _settings(options: argparse.Namespace) -> Settings:
    """The settings, with what options of the command line change in them.

    Raises:
        NoProjectError: There is no settings file, and the command needs one.
        SettingsError: They cannot be read.
    """
    if not is_project(options.config):
        words = no_project_words(options.typed)
        if not getattr(options, "anywhere", False):
            raise NoProjectError(words)
        if getattr(options, "tells_place", True):
            talk(words)
    settings = load_settings(options.config)
    if (limit := getattr(options, "limit", None)) is not None:
        evaluation = settings.evaluation.model_copy(update={"limit": limit})
        settings = settings.model_copy(update={"evaluation": evaluation})
    return settings


def _look_at_place(settings: Settings) -> None:
    """Refuse the Dagster instance of where this project was before it was moved or copied; tell of what else
    is still of there.
    """
    from setr_lib.commands import env, place

    env.check(settings)
    for words in place.of_elsewhere(settings):
        talk(words)


def parser() -> Parser:
    """The parser of the whole command line.

    Returns:
        The parser; what it gives has ``command``, the function to call, and ``typed``, the command's name.
    """
    made = Parser(
        prog="setr",
        usage="setr [--config FILE] [--quiet] COMMAND ...",
        description="Two-stage composed image retrieval: reference image and text in, ranking out.\n"
        "Begin with `setr init PHOTOS` for pictures of your own; `setr run` runs the pipeline.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action=VersionAction)
    _add_common(made)
    commands = made.add_subparsers(prog="setr", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    groups: dict[str, list[str]] = {}
    for title, added in _GROUPS.items():
        before = len(commands.choices)
        for add in added:
            add(commands)
        groups[title] = list(commands.choices)[before:]
    made.epilog = _grouped(commands, groups)
    for leaf in leaves(made):
        _add_common(leaf)
        leaf.set_defaults(typed=leaf.prog.removeprefix("setr "))
    commands.choices["completion"].set_defaults(tree=made)
    return made


def _add_common(command: argparse.ArgumentParser) -> None:
    """Add what every command takes, before or after its name."""
    is_below = command.prog != "setr"
    command.add_argument(
        "--config",
        type=path,
        metavar="FILE",
        default=argparse.SUPPRESS if is_below else None,
        help="settings file (default: $SETR_CONFIG, or the nearest setr.toml from here upwards)",
    )
    command.add_argument(
        "--quiet",
        action="store_true",
        default=argparse.SUPPRESS if is_below else False,
        help="print results and errors only: no notes, no warnings, no progress",
    )


def _grouped(commands: Subparsers, groups: dict[str, list[str]]) -> str:
    """The commands as ``setr --help`` lists them."""
    help_of = {action.dest: action.help or "" for action in commands._choices_actions}
    indent = max(map(len, help_of)) + 4
    width = max(shutil.get_terminal_size().columns - 2, indent + 20)
    lines: list[str] = []
    for title, names in groups.items():
        lines.append(f"{title}:")
        for name in names:
            start = f"  {name}".ljust(indent)
            lines += textwrap.wrap(help_of[name], width, initial_indent=start, subsequent_indent=" " * indent)
        lines.append("")
    return "\n".join([*lines, "`setr COMMAND --help` has a command's arguments, and an example."])


if __name__ == "__main__":
    program()
