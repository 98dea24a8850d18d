"""What a row says that its method has learned from."""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_lib.evaluation.row import Row
from setr_lib.methods.method import TRAINING_FREE
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.evaluation import CAPTION_PROXY, label_with_method
from setr_lib.settings import load_settings


@pytest.mark.parametrize(
    ("row", "label"),
    [
        (Row("sum"), "zero-shot"),
        (Row("embedder"), "trained elsewhere, on what its model card says"),
        (
            Row("embedder", "base judge"),
            "zero-shot; embedder: trained elsewhere, on what its model card says",
        ),
    ],
)
def test_a_method_that_was_trained_says_so_in_its_rows(tmp_path: Path, row: Row, label: str) -> None:
    (tmp_path / "setr.toml").write_text(
        '[coarse]\nstrategies = ["sum", "embedder"]\ndefault = "sum"\n'
        '[spaces.embedder]\nkind = "sentence_transformers"\noptions = { model = "some/model" }\n',
        encoding="utf-8",
    )
    method = PipelineContext(load_settings(tmp_path / "setr.toml")).methods.get(row.method)
    assert label_with_method(method.label, row, "zero-shot") == label


def test_a_row_of_captions_stays_one() -> None:
    row = Row("captions_text")
    assert label_with_method(TRAINING_FREE, row, CAPTION_PROXY) == "caption proxy"
    assert label_with_method("supervised", row, CAPTION_PROXY) == "caption proxy; captions_text: supervised"
