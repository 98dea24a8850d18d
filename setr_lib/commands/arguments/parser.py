"""The parser of the ``setr`` command line: ``argparse``'s, with the nearest known name where one is not
known.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from setr_lib.near_names import did_you_mean

_HELP = ("--help",)
_AFTER_DASHES = "; a name or a text that begins with a dash is written after ` -- `"


class Parser(argparse.ArgumentParser):
    """A parser that answers unknown commands, values and options with the nearest known one."""

    _given: Sequence[str] = ()
    """The arguments that are being read."""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """As argparse's, but what is not known ends the program here: the usage that is shown is that of the
        command.
        """
        self._given = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return found, unknown

    def _unknown(self, unknown: Sequence[str]) -> str:
        first = unknown[0]
        if not first.startswith("-"):
            return f"unexpected argument: {first}"
        options = [option for action in self._actions for option in action.option_strings]
        name = first.partition("=")[0]
        near = did_you_mean(name, options)
        takes = [action for action in self._actions if not action.option_strings and not action.choices]
        return f"there is no option {name}{near or (_AFTER_DASHES if takes else '')}"

    def error(self, message: str) -> NoReturn:
        """As argparse's; where an argument with few possible values is missing, it names them."""
        positional = next((action for action in self._actions if not action.option_strings), None)
        choices = [] if positional is None else [str(choice) for choice in positional.choices or ()]
        if positional is not None and choices and message.endswith(f"required: {positional.metavar}"):
            message = f"{message}: one of {', '.join(choices)}"
        elif "required: " in message and (dashed := self._dashed()) is not None:
            message = f"there is no option {dashed}{_AFTER_DASHES}"
        super().error(message)

    def _dashed(self) -> str | None:
        """What was given that begins with a dash and is no option, nor an option's beginning."""
        options = [option for action in self._actions for option in action.option_strings]
        for given in self._given:
            name = given.partition("=")[0]
            if name == "--":
                return None
            if name.startswith("-") and not any(option.startswith(name) for option in options):
                return name
        return None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # Overrides a method of argparse that is not documented, but is the same in all versions so far.
        choices = [str(choice) for choice in action.choices or ()]
        if choices and value not in choices:
            near = did_you_mean(str(value), [*choices, *_HELP])
            known = f"there is {', '.join(choices)}{near}"
            raise argparse.ArgumentError(action, f"there is no {value!r}; {known}")


def subparsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a parser.

    Args:
        parser: The parser.

    Returns:
        Parser by the command's name; empty where it has none.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers at the ends of a tree of commands: those of what can be run.

    Args:
        parser: The tree's parser.

    Yields:
        Each of them.
    """
    below = subparsers_of(parser)
    if not below:
        yield parser
    for command in below.values():
        yield from leaves(command)
