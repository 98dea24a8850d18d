"""Ranking files that any system made, read and checked against the queries and gallery that they answer.

Belongs here: SETR's own Parquet format, and every reason to refuse a file, each naming file, query and cause.
A benchmark's own JSON format is read by its class; computing metrics from what was read is done elsewhere.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from setr_lib.benchmarks import (
    Benchmark,
    DatasetError,
    EvaluationSet,
    RankingFile,
    RankingFileError,
    RankingLists,
)
from setr_lib.benchmarks.annotations import json_value, shown
from setr_lib.benchmarks.metrics import GALLERY, SUBSET
from setr_lib.benchmarks.near_ids import meant
from setr_lib.benchmarks.ranking_lists import named
from setr_lib.benchmarks.registry import built_in_benchmarks
from setr_lib.evaluation.pools import pools_of

__all__ = ["RankingFileError", "ReadRankings", "read_ranking_files"]

_PARQUET_MAGIC = b"PAR1"
_EXTENSION = re.compile(r"\.(png|jpe?g|webp)$", re.IGNORECASE)


@dataclass(frozen=True)
class ReadRankings:
    """What the files hold. ``queries`` are those that they answer: of a benchmark with categories, of those
    they have.
    """

    queries: pl.DataFrame
    rankings: pl.DataFrame
    """``query_id``, ``pool``, ``rank``, ``image_id`` of ``tables.RANKINGS``."""
    notes: list[str]
    """What a reader must know: what could not be checked, what is unusual."""


@dataclass(frozen=True)
class _Part:
    """One file's lists of one pool."""

    file: Path
    pool: str
    lists: dict[str, list[str]]
    submission: bool = False
    """Whether it is in the format of the benchmark's server."""


@dataclass(frozen=True)
class _Query:
    reference: str
    gallery: str
    members: frozenset[str]
    needed: bool
    """Whether a ranking without it is incomplete: where only some queries have targets, the others may be
    left out."""


@dataclass(frozen=True)
class _Task:
    """What the files are checked against."""

    evaluation_set: EvaluationSet
    queries: dict[str, _Query]
    images: Mapping[str, frozenset[str]] | None
    """Gallery -> its images; None where they cannot be listed."""

    @classmethod
    def of(cls, evaluation_set: EvaluationSet, queries: pl.DataFrame, gallery: pl.DataFrame | None) -> _Task:
        some_targets = bool((queries["target_ids"].list.len() > 0).any())
        columns = queries.select("query_id", "reference_id", "gallery", "subset_ids", "target_ids")
        return cls(
            evaluation_set,
            {
                query: _Query(reference, name, frozenset(members), bool(targets) or not some_targets)
                for query, reference, name, members, targets in columns.iter_rows()
            },
            None if gallery is None else pools_of(gallery).members,
        )

    @property
    def key(self) -> str:
        return self.evaluation_set.key

    @property
    def benchmark(self) -> Benchmark:
        return self.evaluation_set.benchmark

    def known_images(self, query: _Query) -> frozenset[str] | None:
        """The images that ``query`` searches; None where they are not known."""
        return None if self.images is None else self.images.get(query.gallery, frozenset())

    def submitted_length(self, pool: str, query: _Query) -> int:
        """Entries of a submission's list: fewer than the server takes where there are not as many images."""
        length = self.benchmark.submitted_lengths[pool]
        if pool == SUBSET:
            return min(length, len(query.members))
        images = self.known_images(query)
        if images is None:
            return length
        removed = self.benchmark.removes_reference and query.reference in images
        return min(length, len(images) - removed)


def read_ranking_files(
    evaluation_set: EvaluationSet,
    files: Sequence[Path],
    queries: pl.DataFrame,
    gallery: pl.DataFrame | None,
) -> ReadRankings:
    """Read ranking files and check them.

    Args:
        evaluation_set: The set that they answer.
        files: One; where a query has two pools (CIRR), one per pool; of a benchmark with categories
            (FashionIQ), its queries in any number of files. JSON in the benchmark's format, or Parquet
            (``query_id``, ``rank``, ``image_id``, and ``pool`` where there are two).
        queries: All of the set's (``tables.QUERIES``).
        gallery: ``image_id`` and ``galleries``, or None where it cannot be listed: ids are then checked by
            their looks.

    Returns:
        The queries that they answer, the rankings, and notes.

    Raises:
        RankingFileError: A file cannot be an answer; it names file, query and reason.
    """
    task = _Task.of(evaluation_set, queries, gallery)
    notes = [] if gallery is not None else [_unlisted(evaluation_set)]
    parts: list[_Part] = []
    for file in files:
        for part in _read(file, task, notes):
            _refuse_second_answers(part, parts, task)
            parts.append(part)
    for part in parts:
        _check(part, task, notes)
    _refuse_missing_queries(parts, task)
    answered = {query for part in parts for query in part.lists}
    return ReadRankings(_answered(queries, answered, task), _frame(parts), notes)


def _unlisted(evaluation_set: EvaluationSet) -> str:
    reason = evaluation_set.benchmark.unlisted_gallery(evaluation_set)
    return reason or "the gallery is not known: whether the ranked images are in it was not checked"


# Reading.


def _read(file: Path, task: _Task, notes: list[str]) -> list[_Part]:
    try:
        content = file.read_bytes()  # once: a pipe cannot be read again
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RankingFileError(f"cannot be read: {reason}", file=file) from error
    if content.startswith(_PARQUET_MAGIC):
        return _parquet_lists(file, content, task)
    return [_json_lists(file, content, task, notes)]


def _json_lists(file: Path, raw: bytes, task: _Task, notes: list[str]) -> _Part:
    try:
        content = json_value(raw, file)
    except DatasetError as error:
        raise RankingFileError(error.reason, file=file) from error
    wanted = task.benchmark.ranking_format
    if not isinstance(content, dict):
        raise RankingFileError(f"must hold {wanted} (or be Parquet), not {named(content)}", file=file)
    for other in built_in_benchmarks():
        keys = other.submission_keys
        if keys and keys <= content.keys() and not keys <= task.benchmark.submission_keys:
            shown_keys = " and ".join(repr(key) for key in sorted(keys, reverse=True))
            raise RankingFileError(
                f"has the keys {shown_keys} of a submission to {other.name}: {task.key} takes {wanted}",
                file=file,
            )
    hidden = task.evaluation_set.hidden
    found: RankingLists = task.benchmark.read_rankings(RankingFile(file, content, len(raw), hidden))
    notes += found.notes
    return _Part(file, found.pool, found.lists, found.submission)


def _parquet_lists(file: Path, content: bytes, task: _Task) -> list[_Part]:
    frame = _parquet_frame(file, content, task)
    lists = frame.sort("rank").group_by("pool", "query_id", maintain_order=True).agg("rank", "image_id")
    pools: dict[str, dict[str, list[str]]] = {}
    for pool, query, ranks, images in lists.iter_rows():
        if ranks != list(range(1, len(ranks) + 1)):
            wrong = next(place for place, rank in enumerate(ranks, start=1) if rank != place)
            raise RankingFileError(
                f"ranks must run 1, 2, 3 ... once each: rank {wrong} is not there once ({pool})",
                file=file,
                query=query,
            )
        pools.setdefault(pool, {})[query] = images
    return [_Part(file, pool, pools[pool]) for pool in sorted(pools)]


def _parquet_frame(file: Path, content: bytes, task: _Task) -> pl.DataFrame:
    """``query_id``, ``pool``, ``rank``, ``image_id`` of a Parquet file; other columns are not looked at."""
    try:
        frame = pl.read_parquet(io.BytesIO(content), use_statistics=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise RankingFileError(f"not a readable Parquet file: {error}", file=file) from error
    if "pool" not in frame.columns:
        frame = frame.with_columns(pool=pl.lit("gallery"))
    for name in ("query_id", "pool", "rank", "image_id"):
        _check_column(file, frame, name)
    if frame.is_empty():
        raise RankingFileError("holds no ranking", file=file)
    pools = task.benchmark.pools
    if strange := sorted(set(frame["pool"].cast(pl.String).unique()) - set(pools)):
        raise RankingFileError(
            f"has the pool {shown(strange[0])}: {task.key} has {' and '.join(pools)} only", file=file
        )
    texts = [pl.col(name).cast(pl.String) for name in ("query_id", "pool", "image_id")]
    return frame.select(*texts, pl.col("rank").cast(pl.Int64, strict=False).fill_null(0))


def _check_column(file: Path, frame: pl.DataFrame, name: str) -> None:
    if name not in frame.columns:
        raise RankingFileError(f"the column {name!r} is missing; there is {frame.columns}", file=file)
    kind = frame.schema[name]
    texts = name != "rank" and isinstance(kind, pl.String | pl.Categorical | pl.Enum)
    if not (texts or (kind.is_integer() and name != "pool")):
        wanted = "whole numbers" if name == "rank" else "text"
        raise RankingFileError(f"the column {name!r} must hold {wanted}, not {kind}", file=file)
    if empty := frame[name].null_count():
        raise RankingFileError(f"the column {name!r} is empty in {empty} row(s)", file=file)


# Checking.


def _refuse_second_answers(part: _Part, earlier: Iterable[_Part], task: _Task) -> None:
    for other in earlier:
        if other.pool == part.pool and (twice := next((q for q in part.lists if q in other.lists), None)):
            hint = ": give one file per metric" if len(task.benchmark.pools) > 1 else ""
            raise RankingFileError(
                f"{other.file} has its {part.pool} ranking already{hint}", file=part.file, query=twice
            )


def _check(part: _Part, task: _Task, notes: list[str]) -> None:
    _refuse_unknown_queries(part, task)
    for query, images in part.lists.items():
        if reason := _fault(images, part.pool, task, task.queries[query]):
            raise RankingFileError(reason, file=part.file, query=query)
    if part.submission and part.pool in task.benchmark.submitted_lengths:
        _refuse_wrong_metric(part, task)
        _check_lengths(part, task, notes)


def _refuse_unknown_queries(part: _Part, task: _Task) -> None:
    unknown = [query for query in part.lists if query not in task.queries]
    if not unknown:
        return
    more = f", nor {len(unknown) - 1:,} others of the file" if len(unknown) > 1 else ""
    hint = ": is it for another data set or split?" if len(unknown) == len(part.lists) else ""
    raise RankingFileError(f"{task.key} has no such query{more}{hint}", file=part.file, query=unknown[0])


def _fault(images: list[str], pool: str, task: _Task, query: _Query) -> str | None:
    """Why this list cannot be an answer to ``query``; None where it can."""
    if not images:
        return "the list is empty"
    if len(set(images)) < len(images):
        twice, count = Counter(images).most_common(1)[0]
        return f"{shown(twice)} is ranked {'twice' if count == 2 else f'{count} times'}"
    benchmark = task.benchmark
    if benchmark.removes_reference and query.reference in images:
        return (
            f"the reference {shown(query.reference)} is in the list: {benchmark.name} takes it out of "
            "every ranking"
        )
    known = query.members if pool == SUBSET else task.known_images(query)
    if known is None:
        return next((fault for image in images if (fault := benchmark.image_id_fault(image))), None)
    strange = next((image for image in images if image not in known), None)
    return None if strange is None else _unknown_image(strange, known, pool, task, query)


def _unknown_image(image: str, known: frozenset[str], pool: str, task: _Task, query: _Query) -> str:
    if _EXTENSION.sub("", image) in known:
        return f"{shown(image)} must be written without its extension"
    if pool == SUBSET:
        return f"{shown(image)} is not a member of the query's subset{meant(image, known)}"
    name = "gallery" if query.gallery == "all" else f"gallery {query.gallery!r}"
    protocol, usual = task.evaluation_set.gallery, task.benchmark.galleries[0]
    hint = "" if protocol == usual else f" (protocol {protocol!r}: is it a ranking of {usual!r}?)"
    return f"the {name} of {task.key} has no image {shown(image)}{hint}{meant(image, known)}"


def _refuse_wrong_metric(part: _Part, task: _Task) -> None:
    """A ranking of subsets under the name of a gallery's would pass its hit rate off as recall."""
    if SUBSET not in task.benchmark.pools or part.pool != GALLERY:
        return
    if all(set(images) <= task.queries[query].members for query, images in part.lists.items()):
        raise RankingFileError(
            "should rank the gallery, but every list names members of its query's subset only: is it a "
            "ranking of the subsets ('recall_subset')?",
            file=part.file,
        )


def _check_lengths(part: _Part, task: _Task, notes: list[str]) -> None:
    """A submission's lists are as long as the server wants them; of a public split at least all of one
    length.

    A public split is not sent to a server, so a whole file of other lengths is scored as deep as it goes.
    """
    wanted = {query: task.submitted_length(part.pool, task.queries[query]) for query in part.lists}
    wrong = {query: images for query, images in part.lists.items() if len(images) != wanted[query]}
    lengths = {len(images) for images in part.lists.values()}
    if wrong and (task.evaluation_set.hidden or len(lengths) > 1):
        query, images = next(iter(wrong.items()))
        more = f" ({len(wrong) - 1:,} other lists are of a wrong length too)" if len(wrong) > 1 else ""
        raise RankingFileError(
            f"has {len(images)} images, and the format takes {wanted[query]}{more}",
            file=part.file,
            query=query,
        )
    if wrong:
        notes.append(
            f"{part.file}: every list has {lengths.pop()} images; a submission's have "
            f"{task.benchmark.submitted_lengths[part.pool]}"
        )


def _refuse_missing_queries(parts: Sequence[_Part], task: _Task) -> None:
    for pool in dict.fromkeys(part.pool for part in parts):
        chosen = [part for part in parts if part.pool == pool]
        answered = {query for part in chosen for query in part.lists}
        galleries = {task.queries[query].gallery for query in answered}
        wanted = [q for q, each in task.queries.items() if each.needed and _expected(each, galleries, task)]
        missing = [query for query in wanted if query not in answered]
        if missing:
            more = f", and so are {len(missing) - 1:,} others" if len(missing) > 1 else ""
            whole = "of its category" if task.benchmark.categories else f"of {task.key}"
            raise RankingFileError(
                f"is missing{more}: a ranking answers every query {whole}",
                file=chosen[-1].file,
                query=missing[0],
            )


def _expected(query: _Query, galleries: set[str], task: _Task) -> bool:
    """Whether the files answer queries like this one: of categories some may be left out, but not all."""
    return not task.benchmark.categories or not galleries or query.gallery in galleries


def _answered(queries: pl.DataFrame, answered: set[str], task: _Task) -> pl.DataFrame:
    if not task.benchmark.categories:
        return queries
    return queries.filter(pl.col("gallery").is_in({task.queries[query].gallery for query in answered}))


def _frame(parts: Sequence[_Part]) -> pl.DataFrame:
    lists = [(query, part.pool, images) for part in parts for query, images in part.lists.items()]
    columns = ["query_id", "pool", "image_id"]
    frame = pl.DataFrame(
        lists,
        schema={"query_id": pl.String, "pool": pl.String, "image_id": pl.List(pl.String)},
        orient="row",
    )
    ranks = pl.int_ranges(1, pl.col("image_id").list.len() + 1, dtype=pl.Int32).alias("rank")
    return (
        frame.select(*columns, ranks)
        .explode("image_id", "rank")
        .select("query_id", "pool", "rank", "image_id")
    )
