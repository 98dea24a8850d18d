"""Which queries a report shows: those that re-ranking helped and hurt most, and a random sample.

Belongs here: judging single queries in order to pick them. The reported metrics are in ``metrics.py``; the
one used here is only for picking.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import polars as pl

from setr_lib.evaluation.cautions import count_queries


@dataclass(frozen=True, slots=True)
class CaseGroup:
    """Some queries, best first, and why they are shown. ``key`` is short and unique within a report."""

    key: str
    title: str
    explanation: str
    query_ids: list[str]


def average_precisions(queries: pl.DataFrame, rankings: pl.DataFrame) -> pl.DataFrame:
    """How well the gallery ranking of each query finds its targets.

    Args:
        queries: A ``tables.QUERIES`` frame.
        rankings: A ``tables.RANKINGS`` frame; only the gallery pool counts.

    Returns:
        One row for each query that has targets: ``query_id``, ``precision`` (average precision over the whole
        stored ranking, 0 to 1; a target beyond it counts nothing; with one target 1 / rank) and
        ``first_rank`` (of the first target; null if not ranked).
    """
    targets = (
        queries.filter(pl.col("target_ids").list.len() > 0)
        .select("query_id", pl.col("target_ids").alias("image_id"))
        .explode("image_id", empty_as_null=True, keep_nulls=True)
        .unique(maintain_order=True)
    )
    found = (
        rankings.filter(pl.col("pool") == "gallery")
        .select("query_id", "image_id", "rank")
        .join(targets, on=["query_id", "image_id"])
        .sort("query_id", "rank")
        .with_columns(hits=pl.int_range(1, pl.len() + 1).over("query_id"))
        .group_by("query_id")
        .agg(total=(pl.col("hits") / pl.col("rank")).sum(), first_rank=pl.col("rank").min())
    )
    counts = targets.group_by("query_id", maintain_order=True).agg(targets=pl.len())
    return counts.join(found, on="query_id", how="left", maintain_order="left").select(
        "query_id", precision=(pl.col("total") / pl.col("targets")).fill_null(0.0), first_rank="first_rank"
    )


def choose_cases(
    queries: pl.DataFrame, before: pl.DataFrame, after: pl.DataFrame | None, *, count: int, seed: int
) -> list[CaseGroup]:
    """The groups of cases of a report. Equal arguments give equal groups.

    Without known targets only the random sample remains. It is drawn from all queries without regard to
    results, so it may repeat a case of the other groups.

    Args:
        queries: A ``tables.QUERIES`` frame.
        before: ``RANKINGS`` of the coarse stage.
        after: ``RANKINGS`` of the re-ranked stage; None where there is none.
        count: Queries of each group.
        seed: Of the sample.

    Returns:
        The groups that are not empty.
    """
    scored = average_precisions(queries, before)
    groups: list[CaseGroup] = []
    if count and scored.height:
        groups = (
            _by_quality(scored, count)
            if after is None
            else _by_gain(scored, average_precisions(queries, after), count)
        )
    sample = _sample(queries.get_column("query_id").to_list(), count, seed)
    groups.append(
        CaseGroup(
            "sample",
            "A random sample",
            f"{len(sample)} of {count_queries(queries.height)}, drawn without looking at any result.",
            sample,
        )
    )
    return [group for group in groups if group.query_ids]


def _by_gain(before: pl.DataFrame, after: pl.DataFrame, count: int) -> list[CaseGroup]:
    both = before.join(after, on="query_id", suffix="_after", maintain_order="left").with_columns(
        gain=pl.col("precision_after") - pl.col("precision")
    )
    best = both.filter(pl.col("gain") > 0).sort("gain", "query_id", descending=[True, False])
    # Losses first, the largest on top; then what neither stage found.
    worst = both.filter((pl.col("gain") < 0) | (pl.col("precision_after") < 0.1)).sort(
        pl.col("gain").clip(upper_bound=0.0), "precision_after", "query_id"
    )
    measured = count_queries(both.height)
    helped, hurt = best.height, both.filter(pl.col("gain") < 0).height
    return [
        CaseGroup(
            "best",
            "Best cases",
            f"Where re-ranking gained most. It moved the targets up in {helped} of {measured}.",
            best.head(count).get_column("query_id").to_list(),
        ),
        CaseGroup(
            "worst",
            "Worst cases",
            f"Where re-ranking lost most ({hurt} of {measured} got worse), then targets that no "
            "stage brought near the top.",
            worst.head(count).get_column("query_id").to_list(),
        ),
    ]


def _by_quality(scored: pl.DataFrame, count: int) -> list[CaseGroup]:
    ordered = scored.sort("precision", "query_id", descending=[True, False]).get_column("query_id").to_list()
    return [
        CaseGroup("best", "Best cases", "Targets that coarse retrieval ranked highest.", ordered[:count]),
        CaseGroup(
            "worst",
            "Worst cases",
            "Targets that coarse retrieval ranked lowest, or not at all.",
            ordered[count:][::-1][:count],
        ),
    ]


def _sample(query_ids: list[str], count: int, seed: int) -> list[str]:
    drawn = set(Random(seed).sample(range(len(query_ids)), min(count, len(query_ids))))  # noqa: S311
    return [query for position, query in enumerate(query_ids) if position in drawn]
