"""CoTMR: caption, objects that must be there and objects that must not, in one score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from setr_lib.methods.cotmr import CAPTIONS_OF_TARGETS, OBJECTS
from setr_lib.methods.inputs import MethodInputs
from setr_lib.methods.method import get_method
from setr_lib.methods.similarity import unit
from tests.methods.worlds import TableEncoder, inputs_with, random_unit

GALLERY = random_unit(12, seed=2)
TARGETS = ["two dogs on grass", "a red dress", "a cat"]
WANTED = [["two dogs", "grass", "sky"], ["dress"], []]
UNWANTED = [["sofa"], [], []]


def reasoned(options: dict[str, Any] | None = None) -> MethodInputs:
    captions = [{"reference": "", "changes": [], "target_caption": text} for text in TARGETS]
    objects = [
        {"reasoning": "", "must_exist": wanted, "must_not_exist": unwanted}
        for wanted, unwanted in zip(WANTED, UNWANTED, strict=True)
    ]
    return inputs_with({CAPTIONS_OF_TARGETS: captions, OBJECTS: objects}, GALLERY, options)


@pytest.mark.parametrize(("options", "reward", "penalty"), [({}, 0.5, 0.5), ({"penalty": 2}, 0.5, 2.0)])
def test_images_are_scored_by_caption_and_objects(
    options: dict[str, Any], reward: float, penalty: float
) -> None:
    encoder, expected = TableEncoder(), np.zeros((3, 12))
    norms = []
    for row, (target, wanted, unwanted) in enumerate(zip(TARGETS, WANTED, UNWANTED, strict=True)):
        vector = encoder.embed_texts([target])[0].astype(np.float64)
        expected[row] = GALLERY @ vector
        for phrases, weight in ((wanted, reward), (unwanted, -penalty)):
            for phrase in phrases:
                share = weight / len(phrases)
                expected[row] += share * (GALLERY @ encoder.embed_texts([phrase])[0])
                vector += share * encoder.embed_texts([phrase])[0]
        norms.append(np.linalg.norm(vector))
    inputs, method = reasoned(options), get_method("cotmr")
    scores = method.scores(inputs)
    np.testing.assert_allclose(scores, expected / np.array(norms)[:, None], atol=1e-6)
    vectors = method.search_vectors(inputs)
    assert vectors is not None
    np.testing.assert_allclose(unit(vectors) @ GALLERY.T, scores, atol=1e-6)
    np.testing.assert_allclose(scores[2], GALLERY @ encoder.embed_texts(["a cat"])[0], atol=1e-6)


def test_a_block_of_queries_scores_as_the_whole_set() -> None:
    inputs, method = reasoned(), get_method("cotmr")
    whole = method.scores(inputs)
    block = MethodInputs(inputs.queries.rows(np.array([2, 0])), inputs.gallery)
    np.testing.assert_array_equal(method.scores(block), whole[[2, 0]])


def test_derived_from_a_composition_objects_are_its_lists() -> None:
    assert OBJECTS.derive is not None and CAPTIONS_OF_TARGETS.derive is not None
    parts = {"keep": ["dog"], "add": ["red"], "remove": ["blue"], "drop": ["x"], "target_caption": "A dog."}
    texts, row = {"compositions": parts}, {"modification": "in red"}
    assert OBJECTS.derive(row, texts) == {"must_exist": ["dog", "red"], "must_not_exist": ["blue"]}
    assert CAPTIONS_OF_TARGETS.derive(row, texts) == {"target_caption": "A dog."}
    assert CAPTIONS_OF_TARGETS.derive(row, {"compositions": {}}) == {"target_caption": "in red"}
