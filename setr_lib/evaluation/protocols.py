"""What each benchmark reports: metric names, in the order of its tables, and the depths K. No computation here.

Sources: the CIRR, FashionIQ and CIRCO papers and repositories. A folder of one's own is measured by both kinds: R@K is
then the share of queries with *any* target among the first K, mAP@10 as CIRCO defines it.
"""

from __future__ import annotations

import polars as pl

from setr_lib.errors import SetrError

RECALL_DEPTHS: dict[str, tuple[int, ...]] = {
    "cirr": (1, 5, 10, 50),
    "fashioniq": (10, 50),
    "circo": (5, 10, 25, 50),
    "folder": (1, 5, 10, 50),
}
PRECISION_DEPTHS: dict[str, tuple[int, ...]] = {"circo": (5, 10, 25, 50), "folder": (10,)}
"""The K of mAP@K."""
SUBSET_DEPTHS = (1, 2, 3)
ASPECT_METRIC = "mAP@10"
"""The metric that CIRCO also reports for each semantic aspect, as ``mAP@10/ASPECT``."""
HEADLINES: dict[str, str] = {"cirr": "R@1", "fashioniq": "R@10", "circo": "mAP@5", "folder": "R@1"}
"""The one metric to sort by when there is room for one."""
AVERAGE = "Avg"
"""CIRR's (R@5 + R_subset@1) / 2."""


class ProtocolError(SetrError):
    """A data set of an unknown kind, or queries that do not fit their kind."""


def check_kind(kind: str) -> str:
    """``kind`` if it is one of CIRR, FashionIQ, CIRCO and folder. Raises ``ProtocolError``."""
    if kind not in RECALL_DEPTHS:
        raise ProtocolError(f"there is no data set kind {kind!r}: use one of {sorted(RECALL_DEPTHS)}")
    return kind


def base_metrics(kind: str) -> list[str]:
    """Metric names that every query of ``kind`` has a value of."""
    precisions = [f"mAP@{depth}" for depth in PRECISION_DEPTHS.get(check_kind(kind), ())]
    recalls = [f"R@{depth}" for depth in RECALL_DEPTHS[kind]]
    subset = [*(f"R_subset@{depth}" for depth in SUBSET_DEPTHS), AVERAGE] if kind == "cirr" else []
    return [*recalls, *precisions] if kind == "folder" else [*precisions, *recalls, *subset]


def metric_names(kind: str, queries: pl.DataFrame) -> list[str]:
    """All metric names of ``kind`` in the order of its tables, per-category and per-aspect ones last."""
    names = base_metrics(kind)
    if kind == "fashioniq":
        categories = queries["gallery"].unique(maintain_order=True)
        return [*names, *(f"{name}/{category}" for category in categories for name in names)]
    if kind == "circo":
        aspects = queries["aspects"].explode().drop_nulls().unique().sort()
        return [*names, *(f"{ASPECT_METRIC}/{aspect}" for aspect in aspects)]
    return names


def scored_queries(queries: pl.DataFrame) -> pl.DataFrame:
    """The queries whose targets are known; none of a hidden split."""
    return queries.filter(pl.col("target_ids").list.len() > 0)
