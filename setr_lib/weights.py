"""Trained weights: what a retrieval method, an embedding space or a re-ranker is given of a registered
version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from setr_lib.errors import SetrError

if TYPE_CHECKING:
    from setr_lib.spaces.space import EmbeddingSpace

Made = TypeVar("Made")


@dataclass(frozen=True)
class Weights:
    """A registered version of a trained system, as ``with_weights`` is given it.

    Attributes:
        model: The registered model.
        version: Its version.
        label: What the version has learned from, e.g. ``"zero-shot"``.
        folders: The folders of its bundle on this machine, by name.
        device: Where models go: ``auto``, or a torch device.
        space: For a retrieval method, the embedding space that it searches; None for one that searches
            captions, and for spaces and re-rankers.
        run: Digest of the training.
    """

    model: str
    version: str
    label: str
    folders: Mapping[str, Path]
    device: str
    space: EmbeddingSpace | None = None
    run: str = ""

    @property
    def id(self) -> str:
        """Model, version and training: ``setr-line-v3-1f0c9a22``. The id of a trained space or re-ranker
        holds it, because vectors and scores are kept under that id.
        """
        return "-".join(filter(None, (self.model, f"v{self.version}", self.run[:8])))

    @property
    def words(self) -> str:
        """Version and model as messages name them."""
        return f"version {self.version} of {self.model}"


def loaded(what: str, weights: Weights, load: Callable[[], Made], error: type[SetrError]) -> Made:
    """What ``with_weights`` gives.

    Args:
        what: Whose it is, for the message.
        weights: The version.
        load: Calls it.
        error: The exception where it fails.

    Returns:
        What it gave.

    Raises:
        SetrError: It raised an exception; the message names ``what`` and the version.
    """
    try:
        return load()
    except SetrError:
        raise
    except Exception as reason:  # someone else's class may raise anything, e.g. where a file is missing
        told = f"{type(reason).__name__}: {reason}"
        raise error(f"{what} cannot load {weights.words}: {told}") from reason


def check_same(
    what: str, said: object, found: object, attributes: Sequence[str], error: type[SetrError]
) -> None:
    """Refuse an object from ``with_weights`` that is not what the one without weights says of itself.

    Args:
        what: Whose it is, for the message.
        said: The object that settings name.
        found: The one with weights.
        attributes: In what they must be equal.
        error: The exception.

    Raises:
        SetrError: An attribute differs.
    """
    for attribute in attributes:
        before, now = getattr(said, attribute), getattr(found, attribute)
        if before != now:
            raise error(
                f"{what} says {attribute} = {before!r}, and with_weights() gives one with {now!r}: say the "
                "same in both"
            )


def check_id(what: str, found: str, weights: Weights, error: type[SetrError]) -> None:
    """Refuse an id that does not say which version it is of.

    Args:
        what: Whose it is, for the message.
        found: The id.
        weights: The version.
        error: The exception.

    Raises:
        SetrError: The id does not hold :attr:`Weights.id`.
    """
    if weights.id not in found:
        raise error(
            f"{what} with {weights.words} has the id {found!r}: put weights.id ({weights.id!r}) into it, so "
            "that what is kept of another version is not taken for its own"
        )
