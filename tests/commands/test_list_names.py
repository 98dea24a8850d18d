"""``setr list``: what settings can name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from setr_lib.cli import main
from setr_lib.methods.method import method_names
from setr_lib.reranking.reranker import reranker_names
from setr_lib.settings import load_settings
from setr_lib.systems.recipe import RECIPES

SETTINGS = """
[coarse]
strategies = ["intersection", "my_method:Mine"]
caption_strategies = []
default = "intersection"

[models.judge]
prompts = "own_prompts"

[datasets.shop]
kind = "folder"
root = "shop"
"""
OWN_METHOD = """
from setr_lib.methods.method import Method
from setr_lib.texts.answers import Answer
from setr_lib.texts.kind import TextKind


class Sentence(Answer):
    sentence: str


class Mine(Method):
    name = "mine"
    label = "supervised"
    source = "a thesis"
    space = "clip"
    needs = frozenset({"captions"})
    texts = (TextKind("sentence", "sentence", "query", Sentence, after=("captions",)),)

    def scores(self, inputs):
        raise NotImplementedError
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "my_method.py").write_text(OWN_METHOD)
    prompts = tmp_path / "own_prompts"
    prompts.mkdir()
    for task in ("describe", "compose", "judge", "yes_no"):
        (prompts / f"{task}.jinja").write_text("{{ image }}{{ modification }}")
    config = tmp_path / "setr.toml"
    config.write_text(SETTINGS)
    return config


def rows(config: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    assert main(["--config", str(config), "list", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_kind_is_listed_with_what_it_is_and_needs(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(config, capsys)
    by_kind = {
        kind: {row["name"]: row for row in found if row["kind"] == kind}
        for kind in {r["kind"] for r in found}
    }
    assert set(by_kind) == {"methods", "rerankers", "systems", "benchmarks", "spaces", "texts"}
    methods = by_kind["methods"]
    assert set(methods) == {*method_names(), "mine"}
    assert [name for name, row in methods.items() if row["configured"]] == ["intersection", "mine"]
    assert methods["mine"] == {
        "kind": "methods",
        "name": "mine",
        "configured": True,
        "label": "supervised",
        "source": "a thesis",
        "needs": ["space clip", "text captions", "text sentence"],
        "problem": "",
        "remedy": "",
        "champion": "",
    }
    dense = methods["captions_text_dense"]
    assert dense["problem"] == "no [spaces.sentences]"
    assert "write a section [spaces.sentences] with kind" in dense["remedy"]
    assert all(row["source"] and row["label"] for row in methods.values())
    assert set(by_kind["rerankers"]) == set(reranker_names())
    assert by_kind["rerankers"]["adapter"]["needs"] and not by_kind["rerankers"]["base judge"]["needs"]
    assert by_kind["benchmarks"]["folder"]["configured"] and not by_kind["benchmarks"]["cirr"]["configured"]
    assert by_kind["spaces"]["clip"]["configured"]
    assert "no sentence.jinja" in by_kind["texts"]["sentence"]["problem"]
    assert not by_kind["texts"]["compositions"]["problem"]


def test_one_kind_alone(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {row["kind"] for row in rows(config, capsys, "spaces")} == {"spaces"}
    with pytest.raises(SystemExit):
        main(["--config", str(config), "list", "adapters"])


def test_the_tables_name_the_settings_keys(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "list"]) == 0
    out = capsys.readouterr().out
    assert "[coarse] strategies" in out and "* mine" in out
    assert out.count("write a section [spaces.sentences]") == 1, "once, below the table"
    assert out.count("[spaces.sentences]") > 3, "and short in each row"


def test_what_cannot_be_loaded_is_listed_with_the_reason(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from setr_lib import catalogue

    class Broken:
        name, value = "broken", "gone.module:Method"

        @staticmethod
        def load() -> None:
            raise ModuleNotFoundError("No module named 'gone'")

    every = catalogue.entry_points
    monkeypatch.setattr(
        catalogue,
        "entry_points",
        lambda group: [*every(group=group), *([Broken()] if group == "setr.methods" else [])],
    )
    broken = {row["name"]: row for row in rows(config, capsys, "methods")}["broken"]
    assert "gone" in broken["problem"] and not broken["configured"]


def test_trained_systems_are_listed_with_what_they_learn_from_and_their_champion(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(SETTINGS + "\n[systems.composing]\n")
    store = load_settings(config)
    found = {row["name"]: row for row in rows(config, capsys, "systems")}
    assert set(found) == {*RECIPES, "adapter"}
    used = [name for name, row in found.items() if row["configured"]]
    assert used == ["mapping", "composing"], "composing builds on mapping"
    assert found["composing"]["needs"] == ["triplets", "a champion of mapping"]
    assert found["pic2word"]["needs"] == ["images"]
    assert all(row["source"] and not row["champion"] for row in found.values())
    assert not Path(store.tracking_uri.removeprefix("sqlite:///")).exists(), "no store is made by looking"
