"""``setr plan``: what is counted before anything runs."""

from __future__ import annotations

from pathlib import Path

from setr_lib.commands.plan import TrainingPlan, count_training
from setr_lib.settings import Settings, TrainingSettings


def test_no_training_is_planned_where_none_is_named(tmp_path: Path) -> None:
    plan = count_training(Settings(base_dir=tmp_path))
    assert plan == TrainingPlan(0, 0, 0, 0, plan.problem)
    assert "names neither" in plan.problem


def test_training_that_is_named_is_planned_before_its_file_is_there(tmp_path: Path) -> None:
    training = TrainingSettings(captions=Path("captions.jsonl"))
    plan = count_training(Settings(base_dir=tmp_path, training=training))
    assert plan.images == 0 and "captions.jsonl" in plan.problem
    assert plan.taught == 1200 * 6 * 2, "1500 groups, a fifth held out, six pairs each, two epochs"
