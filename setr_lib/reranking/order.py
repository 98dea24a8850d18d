"""What a ranking is ordered by, in words and numbers that a reader can check: ``cosine + 0.5 P(Yes)``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from setr_lib.reranking.fusion import Fusion

OrderKind = Literal["stage 1", "judge", "cosine_judge", "reciprocal_rank"]
"""Stage 1's scores alone, or a fusion."""

_STATED = re.compile(r"(?P<fusion>\w+)(?:, w = (?P<weight>[^\s(]+))?(?: \(|$)")
_DIGITS: dict[OrderKind, int] = {"stage 1": 3, "judge": 2, "cosine_judge": 3, "reciprocal_rank": 5}


@dataclass(frozen=True)
class Order:
    """What a ranking is ordered by, largest first.

    Attributes:
        words: The formula: ``cosine``, ``cosine + 0.5 P(Yes)``, ``1 / (60 + rank by cosine) + ...``.
        kind: Stage 1's scores alone, or the fusion.
    """

    words: str
    kind: OrderKind

    @property
    def is_fused(self) -> bool:
        """Whether two scores are joined, so that neither alone explains the order."""
        return self.kind in ("cosine_judge", "reciprocal_rank")

    def number(self, score: float) -> str:
        """A score of this order with as many digits as tell neighbours apart.

        Args:
            score: What an image was ordered by: the column ``score`` of a RANKINGS table.

        Returns:
            The number in words.
        """
        return f"{score:.{_DIGITS[self.kind]}f}"


COSINE = Order("cosine", "stage 1")
"""The order of a method whose scores are cosines, alone."""


def coarse_order(*, is_cosine: bool = True) -> Order:
    """The order of stage 1 alone.

    Args:
        is_cosine: Whether the method's scores are cosines, or as small (``Method.is_cosine``).

    Returns:
        The order: ``cosine``, or ``the method's score``.
    """
    return COSINE if is_cosine else Order("the method's score", "stage 1")


def fused_order(
    fusion: Fusion,
    weight: float = 1.0,
    *,
    is_cosine: bool = True,
    is_logit: bool = True,
    is_listwise: bool = False,
) -> Order:
    """The order that a fusion of stage 1's and a re-ranker's scores makes.

    Args:
        fusion: The fusion.
        weight: The w of ``cosine_judge``.
        is_cosine: Whether the method's scores are cosines (``Method.is_cosine``).
        is_logit: Whether the re-ranker's scores are the log-odds of a Yes (``Reranker.is_logit``).
        is_listwise: Whether the re-ranker scores a query's candidates as one list (``Reranker.listwise``).

    Returns:
        The order, e.g. ``cosine + 0.5 P(Yes)``, ``1 / (60 + rank by cosine) + 1 / (60 + rank by the judge)``,
        ``the judge alone: logit(Yes) - logit(No)``, ``the re-ranker's own order``.
    """
    from setr_lib.reranking.fusion import RANK_CONSTANT as CONSTANT

    who = "the judge" if is_logit else "the re-ranker"
    if fusion == "cosine_judge":
        factor = "" if weight == 1 else f"{weight:g} "
        return Order(f"cosine + {factor}P(Yes)", "cosine_judge")
    if fusion == "reciprocal_rank":
        first = "cosine" if is_cosine else "the method"
        return Order(
            f"1 / ({CONSTANT} + rank by {first}) + 1 / ({CONSTANT} + rank by {who})", "reciprocal_rank"
        )
    if is_listwise:
        return Order(f"{who}'s own order", "judge")
    return Order("the judge alone: logit(Yes) - logit(No)" if is_logit else f"{who}'s score alone", "judge")


def stated_fusion(words: str) -> tuple[Fusion, float] | None:
    """The fusion that a stored record states, e.g. ``cosine_judge, w = 0.5 (by the settings)``.

    Args:
        words: ``RerankedRow.fusion``.

    Returns:
        The fusion and its weight, 1 where none is stated; None where the words state no fusion that is known.
    """
    from setr_lib.reranking.fusion import Fusion

    found = _STATED.match(words)
    if found is None:
        return None
    fusion = next((name for name in get_args(Fusion) if name == found["fusion"]), None)
    try:
        return None if fusion is None else (fusion, float(found["weight"] or 1.0))
    except ValueError:
        return None
