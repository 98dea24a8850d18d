"""A retrieval method whose query vectors a trained system makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from encoders import miniature
from small_lessons import untrained

from setr_lib.methods.inputs import MethodInputs, SearchedGallery, encode_queries
from setr_lib.methods.method import get_method
from setr_lib.systems.bundle import FOLDER, SystemRecord, write_system
from setr_lib.systems.training import stored_tensors
from setr_lib.tables import QUERIES
from setr_lib.weights import Weights

TEXTS = ["is red", "refused", "two of them", "blue"]


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """``prompt_tuned`` before its first step."""
    model, encoder = untrained("prompt_tuned"), miniature()
    record = SystemRecord(
        system="prompt_tuned",
        options=model.options.model_dump(mode="json"),
        encoder_id=encoder.id,
        preprocessing_id=encoder.preprocessing_id,
        run="a run",
    )
    write_system(tmp_path / FOLDER, record, stored_tensors(model))
    weights = Weights(
        "setr-prompt-tuned", "1", "zero-shot", {FOLDER: tmp_path / FOLDER}, "cpu", space=encoder
    )
    return get_method("prompt_tuned").with_weights(weights)


def inputs() -> MethodInputs:
    ids = [f"i{number}" for number in range(len(TEXTS))]
    drawn = np.random.default_rng(3).normal(size=(len(ids), miniature().dimension)).astype(np.float32)
    vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    rows = [
        (f"q{number}", image, text, [text], [], [], "all", [])
        for number, (image, text) in enumerate(zip(ids, TEXTS, strict=True))
    ]
    queries = pl.DataFrame(rows, schema=QUERIES, orient="row")
    return MethodInputs(encode_queries(queries, miniature(), ids, vectors), SearchedGallery(vectors, ids))


def test_a_text_that_is_refused_has_a_zero_row_and_the_others_their_vectors(
    opened: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = opened.search_vectors(inputs())
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    encode = opened.model.encode_queries

    def refuses(references: Any, texts: list[str]) -> Any:
        if "refused" in texts:
            raise IndexError("token 99 is out of bounds")
        return encode(references, texts)

    monkeypatch.setattr(opened.model, "encode_queries", refuses)
    found = opened.search_vectors(inputs())
    assert not found[1].any()
    np.testing.assert_allclose(found[[0, 2, 3]], expected[[0, 2, 3]], atol=1e-6)
    assert "prompt_tuned refuses the text 'refused' (token 99 is out of bounds): a zero row" in caplog.text

    def fails(*_: Any) -> Any:
        raise RuntimeError("weights overflow")

    monkeypatch.setattr(opened.model, "encode_queries", fails)
    with pytest.raises(RuntimeError, match="weights overflow"):
        opened.search_vectors(inputs())
