"""docs/settings.md has every key of the settings, as the code has it, with an example that is taken."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import section_of
from benchmarks.settings_page import (
    PAGE,
    SECTION,
    as_toml,
    as_variable,
    built_in_options,
    every_section,
    keys,
    variable_of,
)
from setr_lib.settings import OTHER_VARIABLES, Settings, load_settings
from setr_lib.systems.recipe import RECIPES

TEXT = PAGE.read_text(encoding="utf-8")
_KEY = re.compile(
    r'<a id="([\w-]+)"></a>\n\*\*`(\w+)`\*\* \((.*)\)<br>\n(.+)<br>\n`(.+)`<br>`(SETR_\w+)=(.+)`\n'
)
SHOWN = {tuple(found[0].split("-")): found for found in _KEY.findall(TEXT)}


def without_names(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for part in path if part != "NAME")


KEYS = {without_names(path): path for path in keys() if path not in (("methods",), ("systems",))}


def settings_with(path: tuple[str, ...], value: str, folder: Path) -> str:
    """A settings file in which a key has a value, with what else the key needs."""
    (folder / "prompts").mkdir(exist_ok=True)
    lines: dict[str, list[str]] = {"datasets.cirr": ['root = "cirr"']}
    section = ".".join(path[:-1])
    if section == "datasets.NAME" and path[-1] == "root":
        lines = {section: ['kind = "folder"']}
    elif section == "datasets.NAME":
        lines = {section: ['root = "mine"', *(['kind = "folder"'] if path[-1] != "kind" else [])]}
    elif section == "spaces.NAME" and path[-1] == "options":
        lines[section] = ['kind = "open_clip"']
    elif path == ("coarse", "strategies") or path == ("reranking", "methods"):
        lines["coarse"] = ['default = "intersection"']
    lines.setdefault(section, []).append(f"{path[-1]} = {value}")
    return "\n".join(f"[{name}]\n" + "\n".join(rows) for name, rows in lines.items()).replace(
        ".NAME]", ".mine]"
    )


def value_at(settings: Settings, path: tuple[str, ...]) -> Any:
    found: Any = settings.model_dump(mode="json")
    for part in path:
        found = found["mine" if part == "NAME" else part]
    return found


def test_the_page_is_that_of_the_code() -> None:
    made = f"<!-- {SECTION}: begin -->\n\n{every_section()}\n\n<!-- {SECTION}: end -->"
    assert section_of(TEXT, SECTION) == made, "run python -m benchmarks.settings_page"


def test_every_key_is_on_the_page_once() -> None:
    assert len(_KEY.findall(TEXT)) == len(SHOWN)
    assert {*SHOWN} == {*KEYS}
    assert len(SHOWN) > 90


@pytest.mark.parametrize("anchor", SHOWN, ids=".".join)
def test_an_example_is_taken_from_the_file_and_from_the_variable(
    anchor: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, (_, name, told, words, line, variable, assigned) = KEYS[anchor], SHOWN[anchor]
    assert path[-1] == name and variable == variable_of(path) and words.endswith((".", ")"))
    key, _, value = line.partition(" = ")
    assert key == name
    file = tmp_path / "setr.toml"
    file.write_text(settings_with(path, value, tmp_path), encoding="utf-8")
    by_file = value_at(load_settings(file), path)
    given = tomllib.loads(line)[name]
    if name != "endpoint":  # an address alone stands for a section
        assert by_file == given
    if told.startswith("default"):
        shown = tomllib.loads(f"it = {told.split('`')[1]}")["it"]
        assert shown == value_at(load_settings(_without(file, line)), path)

    monkeypatch.setenv(variable.replace("__NAME__", "__MINE__"), _unquoted(assigned))
    assert value_at(load_settings(_without(file, line)), path) == by_file


def _without(file: Path, line: str) -> Path:
    """The settings without a line; a data set needs its root, which a variable may give."""
    text = file.read_text(encoding="utf-8")
    if line not in text:
        return file
    is_needed = "[datasets.mine]" in text and line.startswith("root = ")
    file.write_text(text if is_needed else text.replace(line, ""), encoding="utf-8")
    return file


def _unquoted(assigned: str) -> str:
    return assigned[1:-1] if assigned.startswith("'") else assigned


def test_options_of_methods_and_systems_are_on_the_page() -> None:
    for method, options in built_in_options().items():
        for option in options:
            assert option.meaning, f"{method.name}: {option.name}: say what it is"
            (row,) = [
                row
                for row in TEXT.splitlines()
                if f"`{method.name}`" in row and f"| `{option.name}` |" in row
            ]
            assert option.allowed in row
    for name in RECIPES:
        assert f"`[systems.{name}]`" in TEXT


def test_variables_that_are_no_keys_are_on_the_page() -> None:
    outside = TEXT.partition(f"<!-- {SECTION}: end -->")[2]
    assert [name for name in OTHER_VARIABLES if f"`{name}`" not in outside] == []


@pytest.mark.parametrize(
    ("value", "toml", "variable"),
    [
        (True, "true", "true"),
        (0.5, "0.5", "0.5"),
        ('a "b"', r'"a \"b\""', "'a \"b\"'"),
        (["a", "b"], '["a", "b"]', '\'["a", "b"]\''),
        ({"a": 1}, "{ a = 1 }", "'{\"a\": 1}'"),
    ],
)
def test_values_are_written_as_each_place_reads_them(value: Any, toml: str, variable: str) -> None:
    assert as_toml(value) == toml and as_variable(value) == variable
    assert tomllib.loads(f"it = {toml}")["it"] == value
    if isinstance(value, list | dict):
        assert json.loads(_unquoted(variable)) == value
