"""Scenes and garments: what a modification text says is what turns the reference into the target."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setr_lib.miniature.families import make_family, random_picture
from setr_lib.miniature.garments import Garment
from setr_lib.miniature.pictures import (
    BACKGROUNDS,
    Edit,
    Picture,
    describe_modification,
    pick_background,
    satisfies,
)
from setr_lib.miniature.scenes import Scene, Thing

seeds = st.integers(0, 2**32)


@given(seeds)
def test_a_near_miss_differs_in_the_foreground_and_keeps_its_kind(seed: int) -> None:
    rng = Random(seed)
    picture = random_picture(rng)
    miss = picture.near_miss(rng)
    assert type(miss) is type(picture)
    assert miss.foreground != picture.foreground


def edits(before: Picture, after: Picture) -> list[Edit]:
    return before.edits_towards(after) or []


LOOKS = {"colour", "size", "pattern", "count", "sleeves", "length"}


@given(seeds)
def test_a_look_alike_is_one_edit_away_and_the_edit_is_about_looks(seed: int) -> None:
    rng = Random(seed)
    picture = random_picture(rng)
    (edit,) = edits(picture.look_alike(rng), picture)
    assert edit.kind in LOOKS


@given(seeds)
def test_the_target_satisfies_its_query_and_the_reference_does_not(seed: int) -> None:
    rng = Random(seed)
    reference = random_picture(rng)
    target = reference.near_miss(rng).on(pick_background(rng))
    modification = describe_modification(reference, target, rng)
    if modification is not None:
        assert satisfies(target, target, modification)
        assert satisfies(target.on(pick_background(rng)), target, modification), (
            "the text leaves the background open"
        )
        assert not satisfies(reference, target, modification)


@given(seeds)
def test_a_composition_never_lets_the_background_into_the_target_caption(seed: int) -> None:
    rng = Random(seed)
    reference, target = make_family(rng, 2)
    modification = describe_modification(reference, target, rng)
    if modification is not None:
        composition = modification.composition
        assert composition.drop == (BACKGROUNDS[reference.background],)
        assert not any(place in composition.target_caption for place in BACKGROUNDS.values())


@given(seeds)
def test_a_named_background_is_part_of_what_is_asked(seed: int) -> None:
    rng = Random(seed)
    reference = random_picture(rng)
    target = reference.on(pick_background(rng, other_than=reference.background))
    modification = describe_modification(reference, target, rng, mention_background=True)
    assert modification is not None
    assert modification.kinds == ("background",)
    assert not satisfies(reference, target, modification)
    assert composition_names(modification.composition.target_caption, target.background)


def composition_names(caption: str, background: str) -> bool:
    return caption.endswith(BACKGROUNDS[background])


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (Thing("star", "blue", "large", "plain"), "colour"),
        (Thing("star", "red", "small", "plain"), "size"),
        (Thing("star", "red", "large", "dotted"), "pattern"),
        (Thing("moon", "red", "large", "plain"), "shape"),
        (Thing("star", "red", "large", "plain", count=3), "count"),
    ],
)
def test_one_changed_attribute_gives_one_edit_of_its_kind(target: Thing, kind: str) -> None:
    reference = Scene((Thing("star", "red", "large", "plain"),), "beside", "beach")
    modification = describe_modification(reference, Scene((target,), "beside", "snow"), Random(0))
    assert modification is not None
    assert modification.kinds == (kind,)
    assert modification.composition.target_caption == target.phrase()


def test_things_trade_places_or_come_and_go() -> None:
    star, moon = Thing("star", "red", "large", "plain"), Thing("moon", "blue", "small", "striped")
    both = Scene((star, moon), "beside", "beach")

    def kinds(reference: Scene, target: Scene) -> tuple[str, ...] | None:
        modification = describe_modification(reference, target, Random(0))
        return None if modification is None else modification.kinds

    assert kinds(both, Scene((moon, star), "beside", "beach")) == ("swap",)
    assert kinds(both, Scene((star, moon), "above", "beach")) == ("relation",)
    assert kinds(both, Scene((moon,), "beside", "beach")) == ("removal",)
    assert kinds(Scene((moon,), "beside", "beach"), both) == ("addition",)
    assert kinds(both, both) is None


def test_garments_of_two_categories_have_no_text_between_them() -> None:
    dress = Garment("dress", "red", "plain", "no", "v", "long", "beach")
    assert dress.edits_towards(Garment("shirt", "red", "plain", "no", "v", "long", "beach")) is None
    assert dress.caption() == "a long red dress with no sleeves and a v neck on the beach"
