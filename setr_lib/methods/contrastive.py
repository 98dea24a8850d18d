"""Contrastive principal components (Abid et al., 2018) of two sets of vectors, as BASIC has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def contrastive_directions(
    subjects: NDArray[np.floating], styles: NDArray[np.floating], components: int, alpha: float
) -> NDArray[np.float64]:
    """The directions in which subjects vary and styles do not: contrastive PCA.

    The eigenvectors of ``(1 - alpha) S'S / (n - 1) - alpha N'N / (m - 1)`` with positive eigenvalues, largest
    first. S and N are both centred by the mean text, not each by its own.

    Args:
        subjects: S, ``[n, d]``, two at least.
        styles: N, ``[m, d]``, two at least.
        components: How many directions are kept at most.
        alpha: The weight of the styles, 0 to 1.

    Returns:
        ``float64[directions, d]``, orthonormal.
    """
    wanted, unwanted = (vectors.astype(np.float64) for vectors in (subjects, styles))
    contrast = (1 - alpha) * wanted.T @ wanted / (len(wanted) - 1)
    contrast -= alpha * unwanted.T @ unwanted / (len(unwanted) - 1)
    values, vectors = np.linalg.eigh(contrast)
    positive = [column for column in np.argsort(-values) if values[column] > 1e-9 * abs(values).max()]
    return vectors.T[positive[:components]]
