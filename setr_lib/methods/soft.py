"""SoFT (arXiv 2512.20781): any method's scores, filtered by what must and what must not be in the picture.

One call per query gives a prescriptive sentence (what is kept and added) and a proscriptive one (what must
not be there); an image's cosines to them are its reward and penalty
(:func:`setr_lib.methods.soft_formula.filtered`). A base whose scores are no cosines is first scaled to 0 to 1
for each query. An empty sentence filters nothing: its reward is 1, its penalty 0.
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
from setr_lib.methods.options import Option
from setr_lib.methods.similarity import min_max, similarity
from setr_lib.methods.soft_formula import LAMBDA, PAPERS_LAMBDA, filtered
from setr_lib.texts.answers import Answer, AnyText, Phrases
from setr_lib.texts.kind import TextKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.methods.inputs import EncodedQueries
    from setr_lib.weights import Weights

BASE = Option("base", str, meaning="the method that is filtered: its name, or `package.module:NAME`")
"""The method that is filtered: its name, or ``package.module:NAME``."""


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

    def __init__(self, name: str, base: Method, share: float = PAPERS_LAMBDA) -> None:
        if ranks_captions(base):
            raise MethodError(
                f"retrieval method {name!r} compares sentences with images' vectors, and {base.name!r} "
                "searches captions: name another base, or use captions_soft, the filter over captions"
            )
        self.name, self.base, self.share = name, base, share
        self.options, self.wraps = (BASE, LAMBDA), base
        self.source = f"SoFT, arXiv 2512.20781, over {base.name}; a reconstruction with a prompt of ours"
        self.space, self.needs, self.label = base.space, base.needs, base.label
        self.texts = (*(kind for kind in base.texts if kind != CONSTRAINTS), CONSTRAINTS)
        self.trained, self.is_cosine, self.option_keys = base.trained, base.is_cosine, base.option_keys
        self.files = base.files

    def with_options(self, options: Mapping[str, Any], find: Callable[[str], Method]) -> Method:
        """The filter over the method that the option ``base`` names."""
        base = options.get(BASE.name)
        return SoftFilter(self.name, find(base), self.share) if isinstance(base, str) else self

    def with_weights(self, weights: Weights) -> Method:
        """The filter over the base method with its trained weights."""
        return SoftFilter(self.name, self.base.with_weights(weights), self.share)

    def statistics(self, gallery: SearchedGallery) -> Any:
        """Those of the base method."""
        return self.base.statistics(gallery)

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The base method's scores, filtered."""
        others = {key: value for key, value in inputs.options.items() if key not in (BASE.name, LAMBDA.name)}
        share = LAMBDA.of(inputs.options, self.share)
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
