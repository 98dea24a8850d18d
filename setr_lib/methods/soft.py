"""SoFT (arXiv 2512.20781): any method's scores, filtered by what must and what must not be in the picture.

One call per query gives a prescriptive sentence (what is kept and added) and a proscriptive one (what must
not be there). With an image's cosines to them, ``reward`` and ``penalty``, and the base's score ``s``::

    soft  = s * (reward + 1 - penalty) / 2
    final = (1 - lambda) * s + lambda * soft

A base whose scores are no cosines is first scaled to 0 to 1 for each query. An empty sentence filters
nothing: its reward is 1, its penalty 0; without both, ``soft`` is ``s``. Where ``s`` is negative, a reward
lowers it, as published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import model_validator

from setr_lib.methods.cirevl import CIREVL
from setr_lib.methods.inputs import COMPOSITIONS, MethodError, MethodInputs, SearchedGallery
from setr_lib.methods.intersection import INTERSECTION
from setr_lib.methods.method import Method, ranks_captions
from setr_lib.methods.similarity import min_max, similarity
from setr_lib.texts.answers import Answer, AnyText, Phrases
from setr_lib.texts.kind import TextKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.methods.inputs import EncodedQueries
    from setr_lib.weights import Weights

BASE, LAMBDA = "base", "lambda"
"""The options: the method that is filtered, and the share of its score that is, 0 to 1. Other keys are the
base's."""
_PAPERS_LAMBDA = 1.0  # on CIReVL; 0.2 on SEARLE


def filtered(
    base: NDArray[np.float64], reward: NDArray[np.float64], penalty: NDArray[np.float64], share: float
) -> NDArray[np.float64]:
    """Scores after the filter; all arrays ``[queries, gallery]``.

    Args:
        base: The scores that are filtered.
        reward: How well an image fits what is asked for; 1 where nothing is.
        penalty: How well it fits what must not be there; 0 where nothing is named.
        share: Lambda, the share of the score that is filtered.

    Returns:
        The filtered scores.
    """
    soft = base * (reward + 1 - penalty) / 2
    return (1 - share) * base + share * soft


def share_of(name: str, options: Mapping[str, Any], default: float = _PAPERS_LAMBDA) -> float:
    """The share of a method's score that is filtered.

    Args:
        name: The method's name, for the message.
        options: What settings say to it.
        default: The share where they say nothing.

    Returns:
        The option ``lambda``.

    Raises:
        MethodError: It is no number from 0 to 1.
    """
    share = options.get(LAMBDA, default)
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise MethodError(f"[methods.{name}] {LAMBDA} = {share!r}: write a number from 0 to 1")
    return share


class Constraints(Answer):
    """A query's lists; sentences of what must and what must not be there, empty only with their lists."""

    keep: Phrases
    add: Phrases
    remove: Phrases
    prescriptive: AnyText
    proscriptive: AnyText

    @model_validator(mode="after")
    def _says_what_it_lists(self) -> Constraints:
        if not self.prescriptive and (self.keep or self.add):
            raise ValueError("prescriptive is empty, though something is kept or added")
        if not self.proscriptive and self.remove:
            raise ValueError("proscriptive is empty, though something is removed")
        return self


def _derived(row: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    lists = {part: list(texts[COMPOSITIONS].get(part) or ()) for part in ("keep", "add", "remove")}
    return {
        **lists,
        "prescriptive": ", ".join([*lists["keep"], *lists["add"]]),
        "proscriptive": ", ".join(lists["remove"]),
    }


CONSTRAINTS = TextKind(
    "soft_constraints",
    task="soft",
    per="query",
    answer=Constraints,
    derived_from=(COMPOSITIONS,),
    derive=_derived,
    replacement=lambda row: {},  # no constraint
    done="constraints written",
)


class SoftFilter(Method):
    """Another method's scores after SoFT's filter.

    Args:
        name: What the method is called.
        base: The method that is filtered; the option ``base`` names another.
        share: Lambda, the share of the score that is filtered; the option ``lambda`` names another.
    """

    def __init__(self, name: str, base: Method, share: float = _PAPERS_LAMBDA) -> None:
        if ranks_captions(base):
            raise MethodError(
                f"retrieval method {name!r} compares sentences with images' vectors, and {base.name!r} "
                "searches captions: name another base, or use captions_soft, the filter over captions"
            )
        self.name, self.base, self.share = name, base, share
        self.source = f"SoFT, arXiv 2512.20781, over {base.name}; a reconstruction with a prompt of ours"
        self.space, self.needs, self.label = base.space, base.needs, base.label
        self.texts = (*(kind for kind in base.texts if kind != CONSTRAINTS), CONSTRAINTS)
        self.trained, self.is_cosine, self.option_keys = base.trained, base.is_cosine, base.option_keys
        self.files = base.files

    def with_options(self, options: Mapping[str, Any], find: Callable[[str], Method]) -> Method:
        """The filter over the method that the option ``base`` names."""
        base = options.get(BASE)
        return self if base is None else SoftFilter(self.name, find(base), self.share)

    def with_weights(self, weights: Weights) -> Method:
        """The filter over the base method with its trained weights."""
        return SoftFilter(self.name, self.base.with_weights(weights), self.share)

    def statistics(self, gallery: SearchedGallery) -> Any:
        """Those of the base method."""
        return self.base.statistics(gallery)

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The base method's scores, filtered."""
        others = {key: value for key, value in inputs.options.items() if key not in (BASE, LAMBDA)}
        share = share_of(self.name, inputs.options, self.share)
        base = self.base.scores(replace(inputs, options=others)).astype(np.float64)
        base = base if self.base.is_cosine else min_max(base)
        reward = _cosines(inputs, "prescriptive", neutral=1.0)
        penalty = _cosines(inputs, "proscriptive", neutral=0.0)
        return filtered(base, reward, penalty, share).astype(np.float32)


def _cosines(inputs: MethodInputs, sentence: str, neutral: float) -> NDArray[np.float64]:
    """The cosines of one sentence of each query, ``[q, g]``; ``neutral`` for a query that has none."""

    def texts(queries: EncodedQueries) -> list[str]:
        return queries.text(CONSTRAINTS.name)[sentence].to_list()

    vectors = inputs.queries.vectors_of(f"{CONSTRAINTS.name}: {sentence}", texts)
    there = np.array([bool(text) for text in texts(inputs.queries)])[:, None]
    return np.where(there, similarity(vectors, inputs.gallery.vectors).astype(np.float64), neutral)


METHODS = (SoftFilter("soft", CIREVL), SoftFilter("soft_intersection", INTERSECTION))
