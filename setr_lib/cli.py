"""The ``setr`` command. This module reads the command line; the arguments of the commands are in
``setr_lib.commands.arguments``; the work is done in ``setr_lib.commands``.

A command's module is imported when that command runs, so that ``setr --help`` is immediate. Errors meant for
a person are printed as they are, without a traceback, and end the program with status 1; a wrong command line
ends it with 2, and so do settings that ``setr doctor`` cannot read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from setr_lib.commands.arguments import checks, project, results, texts
from setr_lib.commands.arguments.shared import Command, Subparsers, path
from setr_lib.commands.ending import end_process
from setr_lib.damage import explained
from setr_lib.errors import SetrError
from setr_lib.escaping import visible_output
from setr_lib.settings import Settings, SettingsError, load_settings

_GROUPS = {
    "prepare": (checks.add_doctor, checks.add_plan),
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
    ),
}
"""What adds the commands, grouped and in the order in which a newcomer uses them: so ``setr --help`` has
them.
"""


def program() -> NoReturn:
    """The ``setr`` program: run the command of the process's command line, and end the process."""
    end_process(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status: 0, 1 after an error, or what the command says.
    """
    with visible_output():
        return _main(_parser().parse_args(arguments))


def _main(options: argparse.Namespace) -> int:
    """Run one command, and tell its errors."""
    try:
        return _run(options)
    except SettingsError as error:
        return _settings_unreadable(error, options)
    except SetrError as error:
        print(f"setr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setr: interrupted; what was finished is kept", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has seen enough; python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _settings_unreadable(error: SettingsError, options: argparse.Namespace) -> int:
    if (told := getattr(options, "unreadable", None)) is not None:
        return told(error, options)
    print(f"setr: {error}", file=sys.stderr)
    return 1


def _run(options: argparse.Namespace) -> int:
    from setr_lib.commands.waiting_imports import waiting_imports
    from setr_lib.pipeline.storage import places_of
    from setr_lib.pipeline.storage_format import stamp, use_format

    settings = load_settings(options.config)
    if (limit := getattr(options, "limit", None)) is not None:
        evaluation = settings.evaluation.model_copy(update={"limit": limit})
        settings = settings.model_copy(update={"evaluation": evaluation})
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


def _look_at_place(settings: Settings) -> None:
    """Refuse the Dagster instance of where this project was before it was moved or copied; tell of what else
    is still of there.
    """
    from setr_lib.commands import env, place

    env.check(settings)
    for words in place.of_elsewhere(settings):
        print(f"setr: {words}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="setr",
        usage="setr [--config FILE] [--quiet] COMMAND ...",
        description="Two-stage composed image retrieval: look at it, plan it, try it. `make demo` runs it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_common(parser)
    commands = parser.add_subparsers(prog="setr", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    groups: dict[str, list[str]] = {}
    for title, added in _GROUPS.items():
        before = len(commands.choices)
        for add in added:
            add(commands)
        groups[title] = list(commands.choices)[before:]
    parser.epilog = _grouped(commands, groups)
    for leaf in _leaves(commands):
        _add_common(leaf)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes, before or after its name."""
    is_command = parser.prog != "setr"
    parser.add_argument(
        "--config",
        type=path,
        metavar="FILE",
        default=argparse.SUPPRESS if is_command else None,
        help="settings file (default: $SETR_CONFIG, or the nearest setr.toml from here upwards)",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        default=argparse.SUPPRESS if is_command else False,
        help="print results and errors only",
    )


def _leaves(commands: Subparsers) -> Iterator[argparse.ArgumentParser]:
    """The parsers of commands that have no commands of their own below them."""
    for parser in commands.choices.values():
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if below:
            yield from _leaves(below[0])
        else:
            yield parser


def _grouped(commands: Subparsers, groups: dict[str, list[str]]) -> str:
    """The commands as ``setr --help`` lists them."""
    help_of = {action.dest: action.help or "" for action in commands._choices_actions}
    width = max(map(len, help_of)) + 2
    lines: list[str] = []
    for title, names in groups.items():
        lines += [f"{title}:"]
        for name in names:
            lines += [f"  {name:{width}}{help_of[name]}"]
        lines.append("")
    return "\n".join([*lines, "`setr COMMAND --help` has a command's arguments and examples."])


if __name__ == "__main__":
    program()
