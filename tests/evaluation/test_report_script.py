"""The page's script in a real browser: sorting, filtering and searching of the table of all queries."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from setr_lib.evaluation.report import ReportData, write_report
from setr_lib.evaluation.row import Row
from tests.evaluation.report_data import make_sample, metric_rows

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# What a person does, and what the table then shows; written into the page for the test to read.
ACTIONS = """
const rows = () => [...document.querySelectorAll("#query-table tbody tr")].filter((row) => !row.hidden);
const ids = () => rows().map((row) => row.cells[0].textContent.trim());
const form = document.getElementById("query-filters");
const head = (name) => document.querySelector(`#query-table th[data-column="${name}"]`);
const set = (name, value) => {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("input", { bubbles: true }));
};
const told = { hidden: form.hidden, all: ids() };
head("before").querySelector("button").click();
told.up = [ids(), head("before").getAttribute("aria-sort")];
head("before").querySelector("button").click();
told.down = [ids(), head("before").getAttribute("aria-sort")];
head("query").querySelector("button").click();
told.other = [head("before").getAttribute("aria-sort"), head("query").getAttribute("aria-sort")];
set("move", "worse");
told.worse = ids();
set("move", "");
set("words", "number 2");
told.words = [ids(), document.getElementById("query-count").textContent];
set("words", "");
document.querySelector('a[data-kind="lost by the judge"]').click();
told.kind = [ids(), form.elements.kind.value];
document.querySelector("a[data-left-out]").click();
told.leftOut = [ids(), form.elements.composition.value, rows()[0].textContent];
const bottom = () => scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
const links = document.querySelectorAll('nav.sections a, #query-table tbody a[href^="#"]');
told.landed = [...links].map((link) => {
  link.click();
  const top = document.querySelector(link.getAttribute("href")).getBoundingClientRect().top;
  return [link.getAttribute("href"), Math.round(top), bottom()];
});
const said = Object.assign(document.createElement("pre"), { id: "told", textContent: JSON.stringify(told) });
document.body.append(said);
"""


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium")
def test_the_table_is_sorted_filtered_and_searched_from_a_file(tmp_path: Path):
    sample = make_sample(tmp_path / "images", [3, 1, 9, 4, 20, 12], [1, 1, 2, 8, 20, 1])
    rankings = {Row("intersection"): sample.before, Row("intersection", "adapter"): sample.after}
    asked = "make number 1 blue and round"  # its composition knows of no blue
    queries = sample.queries.with_columns(
        modification=pl.when(query_id="1").then(pl.lit(asked)).otherwise("modification")
    )
    data = ReportData(
        "k",
        "t",
        queries,
        sample.gallery,
        rankings,
        metric_rows(),
        compositions=sample.compositions,
    )
    page = write_report(tmp_path / "r", data)
    content = page.read_text(encoding="utf-8")
    policy = re.search(r"<meta http-equiv=[^>]+>", content)
    assert policy is not None
    opened = content.replace(policy[0], "").replace("</body>", f"<script>{ACTIONS}</script></body>")
    page.write_text(opened, encoding="utf-8")
    assert BROWSER is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [BROWSER, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    told = json.loads(html.unescape(found[1]))
    assert not told["hidden"] and told["all"] == ["0", "1", "2", "3", "4", "5"]
    assert told["up"] == [["1", "0", "3", "2", "5", "4"], "ascending"]
    assert told["down"] == [["4", "5", "2", "3", "0", "1"], "descending"]
    assert told["other"] == [None, "ascending"]
    assert told["worse"] == ["3"]
    assert told["words"] == [["2"], "1 of 6 queries shown"]
    assert len(told["landed"]) > 8
    assert all(0 <= top < 120 or at_bottom for _, top, at_bottom in told["landed"]), told["landed"]
    assert told["leftOut"][:2] == [["1"], "left-out"]
    assert "the composition leaves out: blue" in told["leftOut"][2]
    assert told["kind"] == [["2", "3", "4"], "lost by the judge"]
