"""The figures of the dials: where names go, what an SVG says, and which numbers it is drawn from."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.charts import Line, Panel, Point, draw, spread
from benchmarks.dials import DIALS, STAGES, panels_of, table, world_of
from benchmarks.material import COLUMNS
from setr_lib.settings import DatasetSettings, Settings

CORRELATION, _, OBJECTS = DIALS


def scores(value: float) -> dict[str, dict[str, dict[str, float]]]:
    """Every stage of every column at ``value``."""
    cell = {"value": value, "low": value - 5, "high": value + 5}
    return {name: dict.fromkeys(STAGES, cell) for name in COLUMNS}


@given(st.lists(st.floats(0, 100), max_size=8))
def test_names_never_overlap_nor_leave_the_axis(wanted: list[float]) -> None:
    placed = spread(wanted, 7.0, 1.0, 99.0)
    ordered = sorted(placed)
    assert all(b - a >= 7.0 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert all(1.0 - 1e-9 <= place <= 99.0 + 1e-9 for place in placed)
    ranks = sorted(range(len(wanted)), key=wanted.__getitem__)
    assert [placed[index] for index in ranks] == ordered


def test_names_with_room_stay_where_their_lines_end() -> None:
    assert spread([80.0, 20.0, 50.0], 7.0, 1.0, 99.0) == [80.0, 20.0, 50.0]
    assert spread([50.0, 50.0], 7.0, 1.0, 99.0) == pytest.approx([46.5, 53.5])


def test_an_svg_names_lines_and_axes_as_text_and_is_the_same_twice(tmp_path: Path) -> None:
    points = [Point(0.0, 40.0, 30.0, 50.0), Point(1.0, 20.0, 10.0, 30.0)]
    panels = [Panel("CIRR", "R@1, %", [Line("union text", "#d55e00", points)])]
    for name in ("one.svg", "two.svg"):
        draw([panels, panels], "A title", "the dial", tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    texts = {element.text for element in ET.parse(tmp_path / "one.svg").iter() if element.text}  # noqa: S314 - ours
    assert {"A title", "the dial", "CIRR", "R@1, %", "union text", "0", "1"} <= texts


def test_a_figure_shows_each_stage_in_its_own_metric_over_sorted_values() -> None:
    above, below = panels_of(CORRELATION, {1.0: scores(10.0), 0.0: scores(40.0)})
    assert [(panel.title, panel.y_label) for panel in (*above, *below)] == [
        ("CIRR, stage 1", "R@10, %"),
        ("FashionIQ, stage 1", "R@10, %"),
        ("CIRCO, stage 1", "mAP@10, %"),
        ("CIRR, stage 2", "R@1, %"),
        ("FashionIQ, stage 2", "R@10, %"),
        ("CIRCO, stage 2", "mAP@5, %"),
    ]
    assert [line.name for line in above[0].lines] == ["sum", "union text", "intersection"]
    assert [line.name for line in below[0].lines] == ["intersection", "+ base judge", "+ adapter"]
    assert [(point.x, point.value) for point in above[0].lines[0].points] == [(0.0, 40.0), (1.0, 10.0)]


def test_a_dial_that_does_not_concern_a_data_set_has_no_panel_for_it() -> None:
    above, below = panels_of(OBJECTS, {1.0: scores(10.0)})
    assert [panel.title for panel in above] == ["CIRR, stage 1", "CIRCO, stage 1"]
    assert [panel.title for panel in below] == ["CIRR, stage 2", "CIRCO, stage 2"]


def test_the_table_has_every_value() -> None:
    lines = table(CORRELATION, {0.0: scores(40.0), 1.0: scores(10.0)}).splitlines()
    assert lines[2] == "|  |  | 0 | 1 |"
    assert lines[4] == "| CIRR R@1 | sum | 40.0 | 10.0 |"
    assert len(lines) == 4 + len(COLUMNS) * len(STAGES)


def test_a_world_lives_apart_and_differs_in_its_dial_only(tmp_path: Path) -> None:
    sets = {"cirr": DatasetSettings(kind="cirr", root=tmp_path / "cirr", splits=["val"])}
    settings = Settings(base_dir=tmp_path, datasets=sets)
    world = world_of(settings, CORRELATION, 0.25, 0.5)
    assert world.storage_root == tmp_path / "var" / "dials" / "world"
    assert world.datasets["cirr"].root == world.miniature_root / "cirr"
    assert world.datasets["cirr"].splits == ["val"]
    assert settings.storage_root == tmp_path / "var"
    changed = world.miniature.model_dump(exclude={"size", "training_images", "background_correlation"})
    assert changed.items() <= settings.miniature.model_dump().items()
    assert world.miniature.background_correlation == 0.25
