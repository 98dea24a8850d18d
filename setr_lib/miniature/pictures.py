"""What a drawn picture shows, as data: words shared by the scenes and the garments, and the interface of
both.

A picture is a *foreground* (what a query is about) on a *background* (what a query rarely mentions).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, Self

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
PATTERNS = ("plain", "striped", "dotted")
BACKGROUNDS = {
    "beach": "on the beach",
    "snow": "in the snow",
    "meadow": "in a meadow",
    "night": "under the night sky",
    "desert": "in the desert",
    "sea": "on the sea",
    "brick": "against a brick wall",
    "wood": "on a wooden table",
    "forest": "in a forest",
    "city": "in the city",
}


@dataclass(frozen=True)
class Edit:
    """One change that a modification text can ask for: how people phrase it, and what it adds and removes."""

    kind: str
    phrasings: tuple[str, ...]
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class GoldComposition:
    """The composition that a perfect reader of both pictures would write; same fields as the pipeline's
    JSON.
    """

    keep: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    target_caption: str = ""


@dataclass(frozen=True)
class Modification:
    """A modification text together with what it means."""

    text: str
    parts: tuple[str, ...]
    kinds: tuple[str, ...]
    composition: GoldComposition = field(default_factory=GoldComposition)


class Picture(Protocol):
    """A scene or a garment in front of a background."""

    @property
    def background(self) -> str:
        """The background's name, a key of :data:`BACKGROUNDS`."""
        ...

    @property
    def foreground(self) -> object:
        """What the picture shows, background apart; equal for pictures that show the same."""
        ...

    def caption(self, with_background: bool = True) -> str:
        """A sentence that describes the picture.

        Args:
            with_background: Whether it names the background.

        Returns:
            The sentence.
        """
        ...

    def on(self, background: str) -> Self:
        """The same foreground on another background.

        Args:
            background: The background's name.

        Returns:
            The other picture.
        """
        ...

    def near_miss(self, rng: Random) -> Self:
        """A picture whose foreground differs in one respect.

        Args:
            rng: Decides what differs.

        Returns:
            The other picture.
        """
        ...

    def edits_towards(self, other: Any) -> list[Edit] | None:
        """The edits that turn this picture's foreground into that of another.

        Args:
            other: A picture of the same class.

        Returns:
            The edits; None where no short text says them.
        """
        ...

    def kept_phrases(self, other: Any) -> tuple[str, ...]:
        """Phrases of this picture that hold in another one, too.

        Args:
            other: A picture of the same class.

        Returns:
            The phrases.
        """
        ...


def pick_background(rng: Random, other_than: str | None = None) -> str:
    """A random background name, different from ``other_than``.

    Args:
        rng: Decides.
        other_than: A background that is not wanted.

    Returns:
        The name.
    """
    return rng.choice([name for name in BACKGROUNDS if name != other_than])


def describe_modification(
    reference: Picture, target: Picture, rng: Random, joiner: str = " and ", mention_background: bool = False
) -> Modification | None:
    """A modification text that turns one picture into another.

    Args:
        reference: The picture to start from.
        target: The wanted picture.
        rng: Decides the wording.
        joiner: What stands between the texts of two edits.
        mention_background: Whether another background is an edit, too.

    Returns:
        The text and what it means; None where no text of one or two edits does.
    """
    edits = reference.edits_towards(target)
    if edits is None:
        return None
    if mention_background and reference.background != target.background:
        background = BACKGROUNDS[target.background]
        wording = (
            f"put it {background}",
            f"the same {background}",
            f"make it {background}",
            f"move it {background}",
        )
        edits = [*edits, Edit("background", wording, (background,), (BACKGROUNDS[reference.background],))]
    if not 1 <= len(edits) <= 2:
        return None
    parts = tuple(rng.choice(edit.phrasings) for edit in edits)
    moved = any(edit.kind == "background" for edit in edits)
    composition = GoldComposition(
        keep=reference.kept_phrases(target),
        add=tuple(phrase for edit in edits for phrase in edit.add),
        remove=tuple(phrase for edit in edits for phrase in edit.remove),
        drop=() if moved else (BACKGROUNDS[reference.background],),
        target_caption=target.caption(with_background=moved),
    )
    return Modification(joiner.join(parts), parts, tuple(edit.kind for edit in edits), composition)


def satisfies(candidate: Picture, target: Picture, modification: Modification) -> bool:
    """Whether a picture is what a query asks for: it has the target's foreground, and its background where
    named.

    Args:
        candidate: The picture.
        target: The query's target.
        modification: The query's text.

    Returns:
        Whether it answers the query.
    """
    same = candidate.foreground == target.foreground
    return same and ("background" not in modification.kinds or candidate.background == target.background)
