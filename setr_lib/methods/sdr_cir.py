"""SDR-CIR (WWW 2026, arXiv 2602.04451): a selective description, anchored to the reference and debiased.

A reconstruction from the published formulas and constants. The prompt, and what its two texts are, is our
reading of the paper's selective chain of thought.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.methods.inputs import COMPOSITIONS, EncodedQueries, MethodInputs
from setr_lib.methods.method import Method
from setr_lib.methods.options import Option
from setr_lib.methods.similarity import similarity, unit
from setr_lib.texts.answers import Answer, Phrases, Text
from setr_lib.texts.kind import TextKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

PUBLISHED = MappingProxyType({"cirr": (0.05, 0.5), "circo": (0.15, 0.35), "fashioniq": (0.2, 0.4)})
"""The paper's constants by kind of data set: ``anchor`` (alpha) and ``debias`` (beta)."""
DEFAULT = PUBLISHED["cirr"]
"""For other kinds of data sets."""
ANCHOR = Option(
    "anchor",
    least=0,
    most=1,
    meaning="the share of the reference's vector in the query; the paper's if left out",
)
DEBIAS = Option(
    "debias", least=0, meaning="how far the text's own part is taken back; the paper's if left out"
)
"""In place of the published constants."""


class SelectiveDescription(Answer):
    """What of the reference matters to the modification, what changes, and two texts made of it."""

    relevant: Phrases
    changes: Phrases
    description: Text
    """The wanted image (d)."""
    modification: Text
    """The part of it that the modification text alone explains (m)."""


def _from_composition(row: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    composed = texts[COMPOSITIONS]
    keep, add = list(composed.get("keep") or ()), list(composed.get("add") or ())
    return {
        "relevant": keep,
        "changes": add,
        "description": (composed.get("target_caption") or "").strip() or row["modification"],
        "modification": ", ".join(add) or row["modification"],
    }


SELECTIVE_DESCRIPTIONS = TextKind(
    "selective_descriptions",
    task="selective_description",
    per="query",
    answer=SelectiveDescription,
    derived_from=(COMPOSITIONS,),
    derive=_from_composition,
    replacement=lambda row: {"description": row["modification"], "modification": row["modification"]},
    done="selective descriptions written",
)


def _texts(column: str, queries: EncodedQueries) -> list[str]:
    return queries.text(SELECTIVE_DESCRIPTIONS.name)[column].to_list()


class SdrCir(Method):
    """``S = (1 + b) S_q - b (S_d - S_m)`` with ``q = (1 - a) T(d) + a V(reference)``.

    S_q, S_d and S_m are the cosines of q, of the description d and of the modification part m with an image:
    S_d - S_m is the part of the description's similarity that the modification does not explain. A reference
    without a vector leaves q = T(d).
    """

    name = "sdr_cir"
    texts = (SELECTIVE_DESCRIPTIONS,)
    options = (ANCHOR, DEBIAS)
    source = "SDR-CIR, WWW 2026 (arXiv 2602.04451); a reconstruction, with a prompt of ours"

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The anchored similarity, less the description's bias."""
        queries, gallery = inputs.queries, inputs.gallery.vectors
        anchor, debias = PUBLISHED.get(queries.dataset_kind, DEFAULT)
        anchor, debias = ANCHOR.of(inputs.options, anchor), DEBIAS.of(inputs.options, debias)
        described = queries.vectors_of("sdr description", lambda whole: _texts("description", whole))
        modified = queries.vectors_of("sdr modification", lambda whole: _texts("modification", whole))
        anchored = unit((1 - anchor) * described + anchor * queries.reference_vectors)
        bias = similarity(described, gallery) - similarity(modified, gallery)
        return ((1 + debias) * similarity(anchored, gallery) - debias * bias).astype(np.float32)


METHODS = (SdrCir(),)
