"""Reading by words alone: what a text refuses, and what captions say of a subject and of its surroundings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setr_lib.texts.lexical import is_content, read_captions, read_modification, words_of


@pytest.mark.parametrize(
    ("text", "rejected"),
    [
        ("Make it red and add a cat.", ""),
        ("A cat on a sofa instead of a dog.", "instead of a dog"),
        ("Unlike the dog, show a cat.", "unlike the dog"),
        ("a smaller cat rather than a dog, on grass", "rather than a dog"),
        ("remove the man and the chair and add snow", "the man and the chair"),
        ("remove the fork from the plate", "the fork"),
        ("remove one dog and have it lie down", ""),
        ("a beach without people", "people"),
        ("no people, only boats", "people"),
        ("the dog isn't looking at the camera", "looking at the"),
        ("a woman in a t-shirt", ""),
        ("the collar is missing and the cat sleeps", "the collar is"),
        ("change the sofa to a bed", "the sofa"),
        ("change the sofa to white", ""),
        ("change the color of the dog to black", ""),
        ("turn the pelican into a duck", "the pelican"),
        ("replace the walls with a fence", "the walls"),
        ("change the angle, add a cat to the sofa", ""),
        ("change to a closer view", ""),
        ("all but one of them", ""),
        ("not", ""),
        ("", ""),
    ],
)
def test_what_a_text_rejects(text: str, rejected: str) -> None:
    read = read_modification(text)
    assert " ".join(read.rejected) == rejected
    assert len(read.wanted) + len(read.rejected) == len(read.words)


@given(st.text(alphabet=st.sampled_from("remove instead of no not and dog,cat.;'n't t \u2019"), max_size=60))
def test_any_text_is_read_and_no_word_is_lost(text: str) -> None:
    read = read_modification(text)
    assert len(read.wanted) + len(read.rejected) == len(read.words)
    if "n't" not in text and "n\u2019t" not in text:
        assert list(read.words) == words_of(text)


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("Two dogs' T-shirts, café: 50ml_x!") == [
        "two", "dogs", "t", "shirts", "café", "50ml", "x",
    ]  # fmt: skip


def test_function_and_framing_words_name_nothing() -> None:
    assert [word for word in words_of("The image shows a dog in the snow") if is_content(word)] == [
        "dog",
        "snow",
    ]


def test_captions_tell_the_subject_from_the_surroundings() -> None:
    captions = ["A white dog stands on grass.", "Two white dogs on a lawn", "The dog is wearing a white hat"]
    mentions = read_captions(captions, lambda word: word.removesuffix("s"))
    assert mentions["dog"].word == "dog"
    assert (mentions["dog"].share, mentions["dog"].foreground) == (1.0, 1.0)
    assert mentions["white"].share == 1.0
    assert mentions["white"].foreground == pytest.approx(2 / 3)
    assert (mentions["grass".removesuffix("s")].share, mentions["lawn"].foreground) == (
        pytest.approx(1 / 3),
        0.0,
    )


def test_a_word_without_a_term_is_passed_over() -> None:
    assert read_captions(["a dog"], lambda word: None) == {}
    assert read_captions([]) == {}
