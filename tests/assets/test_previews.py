"""What Dagster shows: numbers as people read them, whole captions, charts with axes."""

from __future__ import annotations

import base64
import io

import dagster as dg
import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_assets import pairs, previews
from setr_assets.data_versions import readable, rounded
from setr_lib.evaluation import contact_sheet
from setr_lib.evaluation.drawn_charts import draw_line
from setr_lib.tables import PAIRS


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (62.66666666666667, 62.7),
        (0.98765432, 0.9877),
        (-13.25, -13.2),
        (3.14159265, 3.142),
        (0.99998, 0.99998),
        (1.0, 1.0),
        (0.0, 0.0),
        (1e-7, 1e-7),
    ],
)
def test_numbers_are_rounded_and_what_is_not_whole_never_reads_as_whole(value: float, shown: float):
    assert rounded(value) == shown
    assert readable({"R@1": value}) == {"R@1": shown}


def test_other_values_are_left_alone():
    path = dg.MetadataValue.path("x")
    assert readable({"n": 3, "flag": True, "path": path}) == {"n": 3, "flag": True, "path": path}
    assert np.isnan(rounded(float("nan")))


def test_percentages_of_a_table_all_have_one_digit():
    shown = (
        previews.table(["row", "R@1", "n"], [("a", 38.33333, 3), ("b", 5.33333, 12)], digits=1).md_str or ""
    )
    assert "| a | 38.3 | 3 |" in shown and "| b | 5.3 | 12 |" in shown


def test_cells_have_rounded_numbers():
    text = previews.rows(pl.DataFrame({"value": [62.66666666, 0.1234567]})).md_str or ""
    assert "| 62.7 |" in text and "| 0.1235 |" in text


def drawn(value: dg.MarkdownMetadataValue) -> Image.Image:
    content = (value.md_str or "").partition("base64,")[2].partition(")")[0]
    return Image.open(io.BytesIO(base64.b64decode(content))).convert("L")


def test_a_longer_caption_takes_more_lines_under_its_picture():
    pictures = [Image.new("RGB", (8, 8))] * 4
    short = previews.pictures(pictures, ["a dog"] * 4)
    long = previews.pictures(pictures, ["a dog", "a dog " * 40, "a dog", "a dog"])
    assert drawn(long).height > drawn(short).height + 50


def test_both_axes_of_a_chart_have_ticks():
    chart = np.asarray(draw_line([0, 1, 2], [3.0, 1.0, 2.0], "loss", "step").convert("L"))
    nothing = np.asarray(draw_line([0, 1, 2], [3.0, 1.0, 2.0], "", "").convert("L"))
    assert (chart[30:140, :50] < 128).any(), "numbers left of the chart"
    assert (chart[-35:-18, 56:] < 128).any(), "numbers below it"
    assert (chart != nothing).any()
    assert draw_line([], [], "loss", "step").size == draw_line([1], [1.0], "loss", "step").size
    assert draw_line([1, 2], [float("nan"), float("inf")], "loss", "step").width > 0


def test_the_tile_of_a_shuffled_text_says_the_text(monkeypatch: pytest.MonkeyPatch):
    rows = [
        ("1", "train", "g", "ref", "make it red", "goal", True, "positive", "s"),
        ("2", "train", "g", "ref", "make it red", "near", False, "coarse_negative", "s"),
        ("3", "train", "g", "ref", "put it on the sea", "goal", False, "shuffled_text_negative", "s"),
    ]
    captions: list[str] = []
    draw = contact_sheet.draw_grid

    def noted(tiles, **options):
        captions.extend(tile.caption for tile in tiles)
        return draw(tiles, **options)

    monkeypatch.setattr(contact_sheet, "draw_grid", noted)
    pairs._groups_sheet(pl.DataFrame(rows, schema=PAIRS, orient="row"), {})
    assert captions == [
        "make it red",
        "yes: positive",
        "no: coarse",
        "no: shuffled_text: “put it on the sea”",
    ]
