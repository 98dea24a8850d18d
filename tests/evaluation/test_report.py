"""The report page: what it says, what it must never say, and that it is one safe, small, accessible file."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import polars as pl
import pytest
from PIL import Image

from setr_lib.benchmarks import benchmark_of
from setr_lib.evaluation.cases import average_precisions, choose_cases
from setr_lib.evaluation.charts import PairedDifference, build_forest, build_ladder, nice_ticks
from setr_lib.evaluation.failures import AMBIGUOUS, FOUND, JUDGE
from setr_lib.evaluation.leaderboard import order_lines
from setr_lib.evaluation.report import TEMPLATES, ReportData, ReportError, ReportOptions, write_report
from setr_lib.evaluation.report_history import Origin
from setr_lib.evaluation.row import RANDOM, Row
from setr_lib.reranking.order import coarse_order, fused_order
from setr_lib.tables import QUERIES, RANKINGS
from tests.evaluation.report_data import Sample, image_id, make_sample, metric_row, metric_rows, ranking
from tests.nasty import ACTING, NASTY

BEFORE = [3, 1, 9, 4, 20, 12]
AFTER = [1, 1, 2, 8, 20, 1]
PROVENANCE = {"encoder": "clip (1f0c77ab)", "K": "50"}


class Page(HTMLParser):
    """A parsed page: start tags with their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._silent = 0
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._silent += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)

    def having(self, css_class: str) -> int:
        return sum(css_class in attributes.get("class", "").split() for _, attributes in self.tags)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("images"), BEFORE, AFTER)


def write(
    sample: Sample,
    out: Path,
    *,
    queries: pl.DataFrame | None = None,
    gallery: pl.DataFrame | None = None,
    metrics: pl.DataFrame | None = None,
    options: ReportOptions | None = None,
    **changes: object,
) -> str:
    arguments: dict = {
        "captions": sample.captions,
        "compositions": sample.compositions,
        "rankings": {Row("intersection"): sample.before, Row("intersection", "adapter"): sample.after},
        "provenance": PROVENANCE,
        "paired": (PairedDifference("intersection", "sum", "R@10", 18.31, 9.32, 26.53),),
        **changes,
    }
    path = write_report(
        out,
        ReportData(
            "cirr-val",
            "CIRR val",
            queries=sample.queries if queries is None else queries,
            gallery=sample.gallery if gallery is None else gallery,
            metrics=metric_rows() if metrics is None else metrics,
            **arguments,
        ),
        options,
    )
    assert path == out / "index.html"
    assert {file.name for file in out.iterdir()} == {"index.html", "queries.csv", "queries.json"}
    return path.read_text(encoding="utf-8")


def only_our_script(page: Page) -> bool:
    """Whether no text has become a picture, or a second script."""
    counts = Counter(tag for tag, _ in page.tags)
    return counts["script"] == 1 and counts["img"] == 0


def test_one_file_that_asks_nothing_of_anyone(sample: Sample, tmp_path: Path) -> None:
    html = write(sample, tmp_path)
    page = Page(html)
    links = [
        attributes[name]
        for _, attributes in page.tags
        for name in ("href", "src", "srcset", "action", "xlink:href", "data")
        if name in attributes
    ]
    assert links
    beside = ("./", "../", "queries.")
    assert all(link.startswith(("#", "data:image/webp;base64,", *beside)) for link in links)
    fetched = [attributes for tag, attributes in page.tags if tag != "a" and "href" in attributes]
    assert all(attributes["href"].startswith(("#", "data:")) for attributes in fetched)
    assert not re.search(r"url\(|@import|https?://", html)


def test_the_only_script_is_our_own_and_no_other_would_run(sample: Sample, tmp_path: Path) -> None:
    html = write(sample, tmp_path)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script == (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html and "default-src 'none'" in html
    assert "fetch" not in script and "XMLHttpRequest" not in script and "innerHTML" not in script


def test_links_within_the_page_land(sample: Sample, tmp_path: Path) -> None:
    for name, changes in {
        "all": {},
        "coarse": {"rankings": {Row("sum"): sample.before}, "metrics": metric_rows().clear(), "paired": ()},
        "hidden": {"queries": sample.queries.with_columns(target_ids=pl.lit([], dtype=pl.List(pl.String)))},
    }.items():
        page = Page(write(sample, tmp_path / name, **changes))
        ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
        assert set(ids.values()) == {1}
        wanted = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"
                  and attributes.get("href", "").startswith("#")}  # fmt: skip
        assert "queries" in wanted and wanted <= set(ids)
        css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
        assert "content-visibility" not in css, "heights that are only estimated make links miss"


def test_every_query_is_in_the_table_and_leads_to_its_case_and_pictures(
    sample: Sample, tmp_path: Path
) -> None:
    options = ReportOptions(contact_sheet_queries=1)
    html = write(sample, tmp_path / "r", options=options)
    table = html.partition('<table id="query-table">')[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.DOTALL)
    assert len(rows) == sample.queries.height
    shown = {int(place) for place in re.findall(r'<article class="case" id="query-(\d+)"', html)}
    assert 0 < len(shown) < len(rows)
    for place, row in enumerate(rows, start=1):
        assert f"make number {place - 1} rounder" in row
        assert (f'href="#query-{place}"' in row) == (place in shown)
        assert re.findall(r"<td>(\d+)</td><td>(\d+)</td>", row) == [
            (str(BEFORE[place - 1]), str(AFTER[place - 1]))
        ]
        for address in re.findall(r'href="(\.[^"]+)"', row):
            assert (tmp_path / "r" / address).is_file()


def test_kinds_of_failure_are_counted_and_the_evidence_is_told(sample: Sample, tmp_path: Path) -> None:
    captions = sample.captions.with_columns(caption=pl.lit("a round disc, number 2 rounder"))
    html = write(sample, tmp_path, captions=captions)
    counts = dict(
        re.findall(
            r'data-kind="([^"]+)">[^<]+</a> <small>[^<]+</small></th><td>(\d+)</td>',
            html.partition('id="failures"')[2],
        )
    )
    assert counts == {FOUND: "3", AMBIGUOUS: "1", JUDGE: "2"}
    assert "in first place, img-00: a round disc, number 2 rounder" in Page(html).text
    assert "make its rank worse" not in html


def test_a_page_says_what_it_is_and_what_makes_it_again(sample: Sample, tmp_path: Path) -> None:
    origin = Origin("2026-11-28 22:40 UTC", "0123456789abcdef", "0.1.0", "setr run cirr-val")
    options = ReportOptions(
        origin=origin,
        first_notes=(("miniature: drawn pictures", "The images are drawn."),),
        sets=(("circo-val", "../circo-val/index.html"),),
    )
    html = write(sample, tmp_path / "told", options=options)
    page = Page(html)
    assert (
        "Made on 2026-11-28 22:40 UTC by SETR 0.1.0 in the run 01234567 ; setr run cirr-val makes it again"
        in (page.text)
    )
    first = html.index("miniature: drawn pictures")
    assert html.index("<h1>") < first < html.index('id="protocol"')
    links = {attributes.get("href") for tag, attributes in page.tags if tag == "a"}
    assert {"../index.html", "../circo-val/index.html"} <= links
    silent = Page(write(sample, tmp_path / "silent"))
    assert "Made on" not in silent.text and silent.having("first-notes") == 0
    assert not any(attributes.get("href") == "../index.html" for _, attributes in silent.tags)


def test_the_same_tables_make_the_same_bytes(sample: Sample, tmp_path: Path) -> None:
    first, again = (write(sample, tmp_path / "r") for _ in range(2))
    assert first == again
    shuffled = write(
        sample,
        tmp_path / "r",
        captions=sample.captions.reverse(),
        compositions=sample.compositions.reverse(),
    )
    assert shuffled == first


def test_a_strip_says_its_formula_and_tiles_the_score_that_orders_them(
    sample: Sample, tmp_path: Path
) -> None:
    orders = {
        Row("intersection"): coarse_order(),
        Row("intersection", "adapter"): fused_order("cosine_judge", 0.5),
    }
    page = Page(write(sample, tmp_path, options=ReportOptions(orders=orders)))
    assert "adapter v3 ordered by cosine + 0.5 P(Yes)" in page.text
    assert "stage 1 · intersection ordered by cosine" in page.text
    assert "intersection · adapter is ordered by cosine + 0.5 P(Yes)" in page.text
    labels = {attributes["aria-label"] for _, attributes in page.tags if "aria-label" in attributes}
    assert "Rank 1, the target, score 0.500, judge yes +0.5, rank 12 before: image img-06" in labels


def test_every_thumbnail_is_embedded_once_and_every_use_finds_it(sample: Sample, tmp_path: Path) -> None:
    page = Page(write(sample, tmp_path))
    uris = Counter(attributes["href"] for tag, attributes in page.tags if tag == "image")
    assert uris and set(uris.values()) == {1}
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    uses = [attributes["href"] for tag, attributes in page.tags if tag == "use"]
    assert len(uses) > len(uris)
    assert {use.removeprefix("#") for use in uses} <= set(ids)
    for uri in uris:
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        assert image.format == "WEBP" and max(image.size) <= 112


def test_the_protocol_is_the_benchmarks_own_and_its_marked_words_are_bold(
    sample: Sample, tmp_path: Path
) -> None:
    html = write(sample, tmp_path / "own", options=ReportOptions(protocol="**R@K** of <two> things."))
    assert "<p><b>R@K</b> of &lt;two&gt; things.</p>" in html
    assert "Gallery: original ." in Page(html).text
    for kind, said in (("cirr", "look-alikes"), ("fashioniq", "garment"), ("circo", "ground truths")):
        options = ReportOptions(protocol=benchmark_of(kind).protocol_text)
        assert said in Page(write(sample, tmp_path / kind, options=options)).text


def test_the_headline_is_the_benchmarks_own(sample: Sample, tmp_path: Path) -> None:
    page = Page(write(sample, tmp_path, options=ReportOptions(headline=("R_subset@1", "R@1"))))
    assert page.having("ladder") == 2
    order = [page.text.index(f"{name} in percent") for name in ("R_subset@1", "R@1")]
    assert order == sorted(order)


def test_each_picture_has_an_alternative_text_that_tells_rank_and_role(
    sample: Sample, tmp_path: Path
) -> None:
    page = Page(write(sample, tmp_path))
    pictures = [
        attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"
    ]
    assert all(attributes["aria-label"].strip() for attributes in pictures)
    labels = {attributes["aria-label"] for attributes in pictures}
    assert "Rank 1, the target, judge yes +0.5, rank 12 before: image img-06" in labels
    assert any(label.startswith("Reference image: image img-00 (a disc, size 0)") for label in labels)


def test_targets_are_marked_in_both_strips_and_nothing_else_is(sample: Sample, tmp_path: Path) -> None:
    options = ReportOptions(contact_sheet_queries=6)
    page = Page(write(sample, tmp_path, options=options))
    groups = choose_cases(sample.queries, sample.before, sample.after, count=6, seed=options.seed)
    shown = [int(query) for group in groups for query in group.query_ids]
    visible = sum((BEFORE[query] <= 10) + (AFTER[query] <= 10) for query in shown)
    assert page.having("target") == visible
    assert page.having("goal") == len(shown)


def test_hostile_text_stays_text(sample: Sample, tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"
    hostile = pl.lit(attack)
    html = write(
        Sample(
            queries=sample.queries.with_columns(modification=hostile, aspects=pl.concat_list(hostile)),
            gallery=sample.gallery.with_columns(status=pl.lit("broken"), detail=hostile),
            captions=sample.captions.with_columns(caption=hostile),
            compositions=sample.compositions.with_columns(
                target_caption=hostile, keep=pl.concat_list(hostile)
            ),
            before=sample.before,
            after=sample.after,
        ),
        tmp_path,
        provenance={attack: attack},
        options=ReportOptions(notes=(attack,)),
        metrics=metric_rows().with_columns(method=hostile, label=hostile),
        paired=(PairedDifference(attack, attack, attack, 1.0, 0.5, 2.0),),
    )
    page = Page(html)
    assert only_our_script(page)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "49" not in page.text.split()
    assert page.text.count("<script>alert(1)</script>") > 10


def test_a_text_of_the_page_turns_no_direction_and_has_no_control_character(
    sample: Sample, tmp_path: Path
) -> None:
    nasty = pl.lit(NASTY)
    html = write(
        sample,
        tmp_path,
        queries=sample.queries.with_columns(modification=nasty),
        captions=sample.captions.with_columns(caption=nasty),
        provenance={NASTY: NASTY},
    )
    assert not ACTING.search(html)
    assert "\\u202egnp.exe" in html and "[bold]x[/bold]" in html
    assert only_our_script(Page(html))


def test_a_hidden_split_shows_rankings_and_no_score(sample: Sample, tmp_path: Path) -> None:
    hidden = sample.queries.with_columns(target_ids=pl.lit([], dtype=pl.List(pl.String)))
    html = write(sample, tmp_path, queries=hidden)
    page = Page(html)
    for value in metric_rows().get_column("value"):
        assert f"{value:.1f}" not in page.text.split()
    for wrong in ("target rank", "Best cases", "Worst cases", "random floor", "18.3"):
        assert wrong not in page.text
    assert (
        page.having("target") == page.having("goal") == page.having("ladder") == page.having("metrics") == 0
    )
    assert "A random sample" in page.text and "targets are not public" in page.text
    assert page.having("case") == 6


def test_numbers_of_every_line_are_on_the_page(sample: Sample, tmp_path: Path) -> None:
    text = Page(write(sample, tmp_path)).text
    for row in metric_rows().iter_rows(named=True):
        assert f"{row['value']:.1f}" in text
        if row["ci_low"] is not None:
            assert f"{row['ci_low']:.1f}–{row['ci_high']:.1f}" in text
    assert "adapter v3" in text
    assert "+18.3 +9.3 to +26.5 higher" in text
    assert "encoder clip (1f0c77ab)" in text


def test_rows_of_methods_that_settings_do_not_show_are_folded(sample: Sample, tmp_path: Path) -> None:
    text = write(sample, tmp_path, options=ReportOptions(shown=frozenset({"intersection"})))
    shown, summary, folded = text.partition("<summary>Other methods: ")
    assert summary and "sum" in folded.partition("</summary>")[0]
    assert ">sum<" not in shown.partition('id="scores"')[2].replace(" ", "")
    assert "Other methods" not in write(sample, tmp_path)


def test_charts_and_tables_have_the_order_of_the_leaderboard(sample: Sample, tmp_path: Path) -> None:
    best_is_sum = metric_rows().with_columns(
        value=pl.when((pl.col("method") == "sum") & (pl.col("metric") == "R@1")).then(90.0).otherwise("value")
    )
    html = write(sample, tmp_path, metrics=best_is_sum)
    expected = [row.title for row in order_lines(best_is_sum, "R@1")]
    names = re.findall(
        r'<span class="bar-name"><b>(\w+)</b>(?: <small>([\w ]+)</small>)?</span>\s*<svg', html
    )
    drawn = [" · ".join(part for part in name if part) for name in names]
    assert drawn[:5] == drawn[5:10] == expected and expected[0] == "sum"
    heads = re.findall(r'<th scope="row"><i class="dot"></i><span>(\w+)</span>', html)
    assert heads == [title.partition(" · ")[0] for title in expected]
    assert html.count('<span class="unit">percent</span>') == 2 and '<span class="unit">points</span>' in html


def test_a_metric_by_category_gets_a_table_of_its_own(sample: Sample, tmp_path: Path) -> None:
    names = ("R@10", "R@10/dress", "R@10/shirt")
    metrics = pl.concat(metric_row("sum", "coarse", name, 30.0 + index) for index, name in enumerate(names))
    text = Page(write(sample, tmp_path, metrics=metrics)).text
    assert "R@10 by category method · re-ranker dress shirt" in text


def test_the_banner_counts_and_names_unusable_images(sample: Sample, tmp_path: Path) -> None:
    def change(column: str, value: str) -> pl.Expr:
        return pl.when(pl.col("image_id") == image_id(5)).then(pl.lit(value)).otherwise(column).alias(column)

    gallery = sample.gallery.with_columns(
        change("status", "missing"),
        change("detail", "no such file"),
        change("path", str(tmp_path / "none.png")),
    )
    page = Page(
        write(
            sample, tmp_path / "r", gallery=gallery, metrics=metric_rows(comparable=False, coverage=23 / 24)
        )
    )
    assert "Not comparable with published numbers" in page.text
    assert "Of 24 gallery images, 1 missing" in page.text
    assert "coverage 95.8 %" in page.text
    assert "img-05 missing no such file" in page.text
    uses = [attributes["href"] for tag, attributes in page.tags if tag == "use"]
    assert "#unreadable" in uses


def test_the_banner_gives_the_reasons_that_labels_carry(sample: Sample, tmp_path: Path) -> None:
    metrics = metric_rows(comparable=False).with_columns(
        label=pl.when(method="random")
        .then(pl.lit("chance; 6 queries"))
        .otherwise(pl.lit("zero-shot; 6 queries"))
    )
    page = Page(write(sample, tmp_path, metrics=metrics))
    assert "Not comparable with published numbers 6 queries" in page.text
    assert "24 gallery images zero-shot Protocol" in page.text


def test_no_banner_when_all_is_well(sample: Sample, tmp_path: Path) -> None:
    page = Page(write(sample, tmp_path))
    assert page.having("banner") == 0
    assert page.having("fallback") == 0


def test_a_fallback_composition_is_said(sample: Sample, tmp_path: Path) -> None:
    compositions = sample.compositions.with_columns(
        status=pl.lit("fallback"), detail=pl.lit("no JSON object")
    )
    page = Page(write(sample, tmp_path, compositions=compositions))
    assert "No composition could be read (no JSON object)" in page.text
    assert "6 could not be read" in page.text


def test_coarse_rankings_alone_make_a_page(sample: Sample, tmp_path: Path) -> None:
    rankings = {Row("sum"): sample.before}
    page = Page(
        write(
            sample,
            tmp_path,
            rankings=rankings,
            captions=None,
            compositions=None,
            metrics=metric_rows().clear(),
        )
    )
    assert "These rankings were not re-ranked." in page.text
    assert "target rank 9" in page.text


def test_a_page_of_photographs_stays_small(tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "images", BEFORE, AFTER)
    noise = Random(0)
    for path in (tmp_path / "images").iterdir():  # noise is the worst case: nothing compresses less
        Image.frombytes("RGB", (640, 480), noise.randbytes(640 * 480 * 3)).save(path)
    html = write(sample, tmp_path / "r")
    assert len(html) < 60_000 + 24 * 16_000


def test_errors_say_what_to_do(sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no queries"):
        write(sample, tmp_path, queries=QUERIES.to_frame())
    with pytest.raises(ReportError, match="coarse rankings first"):
        write(sample, tmp_path, rankings={})
    with pytest.raises(ReportError, match=r"'union'.*\['intersection'\]"):
        write(sample, tmp_path, options=ReportOptions(method="union"))
    assert not list(tmp_path.iterdir())


def test_cases_are_the_largest_gains_then_losses_then_failures(sample: Sample) -> None:
    best, worst, drawn = choose_cases(sample.queries, sample.before, sample.after, count=6, seed=1)
    assert best.query_ids == ["5", "0", "2"]
    assert worst.query_ids == ["3", "4"]
    assert drawn.query_ids == [str(number) for number in range(6)]


def test_average_precision_of_several_targets_counts_unranked_ones() -> None:
    queries = make_queries([["a", "b", "zz"], []])
    rows = [("0", "gallery", rank, name, 0.0, 0.0, None) for rank, name in enumerate("axb", start=1)]
    scored = average_precisions(queries, pl.DataFrame(rows, schema=RANKINGS, orient="row"))
    assert scored.rows() == [("0", pytest.approx((1 / 1 + 2 / 3) / 3), 1)]


def test_subset_rankings_do_not_mix_with_the_gallery(sample: Sample) -> None:
    subset = sample.before.with_columns(pool=pl.lit("subset"), rank=pl.lit(1, dtype=pl.Int32))
    mixed = pl.concat([sample.before, subset])
    assert average_precisions(sample.queries, mixed).equals(average_precisions(sample.queries, sample.before))


def test_every_re_ranked_method_has_its_strips_and_is_named(sample: Sample, tmp_path: Path) -> None:
    rankings = {
        Row("intersection"): sample.before,
        Row("sum"): sample.before,
        Row("image"): sample.before,
        Row("intersection", "mine"): sample.after,
        Row("sum", "mine"): sample.after,
        Row("sum", "last"): sample.after,
    }
    options = ReportOptions(method="intersection", plain_scores=frozenset({Row("sum", "last")}))
    html = write(sample, tmp_path, rankings=rankings, options=options)
    page = Page(html)
    cases = page.text.count("stage 1 · intersection")
    assert cases and page.text.count("stage 1 · sum") == page.text.count("sum · last") == cases
    assert "stage 1 · image" not in page.text, "not re-ranked"
    assert "intersection (by mine), sum (by mine, last)" in page.text
    assert "a number alone: another re-ranker's score" in page.text

    def strip(title: str) -> str:
        return html.partition(f"{title}</h4>")[2].partition("</ol>")[0]

    assert "yes +0.5" in strip("mine") and "yes" not in strip("sum · last") and "0.5" in strip("sum · last")


def make_queries(targets: list[list[str]]) -> pl.DataFrame:
    rows = [(str(n), "ref", "text", ["text"], ids, [], "all", []) for n, ids in enumerate(targets)]
    return pl.DataFrame(rows, schema=QUERIES, orient="row")


def test_ladder_falls_to_the_floor_and_stays_on_its_axis() -> None:
    metrics = metric_rows()
    ladder = build_ladder(metrics, "R@10", order_lines(metrics, "R@10"))
    assert [bar.row for bar in ladder.bars] == [
        Row("intersection", "adapter"),
        Row("intersection", "base judge"),
        Row("intersection"),
        Row("sum"),
        RANDOM,
    ]
    assert ladder.floor_value == 0.44
    for bar in ladder.bars:
        places = [bar.length, bar.low, bar.high]
        assert all(0 <= place <= 100 for place in places if place is not None)


def test_a_small_set_and_what_has_no_interval_are_told(sample: Sample, tmp_path: Path) -> None:
    rows = metric_rows().with_columns(
        n_queries=pl.lit(30, pl.Int64),
        ci_low=pl.when(pl.col("method") == "sum").then("value").otherwise("ci_low"),
        ci_high=pl.when(pl.col("method") == "sum").then("value").otherwise("ci_high"),
    )
    differences = (
        PairedDifference("mine", "yours", "R@1", 0.0, 0.0, 0.0, 30),
        PairedDifference("all", "none", "R@1", 100.0, 100.0, 100.0, 30),
    )
    page = Page(write(sample, tmp_path, metrics=rows, paired=differences))
    assert "a small set, 30 queries: a share near 50 % is known to ±17 points" in page.text
    assert "no difference seen in 30 queries" in page.text and "the same in 30 queries" in page.text
    assert "+0.0 to +0.0" not in page.text
    point = f"{rows.filter(method='sum')['value'][0]:.1f}"
    assert f"{point}–{point}" not in page.text
    assert "a small set" not in Page(write(sample, tmp_path)).text


def test_forest_always_contains_zero() -> None:
    forest = build_forest([PairedDifference("a", "b", "R@1", 5.0, 3.0, 7.0)])
    assert forest.zero == 0.0
    assert forest.whiskers[0].low < forest.whiskers[0].point < forest.whiskers[0].high <= 100
    assert build_forest([PairedDifference("a", "b", "R@1", float("nan"), 0.0, 0.0)]).whiskers == []


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 97.3), (-13.6, 40), (-2, -1), (0, 0.03), (0, 100)])
def test_ticks_are_few_round_and_cover_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 7


def test_verdicts_follow_the_interval() -> None:
    def verdict(low: float, high: float) -> str:
        return PairedDifference("a", "b", "R@1", 1.0, low, high).verdict

    assert (verdict(0.1, 2), verdict(-2, -0.1), verdict(-0.1, 2)) == (
        "higher",
        "lower",
        "not distinguishable",
    )


def test_ranking_helper_puts_targets_where_it_says() -> None:
    frame = ranking(BEFORE)
    found = average_precisions(make_queries([[image_id(n + 1)] for n in range(6)]), frame)
    assert found.get_column("first_rank").to_list() == BEFORE
