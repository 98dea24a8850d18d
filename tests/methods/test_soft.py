"""SoFT: the published formula over any base, and what its constraints must be."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from setr_lib.methods.inputs import MethodError, MethodInputs
from setr_lib.methods.method import Method, get_method
from setr_lib.methods.soft import CONSTRAINTS, Constraints, SoftFilter
from setr_lib.texts.answers import AnswerError
from tests.methods.worlds import TableEncoder, inputs_with, random_unit

GALLERY = random_unit(12, seed=2)
SENTENCES = [("a red dress", "a blue dress"), ("two dogs", ""), ("", "a sofa"), ("", "")]


class Counted(Method):
    """Scores that are no cosines: the number of the image, by 10, less that of the query."""

    name, is_cosine = "counted", False

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        rows, columns = np.arange(len(inputs.queries.frame)), np.arange(len(inputs.gallery.vectors))
        step = float(inputs.options.get("step", 10.0))
        assert not {"base", "lambda"} & inputs.options.keys(), "those are the filter's"
        return (step * columns[None, :] - rows[:, None]).astype(np.float32)


def constrained(options: dict[str, Any] | None = None) -> MethodInputs:
    lists = {"keep": [], "add": [], "remove": []}
    rows = [lists | {"prescriptive": wanted, "proscriptive": unwanted} for wanted, unwanted in SENTENCES]
    return inputs_with({CONSTRAINTS: rows}, GALLERY, options)


def reference(base: np.ndarray, share: float) -> np.ndarray:
    """The formula of the paper, one query and image at a time."""
    encoder, expected = TableEncoder(), np.zeros(base.shape)
    for query, (wanted, unwanted) in enumerate(SENTENCES):
        for image, vector in enumerate(GALLERY):
            reward = float(encoder.embed_texts([wanted])[0] @ vector) if wanted else 1.0
            penalty = float(encoder.embed_texts([unwanted])[0] @ vector) if unwanted else 0.0
            score = float(base[query, image])
            expected[query, image] = (1 - share) * score + share * score * (reward + 1 - penalty) / 2
    return expected


@pytest.mark.parametrize("options", [{}, {"lambda": 0.2}, {"lambda": 1}, {"lambda": 0}])
def test_scores_are_the_base_methods_after_the_papers_formula(options: dict[str, Any]) -> None:
    inputs, base = constrained(options), get_method("text")
    scores = SoftFilter("mine", base).scores(inputs)
    cosines = base.scores(inputs)
    np.testing.assert_allclose(scores, reference(cosines, options.get("lambda", 1.0)), atol=1e-6)
    np.testing.assert_allclose(scores[3], cosines[3], atol=1e-6, err_msg="no constraint filters nothing")
    assert scores.dtype == np.float32


def test_a_base_that_is_no_cosine_is_scaled_for_each_query() -> None:
    inputs = constrained({"base": "counted", "lambda": 0.5, "step": 3.0})
    row = np.arange(12) / 11
    scores = SoftFilter("mine", Counted()).scores(inputs)
    np.testing.assert_allclose(scores, reference(np.tile(row, (4, 1)), 0.5), atol=1e-6)
    equal = SoftFilter("mine", Counted()).scores(replace(inputs, options={"step": 0.0}))
    np.testing.assert_allclose(equal, reference(np.ones((4, 12)), 1.0), atol=1e-6)


def test_the_filter_is_what_its_base_is() -> None:
    soft, base = get_method("soft"), get_method("cirevl")
    assert (soft.texts, soft.needs, soft.space) == ((*base.texts, CONSTRAINTS), base.needs, base.space)
    assert get_method("soft_intersection").needs == {"compositions"} and soft.is_cosine
    assert not SoftFilter("mine", Counted()).is_cosine
    found = soft.with_options({"base": "counted"}, lambda name: {"counted": Counted()}[name])
    assert isinstance(found, SoftFilter) and found.base.name == "counted" and found.name == "soft"
    with pytest.raises(MethodError, match="'captions_union' searches captions"):
        SoftFilter("mine", get_method("captions_union"))
    with pytest.raises(MethodError, match=r"lambda = 1\.5: write a number from 0 to 1"):
        soft.scores(constrained({"lambda": 1.5}))


GOOD = {"keep": ["dress"], "add": [], "remove": ["blue"], "prescriptive": "A dress.", "proscriptive": "Blue."}


def test_no_constraint_is_lost_without_a_word() -> None:
    braces = json.dumps(GOOD | {"add": ["a sign that says {open}"]})
    assert Constraints.from_answer(f"```json\n{braces}\n```").add == ("a sign that says {open}",)
    assert Constraints.of(GOOD | {"remove": [], "proscriptive": " "}).proscriptive == ""
    nested = json.dumps({"attributes": {"keep": ["dress"]}, "queries": GOOD})
    for bad, why in (
        (nested, "keys missing"),
        (json.dumps(GOOD | {"proscriptive": ""}), "proscriptive is empty, though something is removed"),
        (json.dumps(GOOD | {"prescriptive": ""}), "prescriptive is empty, though something is kept"),
    ):
        with pytest.raises(AnswerError, match=why):
            Constraints.from_answer(bad)


def test_derived_from_a_composition_the_sentences_are_its_lists() -> None:
    assert CONSTRAINTS.derive is not None
    composition = {"keep": ["dress"], "add": ["red"], "remove": ["blue", "long"], "drop": ["lamp"]}
    derived = CONSTRAINTS.derive({}, {"compositions": composition})
    assert (derived["prescriptive"], derived["proscriptive"]) == ("dress, red", "blue, long")
    assert Constraints.of(derived).remove == ("blue", "long")
