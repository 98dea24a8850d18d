"""The formula of SoFT's soft filter (arXiv 2512.20781), and the option that says what share of a score is
filtered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setr_lib.methods.options import Option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAPERS_LAMBDA = 1.0  # on CIReVL; 0.2 on SEARLE
LAMBDA = Option(
    "lambda", least=0, most=1, default=PAPERS_LAMBDA, meaning="the share of the score that is filtered"
)
"""The share of a method's score that is filtered."""


def filtered(
    base: NDArray[np.float64], reward: NDArray[np.float64], penalty: NDArray[np.float64], share: float
) -> NDArray[np.float64]:
    """Scores after the filter; all arrays ``[queries, gallery]``::

        soft  = base * (reward + 1 - penalty) / 2
        final = (1 - lambda) * base + lambda * soft

    Where a score is negative, a reward lowers it, as published.

    Args:
        base: The scores that are filtered.
        reward: How well an image fits what is asked for; 1 where nothing is.
        penalty: How well it fits what must not be there; 0 where nothing is named.
        share: Lambda, the share of the score that is filtered.

    Returns:
        The filtered scores; where reward is 1 and penalty 0, ``base``.
    """
    soft = base * (reward + 1 - penalty) / 2
    return (1 - share) * base + share * soft
