"""Role scoring on one vector: the weighted roles against a plain computation, and which of them count."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from setr_lib.methods.inputs import MethodError, MethodInputs
from setr_lib.methods.method import get_method
from setr_lib.methods.role import ROLES, WEIGHTS
from setr_lib.texts.prompts import load_prompts
from tests.methods.worlds import GALLERY, embedded, method_inputs, texts_of, vectors_of_references

FIELDS: list[dict[str, Any]] = [
    {
        "overall": "a red dog",
        "desired": ["red", "running"],
        "preserve": ["dog", "grass"],
        "forbidden": ["a hat", "sofa", "lamp"],
    },
    {"overall": "a cat", "desired": [], "preserve": ["cat"], "forbidden": []},
    {"overall": "a fish", "desired": ["fish"], "preserve": [], "forbidden": ["sea"]},
    {"overall": "a bird", "desired": [], "preserve": [], "forbidden": []},
    {"overall": "a cow", "desired": ["brown"], "preserve": ["cow"], "forbidden": ["grass"]},
]
REFERENCES = ["i03", "i07", "i11", "i13", "absent"]


def of(options: dict[str, Any] | None = None, fields: list[dict[str, Any]] = FIELDS) -> MethodInputs:
    def texts(queries: pl.DataFrame) -> dict[str, pl.DataFrame]:
        return {ROLES.name: texts_of(ROLES, queries, fields)}

    return method_inputs(REFERENCES, texts, options)


def expected(inputs: MethodInputs, weights: dict[str, float]) -> np.ndarray:
    """Query by query, role by role."""
    rows = []
    for row, reference in zip(FIELDS, vectors_of_references(inputs), strict=True):
        total, score = weights["overall"], weights["overall"] * (embedded([row["overall"]]) @ GALLERY.T)[0]
        for role, sign in (("desired", 1), ("preserve", 1), ("forbidden", -1)):
            if not row[role]:
                continue
            of_role = (embedded(row[role]) @ GALLERY.T).mean(axis=0)
            if role == "preserve" and reference.any():
                of_role = (of_role + GALLERY @ reference) / 2
            score, total = score + sign * weights[role] * of_role, total + weights[role]
        if total == 0:  # a query without roles, where the whole has no weight
            score, total = (embedded([row["overall"]]) @ GALLERY.T)[0], 1.0
        rows.append(score / total)
    return np.array(rows)


@pytest.mark.parametrize(
    "options", [{}, {"forbidden": 0.7, "overall": 1.3}, {"preserve": 0, "desired": 2}, {"overall": 0}]
)
def test_the_score_is_the_weighted_sum_of_the_active_roles(options: dict[str, float]) -> None:
    inputs = of(options)
    weights = {"overall": 0.4, "desired": 0.2, "preserve": 0.2, "forbidden": 0.2, **options}
    found = get_method("role").scores(inputs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(inputs, weights), atol=1e-6)


def test_scaling_all_weights_changes_nothing() -> None:
    larger = get_method("role").scores(of({role: 3 * weight for role, weight in WEIGHTS.items()}))
    np.testing.assert_allclose(larger, get_method("role").scores(of()), atol=1e-6)


def test_a_forbidden_phrase_lowers_the_images_that_show_it() -> None:
    shown = int(np.argmax(embedded(["sea"]) @ GALLERY.T))
    allowed = [{**row, "forbidden": []} for row in FIELDS]
    found, free = get_method("role").scores(of()), get_method("role").scores(of(fields=allowed))
    assert (found[2] > found[2, shown]).sum() > (free[2] > free[2, shown]).sum()


def test_weights_that_mean_nothing_are_refused() -> None:
    role = get_method("role")
    with pytest.raises(MethodError, match=r"desired = -0\.1: write a number, at least 0"):
        role.scores(of({"desired": -0.1}))
    with pytest.raises(MethodError, match=r"\[methods\.role\]: overall, desired, .* are all 0"):
        role.with_options(dict.fromkeys(WEIGHTS, 0), get_method)
    assert role.with_options({"overall": 0}, get_method) is role


def test_roles_are_derived_from_a_composition() -> None:
    derive = ROLES.derive
    assert derive is not None
    row = {"modification": "make it red"}
    composed = {"keep": ["dog"], "add": ["red"], "remove": ["blue"], "target_caption": "A red dog."}
    assert derive(row, {"compositions": composed}) == {
        "overall": "A red dog.",
        "desired": ["red"],
        "preserve": ["dog"],
        "forbidden": ["blue"],
    }
    assert derive(row, {"compositions": {"target_caption": ""}})["overall"] == "make it red"


def test_the_prompt_is_in_the_standard_set_and_its_example_is_a_good_answer() -> None:
    prompt = load_prompts("standard").get(ROLES.task)
    example = next(line for line in prompt.source.splitlines() if line.startswith("{"))
    assert ROLES.answer.from_answer(example).model_dump()["forbidden"] == ("leash", "sofa")
    assert not load_prompts("miniature").has(ROLES.task), "there they are derived"


def test_it_names_its_source() -> None:
    method = get_method("role")
    assert "2608.25305" in method.source and "weights and prompt of ours" in method.source
