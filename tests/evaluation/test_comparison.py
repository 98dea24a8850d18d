"""The table that compares methods and re-rankers."""

from __future__ import annotations

import csv
import io
import json
import re

import polars as pl
import pytest

from setr_lib.benchmarks import SplitAverage
from setr_lib.commands.console import terminal
from setr_lib.escaping import visible
from setr_lib.evaluation.comparison import (
    Cost,
    as_csv,
    as_json,
    as_markdown,
    average_lines,
    columns_of,
    compared_rows,
    comparison_table,
    footnotes,
    lines_of,
)
from setr_lib.evaluation.row import Row
from setr_lib.tables import COMPARISON, METRICS
from tests.nasty import ACTING, NASTY, links_and_pictures

HEADLINES = {"a": ("R@1", "R@10"), "b": ("mAP@5",)}


def metrics(
    dataset: str, values: dict[tuple[str, str, str], float], label: str = "zero-shot"
) -> pl.DataFrame:
    rows = [
        {
            "dataset": dataset,
            "split": "val",
            "method": method,
            "reranker": reranker,
            "metric": metric,
            "value": value,
            "ci_low": value - 5,
            "ci_high": value + 5,
            "n_queries": 10,
            "gallery": "all",
            "coverage": 1.0,
            "comparable": True,
            "label": label,
            "model_version": "setr-reranker 3" if reranker else None,
        }
        for (method, reranker, metric), value in values.items()
    ]
    return pl.DataFrame(rows, schema=METRICS)


def test_a_metric_that_the_floor_alone_has_is_no_column(frame: pl.DataFrame) -> None:
    of_floor = (pl.col("method") == "random") | (pl.col("metric") != "R@1")
    found = [column.metric for column in columns_of(frame.filter(of_floor), HEADLINES, most=1)]
    assert found == ["R@10", "mAP@5"]


@pytest.fixture
def frame() -> pl.DataFrame:
    described = {"sum": ("training-free", "a baseline | of ours"), "mine": ("supervised", "a thesis")}
    first = metrics(
        "a",
        {
            ("random", "", "R@1"): 1.0,
            ("random", "", "R@10"): 9.0,
            ("sum", "", "R@1"): 20.0,
            ("sum", "", "R@10"): 50.0,
            ("sum", "adapter", "R@1"): 60.0,
            ("mine", "", "R@1"): 30.0,
            ("mine", "", "R@10"): 40.0,
        },
    )
    second = metrics(
        "b", {("random", "", "mAP@5"): 2.0, ("mine", "", "mAP@5"): 10.0}, "zero-shot, texts derived; cut"
    )
    costs = {
        Row("sum"): Cost(2.0, 0.0),
        Row("sum", "adapter"): Cost(1500.0, 50.0),
        Row("mine"): Cost(7.25, 1.5),
    }
    return pl.concat(
        [
            compared_rows(first, described, costs),
            compared_rows(second, described, {Row("mine"): Cost(8.75, 0.5)}),
        ]
    )


def test_lines_are_ordered_by_the_first_metrics_with_the_floor_last(frame: pl.DataFrame) -> None:
    columns = columns_of(frame, HEADLINES)
    assert [column.title for column in columns] == ["a val R@1", "a val R@10", "b val mAP@5"]
    lines = lines_of(frame, columns)
    assert [line.row for line in lines] == [Row("mine"), Row("sum", "adapter"), Row("sum"), Row("random")], (
        "what is on both sets is first, though its mean is the least"
    )
    mine = lines[0]
    assert (mine.label, mine.source) == ("supervised", "a thesis")
    assert (mine.ms_per_query, mine.llm_calls) == (8.0, 1.0), "the mean over the sets"
    assert mine.values[columns[2]].words == "10.0 (5–15)"
    assert columns[1] not in lines[1].values
    assert lines[-1].ms_per_query is None


def test_a_coarse_row_says_what_its_method_has_learned_from(frame: pl.DataFrame) -> None:
    labels = {(row["dataset"], row["method"], row["reranker"]): row["label"] for row in frame.to_dicts()}
    assert labels["a", "sum", ""] == "training-free"
    assert labels["a", "sum", "adapter"] == "zero-shot", "the re-ranker's own"
    assert labels["b", "mine", ""] == "supervised, texts derived; cut"


def test_a_coarse_row_of_weights_that_were_trained_here_says_what_was_computed() -> None:
    label = "trained on 2 of the gallery's 9 images; cut"
    rows = metrics("a", {("mine", "", "R@1"): 30.0}, label).with_columns(overlap=pl.lit("2 of 9"))
    assert compared_rows(rows, {"mine": ("zero-shot trained", "")}, {})["label"].to_list() == [label]


def test_a_coarse_row_with_a_comma_in_its_label_says_it_once() -> None:
    words = "trained elsewhere, on what its model card says"
    rows = metrics("a", {("mine", "", "R@1"): 30.0}, words)
    assert compared_rows(rows, {"mine": (words, "")}, {})["label"].to_list() == [words]


def test_an_interval_without_width_is_marked_in_place_of_shown(frame: pl.DataFrame) -> None:
    assert not any("†" in sentence for sentence in footnotes(frame, HEADLINES))
    at_the_edge = pl.col("value").replace(20.0, 0.0)
    edge = frame.with_columns(
        value=at_the_edge,
        **{end: pl.when(pl.col("value") == 20.0).then(0.0).otherwise(end) for end in ("low", "high")},
    )
    line = next(line for line in as_markdown(edge, HEADLINES).splitlines() if line.startswith("| sum | – |"))
    assert "| 0.0† |" in line and "50.0 (45–55)" in line
    assert ["†" in sentence for sentence in footnotes(edge, HEADLINES)] == [False, True]


def test_a_value_without_an_interval_is_marked(frame: pl.DataFrame) -> None:
    without = frame.with_columns(
        low=pl.when(pl.col("value") == 20.0).then(None).otherwise("low"),
        high=pl.when(pl.col("value") == 20.0).then(None).otherwise("high"),
    )
    line = next(
        line for line in as_markdown(without, HEADLINES).splitlines() if line.startswith("| sum | – |")
    )
    assert "| 20.0† |" in line
    assert footnotes(without, HEADLINES)[-1].startswith("† no interval: every query has this value")


def test_a_set_whose_rows_are_not_comparable_is_marked_and_says_why(frame: pl.DataFrame) -> None:
    assert footnotes(frame, HEADLINES) == ["* not comparable with published numbers: b val: cut"]
    header = as_markdown(frame, HEADLINES).splitlines()[0]
    assert "| b val mAP@5 * |" in header and "| a val R@1 | a val R@10 |" in header
    columns = [str(column.header) for column in comparison_table(frame, HEADLINES).columns]
    assert "b *\nval mAP@5" in columns and "a\nval R@1" in columns
    whole = frame.filter(dataset="a")
    assert not footnotes(whole, HEADLINES) and "*" not in as_markdown(whole, HEADLINES)


def test_means_over_all_splits_are_told_where_all_were_compared(frame: pl.DataFrame) -> None:
    one = metrics("a", {("sum", "", "R@1"): 30.0, ("random", "", "R@1"): 3.0}, "zero-shot; cut")
    other = compared_rows(one.with_columns(split=pl.lit("test")), {}, {})
    both = pl.concat([frame.filter(dataset="a"), other])
    averages = {"a": SplitAverage("R@1", ("val", "test"))}
    # (20 + 30) / 2, and 5 points to each side in both: sqrt(5² + 5²) / 2 = 3.54.
    assert average_lines(both, averages) == [
        "a: average R@1 of val, test *: sum 25.0 (21.5–28.5), random 2.0 (-1.5–5.5)"
    ]
    assert average_lines(frame, averages) == []


def test_json_csv_and_markdown_tell_the_same(frame: pl.DataFrame) -> None:
    told = json.loads(as_json(frame))
    assert [list(row) for row in told] == [list(COMPARISON)] * frame.height
    listed = list(csv.DictReader(io.StringIO(as_csv(frame))))
    assert [float(row["value"]) for row in listed] == [row["value"] for row in told]
    assert told[0]["ms_per_query"] is None and listed[0]["ms_per_query"] == ""
    assert {row["model_version"] for row in told if row["reranker"]} == {"setr-reranker 3"}
    lines = as_markdown(frame, HEADLINES).splitlines()
    assert len(lines) == 2 + 4
    assert lines[3].startswith("| sum | adapter | zero-shot | 60.0 (55–65) | – | – | 1,500 | 50 |")
    assert "a baseline \\| of ours" in lines[4], "a bar does not end a cell"


def test_a_nasty_name_is_only_a_name_in_every_form(frame: pl.DataFrame) -> None:
    nasty = frame.with_columns(
        method=pl.when(pl.col("method") == "mine").then(pl.lit(NASTY)).otherwise("method"),
        label=pl.lit(NASTY),
        source=pl.lit(NASTY),
    )
    (told,) = {row["method"] for row in json.loads(as_json(nasty))} - {"random", "sum"}
    assert told == NASTY, "JSON tells it exactly"
    listed = [*csv.DictReader(io.StringIO(as_csv(nasty)))]
    assert len(listed) == frame.height
    texts = [cell for row in listed for cell in row.values() if not re.fullmatch(r"-?[\d.]*", cell)]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in texts)
    assert {row["source"] for row in listed} == {visible(f"'{NASTY}")}
    table = as_markdown(nasty, HEADLINES)
    assert links_and_pictures(table) == [] and len(table.splitlines()) == 2 + 4
    out = io.StringIO()
    terminal(file=out, width=200).print(comparison_table(nasty, HEADLINES))
    assert not ACTING.search(out.getvalue() + table + as_csv(nasty))


def test_the_terminals_table_has_a_line_for_each_row(frame: pl.DataFrame) -> None:
    from rich.console import Console

    console = Console(width=140, record=True, file=io.StringIO())
    console.print(comparison_table(frame, HEADLINES))
    text = console.export_text()
    assert "adapter" in text and "60.0 (55–65)" in text and "1,500" in text and "7.2" not in text


def test_an_empty_comparison_is_an_empty_table() -> None:
    assert compared_rows(METRICS.to_frame(), {}, {}).schema == COMPARISON
