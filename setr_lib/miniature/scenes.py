"""CIRR- and CIRCO-like scenes: one group of equal things, or two different things side by side or one above
the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from setr_lib.miniature.pictures import BACKGROUNDS, COLOURS, PATTERNS, Edit, pick_background

SHAPES = ("ball", "star", "heart", "moon", "flower", "kite", "house", "boat")
SIZES = ("small", "large")
RELATIONS = {"beside": "to the left of", "above": "above"}
_NUMBERS = {1: "a", 2: "two", 3: "three"}
_PATTERN_NOUN = {"striped": "stripes", "dotted": "dots"}


@dataclass(frozen=True)
class Thing:
    """One kind of thing in a scene; ``count`` is above 1 only where it is alone in the scene."""

    shape: str
    colour: str
    size: str
    pattern: str
    count: int = 1

    @property
    def noun(self) -> str:
        """The shape's name, in the plural for more than one."""
        return self.shape if self.count == 1 else self.shape + "s"

    def phrase(self, *, without: frozenset[str] = frozenset()) -> str:
        """The thing in words, e.g. "a small red striped star".

        Args:
            without: Names of attributes that are left out.

        Returns:
            The phrase.
        """
        words = [_NUMBERS[self.count]] if "count" not in without else []
        words += [
            getattr(self, name)
            for name in ("size", "colour", "pattern")
            if name not in without and getattr(self, name) != "plain"
        ]
        words.append(self.noun if "count" not in without else self.shape)
        if words[0] == "a" and len(words) > 1 and words[1][0] in "aeiou":
            words[0] = "an"
        return " ".join(words)

    def differing(self, other: Thing) -> list[str]:
        """The attributes in which two things differ.

        Args:
            other: The other thing.

        Returns:
            Names of attributes.
        """
        return [
            n
            for n in ("shape", "colour", "size", "pattern", "count")
            if getattr(self, n) != getattr(other, n)
        ]


@dataclass(frozen=True)
class Scene:
    """``things`` holds one or two things (two: the left or upper one first, of different shapes)."""

    things: tuple[Thing, ...]
    relation: str
    background: str

    @property
    def foreground(self) -> object:
        """Its things and their relation."""
        return self.things, self.relation

    def caption(self, with_background: bool = True) -> str:
        """See :meth:`Picture.caption`."""
        sentence = f" {RELATIONS[self.relation]} ".join(thing.phrase() for thing in self.things)
        return f"{sentence} {BACKGROUNDS[self.background]}" if with_background else sentence

    def on(self, background: str) -> Scene:
        """See :meth:`Picture.on`."""
        return replace(self, background=background)

    def near_miss(self, rng: Random) -> Scene:
        """A scene that differs in one respect (a thing's attribute, their order, their number); see
        :meth:`Picture.near_miss`.
        """
        while True:
            changed = rng.choice(_CHANGES)(self, rng)
            if changed is not None and changed.foreground != self.foreground:
                return changed

    def look_alike(self, rng: Random) -> Scene:
        """A near miss in one thing's colour, size, pattern or number: the same things in the same
        arrangement.

        Args:
            rng: Decides what changes.

        Returns:
            The other scene.
        """
        return _change_one_of(self, rng, _LOOKS if len(self.things) == 2 else (*_LOOKS, _NUMBER))

    def edits_towards(self, other: Scene) -> list[Edit] | None:
        """See :meth:`Picture.edits_towards`."""
        mine, theirs = self.things, other.things
        if len(mine) == len(theirs) == 1:
            return _attribute_edits(mine[0], theirs[0])
        if len(mine) == len(theirs) == 2:
            return _edits_between_two(self, other)
        if len(mine) == 1:
            return _addition(mine[0], other)
        return _removal(self, theirs[0])

    def kept_phrases(self, other: Scene) -> tuple[str, ...]:
        """A changed thing keeps its noun and its unchanged attributes; see :meth:`Picture.kept_phrases`."""
        kept: list[str] = []
        for thing in self.things:
            twin = _twin(thing, self, other)
            if twin is not None and twin.shape == thing.shape:
                kept.append(thing.phrase(without=frozenset(thing.differing(twin))))
        return tuple(kept)


def random_thing(rng: Random, shape_not: str | None = None) -> Thing:
    """A thing of random attributes.

    Args:
        rng: Decides them.
        shape_not: A shape that is not wanted.

    Returns:
        The thing.
    """
    shape = rng.choice([shape for shape in SHAPES if shape != shape_not])
    return Thing(shape, rng.choice(COLOURS), rng.choice(SIZES), rng.choice(PATTERNS))


def random_scene(rng: Random, objects: float = 1.6) -> Scene:
    """Two different things, or a group of one to three equal things, on a random background.

    Args:
        rng: Decides them.
        objects: Different things on average, from 1 to 2.

    Returns:
        The scene.
    """
    background = pick_background(rng)
    if rng.random() < objects - 1:
        first = random_thing(rng)
        return Scene((first, random_thing(rng, first.shape)), rng.choice(list(RELATIONS)), background)
    return Scene((replace(random_thing(rng), count=rng.choice((1, 1, 2, 3))),), "beside", background)


def _twin(thing: Thing, scene: Scene, other: Scene) -> Thing | None:
    by_shape = {candidate.shape: candidate for candidate in other.things}
    return by_shape.get(thing.shape)


def _attribute_edits(before: Thing, after: Thing, noun: str | None = None) -> list[Edit] | None:
    """One edit per attribute that differs; the noun is the reference's own, which the text presupposes."""
    names = before.differing(after)
    if "shape" in names and len(names) > 1:
        return None
    noun = noun or before.noun
    is_, has, they = ("is", "has", "it") if before.count == 1 else ("are", "have", "them")
    edits: list[Edit] = []
    for name in names:
        old, new = getattr(before, name), getattr(after, name)
        if name == "shape":
            instead = after.phrase(without=frozenset({"size", "colour", "pattern"}))
            wording = (
                f"replace the {noun} with {instead}",
                f"{instead} instead of the {noun}",
                f"swap the {noun} for {instead}",
                f"change the {noun} to {instead}",
            )
            edits.append(Edit("shape", wording, (instead,), (noun,)))
        elif name == "colour":
            wording = (
                f"make the {noun} {new}",
                f"the {noun} {is_} {new} instead of {old}",
                f"change the {noun} to {new}",
                f"turn the {noun} {new}",
                f"paint the {noun} {new}",
            )
            edits.append(Edit("colour", wording, (new,), (old,)))
        elif name == "size":
            comparative = "larger" if new == "large" else "smaller"
            wording = (
                f"make the {noun} {comparative}",
                f"the {noun} {is_} {comparative}",
                f"make the {noun} {new}",
                f"the {noun} should be {new}",
            )
            edits.append(Edit("size", wording, (new,), (old,)))
        elif name == "pattern" and new == "plain":
            marks = _PATTERN_NOUN[old]
            wording = (
                f"make the {noun} plain",
                f"the {noun} {has} no {marks}",
                f"remove the {marks} from the {noun}",
            )
            edits.append(Edit("pattern", wording, ("plain",), (old,)))
        elif name == "pattern":
            marks = _PATTERN_NOUN[new]
            wording = (f"make the {noun} {new}", f"the {noun} {has} {marks}", f"add {marks} to the {noun}")
            edits.append(Edit("pattern", wording, (new,), () if old == "plain" else (old,)))
        else:
            number, shape = {1: "one", 2: "two", 3: "three"}[after.count], after.noun
            wording = (
                f"show {number} {shape}",
                f"make it {number} {shape}",
                f"{number} {shape} instead of {({1: 'one', 2: 'two', 3: 'three'})[before.count]}",
                f"there should be {number} of {they}",
            )
            edits.append(Edit("count", wording, (number,), ({1: "one", 2: "two", 3: "three"}[before.count],)))
    return edits


def _edits_between_two(before: Scene, after: Scene) -> list[Edit] | None:
    first, second = before.things
    if before.things == after.things:
        if before.relation == after.relation:
            return []
        where = "above" if after.relation == "above" else "to the left of"
        wording = (
            f"put the {first.shape} {where} the {second.shape}",
            f"the {first.shape} is {where} the {second.shape}",
            f"move the {first.shape} {where} the {second.shape}",
        )
        return [Edit("relation", wording, (where,), (RELATIONS[before.relation],))]
    if before.relation != after.relation:
        return None
    if (second, first) == after.things:
        wording = (
            f"swap the {first.shape} and the {second.shape}",
            f"the {first.shape} and the {second.shape} trade places",
            f"switch the {second.shape} and the {first.shape}",
        )
        return [Edit("swap", wording)]
    edits: list[Edit] = []
    for mine, theirs in zip(before.things, after.things, strict=True):
        own = _attribute_edits(mine, theirs)
        if own is None:
            return None
        edits += own
    # A text names a thing by its shape, so a replaced shape must not be taken for the other thing.
    return edits


def _addition(thing: Thing, after: Scene) -> list[Edit] | None:
    if thing.count > 1 or thing not in after.things:
        return None
    new = after.things[0] if after.things[1] == thing else after.things[1]
    place = {
        ("beside", True): ("on the left", "to its left"),
        ("beside", False): ("on the right", "to its right"),
        ("above", True): ("above it", "over it"),
        ("above", False): ("below it", "under it"),
    }[after.relation, after.things[0] == new]
    phrase = new.phrase()
    wording = (f"add {phrase} {place[0]}", f"with {phrase} {place[1]}", f"put {phrase} {place[1]}")
    return [Edit("addition", wording, (phrase,))]


def _removal(before: Scene, left: Thing) -> list[Edit] | None:
    if left.count > 1 or left not in before.things:
        return None
    gone = before.things[0] if before.things[1] == left else before.things[1]
    wording = (
        f"remove the {gone.shape}",
        f"without the {gone.shape}",
        f"take away the {gone.shape}",
        f"no {gone.shape}",
        f"only the {left.shape}",
    )
    return [Edit("removal", wording, (), (gone.phrase(),))]


_Attribute = tuple[str, Sequence[str | int]]
_LOOKS: tuple[_Attribute, ...] = (("colour", COLOURS), ("size", SIZES), ("pattern", PATTERNS))
_NUMBER: _Attribute = ("count", tuple(_NUMBERS))


def _change_attribute(scene: Scene, rng: Random) -> Scene:
    return _change_one_of(scene, rng, (*_LOOKS, ("shape", SHAPES)))


def _change_one_of(scene: Scene, rng: Random, attributes: Sequence[_Attribute]) -> Scene:
    place = rng.randrange(len(scene.things))
    thing = scene.things[place]
    name, choices = rng.choice(attributes)
    taken = {other.shape for other in scene.things} if name == "shape" else {getattr(thing, name)}
    value = rng.choice([choice for choice in choices if choice not in taken])
    changed = replace(thing, **{name: value})
    things = tuple(changed if index == place else other for index, other in enumerate(scene.things))
    return replace(scene, things=things)


def _change_order(scene: Scene, rng: Random) -> Scene | None:
    if len(scene.things) == 1:
        return None
    if rng.random() < 0.5:
        return replace(scene, things=scene.things[::-1])
    return replace(scene, relation="above" if scene.relation == "beside" else "beside")


def _change_number(scene: Scene, rng: Random) -> Scene | None:
    if len(scene.things) == 2:
        return replace(scene, things=(rng.choice(scene.things),), relation="beside")
    (thing,) = scene.things
    if thing.count == 1 and rng.random() < 0.6:
        things = (thing, random_thing(rng, thing.shape))
        return replace(
            scene, things=things if rng.random() < 0.5 else things[::-1], relation=rng.choice(list(RELATIONS))
        )
    return replace(
        scene, things=(replace(thing, count=rng.choice([n for n in (1, 2, 3) if n != thing.count])),)
    )


_CHANGES = (_change_attribute, _change_attribute, _change_attribute, _change_order, _change_number)
