"""An adapter's training goes on without the pairs whose pictures the model's processor refuses, and says how
many they are.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.hashing import fingerprint_bytes
from setr_lib.models.multimodal import Picture
from setr_lib.reranking.held_out import judge_pair_frame, measure
from setr_lib.reranking.lora import AdapterError
from setr_lib.reranking.training import train_adapter
from setr_lib.reranking.training_result import load_result
from tests.reranking import judge_worlds as worlds


def thin() -> Picture:
    file = io.BytesIO()
    Image.new("RGB", (2100, 10), (200, 30, 30)).save(file, "PNG")
    return Picture(fingerprint_bytes(file.getvalue()), file.getvalue())


def showing(pairs: pl.DataFrame, images: list[str]) -> pl.Expr:
    return pl.any_horizontal(pl.col("reference_id", "candidate_id").is_in(images))


def test_pairs_with_refused_pictures_are_left_out_and_the_training_is_as_without_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge = worlds.load_tiny_judge(tmp_path / "judge", "qwen2_5_vl")
    pairs, settings = worlds.pairs(groups=12, held_out=4), worlds.settings(epochs=1.0)
    refused = [pairs["candidate_id"][0], pairs.filter(split="held_out")["candidate_id"][0]]
    pictures = {**worlds.pictures(), **dict.fromkeys(refused, thin())}
    result = train_adapter(judge, pairs, pictures, settings, tmp_path / "run")
    gone = pairs.filter(showing(pairs, refused))
    assert result.left_out == gone.height > 0
    assert "training pairs are left out" in caplog.text and "2,100 x 10 pixels" in caplog.text
    left = pairs.filter(~showing(pairs, refused))
    alone = train_adapter(judge, left, worlds.pictures(), settings, tmp_path / "alone")
    assert alone.left_out == 0
    assert result.curve.equals(alone.curve)
    assert result.held_out.equals(alone.held_out) and result.after == alone.after
    assert result.held_out_digest == alone.held_out_digest
    stored = load_result(tmp_path / "run")
    assert stored is not None and stored.left_out == result.left_out

    # Measured again, for a later comparison: on the same pairs.
    held_out = pairs.filter(split="held_out")
    scores = judge_pair_frame(judge, held_out, pictures)
    np.testing.assert_array_equal(np.isnan(scores), held_out.select(showing(held_out, refused)).to_series())
    assert measure(held_out, scores) == result.before
    every = dict.fromkeys(pictures, thin())
    with pytest.raises(AdapterError, match=r"takes too few pictures .*2,100 x 10"):
        train_adapter(judge, pairs, every, settings, tmp_path / "none")
