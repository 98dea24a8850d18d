"""Trained weights of a retrieval method: what it is given of a registered version, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.methods.inputs import MethodError
from setr_lib.methods.method import Method, as_method

if TYPE_CHECKING:
    from setr_lib.spaces.space import EmbeddingSpace


@dataclass(frozen=True)
class Weights:
    """A registered version of a trained system, as a retrieval method is given it.

    Attributes:
        model: The registered model.
        version: Its version.
        label: What the version has learned from, e.g. ``"zero-shot"``.
        folders: The folders of its bundle on this machine, by name.
        device: Where models go: ``auto``, or a torch device.
        space: The embedding space that the method searches; None for one that searches captions.
    """

    model: str
    version: str
    label: str
    folders: Mapping[str, Path]
    device: str
    space: EmbeddingSpace | None


def opened(method: Method, weights: Weights) -> Method:
    """A trained method, ready to score.

    Args:
        method: A method with ``trained``.
        weights: The version to rank with.

    Returns:
        What its ``with_weights`` gives.

    Raises:
        MethodError: The weights cannot be loaded, or what is given is not what ``method`` says of itself.
    """
    version = f"version {weights.version} of {weights.model}"
    try:
        found = method.with_weights(weights)
    except SetrError:
        raise
    except Exception as error:  # someone else's class may raise anything, e.g. where a file is missing
        reason = f"{type(error).__name__}: {error}"
        raise MethodError(f"retrieval method {method.name!r} cannot load {version}: {reason}") from error
    ready = as_method(found, f"what with_weights() of retrieval method {method.name!r} gives")
    for attribute in ("name", "space", "needs", "texts", "is_cosine", "option_keys"):
        said, is_now = getattr(method, attribute), getattr(ready, attribute)
        if said != is_now:
            raise MethodError(
                f"retrieval method {method.name!r} says {attribute} = {said!r}, and with_weights() gives one "
                f"with {is_now!r}: say the same in both"
            )
    return ready
