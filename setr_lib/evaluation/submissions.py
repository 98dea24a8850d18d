"""Files for a benchmark's test server: written from a ranking, and read back before they are called complete.

Which files a server takes is its benchmark's to say; they are checked by ``ranking_files``'s reader, so that
there is one set of rules.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from setr_lib.benchmarks import Benchmark, EvaluationSet
from setr_lib.benchmarks.annotations import is_there
from setr_lib.benchmarks.metrics import GALLERY
from setr_lib.benchmarks.registry import built_in_benchmarks
from setr_lib.errors import SetrError
from setr_lib.evaluation.ranking_files import RankingFileError, read_ranking_files
from setr_lib.typed import typed


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
    """Write the files that the benchmark's test server takes.

    Args:
        evaluation_set: The set that was ranked.
        queries: All of the set's (``tables.QUERIES``).
        rankings: A ``tables.RANKINGS`` frame.
        gallery: For the check of ids; None where it cannot be listed (CIRCO without COCO's image list).
        folder: Where to write; files of an earlier call are replaced once the new ones are valid.
        name: What the files' names begin with.

    Returns:
        The files, and notes of the reader.

    Raises:
        SubmissionError: The server would not take them, with the reason; or there is no server.
    """
    contents = _contents(evaluation_set, queries, rankings, name)
    made = [each for each in (folder, *folder.parents) if not is_there(each)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".submission-") as draft:
            return _write_checked(evaluation_set, queries, gallery, contents, Path(draft), folder)
    except SubmissionError:
        _remove_empty(made)
        raise
    except OSError as error:
        _remove_empty(made)
        raise SubmissionError(
            f"{folder}: cannot be written ({error.strerror}): make it writable, or name another"
        ) from error


def _remove_empty(folders: list[Path]) -> None:
    """Take folders away again that were made for nothing, the innermost first."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _write_checked(
    evaluation_set: EvaluationSet,
    queries: pl.DataFrame,
    gallery: pl.DataFrame | None,
    contents: Mapping[str, object],
    draft: Path,
    folder: Path,
) -> Submission:
    for file_name, content in contents.items():
        # Compact: CIRR's server counts bytes.
        (draft / file_name).write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    try:
        read = read_ranking_files(evaluation_set, [draft / name for name in contents], queries, gallery)
    except RankingFileError as error:
        depth = evaluation_set.benchmark.submitted_lengths.get(GALLERY, 0)
        where = "" if error.query is None else f", query {error.query!r}"
        raise SubmissionError(
            f"the ranking of {evaluation_set.key} is not what the server takes ({error.file.name}{where}: "
            f"{error.reason}); an [evaluation] limit, a [coarse] top_k below {depth} or missing images "
            f"make such rankings: `{typed(f'run {evaluation_set.key}')}` without them makes a whole one"
        ) from error
    return Submission(
        [(draft / name).replace(folder / name) for name in contents],
        [note.replace(f"{draft}/", "") for note in read.notes],
    )


def server_of(benchmark: Benchmark, dataset: str) -> str:
    """The address of a benchmark's test server.

    Args:
        benchmark: The benchmark.
        dataset: The data set's name, for the message.

    Returns:
        The address.

    Raises:
        SubmissionError: It has none; the message names the benchmarks that have one.
    """
    if benchmark.server is None:
        known = " and ".join(
            known_benchmark.name for known_benchmark in built_in_benchmarks() if known_benchmark.server
        )
        raise SubmissionError(
            f"{dataset} is of kind {benchmark.kind!r}, which has no test server: of those that come with "
            f"SETR, only {known} have test servers"
        )
    return benchmark.server


def _contents(
    evaluation_set: EvaluationSet, queries: pl.DataFrame, rankings: pl.DataFrame, name: str
) -> dict[str, object]:
    """File name -> what goes into it, queries in the official order."""
    benchmark, order = evaluation_set.benchmark, queries["query_id"].to_list()
    server_of(benchmark, evaluation_set.dataset)
    lists = {pool: _top(rankings, pool, depth, order) for pool, depth in benchmark.submitted_lengths.items()}
    return benchmark.submission(name, lists)


def _top(rankings: pl.DataFrame, pool: str, depth: int, order: list[str]) -> dict[str, list[str]]:
    """Query -> its first ``depth`` images; queries without a ranking are absent."""
    chosen = rankings.filter((pl.col("pool") == pool) & (pl.col("rank") <= depth)).sort("rank")
    lists = dict(chosen.group_by("query_id", maintain_order=True).agg("image_id").iter_rows())
    return {query: lists[query] for query in order if query in lists}
