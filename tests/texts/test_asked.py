"""What a modification text asks for, word by word, and what leaves it out."""

from __future__ import annotations

from random import Random

import pytest

from setr_lib.miniature.families import AnyPicture, random_picture
from setr_lib.miniature.pictures import Modification, describe_modification
from setr_lib.texts.asked import absent_words, asked_for, left_out, satisfies
from setr_lib.texts.lexical import is_content, words_of


@pytest.mark.parametrize(
    ("text", "wanted", "rejected"),
    [
        ("make the dog black and put it on a beach", ("dog", "black", "beach"), ()),
        ("a cat instead of the dog", ("cat",), ("dog",)),
        ("take away the hat", (), ("hat",)),
        ("is more colorful and has a red belt", ("colorful", "red", "belt"), ()),
        ("change the color", (), ()),
        ("the same, but slightly darker, and now against a wall", ("darker", "wall"), ()),
    ],
)
def test_orders_and_names_of_attributes_are_not_asked_for(text, wanted, rejected):
    asked = asked_for(text)
    assert (asked.wanted, asked.rejected) == (wanted, rejected)


def test_words_are_found_by_their_stems_in_any_text():
    assert absent_words(["dots", "neckline", "longer", "stripes"], ["dotted, v neck", "long striped"]) == []
    assert absent_words(["red", "cat"], ["a reddish dog", "scatter"]) == ["red", "cat"]


def test_a_composition_that_asks_for_something_else_leaves_out_what_was_asked():
    text = "swap the boat for a ball and make the moon plain"
    assert left_out(text, ["a moon", "boat", "a large plain moon above another moon"]) == ["ball"]
    assert left_out(text, ["a ball", "boat", "a large plain moon above a ball"]) == []
    assert left_out("remove the hat", ["a dog on grass"]) == ["hat"], "what is to go must be somewhere, too"
    assert left_out("remove the hat", ["hat", "a dog on grass"]) == []


def test_a_caption_satisfies_a_text_by_what_it_has_and_lacks():
    assert satisfies("a black dog on the beach", "the dog is black")
    assert not satisfies("a white dog on the beach", "the dog is black")
    assert satisfies("a cat on a sofa", "a cat instead of the dog")
    assert not satisfies("a cat beside a dog", "a cat instead of the dog")
    assert satisfies("a dog", "make the dog plain") and not satisfies("a cat", "make the dog plain")
    assert not satisfies("anything", "make it different"), "nothing is asked for, so nothing can be told"


def changes(count: int) -> list[tuple[AnyPicture, AnyPicture, Modification]]:
    """Pairs of the miniature's pictures and texts with what they truly mean."""
    rng, found = Random(1), []
    while len(found) < count:
        reference = random_picture(rng)
        target = reference.near_miss(rng)
        if (modification := describe_modification(reference, target, rng)) is not None:
            found.append((reference, target, modification))
    return found


def test_the_miniatures_true_compositions_leave_nothing_out_and_others_do():
    told = changes(200)
    parts = [[*gold.composition.add, *gold.composition.remove] for _, _, gold in told]
    captions = [gold.composition.target_caption for _, _, gold in told]
    wrong = [
        left_out(gold.text, [*added, caption])
        for (_, _, gold), added, caption in zip(told, parts, captions, strict=True)
    ]
    assert sum(map(bool, wrong)) <= 2
    exchanged = [
        left_out(gold.text, [*added, caption])
        for (_, _, gold), added, caption in zip(told[1:], parts[:-1], captions[:-1], strict=True)
    ]
    assert sum(map(bool, exchanged)) > 100


def test_the_miniatures_targets_satisfy_their_texts_and_references_seldom_do():
    told = changes(200)

    def holds(picture: AnyPicture, gold: Modification) -> bool:
        kept = [word for phrase in gold.composition.keep for word in words_of(phrase) if is_content(word)]
        return satisfies(picture.caption(), gold.text) and not absent_words(kept, [picture.caption()])

    assert sum(holds(target, gold) for _, target, gold in told) > 180
    assert sum(holds(reference, gold) for reference, _, gold in told) < 60
