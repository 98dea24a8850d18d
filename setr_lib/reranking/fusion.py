"""How a judge's logit difference and stage 1's score become one order. Pure functions of arrays.

``judge``: the difference d alone. ``cosine_judge``: coarse score + w * P(Yes), with P(Yes) = 1 / (1 +
exp(-d)) (LamRA, arXiv 2412.01720). ``reciprocal_rank``: the sum of 1 / (60 + rank) over both orders (Cormack
et al., 2009). Ties break by coarse score, then by id; a candidate that could not be judged comes after all
that were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Fusion = Literal["judge", "cosine_judge", "reciprocal_rank"]

RANK_CONSTANT = 60
"""The constant of reciprocal rank fusion, as published."""


def fuse(
    fusion: Fusion, judge: np.ndarray, coarse: np.ndarray, ids: Sequence[str], weight: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Order the candidates of a query by the re-ranker's and stage 1's scores.

    All arithmetic is in float64: P(Yes) near 1 must not make ties.

    Args:
        fusion: How the scores become one.
        judge: ``float[n]``, logit(Yes) - logit(No); NaN where a candidate was not judged (its fused score is
            NaN, too).
        coarse: ``float[n]``, stage 1's scores.
        ids: The candidates.
        weight: The w of ``cosine_judge``.

    Returns:
        The order, indices best first ``int[n]``, and what the candidates were ordered by, ``float64[n]`` by
        index.

    Raises:
        ValueError: The fusion is unknown.
    """
    judge, coarse = np.asarray(judge, dtype=np.float64), np.asarray(coarse, dtype=np.float64)
    if fusion == "judge":
        scores = judge.copy()
    elif fusion == "cosine_judge":
        scores = coarse + weight * probability_of_yes(judge)
    elif fusion == "reciprocal_rank":
        by_judge, by_coarse = _ranks(judge, coarse, ids), _ranks(coarse, coarse, ids)
        scores = 1 / (RANK_CONSTANT + by_judge) + 1 / (RANK_CONSTANT + by_coarse)
        scores[np.isnan(judge)] = np.nan
    else:
        raise ValueError(f"unknown fusion {fusion!r}: judge, cosine_judge or reciprocal_rank")
    return _best_first(scores, coarse, ids), scores


def probability_of_yes(difference: np.ndarray) -> np.ndarray:
    """P(Yes) of the two answers, without overflow.

    Args:
        difference: logit(Yes) - logit(No), of any shape.

    Returns:
        float64 between 0 and 1, of the same shape.
    """
    return 0.5 * (1 + np.tanh(np.asarray(difference, dtype=np.float64) / 2))


def _best_first(scores: np.ndarray, coarse: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    unjudged = np.isnan(scores)
    names = np.asarray(ids, dtype=np.str_)
    # lexsort takes its last key first: judged before not, score down, coarse score down, id up.
    return np.lexsort((names, -coarse, -np.where(unjudged, 0.0, scores), unjudged))


def _ranks(scores: np.ndarray, coarse: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """1-based rank of each candidate by ``scores``."""
    ranks = np.empty(len(scores), dtype=np.float64)
    ranks[_best_first(scores, coarse, ids)] = np.arange(1, len(scores) + 1)
    return ranks
