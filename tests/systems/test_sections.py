"""Settings of trained retrieval systems, refused where settings are read: by commands and by Dagster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from setr_lib.cli import main
from setr_lib.settings import Settings, SettingsError, load_settings
from setr_lib.systems.sections import faults_of

BASE = """
[datasets.circo]
kind = "circo"
root = "circo"

[training]
captions = "captions.jsonl"

[spaces.words]
kind = "sentence_transformers"
[spaces.words.options]
model = "words"
"""
FAULTS = {
    "[systems.prompt_tund]": r"prompt_tund: there is no trained retrieval .*did you mean prompt_tuned\?",
    "[systems.qformer]\nstepz = 3": r"qformer\.stepz: there is no such key; did you mean steps\?",
    '[systems.qformer]\nsteps = "many"': r"qformer\.steps: .*valid integer.*\(it is 'many'\)",
    "[systems.composing]\nbatch_size = 1": r"composing\.batch_size: .*greater than or equal to 2 \(it is 1\)",
    '[systems.mapping]\nencoder = "wrds"': r"mapping\.encoder: there is no .*'wrds'; did you mean words\?",
    '[systems.mapping]\nencoder = "words"': r"mapping\.encoder: 'words' is .*of kind 'sentence_transformers'",
    '[systems.qformer]\ntriplets = "cirr"': r"qformer\.triplets: 'cirr' is neither 'synthesised' nor a ",
    "[systems.composing]\ntokens = 2": r"composing\.tokens: 2, but mapping, which it builds on, has 1",
}


@pytest.mark.parametrize("section", FAULTS)
def test_what_a_system_does_not_take_is_refused_when_settings_are_read(section: str, tmp_path: Path) -> None:
    path = tmp_path / "setr.toml"
    path.write_text(BASE + section, encoding="utf-8")
    with pytest.raises(SettingsError, match=FAULTS[section]) as refused:
        load_settings(path)
    assert str(path) in str(refused.value)


def test_every_fault_is_told_at_once() -> None:
    systems = {"qformer": {"stepz": 3, "steps": 0}, "magic": {}}
    found = faults_of(systems)
    assert [fault.partition(":")[0] for fault in found] == ["qformer.steps", "qformer.stepz", "magic"]
    assert faults_of({"composing": {"tokens": 2}, "mapping": {"tokens": 2}}) == []


@pytest.mark.parametrize("command", [["doctor", "--quick"], ["plan"], ["list", "methods"], ["leaderboard"]])
def test_every_command_says_so(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "setr.toml"
    path.write_text(BASE + "[systems.qformer]\nstepz = 3\n", encoding="utf-8")
    assert main(["--config", str(path), *command]) == (2 if command[0] == "doctor" else 1)
    shown = capsys.readouterr()
    assert "qformer.stepz: there is no such key; did you mean steps?" in shown.out + shown.err


def test_dagster_says_so(tmp_path: Path) -> None:
    """Also of a data set without a train split, which only its benchmark knows."""
    path = tmp_path / "setr.toml"
    for section, words in (
        ("[systems.qformer]\nstepz = 3\n", "qformer.stepz: there is no such key"),
        ('[systems.qformer]\ntriplets = "circo"\n', "CIRCO has no train split"),
    ):
        path.write_text(BASE + section, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", "import setr_assets.definitions"],
            env={"SETR_CONFIG": str(path), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0 and words in done.stderr


def test_variables_of_the_environment_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETR_SYSTEMS__QFORMER__STEPS", "7")
    assert Settings().systems == {"qformer": {"steps": "7"}}
    monkeypatch.setenv("SETR_SYSTEMS__QFORMER__STEPS", "seven")
    with pytest.raises(SettingsError, match=r"qformer\.steps: .*valid integer"):
        load_settings()
