"""The answer to a search as plain values, for programs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from setr_lib.pipeline.retriever import SearchResult


def answer_document(
    found: SearchResult, image: Path, text: str, *, key: str, gallery: str | None = None
) -> dict[str, Any]:
    """An answer as a JSON object.

    Args:
        found: The answer.
        image: The reference image.
        text: The modification text.
        key: The evaluation set whose gallery was searched.
        gallery: The one gallery of several that was searched.

    Returns:
        ``query`` (``image``, ``text``), ``set``, ``gallery``, ``method``, ``method_version``, ``reranker``
        (null for stage 1 alone), ``reranker_version`` (of its weights: the champion's), ``order`` (what
        images are ordered by, in words), ``target_caption`` (what the multimodal LLM took the query to look
        for, null where it was not asked), ``images``, ``cut_texts`` and ``stale``. Each image has ``rank``,
        ``rank_before`` (stage 1's), ``id``, ``path``, ``score`` (that of the order), ``coarse_score``
        (stage 1's) and ``judge_score`` (the re-ranker's; null where the image was not judged).
    """
    before = dict(found.coarse.select("image_id", "rank").iter_rows())
    return {
        "query": {"image": str(image), "text": text},
        "set": key,
        "gallery": gallery,
        "method": found.method,
        "method_version": found.method_version,
        "reranker": found.reranker,
        "reranker_version": found.version,
        "order": found.order.words,
        "target_caption": found.target_caption,
        "images": [
            {
                "rank": hit.rank,
                "rank_before": before.get(hit.image_id),
                "id": hit.image_id,
                "path": hit.path,
                "score": _finite(hit.score),
                "coarse_score": _finite(hit.coarse_score),
                "judge_score": _finite(hit.judge_score),
            }
            for hit in found
        ],
        "cut_texts": list(found.cut),
        "stale": dict(found.stale),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
