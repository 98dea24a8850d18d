"""Means over all splits of a data set, with an interval from those of the splits."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from setr_lib.benchmarks import SplitAverage, averages
from setr_lib.benchmarks.kinds.genecis import GeneCIS
from setr_lib.evaluation.averages import average_line, means_of_splits
from setr_lib.evaluation.leaderboard import leaderboard_table
from setr_lib.evaluation.row import RANDOM, Row
from setr_lib.settings import Settings
from setr_lib.tables import METRICS, conform
from tests.evaluation.report_data import metric_row

TASKS = GeneCIS.splits
AVERAGE = SplitAverage("R@1", TASKS)


def table(method: str, values: dict[str, tuple[float, float, float]]) -> pl.DataFrame:
    rows = [
        metric_row(method, "", "R@1", value, dataset="genecis", split=task).with_columns(
            ci_low=pl.lit(low), ci_high=pl.lit(high)
        )
        for task, (value, low, high) in values.items()
    ]
    return conform(pl.concat(rows), METRICS, "metrics")


def test_the_interval_is_that_of_a_mean_of_independent_tasks() -> None:
    rng = np.random.default_rng(0)
    shares, sizes = np.array([0.2, 0.5, 0.1, 0.35]), np.array([2000, 500, 1000, 4000])
    drawn = 100 * rng.binomial(sizes, shares, size=(200_000, 4)) / sizes
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    tasks = {task: (100 * shares[i], low[i], high[i]) for i, task in enumerate(TASKS)}
    (found,) = means_of_splits(table("sum", tasks), AVERAGE)
    assert found.value == pytest.approx(28.75)
    assert found.interval == pytest.approx(np.quantile(drawn.mean(axis=1), [0.025, 0.975]), abs=0.05)


def test_each_side_has_its_own_width() -> None:
    (found,) = means_of_splits(table("sum", dict.fromkeys(TASKS, (20.0, 18.0, 26.0))), AVERAGE)
    assert found.interval == pytest.approx((20 - 2 / 2, 20 + 6 / 2))  # sqrt(4 w²) / 4 = w / 2


def test_rows_that_lack_a_task_have_no_mean_and_the_floor_is_last() -> None:
    whole = dict.fromkeys(TASKS, (20.0, 18.0, 22.0))
    better = dict.fromkeys(TASKS, (30.0, 28.0, 32.0))
    chance = dict.fromkeys(TASKS, (90.0, 80.0, 95.0))
    partial = {task: whole[task] for task in TASKS[:3]}
    frame = pl.concat(
        [
            table(name, values)
            for name, values in (("random", chance), ("text", whole), ("sum", better), ("half", partial))
        ]
    )
    assert [mean.row for mean in means_of_splits(frame, AVERAGE)] == [Row("sum"), Row("text"), RANDOM]
    line = average_line("genecis", frame, {"genecis": AVERAGE}, mark=" *")
    assert line is not None
    assert line.startswith(f"genecis: average R@1 of {', '.join(TASKS)} *: sum 30.0 (29.0–31.0), text 20.0")
    assert average_line("genecis", frame, {}) is None
    assert average_line("genecis", table("half", partial), {"genecis": AVERAGE}) is None


def test_a_task_without_an_interval_leaves_the_mean_without_one() -> None:
    whole = table("sum", dict.fromkeys(TASKS, (20.0, 18.0, 22.0)))
    lacking = pl.when(pl.col("split") == TASKS[0]).then(None).otherwise(pl.col("ci_low"))
    (found,) = means_of_splits(whole.with_columns(ci_low=lacking), AVERAGE)
    assert (found.interval, found.words) == (None, "sum 20.0")


def test_the_mean_is_of_all_tasks_whichever_settings_ask_for() -> None:
    datasets = {
        "mine": {"kind": "genecis", "root": "genecis", "splits": ["focus_object"]},
        "circo": {"kind": "circo", "root": "circo"},
    }
    assert averages(Settings.model_validate({"datasets": datasets})) == {"mine": AVERAGE}


def test_the_leaderboard_tells_the_mean_below_its_tables() -> None:
    frame = table("sum", dict.fromkeys(TASKS, (20.0, 18.0, 26.0)))
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(leaderboard_table(frame, {}, {"genecis": AVERAGE}))
    assert isinstance(console.file, io.StringIO)
    last = console.file.getvalue().splitlines()[-1]
    assert last == f"genecis: average R@1 of {', '.join(TASKS)}: sum 20.0 (19.0–23.0)"
