"""Earlier evaluations, the index over all reports, and the links between them."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from setr_lib.evaluation import report_history
from setr_lib.evaluation.report import ReportData, write_report
from setr_lib.evaluation.report_history import (
    LIST,
    NOTICE,
    PAGE,
    Origin,
    entry_of,
    evaluations,
    keep_earlier,
    links_to_sets,
    note_evaluation,
    write_index,
)
from setr_lib.evaluation.row import Row
from setr_lib.tables import METRICS
from tests.evaluation.report_data import make_sample, metric_rows
from tests.nasty import ACTING, NASTY


def entry(result: str, made: str = "2026-11-28 22:40 UTC", **changes) -> dict:
    origin = Origin(made, "0123456789abcdef", "0.1.0", "setr run cirr-val")
    return {**entry_of(result, "CIRR val", origin, 300, metric_rows(), ("R@1", "R@10"), ()), **changes}


def evaluate(folder: Path, result: str, **changes) -> None:
    """What one evaluation leaves behind."""
    keep_earlier(folder, result)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(f"page of {result}</html>")
    for kind in ("csv", "json"):
        (folder / f"queries-{result}.{kind}").write_text(result)
    note_evaluation(folder, entry(result, **changes))


def test_an_entry_has_the_best_rows_headline_metrics():
    told = entry("aa")
    assert told["best"] == "intersection · adapter"
    assert [(score["metric"], score["value"]) for score in told["scores"]] == [
        ("R@1", 61.62),
        ("R@10", 81.63),
    ]
    hidden = entry_of("bb", "x", Origin("", "", "", ""), 3, METRICS.to_frame(), ("R@1",), ())
    assert hidden["scores"] == [] and hidden["best"] == ""


def test_a_page_of_other_results_is_kept_and_one_of_the_same_is_not(tmp_path: Path):
    folder = tmp_path / "cirr-val"
    evaluate(folder, "aa", made="1")
    evaluate(folder, "aa", made="2")
    assert [one["id"] for one in evaluations(folder)] == ["aa"] and not (folder / "aa.html").exists()
    evaluate(folder, "bb", made="3")
    assert [(one["page"], one["made"]) for one in evaluations(folder)] == [(PAGE, "3"), ("aa.html", "2")]
    assert (folder / "aa.html").read_text() == "page of aa</html>"
    assert (folder / PAGE).read_text() == "page of bb</html>"
    evaluate(folder, "aa", made="4")
    assert [(one["id"], one["page"]) for one in evaluations(folder)] == [("aa", PAGE), ("bb", "bb.html")]


def test_a_kept_page_says_that_it_is_an_earlier_one_and_leads_to_the_last(tmp_path: Path):
    sample = make_sample(tmp_path / "images", [3, 1], [1, 1])
    rankings = {Row("intersection"): sample.before, Row("intersection", "adapter"): sample.after}
    queries = sample.queries.with_columns(modification=pl.lit(NOTICE))
    page = write_report(
        tmp_path / "r", ReportData("k", "t", queries, sample.gallery, rankings, metric_rows())
    )
    note_evaluation(page.parent, entry("aa"))
    keep_earlier(page.parent, "bb")
    assert "An earlier evaluation." not in page.read_text()
    kept = (page.parent / "aa.html").read_text()
    assert kept.count("An earlier evaluation.") == 1 and '<a href="index.html">The last one</a>' in kept
    assert kept.index("An earlier evaluation.") < kept.index("<main>")


def test_so_many_earlier_pages_are_kept_with_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report_history, "KEPT", 2)
    for result in ("aa", "bb", "cc", "dd"):
        evaluate(tmp_path, result)
    names = {file.name for file in tmp_path.iterdir()}
    assert {one["id"] for one in evaluations(tmp_path)} == {"dd", "cc", "bb"}
    assert not any("aa" in name for name in names) and {"bb.html", "queries-bb.csv"} <= names


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"evaluations": 3}', '{"evaluations": [3, {}, {"id": "../x", "page": "../x.html"}]}'],
)
def test_a_damaged_list_is_begun_anew(tmp_path: Path, content: str):
    (tmp_path / LIST).write_text(content)
    assert evaluations(tmp_path) == []
    evaluate(tmp_path, "aa")
    assert [one["id"] for one in evaluations(tmp_path)] == ["aa"]


def test_the_index_leads_to_every_report_and_says_what_makes_a_missing_one(tmp_path: Path):
    evaluate(tmp_path / "cirr-val", "aa", notes=["miniature: drawn pictures"])
    evaluate(tmp_path / "cirr-val", "bb")
    (tmp_path / "of-before").mkdir()
    (tmp_path / "of-before" / PAGE).write_text("an earlier version's")
    html = write_index(tmp_path, ["fashioniq-val", "cirr-val"]).read_text(encoding="utf-8")
    for address in re.findall(r'href="([^"#]+)"', html):
        assert (tmp_path / address).is_file(), address
    assert set(re.findall(r'href="([^"#]+)"', html)) == {
        "cirr-val/index.html",
        "cirr-val/aa.html",
        "of-before/index.html",
    }
    assert (
        "setr run fashioniq-val" in html and "miniature: drawn pictures" not in html.partition("<details>")[0]
    )
    assert html.index('id="cirr-val"') < html.index('id="fashioniq-val"')


def test_pages_link_to_pages_that_are_there_or_are_written_in_the_same_run(tmp_path: Path):
    evaluate(tmp_path / "cirr-val", "aa")
    keys = ["cirr-val", "circo-val", "fashioniq-val", "cirr-test1"]
    assert links_to_sets(tmp_path, keys, "fashioniq-val", coming=["circo-val"]) == [
        ("cirr-val", "../cirr-val/index.html"),
        ("circo-val", "../circo-val/index.html"),
        ("cirr-test1", "../index.html#cirr-test1"),
    ]
    html = write_index(tmp_path, keys).read_text(encoding="utf-8")
    assert all(f'id="{key}"' in html for key in keys)


def test_texts_of_the_index_stay_texts(tmp_path: Path):
    evaluate(tmp_path / "x", "aa", title=NASTY, best=NASTY, notes=[NASTY], run=NASTY)
    html = write_index(tmp_path).read_text(encoding="utf-8")
    assert "<script>" not in html and "<img" not in html and not ACTING.search(html)


def test_metrics_without_a_value_are_left_out():
    rows = metric_rows().with_columns(value=pl.when(pl.col("metric") == "R@10").then(None).otherwise("value"))
    told = entry_of("aa", "x", Origin("", "", "", ""), 3, rows, ("R@1", "R@10"), ())
    assert [score["metric"] for score in told["scores"]] == ["R@1"]
