"""Stage 1's strategies: each turns a block of queries and a gallery into a matrix of scores, higher is better.

A strategy of one's own is a class with ``name``, ``needs`` and ``scores`` (see :class:`Strategy`), made known by
``@register``, by an entry point of the group ``setr.strategies``, or by writing ``package.module:NAME`` where a
strategy's name is asked for; the module may lie beside ``setr.toml`` (see ``setr_lib.plugins``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from setr_lib.coarse.caption_strategies import CAPTION_STRATEGIES, IMAGE_CAPTIONS
from setr_lib.coarse.inputs import CoarseError, CoarseInputs
from setr_lib.coarse.similarity import similarity, unit
from setr_lib.plugins import PluginError, load_object

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.settings import Settings

ENTRY_POINTS = "setr.strategies"
NEEDS = frozenset({"captions", "compositions", IMAGE_CAPTIONS})


@runtime_checkable
class Strategy(Protocol):
    """One way to score a gallery for composed queries."""

    @property
    def name(self) -> str:
        """The name in settings, tables and reports."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """What must be there: ``captions`` of the references (from the multimodal LLM), ``compositions`` of the queries,
        ``image_captions`` (of the gallery's images, to be searched instead of vectors), or nothing."""
        ...

    def scores(self, inputs: CoarseInputs) -> NDArray[np.float32]:
        """``float32[queries, gallery]``, finite, higher is better.

        A query's row must not depend on the other queries of the block: blocks are cut by memory.
        """
        ...


@dataclass(frozen=True)
class VectorStrategy:
    """A strategy that makes one vector of a query and takes cosines: all that searches by a single vector."""

    name: str
    needs: frozenset[str]
    query_vectors: Callable[[CoarseInputs], NDArray[np.floating]]
    """``[q, d]``; normalised here."""

    def scores(self, inputs: CoarseInputs) -> NDArray[np.float32]:
        return similarity(unit(self.query_vectors(inputs)), inputs.gallery.vectors)


@dataclass(frozen=True)
class ProductStrategy:
    """Score-level AND without a language model: the product of image and text similarity, centred and rectified.

    A reconstruction after BASIC (the i-CIR paper, NeurIPS 2025), of which it keeps three steps: subtract the mean
    image from image vectors and the mean text from text vectors; take the two cosines of the centred vectors; clamp
    both at zero and multiply, so
    that a picture must satisfy the reference *and* the text. It leaves out what needs corpora of its own:
    the contrastive projection, the statistics of a synthetic set, the Harris-like penalty, query expansion. The means
    are those of the gallery searched and of the texts in ``EncodedQueries.text_center``, not of LAION.

    Clamping makes many scores equal (zero). Those are ordered by how far they fall short: their score is minus the
    sum of what was clamped away, so all of them still come after every picture with a positive product.
    """

    name: str = "product"
    needs: frozenset[str] = frozenset()

    def scores(self, inputs: CoarseInputs) -> NDArray[np.float32]:
        queries, gallery = inputs.queries, inputs.gallery
        known = np.abs(queries.reference_vectors).sum(axis=1, keepdims=True) > 0
        references = unit(np.where(known, queries.reference_vectors - gallery.center, np.float32(0)))
        by_image = similarity(references, gallery.centered)
        by_text = similarity(unit(queries.modification_vectors - queries.text_center), gallery.centered)
        # Where nothing is known of the reference, the text decides alone.
        by_image = np.where(known, by_image, np.float32(1))
        short = np.minimum(by_image, 0) + np.minimum(by_text, 0)
        return np.where(short < 0, short, by_image * by_text)


def _image(inputs: CoarseInputs) -> NDArray[np.float32]:
    return inputs.queries.reference_vectors


def _text(inputs: CoarseInputs) -> NDArray[np.float32]:
    return inputs.queries.modification_vectors


def _sum(inputs: CoarseInputs) -> NDArray[np.floating]:
    return inputs.queries.reference_vectors + inputs.queries.modification_vectors


def _union_text(inputs: CoarseInputs) -> NDArray[np.float32]:
    return _there(inputs.queries.union_vectors, "captions")


def _intersection(inputs: CoarseInputs) -> NDArray[np.float32]:
    return _there(inputs.queries.target_vectors, "compositions")


def _intersection_anchor(inputs: CoarseInputs) -> NDArray[np.floating]:
    share = inputs.anchor_share
    return (1 - share) * _intersection(inputs) + share * inputs.queries.reference_vectors


def _there(vectors: NDArray[np.float32] | None, need: str) -> NDArray[np.float32]:
    if vectors is None:
        raise CoarseError(f"this strategy needs {need}, but none were given to encode_queries")
    return vectors


_CAPTIONS, _COMPOSITIONS = frozenset({"captions"}), frozenset({"compositions"})
_BUILT_IN: tuple[Strategy, ...] = (
    # The reference image alone, and the modification text alone: the two floors.
    VectorStrategy("image", frozenset(), _image),
    VectorStrategy("text", frozenset(), _text),
    # The feature union: normalised sum of both. Contains everything of the reference, its background too.
    VectorStrategy("sum", frozenset(), _sum),
    ProductStrategy(),
    # The text union: the full reference caption and the modification text in one sentence.
    VectorStrategy("union_text", _CAPTIONS, _union_text),
    # SETR's intersection, as reconstructed here: only what the text names or presupposes, and what it adds.
    VectorStrategy("intersection", _COMPOSITIONS, _intersection),
    # The same with a small share of the reference image (the anchor of SDR-CIR).
    VectorStrategy("intersection_anchor", _COMPOSITIONS, _intersection_anchor),
    # Text, union and intersection once more, over the captions of the gallery's images.
    *CAPTION_STRATEGIES,
)
_REGISTRY: dict[str, Strategy] = {strategy.name: strategy for strategy in _BUILT_IN}

Registered = TypeVar("Registered")


def register(strategy: Registered) -> Registered:
    """Make a strategy known by its ``name``; usable as a decorator of a class without constructor arguments.

    Registering a name again replaces it, so a notebook cell can be run twice. Raises ``CoarseError`` for what is no
    strategy.
    """
    made = _checked(strategy, getattr(strategy, "__name__", repr(strategy)))
    _REGISTRY[made.name] = made
    return strategy


def ranks_captions(strategy: Strategy) -> bool:
    """Whether ``strategy`` searches the captions of the gallery's images, and so ranks pictures without a vector too."""
    return IMAGE_CAPTIONS in strategy.needs


def strategy_names() -> list[str]:
    """Every name that :func:`get_strategy` knows: built in, registered, and installed as entry points."""
    return sorted({*_REGISTRY, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def get_strategy(name: str, settings: Settings | None = None) -> Strategy:
    """The strategy called ``name``, or at ``package.module:NAME``, a module that may lie beside ``settings``' file.

    Raises ``CoarseError`` listing the known names, or saying why a plug-in cannot be loaded.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return _load(point.load, f"entry point {point.value!r}")
    if ":" in name:
        return _load(lambda: load_object(name, settings), name)
    raise CoarseError(
        f"there is no coarse strategy {name!r}; known: {', '.join(strategy_names())}. Your own: register it "
        f"(setr_lib.coarse.strategies.register), install it as entry point of {ENTRY_POINTS!r}, or name it "
        "package.module:NAME"
    )


def _load(load: Callable[[], Any], where: str) -> Strategy:
    try:
        return _checked(load(), where)
    except (ImportError, AttributeError, PluginError) as error:
        raise CoarseError(f"the coarse strategy at {where} cannot be loaded: {error}") from error


def _checked(candidate: Any, where: str) -> Strategy:
    made = candidate() if isinstance(candidate, type) else candidate
    if not isinstance(made, Strategy):
        raise CoarseError(f"{where} is no coarse strategy: it needs name, needs and scores(inputs)")
    unknown = set(made.needs) - NEEDS
    if unknown:
        raise CoarseError(f"coarse strategy {made.name!r} needs {sorted(unknown)}; known are {sorted(NEEDS)}")
    return made
