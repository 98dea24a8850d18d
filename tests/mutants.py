"""Mutation testing with mutants written down by hand: does a test notice when a formula or a gate is wrong?

``python -m tests.mutants [PATTERN ...]`` copies the repository's files into temporary folders, checks that
the named tests pass there, applies the mutants of ``mutants.toml`` one at a time and runs each one's test,
which must fail. It prints a line for each mutant; exit status 1 where one survives or cannot be tried. A
pattern (``loss*``, ``*pairs.py*``) selects mutants by name, file or test.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

REPOSITORY = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".toml")
_WORKERS = 2
_LONGEST_TEST = 600
_PASSED, _FAILED = 0, 1
"""pytest's exit status; others mean that the test was not run."""

State = Literal["noticed", "SURVIVED", "BROKEN"]


class MutantError(Exception):
    """The mutants cannot be tried; the message says why."""


@dataclass(frozen=True)
class Mutant:
    """One change of the code that a test must notice."""

    name: str
    why: str
    """What would be wrong, or what rule the code keeps: one sentence."""
    file: str
    """The file to change, relative to the repository."""
    old: str
    """Text that is in the file exactly once."""
    new: str
    """What takes its place."""
    test: str
    """pytest's id of the test that must fail: ``tests/FOLDER/test_FILE.py::test_NAME``."""


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant.

    Attributes:
        state: ``noticed``: its test failed; ``SURVIVED``: it passed; ``BROKEN``: it could not be run.
        seconds: How long the test took.
        detail: The failure's line of pytest's summary; where it is broken, the end of pytest's output.
    """

    state: State
    seconds: float
    detail: str


def read_mutants(file: Path = LIST) -> list[Mutant]:
    """The mutants of a TOML file. Raises ``TypeError`` where an entry lacks a field or has another."""
    return [Mutant(**entry) for entry in tomllib.loads(file.read_text(encoding="utf-8"))["mutant"]]


def selected(mutants: Sequence[Mutant], patterns: Sequence[str]) -> list[Mutant]:
    """The mutants whose name, file or test matches one of the patterns; all of them without patterns."""
    return [
        mutant
        for mutant in mutants
        if not patterns
        or any(fnmatchcase(text, p) for p in patterns for text in (mutant.name, mutant.file, mutant.test))
    ]


def faults_of(mutants: Sequence[Mutant], root: Path = REPOSITORY) -> Iterator[str]:
    """What is wrong with the list itself, a sentence each; nothing is run to find it."""
    names = [mutant.name for mutant in mutants]
    yield from (f"{name}: the name is used twice" for name in sorted(set(names)) if names.count(name) > 1)
    for mutant in mutants:
        if not (root / mutant.file).is_file():
            yield f"{mutant.name}: there is no file {mutant.file}"
            continue
        source = (root / mutant.file).read_text(encoding="utf-8")
        if (count := source.count(mutant.old)) != 1:
            yield f"{mutant.name}: its old text is {count} times in {mutant.file}, not once"
        elif _syntax(source) == _syntax(source.replace(mutant.old, mutant.new)):
            yield f"{mutant.name}: its new text changes no code of {mutant.file}, or is no Python"
        path, _, test = mutant.test.partition("::")
        if test.partition("[")[0] not in _test_names(root / path):
            yield f"{mutant.name}: there is no test {mutant.test}"


def _syntax(source: str) -> str | None:
    try:
        return ast.dump(ast.parse(source))
    except SyntaxError:
        return None


@cache
def _test_names(file: Path) -> frozenset[str]:
    """``test_NAME`` and ``Class::test_NAME`` of the tests that a file defines."""
    if not file.is_file():
        return frozenset()
    body = ast.parse(file.read_text(encoding="utf-8")).body
    classes = [(f"{node.name}::", node.body) for node in body if isinstance(node, ast.ClassDef)]
    return frozenset(
        prefix + node.name
        for prefix, nodes in [("", body), *classes]
        for node in nodes
        if isinstance(node, ast.FunctionDef)
    )


def try_mutants(mutants: Sequence[Mutant], root: Path = REPOSITORY) -> Iterator[tuple[Mutant, Outcome]]:
    """Run every mutant's test on a copy of the tree that has this one change.

    Args:
        mutants: A list without faults (see :func:`faults_of`).
        root: A git repository; its files are copied as they are now, committed or not.

    Yields:
        Mutants in the order of the list, with what became of them.

    Raises:
        MutantError: A test fails without any mutant, or git cannot list the files.
    """
    with tempfile.TemporaryDirectory(prefix="setr-mutants-") as place, ThreadPoolExecutor(_WORKERS) as pool:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(_WORKERS):
            trees.put(_copy(root, Path(place) / str(number)))
        failures = [
            found for found in pool.map(lambda tests: _on_a_tree(trees, tests), _shares(mutants)) if found
        ]
        if failures:
            raise MutantError("tests fail without any mutant:\n" + "\n".join(failures))
        running = [pool.submit(_outcome, trees, mutant) for mutant in mutants]
        try:
            for mutant, future in zip(mutants, running, strict=True):
                yield mutant, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _copy(root: Path, tree: Path) -> Path:
    """The files of a git repository, without those that git ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise MutantError(f"{root}: git cannot list the files: {listed.stderr.strip()}")
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)
    return tree


def _shares(mutants: Sequence[Mutant]) -> list[list[str]]:
    """The tests in one share per worker; those of a file stay together and share fixtures."""
    by_file: dict[str, dict[str, None]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant.test.partition("::")[0], {})[mutant.test] = None
    shares: list[list[str]] = [[] for _ in range(_WORKERS)]
    for number, tests in enumerate(by_file.values()):
        shares[number % _WORKERS] += tests
    return [share for share in shares if share]


def _on_a_tree(trees: SimpleQueue[Path], tests: Sequence[str]) -> str:
    """pytest's output where one of the tests fails on the unchanged tree, else nothing."""
    tree = trees.get()
    try:
        status, output = _pytest(tree, tests)
        return "" if status == _PASSED else output
    finally:
        trees.put(tree)


def _outcome(trees: SimpleQueue[Path], mutant: Mutant) -> Outcome:
    tree = trees.get()
    file = tree / mutant.file
    source = file.read_text(encoding="utf-8")
    started = time.monotonic()
    try:
        _write(file, source.replace(mutant.old, mutant.new))
        status, output = _pytest(tree, ["-x", mutant.test])
    finally:
        _write(file, source)
        trees.put(tree)
    seconds = time.monotonic() - started
    if status == _PASSED:
        return Outcome("SURVIVED", seconds, mutant.why)
    if status != _FAILED:
        return Outcome("BROKEN", seconds, output[-2000:])
    told = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return Outcome("noticed", seconds, told[0] if told else "")


def _write(file: Path, source: str) -> None:
    """Write a source file and drop its byte code, which may look current (same second, same size)."""
    file.write_text(source, encoding="utf-8")
    Path(cache_from_source(str(file))).unlink(missing_ok=True)


def _pytest(tree: Path, arguments: Sequence[str]) -> tuple[int | None, str]:
    """pytest's exit status (None where it takes too long) and output."""
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    fixed = ["-q", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-profile=mutants"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *fixed, *arguments],
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LONGEST_TEST * len(arguments),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"more than {_LONGEST_TEST} s"
    return done.returncode, done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 where every mutant is noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="only these mutants, e.g. 'loss*'")
    mutants = selected(read_mutants(), parser.parse_args(arguments).patterns)
    faults = list(faults_of(mutants)) if mutants else ["no mutant matches"]
    if faults:
        print(*faults, sep="\n")
        return 1
    started, counts = time.monotonic(), dict.fromkeys(("noticed", "SURVIVED", "BROKEN"), 0)
    print(f"{len(mutants)} mutants; first their tests without any", flush=True)
    try:
        for mutant, outcome in try_mutants(mutants):
            counts[outcome.state] += 1
            print(f"{outcome.state:8} {outcome.seconds:4.0f} s  {mutant.name:40} {mutant.test}", flush=True)
            if outcome.state != "noticed":
                print(f"{'':17}{mutant.file}: {outcome.detail}", flush=True)
    except MutantError as error:
        print(error)
        return 1
    minutes = (time.monotonic() - started) / 60
    print(", ".join(f"{count} {state}" for state, count in counts.items()), f"in {minutes:.1f} minutes")
    return int(counts["noticed"] != len(mutants))


if __name__ == "__main__":
    sys.exit(main())
