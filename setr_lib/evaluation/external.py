"""Scores of ranking files that any system made: annotations in, leaderboard rows out; no image, model or
store.

It joins ``ranking_files`` (what a file may look like) and ``metrics`` (what a ranking is worth).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from setr_lib.benchmarks import EvaluationSet
from setr_lib.benchmarks.loading import read_gallery, read_queries
from setr_lib.benchmarks.query_labels import LabelFile, read_labels
from setr_lib.evaluation.metrics import Evaluation, evaluate, left_out_sentences, with_labels
from setr_lib.evaluation.protocols import reported_metrics
from setr_lib.evaluation.ranking_files import ReadRankings, read_ranking_files
from setr_lib.evaluation.row import EXTERNAL
from setr_lib.evaluation.summary import metric_rows
from setr_lib.settings import EvaluationSettings


@dataclass(frozen=True)
class ExternalScores:
    """The metrics of ranking files. ``rows`` is a METRICS frame, empty where the targets are hidden."""

    read: ReadRankings
    rows: pl.DataFrame
    notes: list[str]
    """What could not be checked, which metrics are left out and why."""

    @property
    def has_targets(self) -> bool:
        """Whether there was anything to score by."""
        return bool((self.read.queries["target_ids"].list.len() > 0).any())


def score_files(
    evaluation_set: EvaluationSet,
    files: Sequence[Path],
    settings: EvaluationSettings | None = None,
    labels: Sequence[LabelFile] = (),
    caveats: Sequence[str] = (),
) -> ExternalScores:
    """The official metrics of ranking files; on a hidden split only the checks.

    Args:
        evaluation_set: The set that the files answer.
        files: As for :func:`read_ranking_files`.
        settings: How intervals are drawn; by default the defaults.
        labels: Files of labelled queries, by which every metric is broken down besides.
        caveats: What the caller knows of how the rankings were made that makes them not comparable with
            published numbers: ``query contains shared_concept``.

    Returns:
        What was read, METRICS rows in percent with 95 % intervals, and notes.

    Raises:
        RankingFileError: A ranking file is wrong.
        DatasetError: An annotation file or a file of labels is wrong or missing.
    """
    queries, gallery = read_queries(evaluation_set), listed_gallery(evaluation_set)
    read = read_ranking_files(evaluation_set, files, queries, gallery)
    found = evaluate(evaluation_set.benchmark, read.queries, read.rankings, gallery)
    labelled = read_labels(labels, queries, _parts(evaluation_set, queries)) if labels else None
    told: list[str] = []
    if labelled is not None:
        found = with_labels(found, labelled.frame)
        told = [*labelled.notes, *_unscored(labelled.frame, found)]
    suspicious = evaluation_set.benchmark.ranking_notes(evaluation_set, read.queries, read.rankings)
    rows = metric_rows(
        evaluation_set,
        queries,  # all of them: each row of a whole FashionIQ category is comparable by itself
        read.rankings,
        gallery,
        row=EXTERNAL,
        settings=settings,
        label=" + ".join(_file_name(file) for file in files),
        evaluation=found,
        caveats=[*caveats, *suspicious],
    )
    assumed = evaluation_set.benchmark.query_notes(evaluation_set)
    notes = [*assumed, *read.notes, *suspicious, *told, *left_out_sentences(found.left_out)]
    return ExternalScores(read, rows, notes)


def _parts(evaluation_set: EvaluationSet, queries: pl.DataFrame) -> set[str]:
    """The categories and aspects that metrics are broken down by without labels."""
    return {reported.part for reported in reported_metrics(evaluation_set.benchmark, queries)} - {""}


def _unscored(labels: pl.DataFrame, found: Evaluation) -> list[str]:
    """That a label has no metric though there are some: its queries have no known target, or means are of
    more categories than there are.
    """
    parts = {metric.partition("/")[2] for metric in found.summary}
    names = labels["label"].unique().sort() if parts else ()
    return [
        f"no metric for the label {name!r}: no value of its queries is part of a mean"
        for name in names
        if name not in parts
    ]


def _file_name(file: Path) -> str:
    """The file's name as any table can hold it: bytes of it that are not UTF-8 are spelt ``\\udcff``."""
    return file.name.encode("utf-8", "backslashreplace").decode()


def listed_gallery(evaluation_set: EvaluationSet) -> pl.DataFrame | None:
    """The gallery by name, where it can be listed.

    Args:
        evaluation_set: The set that searches it.

    Returns:
        ``image_id``, ``path``, ``galleries``; None where it cannot be listed and metrics do without it (CIRCO
        without COCO's image list).

    Raises:
        DatasetError: An annotation file is wrong or missing.
    """
    if evaluation_set.benchmark.unlisted_gallery(evaluation_set) is not None:
        return None
    return read_gallery(evaluation_set)
