"""What a row says that its method has learned from."""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_lib.datasets import evaluation_set
from setr_lib.evaluation.row import Row
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.learned import Learned, LearnedFrom
from setr_lib.records import RerankedRow
from setr_lib.settings import load_settings
from setr_lib.tables import GALLERY, QUERIES

ELSEWHERE = "trained elsewhere, on what its model card says"


@pytest.fixture
def learned_from(tmp_path: Path) -> LearnedFrom:
    (tmp_path / "setr.toml").write_text(
        '[coarse]\nstrategies = ["sum", "embedder"]\ndefault = "sum"\n'
        '[spaces.embedder]\nkind = "sentence_transformers"\noptions = { model = "some/model" }\n'
        '[datasets.shop]\nkind = "folder"\nroot = "shop"\n',
        encoding="utf-8",
    )
    settings = load_settings(tmp_path / "setr.toml")
    evaluated = evaluation_set(settings, "shop")
    return LearnedFrom(PipelineContext(settings), evaluated, QUERIES.to_frame(), GALLERY.to_frame())


@pytest.mark.parametrize(
    ("row", "of_reranker", "label"),
    [
        (Row("sum"), None, "zero-shot"),
        (Row("embedder"), None, ELSEWHERE),
        (Row("sum", "base judge"), "zero-shot", "zero-shot"),
        (Row("embedder", "base judge"), "zero-shot", ELSEWHERE),
        (Row("sum", "qwen3-vl-reranker"), ELSEWHERE, ELSEWHERE),
    ],
)
def test_a_method_that_was_trained_says_so_in_its_rows(
    learned_from: LearnedFrom, row: Row, of_reranker: str | None, label: str
) -> None:
    by = of_reranker and RerankedRow(method=row.method, reranker=row.reranker, label=of_reranker)
    assert learned_from.of_row(row, [], by or None) == Learned(label)


def test_a_row_of_captions_stays_one(learned_from: LearnedFrom) -> None:
    assert learned_from.of_row(Row("sum"), [], None, captioned=True).label == "caption proxy"
    said = learned_from.of_row(Row("embedder"), [], None, captioned=True).label
    assert said == f"caption proxy; embedder: {ELSEWHERE}"


def test_of_a_version_that_was_deleted_nobody_knows(learned_from: LearnedFrom) -> None:
    by = RerankedRow(method="sum", reranker="adapter", version="3", label="zero-shot")
    found = learned_from.of_row(Row("sum", "adapter"), [], by)
    assert found == Learned("overlap unknown, registered as zero-shot", "overlap unknown")
