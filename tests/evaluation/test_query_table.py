"""The table of all queries: readable without a script, small, and the same as CSV and JSON."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl

from setr_lib.evaluation.query_table import as_csv, as_json, joined_failures, query_lines, relative_address
from setr_lib.evaluation.report import ReportData, ReportOptions, write_report
from setr_lib.evaluation.row import Row
from setr_lib.tables import FAILURES, GALLERY, METRICS, QUERIES, RANKINGS
from tests.nasty import ACTING, NASTY

CIRR_VAL = 4_181


def made_up(count: int, text: str = "") -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Queries, a gallery without pictures, a ranking of ten, and failures, with texts as long as CIRR's."""
    said = text or "same breed of dog, but lying on green grass next to a wooden fence, and a red ball added"
    queries = pl.DataFrame(
        [
            (
                str(12_000 + n),
                f"dev-{n}-0-img0",
                f"{n} {said}",
                [said],
                [f"dev-{n}-1-img1"],
                [],
                "all",
                ["cardinality", "direct_addressing"],
            )
            for n in range(count)
        ],
        schema=QUERIES,
        orient="row",
    )
    images = [name for n in range(count) for name in (f"dev-{n}-0-img0", f"dev-{n}-1-img1")]
    gallery = pl.DataFrame(
        [
            (name, f"/data/photographs/cirr/dev/{name}.png", ["all"], "broken", "", 1, 1, None, "")
            for name in images
        ],
        schema=GALLERY,
        orient="row",
    )
    ranking = pl.DataFrame(
        [
            (str(12_000 + n), "gallery", rank, images[(2 * n + rank) % len(images)], 0.5, 0.5, None)
            for n in range(count)
            for rank in range(1, 4)
        ],
        schema=RANKINGS,
        orient="row",
    )
    detail = "the target: yes +2.1; in first place: yes +3.0"
    failures = pl.DataFrame(
        [
            (
                str(12_000 + n),
                "intersection",
                "adapter",
                n % 90,
                n % 7 + 1,
                images[n],
                "lost by the judge",
                detail,
                [],
            )
            for n in range(count)
        ],
        schema=FAILURES,
        orient="row",
    )
    return queries, gallery, ranking, failures


def test_a_page_of_cirrs_4181_queries_is_one_file_below_10_mb_with_every_row_in_it(tmp_path: Path):
    queries, gallery, ranking, failures = made_up(CIRR_VAL)
    page = write_report(
        tmp_path / "cirr-val",
        ReportData(
            "cirr-val",
            "CIRR val",
            queries,
            gallery,
            {Row("intersection"): ranking, Row("intersection", "adapter"): ranking},
            METRICS.to_frame(),
            failures=failures,
        ),
        ReportOptions(result="0123456789ab"),
    )
    content = page.read_bytes()
    assert len(content) < 10_000_000
    body = content.decode().partition('<table id="query-table">')[2].partition("</table>")[0]
    assert body.count("<tr>") == CIRR_VAL + 1, "and one of headings"
    assert "dev-4180-1-img1.png" in body and "4180 same breed of dog" in body
    rows = list(csv.DictReader((page.parent / "queries-0123456789ab.csv").read_text().splitlines()))
    told = json.loads((page.parent / "queries-0123456789ab.json").read_text())
    assert len(rows) == len(told) == CIRR_VAL


def test_only_pictures_that_are_there_are_links(tmp_path: Path):
    queries, gallery, ranking, failures = made_up(2)
    is_gone = pl.col("image_id") == "dev-1-1-img1"
    images = gallery.with_columns(status=pl.when(is_gone).then(pl.lit("missing")).otherwise(pl.lit("broken")))
    rankings = {Row("intersection"): ranking, Row("intersection", "adapter"): ranking}
    data = ReportData("k", "t", queries, images, rankings, METRICS.to_frame(), failures=failures)
    page = write_report(tmp_path, data).read_text()
    links = re.findall(r'<a href="[^"]+/([^"/]+)">(?:reference|target)</a>', page)
    assert links == ["dev-0-0-img0.png", "dev-0-1-img1.png", "dev-1-0-img0.png"]


def test_a_category_is_an_aspect_and_a_gallery_of_the_querys_own_is_none() -> None:
    queries, _, _, failures = made_up(3)
    galleries = pl.Series("gallery", ["all", "dress", "12002"])
    lines = query_lines(joined_failures(queries.with_columns(galleries), failures), {}, Path("page"), {})
    own = ["cardinality", "direct addressing"]
    assert [line.aspects for line in lines] == [own, ["dress", *own], own]


def test_files_have_ranks_kinds_texts_and_aspects_of_every_query():
    queries, _, _, failures = made_up(3)
    joined = joined_failures(queries, failures)
    (_, row, _), told = csv.DictReader(as_csv(joined).splitlines()), json.loads(as_json(joined))
    assert row["rank_before"] == "1" and row["rank_after"] == "2" and row["kind"] == "lost by the judge"
    assert row["aspects"] == "cardinality | direct_addressing" and row["modification"].startswith("1 same")
    assert told[1]["rank_before"] == 1 and told[1]["aspects"] == ["cardinality", "direct_addressing"]
    assert list(told[1]) == list(row)


def test_a_query_of_which_nothing_is_known_is_in_the_files_all_the_same():
    queries, _, _, failures = made_up(2)
    rows = json.loads(as_json(joined_failures(queries, failures.head(1))))
    assert (rows[1]["rank_after"], rows[1]["kind"], rows[1]["left_out"]) == (None, "", [])


def test_no_cell_is_a_formula_and_json_keeps_every_text():
    queries, _, _, failures = made_up(1, text="x")
    hostile = joined_failures(queries.with_columns(modification=pl.lit(NASTY)), failures)
    (row,) = csv.DictReader(as_csv(hostile).splitlines(keepends=True))
    assert row["modification"].startswith("'=cmd") and not ACTING.search(as_csv(hostile))
    assert json.loads(as_json(hostile))[0]["modification"] == NASTY


def test_addresses_are_relative_and_never_a_scheme(tmp_path: Path):
    page = tmp_path / "var" / "reports" / "mine"
    assert relative_address(tmp_path / "photos" / "a b#1?.jpg", page) == ("../../../photos/a%20b%231%3F.jpg")
    assert relative_address(page / "javascript:alert(1)", page) == "./javascript%3Aalert%281%29"
    assert not re.match(r"\w+:", relative_address(page / "data:x", page))
    assert str(tmp_path) not in relative_address(tmp_path / "photos" / "a.jpg", page)


def page_of(folder: Path, text: str, failures: Callable[[pl.DataFrame], pl.DataFrame]) -> str:
    queries, gallery, ranking, told = made_up(2, text=text)
    rankings = {Row("intersection"): ranking, Row("intersection", "adapter"): ranking}
    data = ReportData("k", "t", queries, gallery, rankings, METRICS.to_frame(), failures=failures(told))
    return write_report(folder, data).read_text()


def test_a_dash_in_place_of_a_rank_is_explained_where_there_is_one(tmp_path: Path):
    said = "A dash in place of a rank"
    assert said not in page_of(tmp_path / "all", "", lambda told: told)
    none = pl.lit(None, pl.Int64)
    assert said in page_of(tmp_path / "some", "", lambda told: told.with_columns(rank_after=none))


def test_a_long_text_is_whole_and_scrolls_in_its_cell(tmp_path: Path):
    long = "very " * 200
    assert f'<div class="long">0 {long}</div></td>' in page_of(tmp_path / "long", long, lambda told: told)
    assert 'class="long"' not in page_of(tmp_path / "short", "", lambda told: told)
