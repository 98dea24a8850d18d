"""From rows of a gallery to the RANKINGS table: the benchmarks' pools, and the table made of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from setr_lib.tables import RANKINGS, conform

if TYPE_CHECKING:
    from numpy.typing import NDArray

GALLERY, SUBSET = 0, 1
"""The pools by number; the RANKINGS table has their names, in this order."""
_POOLS = ("gallery", "subset")


def rows_of(wanted: pl.Series, names: pl.Series) -> NDArray[np.intp]:
    """Where names are among others.

    Args:
        wanted: Names, in any number and order.
        names: Distinct names.

    Returns:
        The row in ``names`` of each, ``int[wanted]``; -1 for one that is not there.
    """
    # A table for the join is made of the right side: of few names, where few are wanted of a large gallery.
    there = pl.DataFrame({"name": names}).with_row_index("row")
    there = there.filter(pl.col("name").is_in(wanted.unique().implode()))
    found = pl.DataFrame({"name": wanted}).join(there, on="name", how="left", maintain_order="left")
    return found["row"].cast(pl.Int64()).fill_null(-1).to_numpy().astype(np.intp)


def subset_pairs(queries: pl.DataFrame, names: pl.Series) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The pairs of a query and a member of its subset (CIRR), each once.

    Args:
        queries: QUERIES rows.
        names: The images that have a vector.

    Returns:
        Rows of ``queries`` and rows of ``names``, two flat arrays ordered by query.
    """
    pairs = (
        queries.select("subset_ids")
        .with_row_index("query")
        .filter(pl.col("subset_ids").list.len() > 0)
        .explode("subset_ids")
        .unique(maintain_order=True)
    )
    members = rows_of(pairs["subset_ids"], names)
    return pairs["query"].to_numpy().astype(np.intp)[members >= 0], members[members >= 0]


def places_in(queries: NDArray[np.intp]) -> NDArray[np.intp]:
    """The place of each entry within its query, from 0.

    Args:
        queries: The query of each entry, ascending.

    Returns:
        ``int[n]``.
    """
    starts = np.flatnonzero(np.r_[True, queries[1:] != queries[:-1]]) if len(queries) else queries
    return np.arange(len(queries)) - np.repeat(starts, np.diff(np.r_[starts, len(queries)]))


@dataclass(frozen=True)
class RankedRows:
    """The images of one pool of some queries: flat arrays, ordered by query, then by rank."""

    pool: int
    queries: NDArray[np.intp]
    """Rows of the QUERIES table."""
    images: NDArray[np.intp]
    """Rows of the gallery's names."""
    scores: NDArray[np.float32]

    def without(self, own: NDArray[np.intp] | None, k: int) -> RankedRows:
        """The first ``k`` of each query, once its reference is taken out.

        Args:
            own: The row of the reference of each query of the whole QUERIES table, -1 for none; None where
                references stay.
            k: Images kept.

        Returns:
            The rest.
        """
        kept = self
        if own is not None:
            others = self.images != own[self.queries]
            kept = RankedRows(self.pool, self.queries[others], self.images[others], self.scores[others])
        inside = places_in(kept.queries) < k
        if inside.all():
            return kept
        return RankedRows(self.pool, kept.queries[inside], kept.images[inside], kept.scores[inside])


def rankings_of(parts: list[RankedRows], queries: pl.DataFrame, names: pl.Series) -> pl.DataFrame:
    """The RANKINGS table of all pools.

    Args:
        parts: The ranked rows; each pool of a query is in one of them.
        queries: The QUERIES table.
        names: The gallery's names.

    Returns:
        In the order of the queries, pool and rank.
    """
    if not parts:
        return RANKINGS.to_frame()
    asked = np.concatenate([part.queries for part in parts])
    pools = np.concatenate([np.full(len(part.queries), part.pool, dtype=np.intp) for part in parts])
    ranks = np.concatenate([places_in(part.queries) for part in parts])
    images = np.concatenate([part.images for part in parts])
    scores = np.concatenate([part.scores for part in parts]).astype(np.float64)
    keys = asked * len(_POOLS) + pools
    if (keys[1:] < keys[:-1]).any():
        order = np.argsort(keys, kind="stable")
        asked, pools, ranks, images, scores = (
            column[order] for column in (asked, pools, ranks, images, scores)
        )
    score = pl.Series("score", scores)
    frame = pl.DataFrame(
        {
            "query_id": queries["query_id"].gather(asked),
            "pool": pl.Series(_POOLS).gather(pools),
            "rank": (ranks + 1).astype(np.int32),
            "image_id": names.gather(images),
            "score": score,
            "coarse_score": score,
            "judge_score": pl.Series([None], dtype=pl.Float64()).new_from_index(0, len(asked)),
        }
    )
    return conform(frame, RANKINGS, "rankings")
