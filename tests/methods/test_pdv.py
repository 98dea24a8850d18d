"""PDV: the three vectors against the paper's formulas, and which of its settings is used where."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from setr_lib.methods.inputs import CAPTIONS, COMPOSITIONS, MethodInputs
from setr_lib.methods.method import get_method
from setr_lib.methods.pdv import DEFAULT, PUBLISHED, Setting, setting_of
from tests.methods.worlds import (
    GALLERY,
    TableEncoder,
    captions_of,
    compositions_of,
    embedded,
    method_inputs,
    vectors_of_references,
)

SCALES = {"image_scale": 1.7, "text_scale": 0.6, "text_share": 0.3}


class Named(TableEncoder):
    """An encoder that says which model of open_clip it is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.id = f"{name}@0123456789abcdef"


def texts(queries: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return {CAPTIONS: captions_of(queries), COMPOSITIONS: compositions_of(queries)}


def expected(inputs: MethodInputs, setting: Setting) -> dict[str, np.ndarray]:
    """Cosines by the published formulas: what is scaled, and how both are mixed."""
    queries = inputs.queries.frame
    caption = embedded([f"picture {reference}." for reference in queries["reference_id"]])
    change = embedded([f"target of {query}" for query in queries["query_id"]]) - caption
    image = vectors_of_references(inputs)
    image[~image.any(axis=1)] = caption[~image.any(axis=1)]
    by_text = caption + setting.text_scale * change
    by_image = image + setting.image_scale * change
    fused = (1 - setting.text_share) * by_image + setting.text_share * by_text
    vectors = {"pdv_t": by_text, "pdv_i": by_image, "pdv_f": fused}
    return {
        name: made / np.linalg.norm(made, axis=1, keepdims=True) @ GALLERY.T for name, made in vectors.items()
    }


@pytest.mark.parametrize("name", ["pdv_t", "pdv_i", "pdv_f"])
def test_each_vector_is_the_papers(name: str) -> None:
    inputs = method_inputs(texts=texts, options=SCALES)
    found = get_method(name).scores(inputs)
    np.testing.assert_allclose(found, expected(inputs, Setting(**SCALES))[name], atol=1e-6)


@pytest.mark.parametrize("name", ["pdv_t", "pdv_i", "pdv_f"])
def test_the_setting_follows_data_set_and_encoder(name: str) -> None:
    inputs = method_inputs(texts=texts, dataset_kind="fashioniq", encoder=Named("ViT-L-14"))
    found = get_method(name).scores(inputs)
    np.testing.assert_allclose(found, expected(inputs, Setting(1.0, 1.3, 0.55))[name], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "space", "image_scale", "text_scale", "text_share"),
    [
        ("fashioniq", "ViT-B-32@0", 1.4, 1.4, 0.75),
        ("fashioniq", "ViT-L-14@0", 1.0, 1.3, 0.55),
        ("fashioniq", "hf-hub:laion/CLIP-ViT-bigG-14-laion2B@0", 1.4, 1.4, 0.6),
        ("fashioniq", "openai/clip-vit-large-patch14-336@0", 1.0, 1.3, 0.55),
        ("fashioniq", "sentence-transformers/clip-ViT-L-14@0", 1.0, 1.3, 0.55),
        ("fashioniq", "openai/clip-vit-large-patch16@0", 1.4, 1.4, 0.75),
        ("fashioniq", "openai/clip-vit-base-patch32@0", 1.4, 1.4, 0.75),
        ("fashioniq", "local-dir:clip@0", 1.4, 1.4, 0.75),
        ("cirr", "ViT-B-32@0", 1.4, 1.2, 0.75),
        ("circo", "ViT-L-14@0", 1.4, 1.2, 0.75),
        ("", "", 1.4, 1.2, 0.75),
        ("folder", "ViT-L-14@0", 1.4, 1.2, 0.75),
    ],
)
def test_published_settings_and_the_nearest_for_others(
    kind: str, space: str, image_scale: float, text_scale: float, text_share: float
) -> None:
    assert setting_of(kind, space) == Setting(image_scale, text_scale, text_share)


def test_at_scale_one_the_text_vector_is_the_target_captions() -> None:
    inputs = method_inputs(texts=texts, options={"text_scale": 1.0})
    found = get_method("pdv_t").scores(inputs)
    np.testing.assert_allclose(found, get_method("intersection").scores(inputs), atol=1e-6)


def test_without_a_caption_the_direction_is_the_target() -> None:
    def no_captions(queries: pl.DataFrame) -> dict[str, pl.DataFrame]:
        failed = captions_of(queries).with_columns(status=pl.lit("failed"))
        return {CAPTIONS: failed, COMPOSITIONS: compositions_of(queries)}

    inputs = method_inputs(["i03", "absent"], texts=no_captions)
    target = get_method("intersection").scores(inputs)
    np.testing.assert_allclose(get_method("pdv_t").scores(inputs), target, atol=1e-6)
    np.testing.assert_allclose(get_method("pdv_i").scores(inputs)[1], target[1], atol=1e-6)


def test_they_name_needs_and_source() -> None:
    for name in ("pdv_t", "pdv_i", "pdv_f"):
        method = get_method(name)
        assert method.needs == {"captions", "compositions"} and method.label == "training-free"
        assert "2502.07215" in method.source and "reconstruction" in method.source
    assert DEFAULT is PUBLISHED["cirr", "B/32"]
