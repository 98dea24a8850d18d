"""CIReVL: the edited caption is what is searched, and how an answer is read."""

from __future__ import annotations

import numpy as np
import pytest

from setr_lib.methods.cirevl import EDITED_CAPTIONS, EditedCaption
from setr_lib.methods.method import get_method
from setr_lib.texts.answers import AnswerError
from setr_lib.texts.prompts import load_prompts
from tests.methods.worlds import TableEncoder, inputs_with, random_unit

GALLERY = random_unit(12, seed=2)


def test_the_edited_caption_is_searched() -> None:
    edited = ["two dogs", "a red dress", "two dogs"]
    inputs = inputs_with({EDITED_CAPTIONS: [{"edited_caption": text} for text in edited]}, GALLERY)
    method = get_method("cirevl")
    expected = TableEncoder().embed_texts(edited) @ GALLERY.T
    np.testing.assert_allclose(method.scores(inputs), expected, atol=1e-6)
    vectors = method.search_vectors(inputs)
    assert vectors is not None
    np.testing.assert_allclose(vectors, TableEncoder().embed_texts(edited), atol=1e-6)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Edited description: A sign: two dogs, 10:30", "A sign: two dogs, 10:30"),
        ("edited Description :  a  dog\n", "a dog"),
        ('**Edited description:** "A dog on grass."', "A dog on grass."),
        ("A dog on grass.", "A dog on grass."),
        ("Change: more\nEdited description:\nA dog.\nNote: done", "A dog."),
        ("<think>Edited description: wrong</think>\nEdited description: A dog.", "A dog."),
        ("Edited description: first\nEdited description: last", "last"),
    ],
)
def test_answers_are_read_whatever_else_they_say(answer: str, read: str) -> None:
    assert EditedCaption.from_answer(answer).edited_caption == read


@pytest.mark.parametrize("answer", ["", "Edited description:", "A dog.\nOr: a cat.", "<think>so</think>"])
def test_what_is_no_description_is_refused(answer: str) -> None:
    with pytest.raises(AnswerError):
        EditedCaption.from_answer(answer)


def test_the_prompts_show_captions_and_no_picture() -> None:
    prompts, texts = load_prompts("standard"), {"captions": {"caption": "One dog."}}
    row = {"modification": "two and running", "captions": ["two", "running"]}
    for kind, said in ((None, ["two and running"]), ("fashioniq", ["\n- two\n- running\n"])):
        template = EDITED_CAPTIONS.template(prompts, kind)
        assert template is not None
        (text,) = template.render(**EDITED_CAPTIONS.variables(row, texts)).parts
        assert isinstance(text, str) and all(part in text for part in ["Description: One dog.", *said])


def test_derived_from_a_composition_it_keeps_what_the_text_says_nothing_of() -> None:
    assert EDITED_CAPTIONS.derive is not None
    parts = {"keep": ["dog"], "add": ["red"], "remove": ["blue"], "drop": ["lamp"]}
    row = {"modification": "in red"}
    assert EDITED_CAPTIONS.derive(row, {"compositions": parts}) == {"edited_caption": "dog, lamp, red"}
    assert EDITED_CAPTIONS.derive(row, {"compositions": {}}) == {"edited_caption": "in red"}
    prompts = load_prompts("standard"), load_prompts("miniature")
    assert [EDITED_CAPTIONS.made_from(each) for each in prompts] == [("captions",), ("compositions",)]
