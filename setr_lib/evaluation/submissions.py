"""What the CIRR and CIRCO test servers take: written from a ranking, and read back before anyone is told so.

What the servers accept is told in ``ranking_files``, whose reader is the judge here too: one set of rules, not two.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from setr_lib.datasets import EvaluationSet
from setr_lib.errors import SetrError
from setr_lib.evaluation.ranking_files import (
    CIRR_METRICS,
    CIRR_VERSION,
    SUBMITTED_LENGTHS,
    RankingFileError,
    read_ranking_files,
)

SERVERS = {"cirr": "https://cirr.cecs.anu.edu.au", "circo": "https://circo.micc.unifi.it"}


class SubmissionError(SetrError):
    """A ranking is not what the benchmark's server takes; nothing was written."""


@dataclass(frozen=True)
class Submission:
    """Files that are complete and were read back. ``notes``: what the reader had to say of them."""

    files: list[Path]
    notes: list[str]


def write_submission(
    evaluation_set: EvaluationSet,
    queries: pl.DataFrame,
    rankings: pl.DataFrame,
    gallery: pl.DataFrame | None,
    folder: Path,
    name: str,
) -> Submission:
    """Write ``folder/NAME.recall.json`` and ``NAME.recall_subset.json`` for CIRR, ``NAME.json`` for CIRCO.

    ``queries``: all of the set's; ``rankings``: a RANKINGS frame; ``gallery``: for the check of ids (None: CIRCO without
    COCO's image list). Files of an earlier call are replaced once the new ones are valid. Raises ``SubmissionError``
    with the reason where they would not be.
    """
    contents = _contents(evaluation_set, queries, rankings, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".submission-") as place:
            return _write_checked(evaluation_set, queries, gallery, contents, Path(place), folder)
    except OSError as error:
        raise SubmissionError(
            f"{folder}: cannot be written ({error.strerror}): make it writable, or name another"
        ) from error


def _write_checked(
    evaluation_set: EvaluationSet,
    queries: pl.DataFrame,
    gallery: pl.DataFrame | None,
    contents: Mapping[str, object],
    place: Path,
    folder: Path,
) -> Submission:
    for file_name, content in contents.items():
        # Compact: CIRR's server counts bytes.
        (place / file_name).write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    try:
        read = read_ranking_files(evaluation_set, [place / each for each in contents], queries, gallery)
    except RankingFileError as error:
        where = "" if error.query is None else f", query {error.query!r}"
        raise SubmissionError(
            f"the ranking of {evaluation_set.key} is not what the server takes ({error.file.name}{where}: "
            f"{error.reason}); an [evaluation] limit, a [coarse] top_k below {SUBMITTED_LENGTHS['gallery']} or missing "
            "images make such rankings: materialize it again without"
        ) from error
    return Submission(
        [(place / each).replace(folder / each) for each in contents],
        [note.replace(f"{place}/", "") for note in read.notes],
    )


def _contents(
    evaluation_set: EvaluationSet, queries: pl.DataFrame, rankings: pl.DataFrame, name: str
) -> dict[str, object]:
    """File name -> what goes into it, queries in the official order."""
    order = queries["query_id"].to_list()
    if evaluation_set.kind == "circo":
        lists = _top(rankings, "gallery", order)
        return {f"{name}.json": {query: [int(image) for image in images] for query, images in lists.items()}}
    if evaluation_set.kind == "cirr":
        return {
            f"{name}.{metric}.json": {
                "version": CIRR_VERSION,
                "metric": metric,
                **_top(rankings, pool, order),
            }
            for metric, pool in CIRR_METRICS.items()
        }
    raise SubmissionError(
        f"{evaluation_set.dataset} is of kind {evaluation_set.kind!r}: only CIRR and CIRCO have test servers"
    )


def _top(rankings: pl.DataFrame, pool: str, order: list[str]) -> dict[str, list[str]]:
    """Query -> its first images, as many as a submission names; queries without a ranking are absent."""
    depth = SUBMITTED_LENGTHS[pool]
    chosen = rankings.filter((pl.col("pool") == pool) & (pl.col("rank") <= depth)).sort("rank")
    lists = dict(chosen.group_by("query_id", maintain_order=True).agg("image_id").iter_rows())
    return {query: lists[query] for query in order if query in lists}
