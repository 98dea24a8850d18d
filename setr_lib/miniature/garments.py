"""FashionIQ-like garments: category, colour, pattern, sleeves, neckline and length, hung up in front of some
background.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from setr_lib.miniature.pictures import BACKGROUNDS, COLOURS, PATTERNS, Edit, pick_background

CATEGORIES = {"dress": "dress", "shirt": "shirt", "toptee": "top"}
SLEEVES = ("no", "short", "long")
NECKS = ("round", "v")
LENGTHS = ("short", "long")
_ATTRIBUTES = {"colour": COLOURS, "pattern": PATTERNS, "sleeves": SLEEVES, "neck": NECKS, "length": LENGTHS}


@dataclass(frozen=True)
class Garment:
    """A garment in front of a background; a :class:`~setr_lib.miniature.pictures.Picture`."""

    category: str
    colour: str
    pattern: str
    sleeves: str
    neck: str
    length: str
    background: str

    @property
    def foreground(self) -> object:
        """The garment without its background."""
        return replace(self, background="")

    def caption(self, with_background: bool = True) -> str:
        """See :meth:`Picture.caption`."""
        sentence = self.caption_without(frozenset())
        return f"{sentence} {BACKGROUNDS[self.background]}" if with_background else sentence

    def caption_without(self, left_out: frozenset[str]) -> str:
        """The caption without some attributes, and without the background.

        Args:
            left_out: Names of the attributes.

        Returns:
            The caption.
        """
        details = [f"{self.sleeves} sleeves"] if "sleeves" not in left_out else []
        details += [f"a {self.neck} neck"] if "neck" not in left_out else []
        return self._body(left_out) + (f" with {' and '.join(details)}" if details else "")

    def on(self, background: str) -> Garment:
        """See :meth:`Picture.on`."""
        return replace(self, background=background)

    def near_miss(self, rng: Random) -> Garment:
        """The same category, one attribute changed; see :meth:`Picture.near_miss`."""
        return self._with_another(rng.choice(list(_ATTRIBUTES)), rng)

    def look_alike(self, rng: Random) -> Garment:
        """A near miss in pattern or length, which a cosine confuses most.

        Args:
            rng: Decides what changes.

        Returns:
            The other garment.
        """
        return self._with_another(rng.choice(("pattern", "length")), rng)

    def _with_another(self, name: str, rng: Random) -> Garment:
        return replace(self, **{name: rng.choice([v for v in _ATTRIBUTES[name] if v != getattr(self, name)])})

    def edits_towards(self, other: Garment) -> list[Edit] | None:
        """See :meth:`Picture.edits_towards`."""
        if self.category != other.category:
            return None
        return [
            _edit(name, getattr(self, name), getattr(other, name))
            for name in _ATTRIBUTES
            if getattr(self, name) != getattr(other, name)
        ]

    def kept_phrases(self, other: Garment) -> tuple[str, ...]:
        """See :meth:`Picture.kept_phrases`."""
        changed = frozenset(name for name in _ATTRIBUTES if getattr(self, name) != getattr(other, name))
        kept = [self._body(changed)]
        if "sleeves" not in changed:
            kept.append(f"{self.sleeves} sleeves")
        if "neck" not in changed:
            kept.append(f"a {self.neck} neck")
        return tuple(kept)

    def _body(self, without: frozenset[str]) -> str:
        words = [getattr(self, name) for name in ("length", "colour", "pattern") if name not in without]
        words = ["a", *(word for word in words if word != "plain"), CATEGORIES[self.category]]
        if words[1][0] in "aeiou":
            words[0] = "an"
        return " ".join(words)


def random_garment(rng: Random, category: str) -> Garment:
    """A garment of random attributes on a random background.

    Args:
        rng: Decides them.
        category: One of :data:`CATEGORIES`.

    Returns:
        The garment.
    """
    values = {name: rng.choice(choices) for name, choices in _ATTRIBUTES.items()}
    return Garment(category=category, background=pick_background(rng), **values)


def _edit(name: str, old: str, new: str) -> Edit:
    """How shoppers say it; FashionIQ's texts are such loose verb phrases."""
    if name == "colour":
        wording = (f"is {new}", f"is {new} instead of {old}", f"is more {new}", f"has a {new} color")
        return Edit(name, wording, (new,), (old,))
    if name == "pattern":
        marks = {"striped": "stripes", "dotted": "dots"}
        if new == "plain":
            return Edit(name, ("is plain", "has no pattern", f"has no {marks[old]}"), ("plain",), (old,))
        return Edit(name, (f"is {new}", f"has {marks[new]}"), (new,), () if old == "plain" else (old,))
    if name == "sleeves":
        if new == "no":
            wording: tuple[str, ...] = ("is sleeveless", "has no sleeves")
        else:
            longer = SLEEVES.index(new) > SLEEVES.index(old)
            wording = (f"has {new} sleeves", f"with {new} sleeves")
            if new == "long" or old != "no":
                wording += (
                    (f"has {'longer' if longer else 'shorter'} sleeves",)
                    if {old, new} == {"short", "long"}
                    else ()
                )
        return Edit(name, wording, (f"{new} sleeves",), (f"{old} sleeves",))
    if name == "neck":
        return Edit(
            name, (f"has a {new} neck", f"with a {new} neckline"), (f"a {new} neck",), (f"a {old} neck",)
        )
    comparative = "longer" if new == "long" else "shorter"
    return Edit(name, (f"is {comparative}", f"has a {comparative} cut", f"is {new}"), (new,), (old,))
