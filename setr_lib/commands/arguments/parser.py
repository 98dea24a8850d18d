"""The parser of the ``setr`` command line: ``argparse``'s, with the nearest known name where one is not
known.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from setr_lib.near_names import did_you_mean


class Parser(argparse.ArgumentParser):
    """A parser that answers unknown commands, values and options with the nearest known one."""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """As argparse's, but what is not known ends the program here: the usage that is shown is that of the
        command.
        """
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return found, unknown

    def _unknown(self, unknown: Sequence[str]) -> str:
        first = unknown[0]
        if not first.startswith("-"):
            return f"unexpected argument: {first}"
        options = [option for action in self._actions for option in action.option_strings]
        return f"there is no option {first.partition('=')[0]}{did_you_mean(first.partition('=')[0], options)}"

    def error(self, message: str) -> NoReturn:
        """As argparse's; where an argument with few possible values is missing, it names them."""
        positional = next((action for action in self._actions if not action.option_strings), None)
        choices = [] if positional is None else [str(choice) for choice in positional.choices or ()]
        if positional is not None and choices and message.endswith(f"required: {positional.metavar}"):
            message = f"{message}: one of {', '.join(choices)}"
        super().error(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # Overrides a method of argparse that is not documented, but is the same in all versions so far.
        choices = [str(choice) for choice in action.choices or ()]
        if choices and value not in choices:
            known = f"there is {', '.join(choices)}{did_you_mean(str(value), choices)}"
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
