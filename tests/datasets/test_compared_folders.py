"""What a comparison says of a folder's queries before any model runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from setr_lib.errors import SetrError
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.evaluating import evaluate, read_set
from setr_lib.pipeline.reranking_run import RerankingRun
from setr_lib.settings import load_settings


@pytest.fixture
def context(tmp_path: Path) -> PipelineContext:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 90, 9)).save(tmp_path / f"pictures/{number}.png")
    (tmp_path / "setr.toml").write_text('[datasets.mine]\nkind = "folder"\nroot = "pictures"\n')
    return PipelineContext(load_settings(tmp_path / "setr.toml"))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, "it has no query, so nothing can be scored"),
        ("reference,modification,target\n0.png,red,\n", "no query names a target, so nothing can be scored"),
        ("reference,modification\n0.png,red\n", "the columns are 'reference', 'modification'"),
    ],
)
def test_a_set_of_which_nothing_can_be_scored_is_refused(
    context: PipelineContext, tmp_path: Path, table: str | None, words: str
) -> None:
    if table is not None:
        (tmp_path / "pictures/queries.csv").write_text(table)
    with pytest.raises(SetrError) as caught:
        evaluate(RerankingRun(context, {}), "mine")
    assert words in str(caught.value) and "setr doctor mine" in str(caught.value)
    assert str(caught.value).count("nothing can be scored") == 1


def test_what_was_assumed_of_a_table_is_said_with_what_is_passed_over(
    context: PipelineContext, tmp_path: Path
) -> None:
    (tmp_path / "pictures/queries.csv").write_text("reference;modification;target\n0.png;red;1.png\n")
    (tmp_path / "pictures/film.mp4").write_bytes(b"x")
    separators, passed_over = read_set(context, "mine")
    assert "columns are separated by ';'" in separators and "1 .mp4" in passed_over
