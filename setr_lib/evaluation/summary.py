"""From an evaluation to leaderboard rows: percent, with intervals, the protocol, and whether they compare
with papers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from setr_lib.benchmarks import EvaluationSet
from setr_lib.datasets import coverage
from setr_lib.evaluation.floor import expected_per_query, random_intervals
from setr_lib.evaluation.intervals import Interval, query_intervals
from setr_lib.evaluation.metrics import Evaluation, evaluate, summarise
from setr_lib.evaluation.row import RANDOM, Row
from setr_lib.settings import EvaluationSettings
from setr_lib.tables import METRICS, conform

_PERCENT = 100.0
NO_COUNTS = "no official counts to compare with"
"""Why a benchmark that does not say how large it officially is compares with no published numbers."""


def gallery_coverage(gallery: pl.DataFrame | None) -> float:
    """Share (0 to 1) of the gallery's images that could be ranked; 1 where no image was inspected.

    Args:
        gallery: ``image_id`` and optionally ``status``; None where it could not be listed.

    Returns:
        The share.
    """
    return 1.0 if gallery is None or "status" not in gallery.columns else coverage(gallery)


def _gallery_differs(evaluation_set: EvaluationSet, gallery: pl.DataFrame) -> str | None:
    official = evaluation_set.official_images
    if official is None:
        return None
    here = dict(gallery["galleries"].explode().drop_nulls().value_counts().iter_rows())
    if here == official:
        return None
    return f"gallery of {sum(here.values()):,} images (official: {sum(official.values()):,})"


def why_not_comparable(
    evaluation_set: EvaluationSet, queries: pl.DataFrame, gallery: pl.DataFrame | None = None
) -> list[str]:
    """Why these numbers do not compare with published ones.

    Checked: the benchmark's own caveats, that there are official counts, that queries and gallery are as many
    as in the official files (the miniature's are not), that no image is missing or broken, and that images
    are read as the benchmark's own pipeline reads them.

    Args:
        evaluation_set: The set that was ranked.
        queries: Those that were ranked.
        gallery: The inspected one (``tables.GALLERY``), or None.

    Returns:
        The reasons; empty where the numbers compare.
    """
    reasons = list(evaluation_set.benchmark.caveats(evaluation_set))
    if not reasons and not evaluation_set.has_official_counts:
        reasons.append(NO_COUNTS)
    official = evaluation_set.official_queries
    if official is not None and queries.height != official:
        reasons.append(f"{queries.height:,} queries (official: {official:,})")
    if gallery is not None and (difference := _gallery_differs(evaluation_set, gallery)):
        reasons.append(difference)
    if gallery is not None and gallery_coverage(gallery) < 1:
        missing = gallery.height - gallery.filter(status="ok").height
        reasons.append(f"{missing:,} of {gallery.height:,} gallery images missing or broken")
    if gallery is not None and evaluation_set.pixels.id != evaluation_set.benchmark.pixels.id:
        reasons.append(f"images are read otherwise: {evaluation_set.pixels.words}")
    return reasons


def _rows(
    evaluation_set: EvaluationSet,
    per_query: pl.DataFrame,
    intervals: Mapping[str, Interval | None],
    constants: Mapping[str, str | float | bool | None],
) -> pl.DataFrame:
    """One METRICS row per metric of ``per_query``, in its order."""
    counts = dict(per_query.group_by("metric").len().iter_rows())
    values = summarise(per_query)
    ends = {metric: intervals[metric] or (None, None) for metric in values}
    rows = [
        {
            "dataset": evaluation_set.dataset,
            "split": evaluation_set.split,
            "metric": metric,
            "value": value * _PERCENT,
            **{
                name: None if end is None else end * _PERCENT
                for name, end in zip(("ci_low", "ci_high"), ends[metric], strict=True)
            },
            "n_queries": counts[metric],
            "gallery": evaluation_set.gallery,
            **constants,
        }
        for metric, value in values.items()
    ]
    frame = (
        pl.DataFrame(rows, schema={name: METRICS[name] for name in METRICS}) if rows else METRICS.to_frame()
    )
    return conform(frame, METRICS, "metrics")


def metric_rows(
    evaluation_set: EvaluationSet,
    queries: pl.DataFrame,
    rankings: pl.DataFrame,
    gallery: pl.DataFrame | None = None,
    *,
    row: Row,
    settings: EvaluationSettings | None = None,
    model_version: str | None = None,
    label: str = "",
    evaluation: Evaluation | None = None,
    caveats: Sequence[str] = (),
) -> pl.DataFrame:
    """The leaderboard's rows for one ranking of one set. A query without a ranking counts as a miss and is
    noted.

    Args:
        evaluation_set: The set that was ranked.
        queries: Those that were ranked; fewer than the set's make the rows not comparable.
        rankings: A ``tables.RANKINGS`` frame.
        gallery: The inspected one (``tables.GALLERY``), for coverage and checks.
        row: Which method ranked, and which re-ranker re-ranked.
        settings: How intervals are drawn.
        model_version: The registered models whose weights the method and the re-ranker have, with their
            versions (:func:`setr_lib.evaluation.model_versions.in_words`); None without one.
        label: What a reader must know besides, e.g. ``zero-shot``; reasons why papers do not compare are
            added.
        evaluation: What :func:`evaluate` gave for this ranking, where the caller has it already.
        caveats: Further reasons why papers do not compare.

    Returns:
        A ``tables.METRICS`` frame in percent; empty on a hidden split. ``ci_low`` and ``ci_high`` are null
        where there is no interval (``intervals.query_intervals``).

    Raises:
        RankingError: The ranking breaks the benchmark's rules.
        ProtocolError: The gallery has no column that is needed.
    """
    options = settings or EvaluationSettings()
    found = evaluation or evaluate(evaluation_set.benchmark, queries, rankings, gallery, unranked="miss")
    reasons = [*caveats, *why_not_comparable(evaluation_set, queries, gallery)]
    if found.unranked:
        reasons.append(f"{found.unranked:,} queries without a ranking count as misses")
    constants: dict[str, str | float | bool | None] = {
        "method": row.method,
        "reranker": row.reranker,
        "coverage": gallery_coverage(gallery),
        "comparable": not reasons,
        "label": "; ".join(part for part in (label, *reasons) if part),
        "model_version": model_version,
        "overlap": None,
    }
    proportions = {metric.name for metric in evaluation_set.benchmark.metrics if metric.is_proportion}
    intervals = query_intervals(
        found.per_query, proportions, samples=options.bootstrap_samples, seed=options.seed
    )
    return _rows(evaluation_set, found.per_query, intervals, constants)


def floor_rows(
    evaluation_set: EvaluationSet,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    *,
    settings: EvaluationSettings | None = None,
    caveats: Sequence[str] = (),
) -> pl.DataFrame:
    """The leaderboard's rows of the random floor: the closed-form mean.

    Their interval is where 95 % of random rankers land on these queries, not a bootstrap: the mean is exact.

    Args:
        evaluation_set: The set.
        queries: Those that were ranked.
        gallery: ``image_id``, ``galleries`` and optionally ``status``.
        settings: The seed of the simulation.
        caveats: Further reasons why papers do not compare.

    Returns:
        A ``tables.METRICS`` frame in percent; empty on a hidden split.
    """
    options = settings or EvaluationSettings()
    expected = expected_per_query(evaluation_set.benchmark, queries, gallery)
    intervals = random_intervals(evaluation_set.benchmark, queries, gallery, seed=options.seed)
    reasons = [*caveats, *why_not_comparable(evaluation_set, queries, gallery)]
    constants: dict[str, str | float | bool | None] = {
        "method": RANDOM.method,
        "reranker": RANDOM.reranker,
        "coverage": gallery_coverage(gallery),
        "comparable": not reasons,
        "label": "; ".join(("chance, in closed form", *reasons)),
        "model_version": None,
        "overlap": None,
    }
    return _rows(evaluation_set, expected, intervals, constants)
