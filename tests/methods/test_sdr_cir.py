"""SDR-CIR: the anchored and debiased score against the paper's formula, its constants, and its texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from setr_lib.methods.inputs import MethodInputs
from setr_lib.methods.method import get_method
from setr_lib.methods.sdr_cir import SELECTIVE_DESCRIPTIONS
from setr_lib.texts.answers import AnswerError
from setr_lib.texts.prompts import load_prompts
from tests.methods.worlds import GALLERY, embedded, method_inputs, texts_of, vectors_of_references


def texts(queries: pl.DataFrame) -> dict[str, pl.DataFrame]:
    fields = [
        {"relevant": ["x"], "changes": [], "description": f"wanted {i}", "modification": f"change {i}"}
        for i in range(len(queries))
    ]
    return {SELECTIVE_DESCRIPTIONS.name: texts_of(SELECTIVE_DESCRIPTIONS, queries, fields)}


def expected(inputs: MethodInputs, anchor: float, debias: float) -> np.ndarray:
    count = len(inputs.queries.frame)
    described = embedded([f"wanted {i}" for i in range(count)])
    modified = embedded([f"change {i}" for i in range(count)])
    query = (1 - anchor) * described + anchor * vectors_of_references(inputs)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    s_q, s_d, s_m = query @ GALLERY.T, described @ GALLERY.T, modified @ GALLERY.T
    return (1 + debias) * s_q - debias * (s_d - s_m)


@pytest.mark.parametrize(
    ("kind", "options", "anchor", "debias"),
    [
        ("cirr", {}, 0.05, 0.5),
        ("circo", {}, 0.15, 0.35),
        ("fashioniq", {}, 0.2, 0.4),
        ("", {}, 0.05, 0.5),
        ("circo", {"anchor": 0.6}, 0.6, 0.35),
        ("circo", {"debias": 0.9}, 0.15, 0.9),
    ],
)
def test_the_score_is_the_papers_with_its_constants(
    kind: str, options: dict[str, Any], anchor: float, debias: float
) -> None:
    inputs = method_inputs(texts=texts, options=options, dataset_kind=kind)
    found = get_method("sdr_cir").scores(inputs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(inputs, anchor, debias), atol=1e-6)


def test_without_anchor_and_debias_it_is_the_descriptions_cosine() -> None:
    inputs = method_inputs(texts=texts, options={"anchor": 0, "debias": 0})
    described = embedded([f"wanted {i}" for i in range(3)]) @ GALLERY.T
    np.testing.assert_allclose(get_method("sdr_cir").scores(inputs), described, atol=1e-6)


def test_its_texts_are_derived_from_a_composition() -> None:
    derive = SELECTIVE_DESCRIPTIONS.derive
    assert derive is not None
    row = {"modification": "make it red"}
    composed = {
        "keep": ["dog"],
        "add": ["red", "big"],
        "remove": ["blue"],
        "target_caption": "A big red dog.",
    }
    assert derive(row, {"compositions": composed}) == {
        "relevant": ["dog"],
        "changes": ["red", "big"],
        "description": "A big red dog.",
        "modification": "red, big",
    }
    fallback = derive(row, {"compositions": {"keep": [], "add": [], "target_caption": " "}})
    assert fallback["description"] == fallback["modification"] == "make it red"


def test_its_prompt_is_in_the_standard_set_and_its_example_is_a_good_answer() -> None:
    prompt = load_prompts("standard").get(SELECTIVE_DESCRIPTIONS.task)
    assert prompt.variables == {"modification"}
    example = next(line for line in prompt.source.splitlines() if line.startswith("{"))
    good = SELECTIVE_DESCRIPTIONS.answer.from_answer(example)
    assert good.model_dump()["description"] == "Two brown dogs running on a beach."
    with pytest.raises(AnswerError, match="modification"):
        SELECTIVE_DESCRIPTIONS.answer.from_answer(example.replace('"modification"', '"change"'))
    assert not load_prompts("miniature").has(SELECTIVE_DESCRIPTIONS.task), "there it is derived"


def test_it_names_its_source() -> None:
    method = get_method("sdr_cir")
    assert "2602.04451" in method.source and "reconstruction" in method.source
    assert method.label == "training-free" and method.is_cosine
