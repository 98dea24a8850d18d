"""How a picture's bytes become RGB, said in words: what settings and tables carry. Nothing here is imported
to say it; ``pixels.py`` does it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PIXELS_VERSION = "2"
"""Rises when the same bytes and rules give other pixels; part of every identity of a picture."""
MAX_PIXELS = 178_956_970
"""Pixels of a picture, at most, where settings say nothing: a picture of this size takes 0.5 GB as RGB."""
NO_BACKGROUND = "none"
"""What settings say in place of a colour: transparency is dropped."""


@dataclass(frozen=True)
class PixelRules:
    """How a decoded image becomes RGB.

    Attributes:
        upright: Apply the turn that EXIF asks for.
        background: The colour behind transparent pixels, as ``#rrggbb``. None: transparency is dropped and
            the colours that it hid are kept, as the benchmarks' own pipelines do.
        max_pixels: Pixels of a picture, at most; None: as many as there are. It decides whether a picture is
            read, never what it looks like.
    """

    upright: bool = False
    background: str | None = None
    max_pixels: int | None = MAX_PIXELS

    @property
    def id(self) -> str:
        """What of the rules changes pixels, e.g. ``upright,#ffffff``; empty for those of the benchmarks."""
        return ",".join(part for part in ("upright" if self.upright else "", self.background or "") if part)

    @property
    def words(self) -> str:
        """The rules in words: ``turned upright by EXIF, transparency on #ffffff``."""
        turn = "turned upright by EXIF" if self.upright else "no EXIF turn"
        return f"{turn}, transparency " + (f"on {self.background}" if self.background else "dropped")

    @classmethod
    def from_id(cls, name: str, max_pixels: int | None = MAX_PIXELS) -> PixelRules:
        """The rules of an :attr:`id`.

        Args:
            name: The id.
            max_pixels: Pixels of a picture, at most.

        Returns:
            The rules.
        """
        parts = [part for part in name.split(",") if part]
        colours = [part for part in parts if part.startswith("#")]
        return cls("upright" in parts, colours[0] if colours else None, max_pixels)

    def changed_by(self, background: str | None, upright: bool | None) -> PixelRules:
        """The rules with what settings say in place of a default.

        Args:
            background: ``#rrggbb``, or ``none`` to drop transparency; None leaves it as it is.
            upright: Whether EXIF's turn is applied; None leaves it as it is.

        Returns:
            The rules.
        """
        colour = self.background if background is None else background.lower()
        return PixelRules(
            self.upright if upright is None else upright,
            None if colour == NO_BACKGROUND else colour,
            self.max_pixels,
        )


OFFICIAL = PixelRules()
"""What the benchmarks' own pipelines do: no EXIF turn, transparency dropped."""
OWN_FOLDER = PixelRules(upright=True, background="#ffffff")
"""Images of one's own: upright, transparency on white."""


def common_rules(rules_ids: Iterable[str]) -> str:
    """How pictures that come alone are to be read, by how those of a training were.

    Args:
        rules_ids: :attr:`PixelRules.id` of each picture of the training.

    Returns:
        The id that they all have; where they differ, that of the benchmarks.
    """
    found = set(rules_ids)
    return found.pop() if len(found) == 1 else OFFICIAL.id


def picture_identity(fingerprint: str, rules_id: str) -> str:
    """What a picture is to a model, for the keys of kept results: a file's bytes and how they are read.

    Args:
        fingerprint: Of the file's bytes.
        rules_id: :attr:`PixelRules.id`.

    Returns:
        The fingerprint, the version of the reading and the rules.
    """
    return f"{fingerprint}-{PIXELS_VERSION}" + (f"-{rules_id}" if rules_id else "")
