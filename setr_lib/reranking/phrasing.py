"""Edits in words: several phrasings of each kind of edit, as people write modification texts.

Two manners: a scene's things are named ("make the cube red"), a single garment or object is spoken of without
a subject ("is red", "has long sleeves"). The word lists are general English and only add phrasings; an edit
whose words they do not know is still put into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from setr_lib.reranking.captions import (
    NUMBER_WORDS,
    NUMBERS,
    Tokens,
    plural,
    singular,
    with_article,
    without_determiner,
)
from setr_lib.reranking.differences import Edit

COLOURS = {
    "red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "white", "black", "grey",
    "gray", "brown", "beige", "tan", "cream", "navy", "teal", "turquoise", "maroon", "gold", "golden",
    "silver", "khaki", "olive", "magenta", "cyan",
}  # fmt: skip
_COMPARATIVES = {
    "short": "shorter", "long": "longer", "small": "smaller", "large": "larger", "big": "bigger",
    "tiny": "smaller", "light": "lighter", "dark": "darker", "narrow": "narrower", "wide": "wider",
    "thin": "thinner", "thick": "thicker", "low": "lower", "high": "higher", "tight": "tighter",
    "loose": "looser", "young": "younger", "old": "older", "bright": "brighter", "tall": "taller",
}  # fmt: skip
_SCALES = (
    "short long", "small large", "small big", "tiny small", "tiny large", "light dark", "dark bright",
    "narrow wide", "thin thick", "low high", "tight loose", "young old", "short tall",
)  # fmt: skip
_OPPOSITES = {(a, b) for scale in _SCALES for a, b in (scale.split(), scale.split()[::-1])}
_PATTERNS = {
    "striped": "stripes", "dotted": "dots", "spotted": "spots", "checked": "checks", "flowered": "flowers",
    "floral": "flowers", "speckled": "speckles", "patterned": "a pattern", "graphic": "a graphic",
}  # fmt: skip
_PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "to the left of": (("on the left", "to its left"), ("on the right", "to its right")),
    "to the right of": (("on the right", "to its right"), ("on the left", "to its left")),
    "above": (("above it", "over it"), ("below it", "under it")),
    "over": (("above it", "over it"), ("below it", "under it")),
    "below": (("below it", "under it"), ("above it", "over it")),
    "under": (("below it", "under it"), ("above it", "over it")),
    "behind": (("behind it",), ("in front of it",)),
    "in front of": (("in front of it",), ("behind it",)),
    "beside": (("beside it", "next to it"), ("beside it", "next to it")),
    "next to": (("beside it", "next to it"), ("beside it", "next to it")),
    "near": (("near it",), ("near it",)),
    "and": (("",), ("",)),
}
"""Where a thing is said to be added: by the link, when it comes before the link and when after it."""
_NAMED_SHARE = {True: 0.15, False: 0.75}
"""How often a lone subject is named all the same: where the caption lists its parts (a garment), and
otherwise."""


def phrase_edits(edits: Sequence[Edit], rng: Random, has_parts: bool = False) -> str:
    """A modification text for edits, drawn from their phrasings; parts are joined by "and".

    Args:
        edits: The edits.
        rng: Draws the phrasings.
        has_parts: Whether the captions speak of parts (a garment's sleeves), whose texts have no subject more
            often.

    Returns:
        The text.
    """
    named = rng.random() < _NAMED_SHARE[has_parts]
    return " and ".join(rng.choice(phrasings(edit, named)) for edit in edits)


def phrasings(edit: Edit, named: bool = True) -> list[str]:
    """All phrasings of an edit.

    Args:
        edit: The edit.
        named: Say "the NOUN" even where the edit's thing stands alone.

    Returns:
        The texts.
    """
    if edit.kind == "attribute":
        if edit.is_part:
            return _part(edit)
        return _attribute(edit) if named or not edit.is_alone else _attribute_without_subject(edit)
    return {
        "noun": _noun,
        "count": _count,
        "addition": _addition,
        "removal": _removal,
        "relation": _relation,
        "swap": _swap,
        "context": _context,
        "phrase": _phrase,
    }[edit.kind](edit)


def _attribute(edit: Edit) -> list[str]:
    noun, old, new = edit.noun, " ".join(edit.old), " ".join(edit.new)
    is_, has = ("are", "have") if plural(noun) == noun else ("is", "has")
    if not new:
        if old in _PATTERNS:
            marks = _PATTERNS[old]
            return [
                f"make the {noun} plain",
                f"the {noun} {has} no {marks}",
                f"remove the {marks} from the {noun}",
            ]
        return [
            f"the {noun} {is_} not {old}",
            f"the {noun} {is_} no longer {old}",
            f"make the {noun} less {old}",
        ]
    texts = [f"make the {noun} {new}", f"the {noun} {is_} {new}", f"the {noun} should be {new}"]
    if comparative := _comparative(edit):
        texts += [f"make the {noun} {comparative}", f"the {noun} {is_} {comparative}"]
    elif new in _PATTERNS:
        texts += [f"the {noun} {has} {_PATTERNS[new]}", f"add {_PATTERNS[new]} to the {noun}"]
    elif old:
        texts += [f"the {noun} {is_} {new} instead of {old}", f"change the {noun} to {new}"]
    if new in COLOURS:
        texts += [f"turn the {noun} {new}", f"paint the {noun} {new}"]
    return texts


def _attribute_without_subject(edit: Edit) -> list[str]:
    old, new = " ".join(edit.old), " ".join(edit.new)
    if not new:
        if old in _PATTERNS:
            return ["is plain", "has no pattern", f"has no {_PATTERNS[old]}"]
        return [f"is not {old}", f"is less {old}", f"is no longer {old}"]
    texts = [f"is {new}"]
    if comparative := _comparative(edit):
        return [*texts, f"is {comparative}", f"has a {comparative} cut"]
    if new in _PATTERNS:
        texts.append(f"has {_PATTERNS[new]}")
    if new in COLOURS:
        texts += [f"is more {new}", f"has {with_article((new, 'color'))}"]
    if old:
        texts += [f"is {new} instead of {old}"]
    return texts


def _part(edit: Edit) -> list[str]:
    """A part's attribute: the whole part is named as it shall be ("has long sleeves")."""
    noun, whole = edit.noun, " ".join(edit.link)
    if edit.new == ("no",):
        return [f"has no {noun}", f"without {noun}", f"is {singular(noun)}less"]
    texts = [f"has {whole}", f"with {whole}"]
    if comparative := _comparative(edit):
        longer = (comparative, noun)
        texts.append(f"has {with_article(longer)}")
    elif edit.old and edit.new and edit.old != ("no",):
        texts.append(f"has {whole} instead of {with_article((*edit.old, noun))}")
    return texts


def _noun(edit: Edit) -> list[str]:
    noun, new = edit.noun, with_article(edit.new)
    return [
        f"replace the {noun} with {new}",
        f"{new} instead of the {noun}",
        f"swap the {noun} for {new}",
        f"change the {noun} to {new}",
    ]


def _count(edit: Edit) -> list[str]:
    new, old = (NUMBER_WORDS[NUMBERS[words[0]]] for words in (edit.new, edit.old))
    noun, of_them = edit.noun, "" if NUMBERS[edit.old[0]] == 1 else " of them"
    return [
        f"show {new} {noun}",
        f"make it {new} {noun}",
        f"{new} {noun} instead of {old}",
        f"there should be {new}{of_them or f' {noun}'}",
    ]


def _addition(edit: Edit) -> list[str]:
    thing, link = " ".join(edit.new), " ".join(edit.link)
    if edit.is_part:
        return [f"has {thing}", f"with {thing}", f"add {thing}"]
    if link in _PLACES:
        places = _PLACES[link][0 if edit.new_comes_first else 1]
    else:
        places = (f"{link} the {edit.other}",) if edit.new_comes_first and edit.other else ("",)
    verbs = ("add", "with", "put") if places != ("",) else ("add", "with", "there is also")
    return [f"{verb} {thing} {place}".rstrip() for verb in verbs for place in places]


def _removal(edit: Edit) -> list[str]:
    noun = edit.noun
    texts = [f"remove the {noun}", f"without the {noun}", f"take away the {noun}", f"no {noun}"]
    return [*texts, f"only the {edit.other}"] if edit.other and not edit.is_part else texts


def _relation(edit: Edit) -> list[str]:
    where = " ".join(edit.new)
    return [
        f"{verb} the {edit.other}"
        for verb in (f"put the {edit.noun} {where}", f"move the {edit.noun} {where}")
    ] + [f"the {edit.noun} is {where} the {edit.other}"]


def _swap(edit: Edit) -> list[str]:
    return [
        f"swap the {edit.noun} and the {edit.other}",
        f"the {edit.noun} and the {edit.other} trade places",
        f"switch the {edit.other} and the {edit.noun}",
    ]


def _context(edit: Edit) -> list[str]:
    place = " ".join(edit.new)
    return [f"put it {place}", f"the same {place}", f"make it {place}", f"move it {place}"]


def _phrase(edit: Edit) -> list[str]:
    old, new = _with_the(edit.old), " ".join(edit.new)
    if not edit.old:
        return [f"add {new}", f"with {new}", f"there is also {new}"]
    if not edit.new:
        return [f"remove {old}", f"without {old}"]
    return [f"change {old} to {new}", f"{new} instead of {old}", f"replace {old} with {new}"]


def _with_the(words: Tokens) -> str:
    """A phrase that the reader can see: "a red hat" is "the red hat"."""
    bare = without_determiner(words)
    return " ".join(words) if bare == words else "the " + " ".join(bare)


def _comparative(edit: Edit) -> str:
    """ "longer" where "short" became "long"; "" where the words are no opposites."""
    if len(edit.old) == len(edit.new) == 1 and (edit.old[0], edit.new[0]) in _OPPOSITES:
        return _COMPARATIVES[edit.new[0]]
    return ""
