"""Text from data that leaves: on a terminal, in Markdown, in CSV and in JSON. One nasty text has everything
that acts somewhere.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table
from rich.text import Text

from setr_lib.cli import main
from setr_lib.commands.console import terminal
from setr_lib.escaping import VisibleStream, csv_cell, markdown, visible, visible_output
from tests.nasty import ACTING, NASTY, links_and_pictures


def test_what_acts_is_shown_and_everything_else_stays() -> None:
    shown = visible(NASTY)
    assert not ACTING.search(shown)
    assert "\\u001b[31m" in shown and "\\u202e" in shown and "\\u2028" in shown
    assert (
        visible("Ein Kleid, 裙子, لباس, \U0001f457\tund\nmehr")
        == "Ein Kleid, 裙子, لباس, \U0001f457\tund\nmehr"
    )
    assert visible("caf\udce9.png") == "caf\\udce9.png"


@given(st.text())
def test_nothing_that_acts_is_left_of_any_text(text: str) -> None:
    assert not ACTING.search(visible(text))
    assert links_and_pictures(markdown(text)) == []
    assert len(markdown(text).splitlines()) <= 1 and not re.search(r"(?<!\\)\|", markdown(text))


def test_markdown_shows_the_text_and_does_nothing() -> None:
    row = f"| a | b |\n|---|---|\n| {markdown(NASTY)} | last |"
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(row)
    assert set(re.findall(r"<(\w+)", html)) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert html.count("<td>") == 2 and "<td>last</td>" in html
    assert links_and_pictures(markdown(NASTY)) == []
    for part in ("[b](http:", "&lt;img src=x onerror=1&gt;", "`code` **b**", "{{ 7 * 7 }}", "[bold]x[/bold]"):
        assert part in html


@pytest.mark.parametrize("text", ["# a", "- a", "+ a", "1. a", "2) a", "---", "===", "> a", "    a", "***"])
def test_the_start_of_a_line_begins_nothing(text: str) -> None:
    html = MarkdownIt("commonmark").render(markdown(text))
    assert re.fullmatch(r"<p>[^<]*</p>\n", html)


@pytest.mark.parametrize(
    "text", ["R@10", "edited_captions", "cirr-val", "1.5", "-3", "a dress", "64.0 (59–69)"]
)
def test_ordinary_words_stay_as_they_are_in_markdown(text: str) -> None:
    assert markdown(text) == text


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_of_a_csv_file_is_a_formula(start: str) -> None:
    assert csv_cell(f"{start}1+1").startswith("'")
    assert csv_cell(f"a{start}1") == visible(f"a{start}1")
    assert csv_cell("") == ""


def test_json_that_is_printed_is_the_same_json() -> None:
    out = io.StringIO()
    print(json.dumps([NASTY, "caf\udce9"], ensure_ascii=False), file=VisibleStream(out))
    assert json.loads(out.getvalue()) == [NASTY, "caf\udce9"]
    assert not ACTING.search(out.getvalue())


def test_a_progress_bar_of_another_library_still_moves() -> None:
    out = io.StringIO()
    stream = VisibleStream(out, bars=True)
    for text in ("\r 50%", "\x1b[A", "\r\x1b[2J", "name \r\x1b[A"):
        stream.write(text)
    assert out.getvalue() == "\r 50%\x1b[A\r\\u001b[2Jname \\u000d\\u001b[A"


def test_all_that_is_printed_is_shown_and_the_streams_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with visible_output():
        print(NASTY)
        print(NASTY, file=sys.stderr)
    assert sys.stdout is before
    printed = capsys.readouterr()
    assert not ACTING.search(printed.out + printed.err)
    assert "[bold]x[/bold]" in printed.out and "[bold]x[/bold]" in printed.err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_rich_takes_nothing_of_a_text_for_markup_or_for_a_command(is_terminal: bool) -> None:
    out = io.StringIO()
    console = terminal(file=out, force_terminal=is_terminal, width=3000, color_system=None)
    table = Table(title=NASTY)
    table.add_column(NASTY)
    table.add_row(NASTY)
    for what in (NASTY, Text(NASTY), table, ":smile: [red]"):
        console.print(what)
    printed = out.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[3m", "")
    printed = re.sub(r"\x1b\[[0-9;]*m", "", printed) if is_terminal else printed
    assert not ACTING.search(printed)
    assert printed.count("[bold]x[/bold]") == 5 and ":smile: [red]" in printed


def test_an_error_that_quotes_data_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--config", f"{tmp_path}/x\x1b]0;owned\x07\u202e.toml", "doctor"]) == 2
    told = capsys.readouterr().err
    assert not ACTING.search(told) and "x\\u001b]0;owned\\u0007\\u202e.toml" in told


def test_a_csv_reader_reads_one_cell_of_the_nasty_text() -> None:
    out = io.StringIO()
    csv.writer(out).writerow(["id", csv_cell(NASTY)])
    (row,) = csv.reader(io.StringIO(out.getvalue()))
    assert row == ["id", visible(f"'{NASTY}")]
