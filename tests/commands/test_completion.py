"""A shell completes what ``setr`` takes: commands, options, values, and the names that settings give."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from setr_lib.cli import main, parser
from setr_lib.commands.completion import SCRIPTS, candidates, known_names

REPOSITORY = Path(__file__).parents[2]
SETTINGS = """
[datasets.cirr]
root = "x"
splits = ["val", "test1"]
[datasets.mine]
kind = "folder"
root = "y"
[coarse]
strategies = ["sum", "slerp"]
[reranking]
rerankers = ["base judge"]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "setr.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return path


def completed(*words: str) -> list[str]:
    return [word for word, _ in candidates(parser(), words)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lea"], ["leaderboard"]),
        (["captions", ""], ["export", "import"]),
        (["--quiet", "lis"], ["list"]),
        (["list", "m"], ["methods"]),
        (["search", "--coarse"], ["--coarse-only"]),
        (["leaderboard", "--dataset", ""], ["cirr", "cirr-val", "cirr-test1", "mine"]),
        (["faults", "m"], ["mine"]),
        (["search", "a.png", "red", "--method", "s"], ["sum", "slerp"]),
        (["compare", "sum", "sl"], ["slerp"]),
        (["search", "--reranker", ""], ["base-judge", "none"]),
        (["repair", "ve"], ["vectors"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["search", ""], []),
        (["search", "--output", "x"], []),
        (["nonsense", "x"], []),
    ],
)
def test_the_last_word_becomes(config: Path, words: list[str], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_every_command_is_offered_with_what_it_does() -> None:
    found = dict(candidates(parser(), [""]))
    assert found["doctor"].startswith("what is installed") and "search" in found


def test_names_are_those_of_the_file_that_the_line_names(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[datasets.other]\nkind = "folder"\nroot = "z"\n')
    assert completed("--config", str(other), "faults", "") == ["other"]


@pytest.mark.parametrize(
    "text", ["not toml", "datasets = 3", "[coarse]\nstrategies = 3", "[datasets]\nx = 1"]
)
def test_settings_at_fault_never_disturb_a_shell(config: Path, text: str) -> None:
    config.write_text(text)
    for what in ("sets", "methods", "rerankers"):
        assert isinstance(known_names(what), list)


def test_without_settings_the_methods_are_those_of_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "intersection" in known_names("methods") and known_names("sets") == []


def in_shell(shell: str, code: str, folder: Path) -> str:
    binary = folder / "bin"
    binary.mkdir()
    setr = binary / "setr"
    setr.write_text(f'#!/bin/sh\nexec {sys.executable} -m setr_lib.cli "$@"\n')
    setr.chmod(0o755)
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{binary}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        [shell, "-c", code],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bash_completes(config: Path) -> None:
    code = (
        'eval "$(setr completion bash)"; COMP_WORDS=(setr faults c); COMP_CWORD=2; _setr setr; '
        'printf "%s\\n" "${COMPREPLY[@]}"; COMP_WORDS=(setr search ""); COMP_CWORD=2; _setr setr; '
        'echo "${#COMPREPLY[@]}"; complete -p setr'
    )
    printed = in_shell("bash", code, config.parent).splitlines()
    assert printed[:4] == ["cirr", "cirr-val", "cirr-test1", "0"]
    assert "-F _setr setr" in printed[4] and "default" in printed[4]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(config: Path) -> None:
    code = 'setr completion fish | source; complete -C "setr faults c"; complete -C "setr search set"'
    printed = in_shell("fish", code, config.parent).splitlines()
    assert printed == ["cirr", "cirr-test1", "cirr-val", "setr.toml"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(config: Path) -> None:
    # Completion needs a line that is being typed: zsh's own pseudo-terminal is one.
    code = r"""
        zmodload zsh/zpty
        zpty typed zsh -f -i
        zpty -w typed 'PS1=; autoload -U compinit && compinit -u -D; eval "$(setr completion zsh)"'
        zpty -w typed 'echo re""ady'
        zpty -r -m typed printed '*ready*'
        zpty -w -n typed $'setr faults cirr-t\t'
        zpty -r -m typed printed '*cirr-test1*' && echo found
        zpty -d typed
    """
    assert in_shell("zsh", code, config.parent).strip() == "found"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_of_a_shell_is_one(shell: str, config: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n"], input=SCRIPTS[shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_script_needs_no_settings(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("broken = ")
    for shell, script in SCRIPTS.items():
        assert main(["completion", shell]) == 0
        assert capsys.readouterr() == (script, "")
