"""When stored vectors and captions may be removed because their images are gone.

An image folder may be empty for a moment (a mount that is away), and a synchronisation would then remove what
took hours to make. So the removal of a large share of a gallery needs a person's consent, for one run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from setr_lib.errors import SetrError

AT_LEAST = 10
"""Images: the removal of fewer needs no consent, unless none would be left."""
_SHOWN = 3
_ORIGIN = "origin-"
"""What tags of a table begin with that say where its images come from."""


class RemovalRefusedError(SetrError):
    """More of a gallery would be removed than may be without consent; everything is as it was."""


@dataclass(frozen=True)
class RemovalRule:
    """How much of a gallery may be removed.

    Attributes:
        share: The share (0 to 1) of the stored images that may go without consent; more may where it is fewer
            than :data:`AT_LEAST`.
        accepted: Whether a person consents, for this run.
        origin: Digest of where the images come from. What was stored of another origin is another gallery,
            and may be replaced. Empty: not known, so it is the same gallery.
        gallery: The gallery in words, for the message.
        folder: Where its images are, for the message.
        consent: How consent is given, as the end of a sentence.
    """

    share: float = 0.2
    accepted: bool = False
    origin: str = ""
    gallery: str = "the gallery"
    folder: str = "their folder"
    consent: str = "pass removals=RemovalRule(accepted=True)"

    def check(
        self,
        stored: Collection[str],
        readable: Iterable[str],
        origins: Collection[str] = (),
        what: str = "vectors",
    ) -> None:
        """Refuse a removal that needs consent and has none.

        Args:
            stored: The ids of the images of which something is stored.
            readable: The ids of those that stay: that are there and can be read.
            origins: The origins that the stored images are of, where they are known.
            what: What is stored of them, for the message.

        Raises:
            RemovalRefusedError: None of the images would be left, or too many would go.
        """
        left = set(readable)
        gone = sorted(set(stored) - left)
        if self.accepted or not gone:
            return
        if not left:
            raise RemovalRefusedError(self._nothing_readable(len(gone), what))
        if self.origin and origins and self.origin not in origins:
            return
        total = len(set(stored))
        if len(gone) >= AT_LEAST and len(gone) > round(self.share * total, 6):
            raise RemovalRefusedError(self._too_many(gone, total, what))

    def check_unlisted(self, stored: Collection[str], unlisted: Iterable[str], faults: Iterable[str]) -> None:
        """Refuse the removal of images of folders that cannot be listed now: nobody knows whether they are
        gone.

        Args:
            stored: The ids of the images of which something is stored.
            unlisted: Folders that could not be listed, by their path from the image folder.
            faults: Why, in sentences.

        Raises:
            RemovalRefusedError: There are such images, and no consent.
        """
        below = tuple(f"{folder}/" for folder in unlisted)
        lost = sorted(image for image in stored if image.startswith(below)) if below else []
        if lost and not self.accepted:
            raise RemovalRefusedError(
                f"{self.gallery}: {'; '.join(faults)}. {_some(lost)} there have vectors, which are kept. If "
                f"these images are gone for good, {self.consent}"
            )

    def _nothing_readable(self, gone: int, what: str) -> str:
        return (
            f"{self.gallery}: there is no readable image in {self.folder}, and {what} of {gone:,} images are "
            "stored, which are kept. Is the folder mounted, and is it the right one? If the images are gone "
            f"for good, {self.consent}"
        )

    def _too_many(self, gone: list[str], total: int, what: str) -> str:
        return (
            f"{self.gallery}: {len(gone):,} of the {total:,} images whose {what} are stored are not in "
            f"{self.folder} any more, or cannot be read: {_some(gone)}. That is more than "
            f"{self.share:.0%} ([storage] removable_share), so nothing is removed. If they are gone "
            f"for good, {self.consent}"
        )


def origins_of(handle: Any) -> set[str]:
    """Where the images of a table come from.

    Args:
        handle: LanceDB's handle of a table.

    Returns:
        Digests of origins: one, two where a kill came between, none where it is not known.
    """
    return {tag.removeprefix(_ORIGIN) for tag in handle.tags.list() if tag.startswith(_ORIGIN)}


def remember_origin(handle: Any, version: int, origin: str) -> None:
    """Note where the images of a table come from, in a tag.

    Args:
        handle: LanceDB's handle of a table.
        version: A version of it that is reported.
        origin: Digest of the origin; empty: it is not known, and nothing is noted.
    """
    known = origins_of(handle)
    if not origin or known == {origin}:
        return
    if origin not in known:
        handle.tags.create(_ORIGIN + origin, version)
    for other in known - {origin}:
        handle.tags.delete(_ORIGIN + other)


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
    return ", ".join(map(repr, ids[:_SHOWN])) + more
