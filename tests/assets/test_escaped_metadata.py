"""What Dagster's pages show of text from data: it links to nothing, shows no picture and runs nothing."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, cast

import dagster as dg
import polars as pl
import pytest
from PIL import Image

from setr_assets import previews
from setr_assets.blueprints import _explained
from setr_assets.course import Course
from setr_assets.data_versions import PartitionResults
from setr_assets.gallery import EmbeddingLog
from setr_assets.progress import say
from setr_assets.watching import watcher
from setr_lib.errors import SetrError
from tests.nasty import ACTING, NASTY, links_and_pictures

if TYPE_CHECKING:
    from setr_lib.pipeline.context import PipelineContext

MOVEMENTS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
"""What rich itself writes to a terminal."""


class Terminal(io.StringIO):
    """A text stream that says whether it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


def shown_of(value: dg.MarkdownMetadataValue) -> str:
    assert value.md_str is not None
    return value.md_str


def test_cells_of_tables_show_texts_and_lists_as_they_are() -> None:
    frame = pl.DataFrame({"image_id": [NASTY], "texts": [[NASTY, "b"]], NASTY: [0.5]})
    for made in (previews.rows(frame), previews.table([NASTY, "b"], [(NASTY, NASTY)])):
        text = shown_of(made)
        assert links_and_pictures(text) == [] and not ACTING.search(text)
        assert len(text.splitlines()) == 3


def test_a_cut_cell_is_cut_before_it_is_escaped() -> None:
    (line,) = shown_of(previews.table(["a"], [("<" * 2000,)])).splitlines()[2:]
    assert line == f"| {'&#60;' * 999}… |"


def test_pictures_and_charts_have_one_picture_their_own() -> None:
    image = Image.new("RGB", (8, 8))
    for made in (previews.picture(image, NASTY), previews.line_chart([1, 2], [0.0, 1.0], NASTY)):
        assert links_and_pictures(shown_of(made)) == ["image"]
        assert shown_of(made).count("](") == 1 and "](data:image/webp;base64," in shown_of(made)


def nasty_asset(context):
    say(context, NASTY)
    results = PartitionResults(metadata={"words": NASTY})
    results.add("", "1", {NASTY: "here", "count": 1})
    yield from results.events(context)


def test_texts_of_metadata_and_log_lines_are_visible(capfd: pytest.CaptureFixture[str]) -> None:
    done = dg.materialize([dg.asset(nasty_asset)])
    (event,) = done.asset_materializations_for_node("nasty_asset")
    assert event.metadata["count"].value == 1
    for name, value in event.metadata.items():
        assert not ACTING.search(f"{name} {value.value}")
    assert "\\u202egnp.exe" in capfd.readouterr().err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_demo_s_lines_are_visible(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal(is_terminal)
    monkeypatch.setattr("sys.stderr", out)
    monkeypatch.setenv("COLUMNS", "3000")
    with watcher(Course([["step"]])) as shown:
        shown.started("step")
        shown.progressed("step", NASTY, 1, 2, NASTY)
        shown.said("step", NASTY, True)
        shown.finished("step", 1.0, True)
        shown.failed("step", NASTY)
    printed = out.getvalue()
    assert printed.count("[bold]x[/bold]") >= 2
    assert not ACTING.search(MOVEMENTS.sub("", printed).replace("\r", "") if is_terminal else printed)


def test_what_a_check_says_is_no_markdown() -> None:
    log = EmbeddingLog(dg.build_asset_context(), cast("PipelineContext", None))
    log.faults = {NASTY: NASTY}
    found = log.result
    assert found.description and not found.passed
    assert links_and_pictures(found.description) == [] and not ACTING.search(found.description)
    ((name, value),) = (found.metadata or {}).items()
    assert not ACTING.search(f"{name} {value.value}")


def test_the_error_that_ends_a_step_is_visible() -> None:
    def fails(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        raise SetrError(NASTY)

    with pytest.raises(dg.Failure) as told:
        list(_explained(fails)(None))
    assert told.value.description and not ACTING.search(told.value.description)
