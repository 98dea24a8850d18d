"""``setr plan``: what is counted before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from setr_lib.cli import main
from setr_lib.commands.plan_speeds import Speeds
from setr_lib.commands.plan_work import Configured, SetPlan, TrainingPlan, costs, count_training
from setr_lib.settings import RerankingSettings, Settings, TrainingSettings
from tests.tiny_encoder import write_tiny_clip

PLAIN = """
[models]
device = "cpu"
encoder = {{ name = "local-dir:clip" }}
judge = {{ name = "nobody/has-this-model", prompts = "miniature" }}

[datasets.mine]
kind = "folder"
root = "pictures"

[coarse]
strategies = ["sum", {other!r}]
default = "sum"

[reranking]
rerankers = []
"""


def test_no_training_is_planned_where_none_is_named(tmp_path: Path) -> None:
    plan = count_training(Settings(base_dir=tmp_path))
    assert plan == TrainingPlan(0, 0, 0, 0, plan.problem)
    assert "names neither" in plan.problem


def test_training_that_is_named_is_planned_before_its_file_is_there(tmp_path: Path) -> None:
    training = TrainingSettings(captions=Path("captions.jsonl"))
    plan = count_training(Settings(base_dir=tmp_path, training=training))
    assert plan.images == 0 and "captions.jsonl" in plan.problem
    assert plan.taught == 1200 * 6 * 2, "1500 groups, a fifth held out, six pairs each, two epochs"


def test_every_method_and_re_ranker_counts(tmp_path: Path) -> None:
    speeds = Speeds(
        embed={"clip": 0.1},
        describe=0.1,
        compose=0.1,
        judge=2.0,
        rerankers={"mine": 0.5},
        dimensions={"clip": 8},
        device="cpu",
        memory="",
    )
    plans = [SetPlan("a", 10, 7, 100, "a", pairs=500), SetPlan("b", 10, 7, 100, "a", pairs=700)]
    training = TrainingPlan(40, calibrated=3, taught=0, held_out=0)
    names = Configured(["clip"], ["clip"], ["base judge", "mine"])
    for methods, count in ((None, 1), (["sum", "image"], 2)):
        reranking = RerankingSettings(methods=methods, top_k=20)
        found = costs(Settings(base_dir=tmp_path, reranking=reranking), names, plans, training, speeds)
        lines = {what: (items, seconds) for what, items, seconds in found.lines}
        assert lines["re-rank: base judge"] == (count * 1200, 2.0)
        assert lines["re-rank: mine"] == (count * 1200, 0.5)
        assert lines["choose the fusion: mine"] == (count * 3 * 20, 0.5)
        assert found.scores == 2 * count * (1200 + 60)
    none = costs(Settings(base_dir=tmp_path), Configured(["clip"], ["clip"], []), plans, training, speeds)
    assert none.scores == 0 and not any("re-rank" in what for what, *_ in none.lines)
    assert "describe the references" in {what for what, items, _ in none.lines if items}
    more = Configured(
        ["clip"], ["clip"], [], texts=frozenset(), added={"edited": "query", "described": "image"}
    )
    found = costs(Settings(base_dir=tmp_path), more, plans, training, speeds)
    asked = {what: items for what, items, _ in found.lines if what.startswith("write")}
    assert asked == {"write edited": 20, "write described": 14} and found.texts == 34
    unread = Configured(["clip"], ["clip"], [], texts=frozenset())
    found = costs(Settings(base_dir=tmp_path), unread, plans, training, speeds)
    asked = {what for what, items, _ in found.lines if items and "embed" not in what}
    assert asked == {"start, and load the models", "look at the images"}
    assert found.texts == 0


def test_no_multimodal_llm_is_loaded_where_nothing_needs_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "teal").save(tmp_path / "pictures" / name)
    (tmp_path / "pictures/queries.csv").write_text("reference,modification,target\na.png,red,b.png\n")
    write_tiny_clip(tmp_path / "clip")
    config = tmp_path / "setr.toml"
    config.write_text(PLAIN.format(other="image"), encoding="utf-8")
    assert main(["--config", str(config), "plan", "--sample", "2"]) == 0
    page = capsys.readouterr().out
    assert re.search(r"embed the galleries\s+2\s+[\d.,]+ ", page)
    assert re.search(r"compose the queries\s+0\s+-\s+0 s", page)
    config.write_text(PLAIN.format(other="union_text"), encoding="utf-8")
    assert main(["--config", str(config), "plan", "--sample", "2"]) == 1
    assert "nobody/has-this-model" in capsys.readouterr().err


def test_a_re_ranker_that_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_clip(tmp_path / "clip")
    (tmp_path / "pictures").mkdir()
    for place in range(3):
        Image.new("RGB", (8, 8), (80 * place, 0, 0)).save(tmp_path / "pictures" / f"{place}.png")
    (tmp_path / "pictures" / "queries.csv").write_text("reference,modification,target\n0.png,redder,1.png\n")
    (tmp_path / "failing.py").write_text(
        "from setr_lib.reranking.reranker import Reranker\n"
        "class Failing(Reranker):\n"
        '    name, id, source = "failing", "failing-1", "an example"\n'
        "    def score(self, queries):\n"
        '        raise RuntimeError("out of order")\n'
    )
    settings = PLAIN.format(other="text").replace("rerankers = []", 'rerankers = ["failing:Failing"]')
    (tmp_path / "setr.toml").write_text(settings)
    assert main(["--config", str(tmp_path / "setr.toml"), "plan", "--sample", "2"]) == 1
    assert (
        "re-ranker 'failing' raised RuntimeError: out of order (failing.py, line 5)"
        in capsys.readouterr().err
    )


def test_trainings_of_retrieval_systems_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), "teal").save(tmp_path / "pictures" / f"{name}.png")
    (tmp_path / "pictures" / "queries.csv").write_text("reference,modification,target\na.png,red,b.png\n")
    config = tmp_path / "setr.toml"
    systems = "[systems.pic2word]\nsteps = 7\n[systems.mapping]\ntriplets = 'mine'\n"
    systems += "[training]\ncaptions = 'c.jsonl'\n"
    config.write_text(PLAIN.format(other="text") + systems, encoding="utf-8")
    assert main(["--config", str(config), "plan", "--counts-only"]) == 0
    out = capsys.readouterr().out
    assert "train pic2word: 7 steps of 64 images" in out
    assert "train mapping: cannot be trained: [systems.mapping] triplets = 'mine'" in out
