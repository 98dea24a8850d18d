"""The speed benchmarks of everything but models, on sizes at which they take no time: what they compare is
equal, and what differs is told.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from benchmarks.speed import imports, orchestration, real_sizes
from benchmarks.speed.figure import BenchSetting, Figure
from benchmarks.speed.real_material import Size, real_size

SMALL = (Size("cirr", "val", 30, 120, 1, True), Size("circo", "test", 20, 300, 4, False))


def setting(folder: Path) -> BenchSetting:
    return BenchSetting(folder, full=False, threads=1)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures of real sizes, at sizes that are not."""
    monkeypatch.setattr(real_sizes, "CIRR", SMALL[0])
    monkeypatch.setattr(real_sizes, "CIRCO", SMALL[1])
    monkeypatch.setattr(real_sizes, "SAMPLES", 40)
    monkeypatch.setattr(real_sizes, "BOOTSTRAPPED", (10, 30, 90))
    return {figure.name: figure for figure in real_sizes.figures(setting(tmp_path), real_sizes.NAMES)}


def test_every_step_after_stage_1_is_measured_and_its_output_is_as_counted(small: dict[str, Figure]) -> None:
    for name in ("real-cirr", "real-circo"):
        figure = small[name]
        assert figure.equal, figure.checked
        assert figure.ours_s == sum(step.seconds for step in figure.steps)
        words = " ".join(step.name for step in figure.steps)
        for part in ("kept", "cache", "fusion", "metrics", "bootstrap", "floor", "report", "submission"):
            assert part in words
    assert small["bootstrap"].equal and small["bootstrap"].growth is not None


def test_a_wrong_order_or_count_is_noticed(tmp_path: Path) -> None:
    run = real_sizes._Run(real_size(SMALL[0], tmp_path / "pictures"), tmp_path / "run")
    assert all(holds for _, holds in run.checks())
    ranked = pl.col("rank")
    run.reranked = run.reranked.with_columns(rank=pl.when(ranked <= 2).then(3 - ranked).otherwise(ranked))
    run.scores = False
    run.evaluation.summary["R@10"] += 0.01
    assert not any(holds for _, holds in run.checks())


MEASURED = """
import numpy as np
from benchmarks.speed.memory import measured_step
step, made = measured_step("zeros", lambda: np.ones(40 << 20, dtype=np.uint8).sum())
small, _ = measured_step("nothing", lambda: None)
print(step.name, made, step.peak_bytes, small.peak_bytes)
"""


def test_peak_memory_is_that_of_the_step() -> None:
    # In a process of its own: in this one, libraries give memory back whenever they like.
    told = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    name, made, peak, small = told.stdout.split()
    assert (name, int(made)) == ("zeros", 40 << 20)
    assert peak == "None" or 38 << 20 < int(peak) < 120 << 20
    assert small == "None" or int(small) < 20 << 20


def test_steps_of_a_run_are_read_and_put_together() -> None:
    printed = "queries ...\n  done queries (1.5 s)\n  done gallery_images (0.5 s)\n"
    printed += "    WARNING x\n  done leaderboard (0.1 s)\n"
    steps = orchestration.steps_of(printed)
    assert steps == {"queries": 1.5, "gallery_images": 0.5, "leaderboard": 0.1}
    assert orchestration.together(steps) == {"queries and gallery_images": 2.0, "leaderboard": 0.1}
    assert orchestration.steps_of("  done queries and gallery_images (0.25 s)\n") == {
        "queries and gallery_images": 0.25
    }


def test_tables_of_two_runs_are_compared_row_by_row(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert orchestration.different_tables(one, two) == ["there is no table"]
    for folder in (one, two):
        (folder / "rankings").mkdir(parents=True)
        pl.DataFrame({"score": [1.0, 2.0]}).write_parquet(folder / "rankings" / "a.parquet")
    assert orchestration.different_tables(one, two) == []
    pl.DataFrame({"score": [1.0, 2.0000001]}).write_parquet(two / "rankings" / "a.parquet")
    pl.DataFrame({"score": [1.0]}).write_parquet(two / "b.parquet")
    assert orchestration.different_tables(one, two) == [
        "b.parquet is made by one of the two only",
        "rankings/a.parquet differs",
    ]


def test_the_help_of_setr_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "ROUNDS", 1)
    monkeypatch.setattr(imports, "_TORCH", "import json")
    (figure,) = imports.figures(setting(tmp_path), ["help"])
    assert figure.ours_s > 0 and figure.met is False and figure.alternative == "`import torch`"
    assert "json.decoder" in dict(imports._imported("import json"))
