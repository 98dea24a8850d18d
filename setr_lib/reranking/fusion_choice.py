"""Which fusion orders best, by how judged queries with known targets would be ordered under each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import polars as pl

from setr_lib.reranking.fusion import Fusion, fuse

WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""The w of ``cosine + w * P(Yes)`` that are tried."""
TRIALS = pl.Schema(
    {
        "fusion": pl.String(),
        "weight": pl.Float64(),
        "mean_reciprocal_rank": pl.Float64(),
        "top_1": pl.Float64(),
        "queries": pl.Int64(),
    }
)
WITHOUT_EVIDENCE: tuple[Fusion, float] = ("cosine_judge", 1.0)
"""What is taken where nothing can be measured: LamRA's default."""
WITHOUT_A_SUM: tuple[Fusion, float] = ("reciprocal_rank", 1.0)
"""The same where the two scores cannot be added up."""


@dataclass(frozen=True)
class FusionChoice:
    """The best fusion, its weight (1.0 where it has none), and a row of ``TRIALS`` per fusion tried.

    ``mean_reciprocal_rank`` and ``top_1`` (share of queries with a target in first place) are between 0 and
    1.
    """

    fusion: Fusion
    weight: float
    trials: pl.DataFrame


@dataclass(frozen=True)
class _Judged:
    ids: list[str]
    judge: np.ndarray
    coarse: np.ndarray
    is_target: np.ndarray


def choose_fusion(
    judged: pl.DataFrame,
    targets: Mapping[str, AbstractSet[str]],
    weights: Sequence[float] = WEIGHTS,
    *,
    summable: bool = True,
) -> FusionChoice:
    """The fusion with the highest mean reciprocal rank of the first target; the re-ranker alone wins ties.

    Of weights that the queries cannot tell apart the least is taken (the one-standard-error rule of Breiman
    et al., 1984, on paired differences): stage 1's order is left only as far as there is evidence for it.

    Args:
        judged: A RANKINGS frame with a re-ranker's scores.
        targets: The right images by query id. Queries none of whose targets was scored say nothing and are
            left out.
        weights: The w of ``cosine + w * P(Yes)`` that are tried.
        summable: Whether stage 1's score is a cosine and the re-ranker's the log-odds of a Yes; else
            ``cosine_judge`` is not tried.

    Returns:
        The choice; where no query is left, ``WITHOUT_EVIDENCE`` (or ``WITHOUT_A_SUM``), and the trials'
        ``queries`` are 0.
    """
    queries = [query for query in _queries(judged, targets) if query.is_target.any()]
    options: list[tuple[Fusion, float | None]] = [("judge", None)]
    options.extend(("cosine_judge", weight) for weight in sorted(weights) if summable)
    options.append(("reciprocal_rank", None))
    rows: list[dict[str, object]] = []
    found: list[np.ndarray] = []
    for fusion, weight in options:
        ranks = np.array(
            [_rank_of_first_target(fusion, weight or 0.0, query) for query in queries], dtype=float
        )
        found.append(1 / ranks)
        rows.append(
            {
                "fusion": fusion,
                "weight": weight,
                "mean_reciprocal_rank": float(found[-1].mean()) if len(ranks) else None,
                "top_1": float((ranks == 1).mean()) if len(ranks) else None,
                "queries": len(queries),
            }
        )
    trials = pl.DataFrame(rows, schema=TRIALS)
    if not queries:
        return FusionChoice(*(WITHOUT_EVIDENCE if summable else WITHOUT_A_SUM), trials)
    best = int(trials["mean_reciprocal_rank"].to_numpy().argmax())
    if options[best][0] == "cosine_judge":
        lighter = range(options.index(("cosine_judge", min(weights))), best + 1)
        best = next(index for index in lighter if _as_good(found[index], found[best]))
    fusion, weight = options[best]
    return FusionChoice(fusion, 1.0 if weight is None else weight, trials)


def _as_good(one: np.ndarray, best: np.ndarray) -> bool:
    """Whether ``best`` is ahead by no more than one standard error of the paired difference."""
    ahead = best - one
    return bool(ahead.mean() <= ahead.std() / np.sqrt(len(ahead)))


def _queries(judged: pl.DataFrame, targets: Mapping[str, AbstractSet[str]]) -> list[_Judged]:
    rows = judged.filter((pl.col("pool") == "gallery") & pl.col("judge_score").is_not_null())
    grouped = rows.group_by("query_id", maintain_order=True).agg("image_id", "judge_score", "coarse_score")
    return [
        _Judged(
            images,
            np.array(judge),
            np.array(coarse),
            np.array([image in targets.get(query, ()) for image in images]),
        )
        for query, images, judge, coarse in grouped.iter_rows()
    ]


def _rank_of_first_target(fusion: Fusion, weight: float, query: _Judged) -> int:
    order, _ = fuse(fusion, query.judge, query.coarse, query.ids, weight)
    return int(np.flatnonzero(query.is_target[order])[0]) + 1
