"""Images that the encoder's preprocessing refuses are left out of a trained system's data, with their
triplets, and said so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import miniature
from small_lessons import small_data

from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.system_data import features_of_data
from setr_lib.settings import Settings
from setr_lib.systems.data import TrainingDataError, without_images


def test_triplets_of_refused_images_are_left_out_and_the_other_features_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data, encoder = small_data(tmp_path / "pictures"), miniature()
    context = PipelineContext(Settings(base_dir=tmp_path))
    other = PipelineContext(Settings(base_dir=tmp_path / "other"))
    clean = features_of_data(other, data, encoder, ())
    assert clean.data is data and not clean.failed
    train, held_out = "03.png", "12.png"
    wrong = {encoder.preprocess(image_of(data, name)).numpy().tobytes() for name in (train, held_out)}
    prepare = encoder.preprocess

    def refuses(image: Any) -> Any:
        if prepare(image).numpy().tobytes() in wrong:
            raise ValueError("absolute aspect ratio must be smaller than 200")
        return prepare(image)

    monkeypatch.setattr(encoder, "preprocess", refuses)
    monkeypatch.setattr(type(encoder), "input_pixels", None)  # pictures go through `preprocess`
    stored = features_of_data(context, data, encoder, ())
    assert sorted(stored.failed) == [train, held_out]
    assert "2 images cannot be embedded, 4 triplets are left out" in caplog.text
    assert stored.data.triplets.equals(
        data.triplets.filter(~data.triplets["reference_id"].is_in([train, held_out])).filter(
            ~data.triplets.filter(~data.triplets["reference_id"].is_in([train, held_out]))["target_id"].is_in(
                [train, held_out]
            )
        )
    )
    assert held_out not in stored.data.gallery and len(stored.data.gallery) == 5
    assert without_images(data.images, stored.failed)["image_id"].to_list() == [
        name for name in data.images["image_id"] if name not in stored.failed
    ]
    left = stored.data.gallery
    np.testing.assert_array_equal(stored.features.of(left).vectors, clean.features.of(left).vectors)

    wrong |= {prepare(image_of(data, name)).numpy().tobytes() for name in data.gallery}
    fresh = PipelineContext(Settings(base_dir=tmp_path / "fresh"))
    with pytest.raises(
        TrainingDataError, match="7 images cannot be embedded, and no held-out triplet is left"
    ):
        features_of_data(fresh, data, encoder, ())

    monkeypatch.setattr(encoder, "preprocess", prepare)
    everything = {*data.images.filter(split="held_out")["image_id"]}
    with pytest.raises(TrainingDataError, match="no triplet"):
        data.without(everything).measurable()


def image_of(data: Any, name: str) -> Any:
    from setr_lib.pixels import read_image

    return read_image(data.images.filter(image_id=name)["path"].item())
