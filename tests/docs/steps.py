"""What of a page of the documentation is run as printed: its blocks behind a mark.

A mark is an HTML comment on a line of its own, which a reader does not see; what follows is the block that it
is about, fenced or indented::

    <!-- run -->              each command of the block; a Python block is run as one program
    <!-- file: setr.toml -->  the block is written to that file
    <!-- given: COMMAND -->   a command that is run and not shown: what a reader has at this point

Behind ``run`` stand words ``KEY=VALUE``, in quotes where there are blanks. ``exit=1``: the exit status,
``any`` where it depends on the machine; ``shows=TEXT``: what must be in the output; ``minutes=3``: how long
it takes, about; ``serves=http://127.0.0.1:3000``: the command is a server, which is ended as soon as that
address answers. In a block of several commands, ``KEY:WORD=VALUE`` is about the one that is WORD, or else has
it in it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from textwrap import dedent
from typing import Literal

Kind = Literal["command", "python", "file", "given"]
_MARK = re.compile(r"^[ \t]*<!--[ \t]*(run|file|given)\b:?[ \t]*(.*?)[ \t]*-->[ \t]*$")
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*(\w*)")
_HERE_DOCUMENT = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")
_KEYS = ("exit", "shows", "minutes", "serves")


class PageError(Exception):
    """A mark of a page cannot be followed; the message names page and line."""


@dataclass(frozen=True)
class Step:
    """One thing that is done."""

    page: str
    line: int
    """Of the page, counted from 1."""
    kind: Kind
    text: str
    """The command, the program, or what is written to the file."""
    name: str = ""
    """Of the file."""
    status: int | None = 0
    """The exit status that the page promises; None for any."""
    shows: tuple[str, ...] = ()
    """What must be in the output."""
    minutes: float = 0.0
    """How long it takes, about."""
    serves: str = ""
    """The address that a server answers at."""


def steps_of(text: str, page: str) -> list[Step]:
    """The steps of a page, in its order.

    Args:
        text: The page.
        page: Its name, for messages.

    Returns:
        The steps.

    Raises:
        PageError: A mark has no block behind it, a word that is not known, or one that is about no command.
    """
    lines, found = text.splitlines(), []
    for number, line in enumerate(lines):
        mark = _MARK.match(line)
        if mark is None:
            continue
        what, rest = mark.groups()
        where = f"{page}:{number + 1}"
        if what == "given":
            found.append(Step(page, number + 1, "given", rest))
            continue
        language, first, block = _block(lines, number + 1, where)
        if what == "file":
            found.append(Step(page, first, "file", block, name=rest))
        elif language == "python":
            found += _marked([Step(page, first, "python", block)], rest, where)
        else:
            steps = [Step(page, first + row, "command", command) for row, command in _commands(block)]
            found += _marked(steps, rest, where)
    return found


def _block(lines: list[str], start: int, where: str) -> tuple[str, int, str]:
    """The block behind a mark: its language, the number of its first line, its text."""
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start == len(lines):
        raise PageError(f"{where}: there is no block behind this mark")
    if fence := _FENCE.match(lines[start]):
        rows = []
        for line in lines[start + 1 :]:
            if line.strip() == fence[1]:
                return fence[2], start + 2, dedent("\n".join(rows)) + "\n"
            rows.append(line)
        raise PageError(f"{where}: the block behind this mark has no end")
    if not lines[start].startswith("    "):
        raise PageError(f"{where}: there is no block behind this mark")
    rows = []
    for line in lines[start:]:
        if line.strip() and not line.startswith("    "):
            break
        rows.append(line)
    return "", start + 1, dedent("\n".join(rows)).rstrip() + "\n"


def _commands(block: str) -> Iterator[tuple[int, str]]:
    """The commands of a block and the row that each begins in; comments are left out."""
    rows, row = block.splitlines(), 0
    while row < len(rows):
        first, command = row, rows[row]
        row += 1
        if not command.strip() or command.lstrip().startswith("#"):
            continue
        while command.endswith("\\") and row < len(rows):
            command += "\n" + rows[row]
            row += 1
        if found := _HERE_DOCUMENT.search(command):
            while row < len(rows):
                command += "\n" + rows[row]
                row += 1
                if rows[row - 1].strip() == found[1]:
                    break
        yield first, command


def _marked(steps: list[Step], words: str, where: str) -> list[Step]:
    """The steps of a block with what its mark says of them."""
    try:
        pairs = [word.partition("=") for word in shlex.split(words)]
    except ValueError as error:
        raise PageError(f"{where}: {words!r} is not closed ({error})") from None
    for key, is_given, value in pairs:
        name, _, about = key.partition(":")
        if name not in _KEYS or not is_given:
            raise PageError(f"{where}: {key!r} is none of {', '.join(f'{each}=' for each in _KEYS)}")
        exact = [step for step in steps if about and step.text.strip() == about]
        chosen = exact or [step for step in steps if about in step.text]
        if len(chosen) != 1 and (about or name in ("serves", "minutes")):
            raise PageError(f"{where}: {key!r} is about {len(chosen)} commands of the block: name one")
        steps = [_with(step, name, value) if step in chosen else step for step in steps]
    return steps


def _with(step: Step, name: str, value: str) -> Step:
    if name == "exit":
        return replace(step, status=None if value == "any" else int(value))
    if name == "shows":
        return replace(step, shows=(*step.shows, value))
    return replace(step, minutes=float(value)) if name == "minutes" else replace(step, serves=value)
