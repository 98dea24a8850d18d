"""docs/compare.md is made of a whole comparison only."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from benchmarks.compare import check_whole
from setr_lib.errors import SetrError
from setr_lib.pipeline.comparison import ComparisonRecord, LeftOut
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import COMPARISON

SETTINGS = """
[datasets.cirr]
kind = "cirr"
root = "cirr"
splits = ["val", "test1"]

[datasets.circo]
kind = "circo"
root = "circo"
splits = ["val"]

[coarse]
strategies = ["sum", "text"]
caption_strategies = []
default = "sum"
"""
ROWS = [("sum", ""), ("text", ""), ("sum", "base judge"), ("random", "")]
NO_ADAPTER = LeftOut(what="adapter", why="no version of its weights is promoted")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "setr.toml").write_text(SETTINGS)
    return load_settings(tmp_path / "setr.toml")


def table(rows: list[tuple[str, str]]) -> pl.DataFrame:
    of_rows = pl.DataFrame(rows, schema=["method", "reranker"], orient="row")
    return of_rows.with_columns(
        pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in COMPARISON.items()
        if name not in of_rows.columns
    ).select(list(COMPARISON))


def test_the_whole_is_taken(settings: Settings) -> None:
    record = ComparisonRecord(sets=["circo-val", "cirr-val"], left_out=[NO_ADAPTER])
    check_whole(table(ROWS), record, settings)


@pytest.mark.parametrize(
    ("rows", "record", "words"),
    [
        (ROWS, ComparisonRecord(sets=["circo-val", "cirr-val"], limit=5), "first 5 queries"),
        (ROWS, ComparisonRecord(sets=["circo-val"]), "lacks cirr-val"),
        (ROWS, ComparisonRecord(sets=["circo-val", "cirr-val"]), "lacks sum · adapter"),
        (
            [row for row in ROWS if row[0] != "text"],
            ComparisonRecord(sets=["circo-val", "cirr-val"], left_out=[NO_ADAPTER]),
            "lacks text:",
        ),
        (
            [row for row in ROWS if not row[1]],
            ComparisonRecord(sets=["circo-val", "cirr-val"], left_out=[NO_ADAPTER]),
            "lacks sum · base judge",
        ),
    ],
)
def test_what_is_not_the_whole_is_refused(
    settings: Settings, rows: list[tuple[str, str]], record: ComparisonRecord, words: str
) -> None:
    with pytest.raises(SetrError, match=words):
        check_whole(table(rows), record, settings)
