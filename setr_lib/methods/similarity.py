"""Arithmetic on unit vectors whose result does not depend on the order and the blocks it is computed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FEW = 8  # pairs of a query, on average, below which queries are gathered, too
_PAIRS = 64
_ROWS = 16_384  # gallery rows held in float64 at a time: 100 MB at 768 dimensions


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale vectors to norm 1.

    Args:
        vectors: ``[n, d]``.

    Returns:
        ``float32[n, d]``; a zero row (nothing known) stays zero.
    """
    import numpy as np

    result = np.zeros(vectors.shape, dtype=np.float32)
    for start in range(0, len(vectors), _ROWS):
        exact = vectors[start : start + _ROWS].astype(np.float64)
        norms = np.linalg.norm(exact, axis=-1, keepdims=True)
        np.divide(exact, norms, out=exact, where=norms > 0)
        result[start : start + _ROWS] = exact
    return result


def similarity(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products of two sets of vectors: cosines, for unit vectors.

    Summed in float64 and rounded once: a product of float32 sums differs in its last digit with the shape of
    the block and the processor, which would break ties between equal images at random.

    Args:
        queries: ``float32[q, d]``.
        gallery: ``float32[g, d]``.

    Returns:
        ``float32[q, g]``.
    """
    import numpy as np

    result = np.empty((len(queries), len(gallery)), dtype=np.float32)
    left = queries.astype(np.float64)
    for start in range(0, len(gallery), _ROWS):
        stop = start + _ROWS
        result[:, start:stop] = left @ gallery[start:stop].astype(np.float64).T
    return result


def pair_similarity(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    counts: NDArray[np.intp],
    columns: NDArray[np.intp],
) -> NDArray[np.float32]:
    """Inner products of chosen pairs, as :func:`similarity_to` gives them.

    Args:
        queries: ``float32[q, d]``.
        gallery: ``float32[g, d]``.
        counts: How many gallery rows of each query, ``int[q]``.
        columns: These gallery rows, query after query.

    Returns:
        ``float32[columns]``.
    """
    import numpy as np

    sums, exact = np.empty(len(columns)), queries.astype(np.float64)
    if len(columns) < _FEW * len(queries):  # more calls than work: several queries at a time
        asked = np.repeat(np.arange(len(queries)), counts)
        for start in range(0, len(columns), _PAIRS):
            part = slice(start, start + _PAIRS)
            np.vecdot(gallery[columns[part]].astype(np.float64), exact[asked[part]], out=sums[part])
        return sums.astype(np.float32)
    stop = 0
    for query, count in zip(exact, counts.tolist(), strict=True):
        start, stop = stop, stop + count
        if count:
            np.vecdot(gallery[columns[start:stop]], query, out=sums[start:stop])
    return sums.astype(np.float32)


def similarity_to(query: NDArray[np.float64], gallery: NDArray[np.floating]) -> NDArray[np.float32]:
    """Inner products of one query with gallery rows, each a single sum in float64 that is rounded once.

    Each product is one dot product of its two rows, so it does not depend on what else is computed with it.
    :func:`similarity` sums in another order: its float64 sums may differ in their last bits (1e-16), which
    changes the float32 result only where a sum lies that close to the middle between two of them.

    Args:
        query: ``float64[d]``, whose values are float32 numbers.
        gallery: ``float32[n, d]``, or the same numbers in float64.

    Returns:
        ``float32[n]``.
    """
    import numpy as np

    return np.vecdot(gallery, query).astype(np.float32)


def min_max(scores: NDArray[np.floating], equal: float = 1.0) -> NDArray[np.float64]:
    """Scale each row of scores to 0 (its least) to 1 (its greatest).

    Args:
        scores: ``[queries, gallery]``.
        equal: What a row gets whose scores are all the same. 1 by default, so that a factor which is
            multiplied with such a row still orders it.

    Returns:
        ``float64[queries, gallery]``.
    """
    import numpy as np

    exact = scores.astype(np.float64)
    if not exact.size:
        return exact
    exact -= exact.min(axis=1, keepdims=True)
    spans = exact.max(axis=1, keepdims=True)
    return np.divide(exact, spans, out=np.full_like(exact, equal), where=spans > 0)


def mean_vector(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of vectors, summed in float64.

    Args:
        vectors: ``float32[n, d]``.

    Returns:
        ``float32[d]``; zeros for no rows.
    """
    import numpy as np

    if len(vectors) == 0:
        return np.zeros(vectors.shape[1], dtype=np.float32)
    return vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
