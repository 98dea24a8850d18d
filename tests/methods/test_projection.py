"""Feature intersection: the projection on the span of what is kept, and what happens where nothing is."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from setr_lib.methods.inputs import COMPOSITIONS
from setr_lib.methods.method import get_method
from setr_lib.methods.projection import projected
from tests.methods.worlds import GALLERY, composed, embedded, method_inputs, vectors_of_references

LISTS = [
    {"keep": ["a dog", "a sofa", "grass"], "add": ["two", "on a beach"], "drop": ["a lamp"]},
    {"keep": ["a cat"], "remove": ["a hat"]},
    {"add": ["red"]},
    {},
]
REFERENCES = ["i03", "i07", "i11", "i13"]


def of(lists: list[dict[str, list[str]]], references: list[str]) -> np.ndarray:
    inputs = method_inputs(references, lambda queries: {COMPOSITIONS: composed(queries, lists)})
    return get_method("projection").scores(inputs)


def test_the_vector_is_the_projected_reference_plus_what_is_added() -> None:
    inputs = method_inputs(REFERENCES, lambda queries: {COMPOSITIONS: composed(queries, LISTS)})
    vectors = vectors_of_references(inputs)
    kept = []
    for row, phrases in enumerate([LISTS[0]["keep"], LISTS[1]["keep"]]):
        q, _ = np.linalg.qr(embedded(phrases).T)
        kept.append(q @ q.T @ vectors[row])
    kept += [np.zeros(vectors.shape[1])] * 2  # nothing is kept: nothing of the reference comes along
    modifications = inputs.queries.frame["modification"].to_list()
    query = np.array(kept) + embedded(["two, on a beach", modifications[1], "red", modifications[3]])
    expected = query / np.linalg.norm(query, axis=1, keepdims=True) @ GALLERY.T
    np.testing.assert_allclose(get_method("projection").scores(inputs), expected, atol=1e-6)


def test_a_reference_without_a_vector_leaves_what_is_added() -> None:
    np.testing.assert_allclose(
        of(LISTS[:1], ["absent"])[0], embedded(["two, on a beach"])[0] @ GALLERY.T, atol=1e-6
    )


def test_a_phrase_that_is_said_twice_counts_once() -> None:
    twice = [{"keep": ["a dog", "a dog", "grass"], "add": ["red"]}]
    once = [{"keep": ["grass", "a dog"], "add": ["red"]}]
    np.testing.assert_allclose(of(twice, ["i03"]), of(once, ["i03"]), atol=1e-6)


def test_nearly_the_same_phrase_is_no_direction_of_its_own() -> None:
    phrase, other = embedded(["a dog", "a cat"])
    vector = GALLERY[3].astype(np.float64)
    nearly = phrase + 1e-6 * other
    alone = phrase * (phrase @ vector)
    np.testing.assert_allclose(projected(vector, np.array([phrase, nearly])), alone, atol=1e-5)


vectors = arrays(np.float64, 6, elements=st.floats(-1, 1, width=32))


@given(vectors, st.lists(vectors, min_size=1, max_size=8))
def test_a_projection_is_one(vector: np.ndarray, phrases: list[np.ndarray]) -> None:
    """Projecting again changes nothing, and what is left over is orthogonal to what was kept."""
    listed = np.array(phrases)
    once = projected(vector, listed)
    np.testing.assert_allclose(projected(once, listed), once, atol=1e-8)
    assert abs((vector - once) @ once) < 1e-8
    np.testing.assert_allclose(projected(vector, listed[::-1]), once, atol=1e-5)


def test_no_phrases_leave_nothing() -> None:
    assert not projected(GALLERY[0], np.zeros((0, GALLERY.shape[1]))).any()


def test_as_many_phrases_as_dimensions_leave_everything() -> None:
    phrases = embedded([f"word {number}" for number in range(GALLERY.shape[1])])
    np.testing.assert_allclose(projected(GALLERY[0], phrases), GALLERY[0], atol=1e-6)


def test_it_names_needs_and_source() -> None:
    method = get_method("projection")
    assert method.needs == {"compositions"} and "reconstruction" in method.source
    with pytest.raises(Exception, match="compositions, which are not there"):
        method.scores(method_inputs(["i03"], lambda queries: dict[str, pl.DataFrame]()))
