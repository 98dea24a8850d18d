"""``setr plan``: what is counted before anything runs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from setr_lib.cli import main
from setr_lib.commands import plan, plan_speeds
from setr_lib.commands.plan_speeds import Speeds
from setr_lib.commands.plan_trainings import seconds_per_step
from setr_lib.commands.plan_work import (
    Configured,
    SetPlan,
    TrainingPlan,
    costs,
    count_training,
    count_work,
    run_sets,
)
from setr_lib.pipeline.context import pipeline_context
from setr_lib.settings import RerankingSettings, Settings, TrainingSettings, load_settings
from setr_lib.spaces.identity import digest_weights
from setr_lib.systems.recipe import RECIPES
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


def test_an_image_goes_through_the_vision_tower_once_while_there_is_memory_for_all(tmp_path: Path) -> None:
    names, training = Configured(["clip"], [], ["base judge", "mine"]), TrainingPlan(40, 0, 100, 0)
    plan = SetPlan("a", queries=1000, references=7, images=100, gallery_key="a", pairs=50_000)

    memory = 6_000_000

    def seen(bytes_each: int, *plans: SetPlan) -> dict[str, int]:
        speeds = Speeds(
            {"clip": 1.0}, 1.0, 1.0, 1.0, {"mine": 1.0}, {"clip": 8}, "cpu", "", 0.0, 0.5, bytes_each, memory
        )
        found = costs(Settings(base_dir=tmp_path), names, plans, training, speeds)
        return {what: items for what, items, _ in found.lines if what.startswith("see")}

    all_once = {"see the references": 7, "see the training images": 40, "see the candidates": 93}
    assert seen(1, plan) == all_once == seen(memory // 100, plan)
    half = seen(memory // 50, plan)
    assert half["see the candidates"] == 25_000, "half of the gallery is in memory when a query asks for it"
    few = SetPlan("b", queries=1, references=1, images=1000, gallery_key="b", pairs=100)
    assert seen(1, few)["see the candidates"] == round(1000 * (1 - math.exp(-0.1))) - 1, "drawn at random"


def test_the_fastest_time_counts_on_growing_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(plan_speeds.time, "perf_counter", lambda: clock[0])
    parts: list[list[int]] = []

    def slow_at_first(items: Sequence[int]) -> None:
        parts.append(list(items))
        clock[0] += 0.1 + 0.01 * len(items)

    items = list(range(40))
    assert plan_speeds.seconds_each(slow_at_first, items, 4, 16) == pytest.approx(0.1 / 16 + 0.01)
    assert [len(part) for part in parts] == [1, 4, 8, 16]
    assert [item for part in parts for item in part] == items[:29], "never the same item twice"
    parts.clear()
    assert plan_speeds.seconds_each(slow_at_first, items[:2], 4, 16) == pytest.approx(0.11)
    assert plan_speeds.seconds_each(slow_at_first, [], 4, 16) == 0.0
    monkeypatch.setattr(plan_speeds, "ENOUGH", 0.15)
    parts.clear()
    plan_speeds.seconds_each(slow_at_first, items, 4, 16)
    assert [len(part) for part in parts] == [1, 4, 8], "0.18 s are enough"
    took, sizes = iter([8.0, 2.0, 5.0, 1.0, 3.0, 5.0]), list[int]()

    def of(size: int) -> Callable[[], None]:
        sizes.append(size)
        return lambda: clock.__setitem__(0, clock[0] + next(took))

    monkeypatch.setattr(plan_speeds, "ENOUGH", 9.0)
    assert plan_speeds.fastest(of, 1, 4) == 1.0 / 4
    assert sizes == [1, 2, 4, 4, 4, 4], "again and again until enough was spent on the last size"


def test_a_plan_is_of_the_sets_that_a_run_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "setr.toml"
    data_sets = '[datasets.circo]\nroot = "circo"\nsplits = ["val", "test"]\n[datasets.cirr]\nroot = "cirr"\n'
    config.write_text(f'{data_sets}splits = ["test1"]\n')
    settings = load_settings(config)
    assert run_sets(settings, []) == (["circo-val"], ["circo-test", "cirr-test1"])
    assert run_sets(settings, ["cirr", "circo-test"]) == (["circo-test", "cirr-test1"], [])
    assert [plan.key for plan in count_work(settings, ["cirr-test1"])] == ["cirr-test1"]
    assert main(["--config", str(config), "plan", "--counts-only", "nonsense"]) == 1
    assert "there is no data set or evaluation set 'nonsense'" in capsys.readouterr().err


def test_the_plan_as_json_has_every_step_and_their_sum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "teal").save(tmp_path / "pictures" / name)
    (tmp_path / "pictures/queries.csv").write_text("reference,modification,target\na.png,red,b.png\n")
    write_tiny_clip(tmp_path / "clip")
    systems = "[systems.pic2word]\nsteps = 7\nbatch_size = 2\n[training]\ncaptions = 'c.jsonl'\n"
    config = tmp_path / "setr.toml"
    config.write_text(PLAIN.format(other="image") + systems, encoding="utf-8")
    (tmp_path / "c.jsonl").write_text("")
    assert main(["--config", str(config), "plan", "--json", "--counts-only"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["seconds"] is None and "training pairs are mined" in " ".join(counted["not_timed"])
    config.write_text(PLAIN.format(other="image") + "[systems.pic2word]\nsteps = 7\nbatch_size = 2\n")
    assert main(["--config", str(config), "plan", "--json", "--sample", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    steps = {step["step"]: step for step in found["steps"]}
    assert steps["embed the galleries"]["items"] == steps["look at the images"]["items"] == 2
    assert steps["embed the galleries"]["seconds"] == 2 * steps["embed the galleries"]["seconds_each"] > 0
    assert found["seconds"] == pytest.approx(sum(step["seconds"] or 0 for step in found["steps"]))
    assert [each["key"] for each in found["sets"]] == ["mine"]


def test_without_training_no_adapter_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "teal").save(tmp_path / "pictures" / name)
    (tmp_path / "pictures/queries.csv").write_text("reference,modification,target\na.png,red,b.png\n")
    speeds = Speeds({"clip": 0.1}, 0.1, 0.1, 0.1, {}, {"clip": 8}, "cpu", "")
    monkeypatch.setattr(plan, "measure", lambda *_, **__: speeds)
    config = tmp_path / "setr.toml"
    both = PLAIN.format(other="image").replace("rerankers = []", 'rerankers = ["base judge", "adapter"]')
    for training, judged in (
        ("", ["base judge"]),
        ("[training]\ncaptions = 'c'\n", ["base judge", "adapter"]),
    ):
        config.write_text(both + training, encoding="utf-8")
        assert main(["--config", str(config), "plan", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        for what in ("re-rank", "choose the fusion"):
            steps = [step["step"] for step in found["steps"] if step["step"].startswith(f"{what}: ")]
            assert [step for step in steps if "compose" not in step] == [f"{what}: {name}" for name in judged]


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
    assert "compose the queries" not in page and "training pairs" not in page
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


def test_a_step_of_every_retrieval_system_is_timed_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for place in range(4):
        Image.new("RGB", (8, 8), (60 * place, 0, 0)).save(tmp_path / "pictures" / f"{place}.png")
    (tmp_path / "pictures" / "queries.csv").write_text("reference,modification,target\n0.png,redder,1.png\n")
    write_tiny_clip(tmp_path / "clip")
    systems = "".join(f"[systems.{name}]\nbatch_size = 2\n" for name in RECIPES)
    config = tmp_path / "setr.toml"
    config.write_text(PLAIN.format(other="image") + systems, encoding="utf-8")
    context = pipeline_context(load_settings(config))
    images, _ = plan_speeds.first_images(context, "mine", 4)
    encoder: Any = context.models.space()
    before = digest_weights(encoder.model)
    for name in RECIPES:
        took = seconds_per_step(context, name, images, ["redder", "much redder"])
        assert took is not None and took > 0, name
    assert digest_weights(encoder.model) == before
    assert not (tmp_path / "var").exists()
    config.write_text(config.read_text().replace('"local-dir:clip"', '"local-dir:nowhere"'))
    assert seconds_per_step(pipeline_context(load_settings(config)), "pic2word", images, ["redder"]) is None
