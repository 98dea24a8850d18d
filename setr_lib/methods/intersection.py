"""SETR's intersection (arXiv 2509.26012), a reconstruction: the text vector of what reference and text share.

The multimodal LLM composes each query: what the text names or presupposes of the reference stays, what it
adds comes, what it says nothing of is left out. The ``target_caption`` of that composition is encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setr_lib.methods.method import VectorMethod
from setr_lib.methods.needs import COMPOSITIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from setr_lib.methods.inputs import MethodInputs

ANCHOR_SHARE = "anchor_share"
"""The option of ``intersection_anchor``: the share, 0 to 1, of the reference image's vector."""
_DEFAULT_SHARE = 0.1


def _intersection(inputs: MethodInputs) -> NDArray[np.float32]:
    return inputs.queries.target_vectors


def _intersection_anchor(inputs: MethodInputs) -> NDArray[np.floating]:
    share = float(inputs.options.get(ANCHOR_SHARE, _DEFAULT_SHARE))
    return (1 - share) * _intersection(inputs) + share * inputs.queries.reference_vectors


_SOURCE = "SETR, arXiv 2509.26012; a reconstruction"
INTERSECTION = VectorMethod(
    "intersection", _intersection, frozenset({COMPOSITIONS}), source=_SOURCE, options=()
)
METHODS = (
    INTERSECTION,
    VectorMethod(
        "intersection_anchor",
        _intersection_anchor,
        frozenset({COMPOSITIONS}),
        source=f"{_SOURCE}, with a share of the reference image as in SDR-CIR's anchor",
        option_keys={ANCHOR_SHARE: "coarse.anchor_share"},
        options=(),
    ),
)
