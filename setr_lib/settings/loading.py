"""Reading settings from the file and the environment, and what is wrong with either, in words."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_settings.exceptions import SettingsError as SourceError

from setr_lib.decoding import decode
from setr_lib.paths import expanded
from setr_lib.settings.data import DatasetSettings
from setr_lib.settings.faults import fault_in_words
from setr_lib.settings.models import SpaceSettings
from setr_lib.settings.names import (
    CONFIG_VARIABLE,
    DELIMITER,
    NOT_KEYS,
    OTHER_VARIABLES,
    PREFIX,
    SETTINGS_FILE,
)
from setr_lib.settings.values import SettingsError, nearest
from setr_lib.settings.whole import Settings


def find_settings_file(start: Path | None = None) -> Path | None:
    """Find the settings file: ``$SETR_CONFIG``, else the nearest ``setr.toml`` in a folder or above it.

    Args:
        start: The folder; by default the current one.

    Returns:
        The file, or None.

    Raises:
        SettingsError: ``$SETR_CONFIG`` names a variable that is not set.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        try:
            return Path(expanded(named))
        except ValueError as error:
            raise SettingsError(f"{CONFIG_VARIABLE}: {error}") from error
    here = (start or Path.cwd()).resolve()
    return next(
        (folder / SETTINGS_FILE for folder in (here, *here.parents) if (folder / SETTINGS_FILE).is_file()),
        None,
    )


def load_settings(path: Path | None = None, *, else_from: Path | None = None) -> Settings:
    """Read settings from a file and the environment, checked as a whole.

    A file that was named (``path``, ``$SETR_CONFIG``) may name code to run (a method
    ``package.module:NAME``, a model's own code); one that was found may only where it and its folder belong
    to this user or root and nobody else can write to them.

    Args:
        path: The file; by default the one that :func:`find_settings_file` finds from here.
        else_from: The folder to look from where none is found from here.

    Returns:
        The settings.

    Raises:
        SettingsError: They cannot be read or are at fault; the message names the file and each key.
    """
    source = path or find_settings_file() or (find_settings_file(else_from) if else_from else None)
    named = path is not None or bool(os.environ.get(CONFIG_VARIABLE))
    values: dict[str, Any] = {}
    base_dir, trusted = Path.cwd(), True
    if source is not None:
        values = _read(source)
        base_dir = source.resolve().parent
        trusted = named or _only_mine(source)
    where = f"{source} and {PREFIX}... variables" if source else f"{PREFIX}... variables"
    problems = [*_unknown_variables(), *(_unknown_key((name,)) for name in NOT_KEYS if name in values)]
    if problems:
        raise SettingsError(_told(where, problems))
    try:
        return Settings(**{**values, "base_dir": base_dir, "trusted": trusted})
    except ValidationError as error:
        raise SettingsError(_told(where, [_in_words(fault) for fault in error.errors()])) from error
    except SourceError as error:
        raise SettingsError(_told(where, _not_json(str(error)))) from error


def _read(source: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(decode(source.read_bytes()).text)
    except FileNotFoundError:
        named = f" ({CONFIG_VARIABLE} names it)" if os.environ.get(CONFIG_VARIABLE) == str(source) else ""
        raise SettingsError(f"{source}: there is no such settings file{named}") from None
    except ValueError as error:  # tomllib's, too
        raise SettingsError(f"{source}: {_toml_fault(str(error))}") from error
    except IsADirectoryError:
        raise SettingsError(
            f"{source}: is a folder: name the settings file, {source / SETTINGS_FILE}"
        ) from None
    except OSError as error:
        raise SettingsError(f"{source}: cannot be read ({error.strerror})") from error


def _toml_fault(told: str) -> str:
    """What ``tomllib`` says, or in plain words what people do most: a section or a key that stands twice."""
    if found := re.search(r"Cannot declare \((.+)\) twice \(at line (\d+)", told):
        section = ".".join(re.findall(r"'([^']*)'", found[1]))
        return f"line {found[2]}: the section [{section}] is there already: put its keys into that one"
    if found := re.search(r"Cannot overwrite a value \(at line (\d+)", told):
        return f"line {found[1]}: this key is there already: leave one of the two"
    return f"not valid TOML: {told}"


def _only_mine(file: Path) -> bool:
    """Whether nobody but this user and root could have written ``file``, as far as it and its folder tell."""
    if not hasattr(os, "geteuid"):
        return True  # no such owners on this system
    others = stat.S_IWGRP | stat.S_IWOTH
    found = [path.stat() for path in (file, file.resolve(), file.parent, file.resolve().parent)]
    return all(status.st_uid in (0, os.geteuid()) and not status.st_mode & others for status in found)


# ------------------------------------------------------------------------------------------ what is wrong


def _told(where: str, problems: list[str]) -> str:
    return f"{where}: {len(problems)} setting(s) at fault:\n" + "\n".join(
        f"  {problem}" for problem in problems
    )


def _in_words(error: Any) -> str:
    """One of pydantic's errors as a line: the key, what is wrong, the value, and the variable that it
    came from.
    """
    path = tuple(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        return _unknown_key(path) + _from_variable(path)
    message = fault_in_words(error, path) + _from_variable(path)
    return f"{'.'.join(path)}: {message}" if path else message


def _from_variable(path: tuple[str, ...]) -> str:
    """The variable that a key came from, in brackets; empty where it came from the file."""
    variable = PREFIX + DELIMITER.join(path).upper()
    return f" [{variable}]" if path and variable in {name.upper() for name in os.environ} else ""


def _not_json(words: str) -> list[str]:
    """The variables that hold no JSON, of those that have to: of lists, tables and whole sections."""
    found = []
    for name, value in sorted(os.environ.items()):
        path = tuple(name.removeprefix(PREFIX).lower().split(DELIMITER))
        example = _json_example(path, value) if name.startswith(PREFIX) else None
        if example is None:
            continue
        try:
            json.loads(value)
        except ValueError:
            told = f"write lists and tables as JSON, e.g. {name}='{example}' (it is {value!r})"
            found.append(f"{name}: {told}")
    return found or [f"{words}: give a section as JSON, or name its key"]


def _json_example(path: tuple[str, ...], value: str) -> str | None:
    """The JSON that may have been meant by a key's value; None where the key takes none, or is not known."""
    section: Any = Settings
    for part in path:
        named = getattr(section, "model_fields", {}).get(part)
        section = _section_of_table(section) if named is None else named.annotation
    kinds = [section, *get_args(section)]
    if any(get_origin(kind) in (list, tuple) for kind in kinds):
        return json.dumps([each.strip() for each in value.split(",")])
    tables = any(get_origin(kind) is dict or hasattr(kind, "model_fields") for kind in kinds)
    return '{"KEY": "VALUE"}' if tables else None


def _section_of_table(table: Any) -> Any:
    """What a table's sections are, of a table of sections with names of their own; else None."""
    return next((kind for kind, tables in _TABLES_OF.items() if tables == table), None)


def _unknown_key(path: tuple[str, ...]) -> str:
    section: Any = Settings
    for part in path[:-1]:
        if section in _TABLES_OF.values():  # the part is a table's name
            section = _section_of_table(section)
        elif part in getattr(section, "model_fields", {}):
            section = section.model_fields[part].annotation
        else:
            section = None
        if section is None:
            return f"{'.'.join(path)}: there is no such key"
    if not hasattr(section, "model_fields"):
        return f"{'.'.join(path)}: there is no such key"
    known = [name for name in section.model_fields if name not in NOT_KEYS]
    return f"{'.'.join(path)}: there is no such key{nearest(path[-1], known)}"


_TABLES_OF: dict[Any, Any] = {
    DatasetSettings: dict[str, DatasetSettings],
    SpaceSettings: dict[str, SpaceSettings],
}
"""The sections of which there are several, each under a name of its own, and how their table is typed."""


def _unknown_variables() -> Iterator[str]:
    """Variables that begin with ``SETR_`` and that nothing reads: pydantic passes them over in silence."""
    sections = [name.upper() for name in Settings.model_fields if name not in NOT_KEYS]
    known = [*(PREFIX + name for name in sections), *OTHER_VARIABLES]
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper().split(DELIMITER)[0] not in known:
            yield f"{name}: there is no such variable{_nearest_variable(name.upper(), known)}"


def _nearest_variable(name: str, known: list[str]) -> str:
    every = [*known, *(PREFIX + DELIMITER.join(path).upper() for path in _keys(Settings))]
    close = get_close_matches(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in every], n=1)
    if not close:  # of a data set, say, whose own name may be anything
        section, delimiter, rest = name.removeprefix(PREFIX).partition(DELIMITER)
        sections = [each.removeprefix(PREFIX) for each in known] if delimiter else []
        close = [f"{near}{delimiter}{rest}" for near in get_close_matches(section, sections, n=1)]
    return f"; did you mean {PREFIX}{close[0]}?" if close else f"; settings are {PREFIX}SECTION{DELIMITER}KEY"


def _keys(section: Any) -> Iterator[tuple[str, ...]]:
    """The path of every key with a value: ``("models", "encoder", "name")``; those of data sets and of
    embedding spaces are left out.
    """
    for name, info in section.model_fields.items():
        if name in NOT_KEYS or info.annotation in _TABLES_OF.values():
            continue
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from ((name, *rest) for rest in _keys(info.annotation))
        else:
            yield (name,)
