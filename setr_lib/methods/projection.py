"""Feature intersection: the part of the reference's vector that the kept phrases span, plus what is added.

One reading of SETR's intersection on features, not a published method: of the reference only what lies in
the span of the kept phrases' text vectors stays, so that its background does not come along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from setr_lib.methods.inputs import COMPOSITIONS, EncodedQueries, MethodInputs
from setr_lib.methods.method import VectorMethod

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-3
"""Phrases whose vectors differ by less than this, as a share of the largest singular value, count as one: the
small rest between two spellings of a phrase is no direction of its own."""


def projected(vector: NDArray[np.floating], phrases: NDArray[np.floating]) -> NDArray[np.float64]:
    """The orthogonal projection of a vector on the span of others.

    The orthonormal basis is that of the singular value decomposition, which is the span's own (as QR's is)
    and has the rank that near-dependent vectors leave, in whatever order they come.

    Args:
        vector: ``[d]``.
        phrases: ``[n, d]``; may be none.

    Returns:
        ``float64[d]``; zeros for no phrases.
    """
    if not len(phrases):
        return np.zeros(len(vector))
    _, sizes, directions = np.linalg.svd(phrases.astype(np.float64), full_matrices=False)
    basis = directions[sizes > TOLERANCE * sizes[0]]
    return basis.T @ (basis @ vector.astype(np.float64))


def _kept_of_reference(queries: EncodedQueries) -> NDArray[np.float32]:
    """The reference vectors, projected on the span of what each query keeps; zeros where it keeps nothing."""
    keep = [list(phrases or []) for phrases in queries.text(COMPOSITIONS)["keep"].to_list()]
    encoded = queries.encode([phrase for phrases in keep for phrase in phrases])
    result, start = np.zeros_like(queries.reference_vectors), 0
    for row, phrases in enumerate(keep):
        stop = start + len(phrases)
        result[row] = projected(queries.reference_vectors[row], encoded[start:stop])
        start = stop
    return result


def _added_texts(queries: EncodedQueries) -> list[str]:
    """What each query adds, as one text; the modification text where the composition adds nothing."""
    added = [", ".join(phrases or []) for phrases in queries.text(COMPOSITIONS)["add"].to_list()]
    return [add or text for add, text in zip(added, queries.frame["modification"], strict=True)]


def _projection(inputs: MethodInputs) -> NDArray[np.float32]:
    queries = inputs.queries
    kept = queries.kept("reference projected on what is kept", _kept_of_reference)
    return kept + queries.vectors_of("added", _added_texts)


METHODS = (
    VectorMethod(
        "projection",
        _projection,
        frozenset({COMPOSITIONS}),
        source="SETR's intersection (arXiv 2509.26012) read on features; a reconstruction, unpublished",
        options=(),
    ),
)
