"""The leaderboard: the latest rows of each set, strict JSON, and a table that fits a terminal."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from setr_lib.commands.console import terminal
from setr_lib.errors import SetrError
from setr_lib.evaluation.leaderboard import (
    as_csv,
    as_json,
    as_markdown,
    collect,
    coverage_words,
    headline_metrics,
    leaderboard_table,
    order_lines,
    split_labels,
)
from setr_lib.evaluation.model_versions import in_words, shown_versions
from setr_lib.evaluation.row import RANDOM, Row, positions, rows_of
from setr_lib.tables import METRICS
from tests.evaluation.report_data import metric_row, metric_rows
from tests.nasty import ACTING, NASTY


def write(frame: pl.DataFrame, path: Path, when: int) -> Path:
    frame.write_parquet(path)
    os.utime(path, (when, when))
    return path


HEADLINES = {"cirr": ("R@1", "R@10", "R_subset@1")}


def render(frame: pl.DataFrame, width: int = 80, headlines: dict[str, tuple[str, ...]] | None = None) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(leaderboard_table(frame, HEADLINES if headlines is None else headlines))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_collect_takes_the_latest_of_each_set_whole(tmp_path: Path) -> None:
    old = write(metric_rows(), tmp_path / "b-old.parquet", 100)
    new = write(metric_row("sum", "", "R@1", 99.0), tmp_path / "a-new.parquet", 200)
    circo = write(metric_row("sum", "", "mAP@5", 7.0, dataset="circo"), tmp_path / "c.parquet", 50)
    for paths in ([old, new, circo], [circo, new, old], [tmp_path]):
        frame = collect(paths)
        assert frame.schema == METRICS
        assert frame.select("dataset", "value").rows() == [("circo", 7.0), ("cirr", 99.0)]


def test_a_nasty_name_is_only_a_name() -> None:
    frame = metric_row(NASTY, "[bold]mine[/bold]", "R@1 [red]", 1.0).with_columns(label=pl.lit(NASTY))
    out = io.StringIO()
    terminal(file=out, width=2000).print(leaderboard_table(frame, {}))
    assert not ACTING.search(out.getvalue())
    assert all(words in out.getvalue() for words in ("[bold]mine[/bold]", "R@1 [red]", "\\u202egnp.exe"))
    assert json.loads(as_json(frame))[0]["method"] == NASTY


def small(metric: str, value: float, ends: tuple[float | None, float | None], queries: int) -> pl.DataFrame:
    low, high = (pl.lit(end, pl.Float64) for end in ends)
    return metric_row("sum", "", metric, value).with_columns(
        ci_low=low, ci_high=high, n_queries=pl.lit(queries, pl.Int64)
    )


def test_a_small_set_says_that_it_is_small_and_what_has_no_interval() -> None:
    rows = pl.concat([small("R@1", 0.0, (0.0, 11.4), 30), small("R@10", 0.0, (None, None), 30)])
    text = " ".join(render(rows).split())
    assert "0.0 0.0–11" in text
    assert "a small set, 30 queries: a share near 50 % is known to ±17 points" in text
    assert "no interval where every query has the same value: R@10 (30 queries)" in text
    earlier = " ".join(render(small("R@10", 0.0, (0.0, 0.0), 30)).split())
    assert "0.0–0.0" not in earlier and "no interval where" in earlier
    large = render(small("R@1", 20.0, (15.0, 25.0), 100))
    assert "small set" not in large and "no interval" not in large


def test_splits_of_a_data_set_stand_side_by_side(tmp_path: Path) -> None:
    one = write(metric_row("sum", "", "R@1", 1.0, split="val"), tmp_path / "a.parquet", 1)
    two = write(metric_row("sum", "", "R@1", 2.0, split="train"), tmp_path / "b.parquet", 2)
    assert sorted(collect([one, two])["split"]) == ["train", "val"]


def test_sets_not_evaluated_yet_add_nothing(tmp_path: Path) -> None:
    assert collect([tmp_path / "none.parquet"]).is_empty()
    assert collect([]).schema == METRICS
    assert as_json(collect([])) == "[]"
    assert "No evaluation yet" in render(collect([]))


def test_a_file_that_is_no_table_of_metrics_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(SetrError, match=r"damaged\.parquet"):
        collect([damaged])
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(SetrError, match=r"other\.parquet.*missing"):
        collect([tmp_path / "other.parquet"])


def test_json_has_one_object_per_row_with_all_keys() -> None:
    frame = pl.concat([metric_rows(), metric_row("é", "", "R@1", float("nan"))])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    rows = json.loads(as_json(frame), parse_constant=refuse)
    assert len(rows) == frame.height
    earlier = ["strategy", "stage", "adapter_version"]
    assert all(list(row) == [*METRICS, *earlier] for row in rows)
    assert [rows[0][name] for name in earlier] == ["random", "random", None]
    assert {row["stage"] for row in rows} == {"random", "coarse", "base judge", "adapter"}
    assert (
        rows[-1]["method"] == rows[-1]["strategy"] == "é"
        and rows[-1]["value"] is None
        and rows[-1]["model_version"] is None
    )
    assert rows[0]["comparable"] is True and rows[0]["n_queries"] == 200


@pytest.mark.parametrize(
    ("names", "headline", "shown"),
    [
        (["R@1", "R@5", "R@10", "R_subset@1"], ("R@1", "R@10", "R_subset@1"), ["R@1", "R@10", "R_subset@1"]),
        (["R@1", "R@5", "R@10"], ("R@10", "R_subset@1"), ["R@10"]),
        (["R@10/shirt", "R_subset@1", "mAP@5", "R@50"], (), ["R_subset@1", "mAP@5"]),
        (["own", "own/part", "other"], ("mAP@5",), ["own", "other"]),
        ([], ("R@1",), []),
    ],
)
def test_headlines_are_what_the_benchmark_says_else_the_first_metrics(
    names: list[str], headline: tuple[str, ...], shown: list[str]
) -> None:
    assert headline_metrics(names, headline) == shown


def test_the_table_shows_the_headlines_of_its_data_set() -> None:
    told = render(metric_rows(), headlines={"cirr": ("R_subset@1",), "other": ("R@1",)})
    assert "R_subset@1" in told and "R@1 " not in told
    forgotten = render(metric_rows(), headlines={"other": ("R_subset@1",)})
    assert "R@1 " in forgotten and "R@10" in forgotten and "R_subset@1" not in forgotten


def test_a_metric_that_the_floor_alone_has_is_no_column_and_orders_nothing() -> None:
    # Lists too short for a metric of the whole ranking, which the floor has in closed form.
    floor = [metric_row("random", "", metric, 1.0) for metric in ("mAP", "R@10")]
    short = pl.concat([*floor, metric_row("sum", "", "R@10", 9.0), metric_row("a", "", "R@10", 3.0)])
    headlines = {"cirr": ("mAP", "R@10")}
    for told in (render(short, headlines=headlines), as_markdown(short, headlines)):
        assert "mAP" not in told and told.index("sum") < told.index(" a ") < told.index("random")
    assert "mAP" in render(pl.concat(floor), headlines=headlines)


def test_lines_run_from_the_best_to_the_floor() -> None:
    lines = order_lines(metric_rows(), "R@1")
    assert lines[0] == Row("intersection", "adapter")
    assert lines[-1] == RANDOM
    beaten = pl.concat([metric_rows(), metric_row("bad", "", "R@1", 0.0)])
    assert order_lines(beaten, "R@1")[-1] == RANDOM


def test_the_table_has_one_line_per_row_in_80_columns() -> None:
    wide = metric_rows().with_columns(method=pl.col("method").replace("sum", "intersection_anchor"))
    text = render(wide.with_columns(value=pl.lit(100.0), ci_low=pl.lit(99.96), ci_high=pl.lit(100.0)))
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    lines = render(metric_rows()).splitlines()
    assert sum("intersection" in line for line in lines) == 3
    (adapter,) = (line for line in lines if "adapter v3" in line)
    assert "61.6 58–66" in adapter and "81.6 78–86" in adapter
    assert "cirr val · 200 queries" in lines[0] and "*" not in lines[0]


def test_what_is_not_comparable_says_so_and_why() -> None:
    reasons = "200 queries (official: 4,181); gallery of 600 images (official: 2,297)"
    frame = metric_rows(comparable=False, coverage=0.98).with_columns(
        label=pl.when(method="random")
        .then(pl.lit("chance; " + reasons))
        .otherwise(pl.lit("zero-shot; " + reasons))
    )
    assert split_labels(frame) == (["zero-shot"], reasons.split("; "))
    assert split_labels(frame.with_columns(pl.col("label").str.strip_prefix("zero-shot; ")))[0] == []
    text = render(frame)
    assert text.splitlines()[0].rstrip().endswith("original · zero-shot · 98.0 % of images *")
    assert "* not comparable with published numbers: 200 queries" in text
    mixed = pl.concat([metric_rows(), metric_row("own", "", "R@1", 5.0, comparable=False)])
    assert "own*" in render(mixed) and "sum*" not in render(mixed)


def test_an_incomplete_gallery_never_reads_as_a_whole_one() -> None:
    words = [coverage_words(share) for share in (0.0, 77 / 78, 0.98, 123_402 / 123_403, 1.0)]
    assert words == ["0.0 %", "98.7 %", "98.0 %", "99.9 %", "100.0 %"]
    assert "99.9 % of images *" in render(metric_rows(comparable=False, coverage=123_402 / 123_403))


def test_tables_of_earlier_versions_are_read(tmp_path: Path) -> None:
    adapted = pl.when(pl.col("reranker") == "adapter").then(pl.lit("3"))
    of_today = metric_rows().with_columns(model_version=adapted)
    names = {"method": "strategy", "reranker": "stage", "model_version": "adapter_version"}
    old = of_today.rename(names).drop("overlap")
    stage = pl.when(pl.col("strategy") == "random").then(pl.lit("random"))
    stage = stage.when(pl.col("stage") == "").then(pl.lit("coarse")).otherwise("stage")
    path = write(old.with_columns(stage.alias("stage")), tmp_path / "old.parquet", 1)
    assert collect([path]).equals(of_today)
    assert "adapter v3" in render(collect([path]))
    newer = write(
        of_today.rename({"model_version": "adapter_version"}).drop("overlap"), tmp_path / "newer.parquet", 2
    )
    assert collect([newer]).equals(of_today)


def test_what_trained_rows_have_learned_from_stands_below_their_table() -> None:
    is_trained = pl.col("reranker") == "adapter"
    seen = "2 of 9 gallery images, 3 of 5 queries, 0 of their triplets"
    rows = metric_rows().with_columns(
        overlap=pl.when(is_trained).then(pl.lit(seen)),
        label=pl.when(is_trained).then(pl.lit("trained on 2; 5 queries")).otherwise(pl.lit("zero-shot")),
    )
    printed = " ".join(render(rows).split())
    assert f"intersection · adapter: trained on 2; seen in training: {seen}" in printed
    assert "seen in training" not in render(metric_rows())


def test_versions_stand_behind_the_name_of_what_they_are_of() -> None:
    """A trained method's candidates, alone, by the base judge and by the adapter."""
    used = {
        ("line", ""): in_words([("setr-line", "2")]),
        ("line", "base judge"): in_words([("setr-line", "2"), ("setr-reranker", None)]),
        ("line", "adapter"): in_words([("setr-line", "2"), ("setr-reranker", "3")]),
        ("sum", "adapter"): in_words([("setr-reranker", "3")]),
        ("sum", ""): in_words([]),
    }
    assert used["line", "adapter"] == "setr-line 2, setr-reranker 3" and used["sum", ""] is None
    rows = pl.concat(
        metric_row(*row, "R@1", 1.0).with_columns(model_version=pl.lit(text, dtype=pl.String))
        for row, text in used.items()
    )
    behind = {row: found.behind(row) for row, found in shown_versions(rows).items()}
    shown = {(row.method, row.reranker): (named.method, named.reranker) for row, named in behind.items()}
    assert shown == {
        ("line", ""): ("line v2", ""),
        ("line", "base judge"): ("line v2", "base judge"),
        ("line", "adapter"): ("line v2", "adapter v3"),
        ("sum", "adapter"): ("sum", "adapter v3"),
        ("sum", ""): ("sum", ""),
    }


def test_rows_stand_in_the_order_of_their_rerankers() -> None:
    place = positions(rows_of(metric_rows()))
    assert [place[row] for row in (RANDOM, Row("sum"), Row("intersection", "base judge"))] == [0, 1, 2]
    assert place[Row("intersection", "adapter")] == 3
    assert Row("intersection", "adapter").title == "intersection · adapter" and Row("sum").title == "sum"


def test_csv_has_every_row_and_no_formula() -> None:
    frame = pl.concat([metric_row("=sum", "", "R@1", 40.0), metric_row("sum", "base judge", "R@1", math.nan)])
    read = pl.read_csv(io.StringIO(as_csv(frame)))
    assert read.columns == list(METRICS)
    assert read["method"].to_list() == ["'=sum", "sum"]
    assert read["value"].to_list() == [40.0, None]


def test_markdown_has_the_headline_metrics_best_first() -> None:
    frame = pl.concat(
        [
            metric_row("sum", "", "R@1", 40.0),
            metric_row("text|only", "", "R@1", 50.0),
            metric_row("sum", "", "R@50", 90.0),
        ]
    )
    lines = as_markdown(frame, HEADLINES).splitlines()
    assert lines[0].startswith("## cirr")
    table = [line for line in lines if line.startswith("|")]
    assert table[:2] == ["| method | re-ranker | R@1 |", "| --- | --- | --: |"]
    assert [line.split(" | ")[0] for line in table[2:]] == ["| text\\|only", "| sum"]
    assert "50.0" in table[2] and "40.0" in table[3] and "90" not in "".join(table)
