"""The strict parser: what a composition is comes back whole, everything else is refused with a reason,
nothing crashes.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setr_lib.texts.answers import LISTS, AnswerError, Composition

GOOD: dict[str, Any] = {
    "keep": ["dress"],
    "add": ["blue"],
    "remove": [],
    "drop": ["a snowy street"],
    "target_caption": "A blue dress.",
}
phrases = st.lists(st.text(st.characters(codec="utf-8")), max_size=4)


@given(phrases, phrases, phrases, phrases, st.text(st.characters(codec="utf-8")), st.sampled_from([None, 2]))
def test_what_json_writes_comes_back(
    keep: list[str], add: list[str], remove: list[str], drop: list[str], caption: str, indent: int | None
) -> None:
    written = {"keep": keep, "add": add, "remove": remove, "drop": drop, "target_caption": caption}
    text = json.dumps(written, indent=indent)
    if not caption.split():
        with pytest.raises(AnswerError, match="target_caption is empty"):
            Composition.from_answer(text)
        return
    composition = Composition.from_answer(text)
    for key, values in zip(LISTS, (keep, add, remove, drop), strict=True):
        assert list(getattr(composition, key)) == [" ".join(v.split()) for v in values if v.split()]
    assert composition.target_caption == " ".join(caption.split())
    assert Composition.from_answer(f"```json\n{text}\n```") == composition


@given(
    st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps)
)
def test_anything_else_is_refused_not_a_crash(answer: str) -> None:
    with pytest.raises(AnswerError):
        Composition.from_answer(answer)


@pytest.mark.parametrize("key", [*LISTS, "target_caption"])
@pytest.mark.parametrize("value", [None, 3, True, ["a", 1], [["a"]], {"a": "b"}, ["\ud800"]])
def test_types_are_checked(key: str, value: Any) -> None:
    with pytest.raises(AnswerError, match=key):
        Composition.from_answer(json.dumps({**GOOD, key: value}))


def test_a_text_is_no_list() -> None:
    with pytest.raises(AnswerError, match="keep is not a list"):
        Composition.from_answer(json.dumps({**GOOD, "keep": "dress"}))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (json.dumps({**GOOD, "note": "x"}), "unknown"),
        (json.dumps({key: value for key, value in GOOD.items() if key != "drop"}), "missing"),
        (json.dumps(GOOD)[:-1] + ', "keep": []}', "repeated"),
        ("Here it is: " + json.dumps(GOOD), "not one JSON object"),
        (json.dumps(GOOD) + json.dumps(GOOD), "not one JSON object"),
        (json.dumps(GOOD)[:-9], "not one JSON object"),
        (json.dumps({**GOOD, "target_caption": " \n"}), "empty"),
        ("```json\n{}\n```\nor\n```json\n{}\n```", "2 fenced blocks"),
        ("[" * 100_000, "not one JSON object"),
        ("9" * 5000, "not one JSON object"),
    ],
)
def test_reasons(answer: str, reason: str) -> None:
    with pytest.raises(AnswerError, match=reason):
        Composition.from_answer(answer)


def test_a_fenced_block_may_have_prose_around_and_braces_in_texts_are_no_trap() -> None:
    value = {**GOOD, "drop": ["a } in ```braces``` {"]}
    text = f"<think>{{hm}}</think>\nSure:\n```json\n{json.dumps(value, indent=1)}\n```\nDone {{ok}}."
    assert Composition.from_answer(text) == Composition(
        keep=("dress",),
        add=("blue",),
        remove=(),
        drop=("a } in ```braces``` {",),
        target_caption="A blue dress.",
    )
