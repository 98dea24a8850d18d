"""The mutants fit the code as it is now, and their runner tells a noticed one from one that survives."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants import Mutant, MutantError, faults_of, read_mutants, selected, try_mutants

CONFTEST = """
from hypothesis import settings
settings.register_profile("mutants")
"""
CODE = """
def half(number):
    return number / 2
def twice(number):
    return number * 2
"""
TESTS = """
from code_of_mine import half, twice
def test_half():
    assert half(4) == 2
def test_twice():
    assert twice(2) == 4
class TestOfTwo:
    def test_two(self):
        assert twice(1) == 2
"""
HALF = Mutant("half", "a half", "code_of_mine.py", "number / 2", "number / 3", "test_mine.py::test_half")
BLIND = Mutant("blind", "2 + 2", "code_of_mine.py", "number * 2", "number + 2", "test_mine.py::test_twice")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of one module whose second test is blind to a change."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for name, text in (("conftest.py", CONFTEST), ("code_of_mine.py", CODE), ("test_mine.py", TESTS)):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_mutant_fits_the_code_and_names_a_test() -> None:
    mutants = read_mutants()
    assert list(faults_of(mutants)) == []
    assert len(mutants) >= 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file": "gone.py"}, "there is no file gone.py"),
        ({"old": "number"}, "its old text is 4 times in code_of_mine.py"),
        ({"old": "number / 5"}, "its old text is 0 times in code_of_mine.py"),
        ({"new": "number  /  2"}, "changes no code"),
        ({"test": "test_mine.py::test_third"}, "there is no test test_mine.py::test_third"),
        ({"test": "gone.py::test_half"}, "there is no test gone.py::test_half"),
    ],
)
def test_a_mutant_that_does_not_fit_is_named(root: Path, change: dict[str, str], words: str) -> None:
    (fault,) = faults_of([replace(HALF, **change)], root)
    assert fault.startswith("half: ") and words in fault


def test_names_are_used_once(root: Path) -> None:
    assert list(faults_of([HALF, HALF], root)) == ["half: the name is used twice"]


def test_tests_may_have_parameters_and_a_class(root: Path) -> None:
    tests = ("test_half[1-2]", "TestOfTwo::test_two")
    named = [replace(HALF, name=test, test=f"test_mine.py::{test}") for test in tests]
    assert list(faults_of(named, root)) == []


def test_patterns_select_by_name_file_and_test() -> None:
    both = [HALF, BLIND]
    assert selected(both, []) == both
    assert selected(both, ["ha*"]) == selected(both, ["*::test_half"]) == [HALF]
    assert selected(both, ["*of_mine.py", "ha*"]) == both
    assert selected(both, ["mine"]) == []


def test_a_survivor_is_told_from_a_noticed_mutant_and_the_tree_is_left_alone(root: Path) -> None:
    half_of_syntax = replace(HALF, name="syntax", new="number /", test="test_mine.py::test_half")
    found = list(try_mutants([HALF, BLIND, half_of_syntax], root))
    assert [(mutant.name, outcome.state) for mutant, outcome in found] == [
        ("half", "noticed"),
        ("blind", "SURVIVED"),
        ("syntax", "BROKEN"),
    ]
    assert "SyntaxError" in found[2][1].detail
    assert (root / "code_of_mine.py").read_text() == CODE


def test_a_test_that_fails_anyway_notices_nothing(root: Path) -> None:
    (root / "test_mine.py").write_text(TESTS.replace("== 2", "== 3"))
    with pytest.raises(MutantError, match=r"(?s)fail without any mutant.*test_half"):
        list(try_mutants([HALF], root))
