"""The baselines: the reference image alone, the modification text alone, and the unions of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setr_lib.methods.method import VectorMethod
from setr_lib.methods.needs import CAPTIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from setr_lib.methods.inputs import MethodInputs


def _image(inputs: MethodInputs) -> NDArray[np.float32]:
    return inputs.queries.reference_vectors


def _text(inputs: MethodInputs) -> NDArray[np.float32]:
    return inputs.queries.modification_vectors


def _sum(inputs: MethodInputs) -> NDArray[np.floating]:
    return inputs.queries.reference_vectors + inputs.queries.modification_vectors


def _union_text(inputs: MethodInputs) -> NDArray[np.float32]:
    return inputs.queries.union_vectors


METHODS = (
    VectorMethod("image", _image, source="baseline: the reference image's vector alone", options=()),
    VectorMethod("text", _text, source="baseline: the modification text's vector alone", options=()),
    # Contains everything of the reference, its background too.
    VectorMethod(
        "sum",
        _sum,
        source="baseline: the sum of the reference's and the text's unit vectors",
        options=(),
    ),
    VectorMethod(
        "union_text",
        _union_text,
        frozenset({CAPTIONS}),
        source="baseline: the reference's whole caption and the text in one sentence, "
        "as CIReVL's ablation (ICLR 2024)",
        options=(),
    ),
)
