"""Ranking files that any system made, read and checked against the queries and gallery that they answer.

Belongs here: SETR's own Parquet format, and every reason to refuse a file, each naming file, query and cause.
A benchmark's own JSON format is read by its class; computing metrics from what was read is done elsewhere.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from setr_lib.benchmarks.ranking_lists import Fault, Kind, faults_error, named
from setr_lib.benchmarks.registry import built_in_benchmarks
from setr_lib.evaluation.pools import pools_of

__all__ = ["RankingFileError", "ReadRankings", "read_ranking_files"]

_PARQUET_MAGIC = b"PAR1"
_SCORE = "score"
"""The column of a RANKINGS table that images are ordered by."""
_SCORES = (_SCORE, "scores", "similarity", "cosine")
"""How columns of scores are named, or end."""
_SHOWN_UNKNOWN = 5
"""Unknown queries whose nearest known one is looked up: as many as are shown."""
_EXTENSION = re.compile(r"\.(png|jpe?g|webp)$", re.IGNORECASE)


@dataclass(frozen=True)
class ReadRankings:
    """What the files hold. ``queries`` are those that they answer: of a benchmark with categories, of those
    they have.
    """

    queries: pl.DataFrame
    rankings: pl.DataFrame
    """``query_id``, ``pool``, ``rank``, ``image_id`` of ``tables.RANKINGS``; and ``score``, where a file has
    scores and equal ones count against a target."""
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
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Query -> entries of its list that are no image id."""
    unsound: frozenset[str] = frozenset()
    """Queries whose list could not be read."""
    scores: Mapping[str, list[float | None]] = field(default_factory=dict)
    """Query -> the scores of its list, where the file has them and equal ones count against a target."""

    def length(self, query: str) -> int:
        """Entries of a list, those that are no image id included."""
        return len(self.lists[query]) + self.left_out.get(query, 0)


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
            (``query_id``, ``rank``, ``image_id``, ``pool`` where there are two, and ``score``, by which equal
            scores are known where they count against a target).
        queries: All of the set's (``tables.QUERIES``).
        gallery: ``image_id`` and ``galleries``, or None where it cannot be listed: ids are then checked by
            their looks.

    Returns:
        The queries that they answer, the rankings, and notes.

    Raises:
        RankingFileError: A file cannot be an answer; it names file, query and reason. Of several faults it
            counts all, and shows the first five of each kind.
    """
    task = _Task.of(evaluation_set, queries, gallery)
    notes = [] if gallery is not None else [_unlisted(evaluation_set)]
    parts: list[_Part] = []
    faults: list[Fault] = []
    whole = True
    for file in files:
        try:
            found = _read(file, task, notes, faults)
        except RankingFileError as error:
            faults += error.faults or [Fault(Kind.FILE, error.file, error.reason, error.query)]
            whole = False  # what it would have answered is not known
            continue
        for part in found:
            faults += _second_answers(part, parts, task)
            parts.append(part)
    for part in parts:
        faults += _checked(part, task, notes)
    if whole:
        faults += _missing_queries(parts, task)
    if faults:
        raise faults_error(faults)
    answered = {query for part in parts for query in part.lists}
    return ReadRankings(_answered(queries, answered, task), _frame(parts), notes)


def _unlisted(evaluation_set: EvaluationSet) -> str:
    reason = evaluation_set.benchmark.unlisted_gallery(evaluation_set)
    return reason or "the gallery is not known: whether the ranked images are in it was not checked"


# Reading.


def _read(file: Path, task: _Task, notes: list[str], faults: list[Fault]) -> list[_Part]:
    try:
        content = file.read_bytes()  # once: a pipe cannot be read again
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RankingFileError(f"cannot be read: {reason}", file=file) from error
    if content.startswith(_PARQUET_MAGIC):
        return _parquet_lists(file, content, task, faults)
    return [_json_lists(file, content, task, notes, faults)]


def _json_lists(file: Path, raw: bytes, task: _Task, notes: list[str], faults: list[Fault]) -> _Part:
    repeated: list[str] = []
    try:
        content = json_value(raw, file, repeated)
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
    opened = RankingFile(file, content, len(raw), task.evaluation_set.hidden)
    found: RankingLists = task.benchmark.read_rankings(opened)
    faults += [
        Fault(Kind.REPEATED_QUERY, file, f"the key {shown(key)} occurs {_times(count + 1)}", count=count)
        for key, count in Counter(repeated).items()
    ]
    faults += opened.faults
    notes += found.notes
    unsound = frozenset(opened.without_list)
    return _Part(file, found.pool, found.lists, found.submission, opened.left_out, unsound)


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count:,} times"


def _parquet_lists(file: Path, content: bytes, task: _Task, faults: list[Fault]) -> list[_Part]:
    frame, has_gaps = _parquet_frame(file, content, task, faults)
    grouped = frame.sort("rank").group_by("pool", "query_id", maintain_order=True)
    lists = grouped.agg("rank", "image_id", *({_SCORE} & {*frame.columns}))
    pools: dict[str, dict[str, list[str]]] = {}
    scores: dict[str, dict[str, list[float | None]]] = {}
    unsound: dict[str, set[str]] = {}
    for row in lists.iter_rows(named=True):
        pool, query, ranks = row["pool"], row["query_id"], row["rank"]
        if not has_gaps and ranks != list(range(1, len(ranks) + 1)):
            wrong = next(place for place, rank in enumerate(ranks, start=1) if rank != place)
            reason = f"ranks must run 1, 2, 3 ... once each: rank {wrong} is not there once ({pool})"
            faults.append(Fault(Kind.RANKS, file, reason, query))
            unsound.setdefault(pool, set()).add(query)
        pools.setdefault(pool, {})[query] = row["image_id"]
        if _SCORE in row:
            scores.setdefault(pool, {})[query] = row[_SCORE]
    return [
        _Part(
            file,
            pool,
            pools[pool],
            unsound=frozenset(unsound.get(pool, ())),
            scores=scores.get(pool, {}),
        )
        for pool in sorted(pools)
    ]


def _parquet_frame(file: Path, content: bytes, task: _Task, faults: list[Fault]) -> tuple[pl.DataFrame, bool]:
    """``query_id``, ``pool``, ``rank``, ``image_id`` of a Parquet file, and ``score`` where it has that and
    equal scores count against a target; and whether rows of it are left out for an empty cell.
    """
    try:
        frame = pl.read_parquet(io.BytesIO(content), use_statistics=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise RankingFileError(f"not a readable Parquet file: {error}", file=file) from error
    if "pool" not in frame.columns:
        frame = frame.with_columns(pool=pl.lit("gallery"))
    needed = ("query_id", "pool", "rank", "image_id")
    if wrong := [reason for name in needed if (reason := _column_fault(frame, name))]:
        raise faults_error([Fault(Kind.FILE, file, reason) for reason in wrong])
    if frame.is_empty():
        raise RankingFileError("holds no ranking", file=file)
    for name in needed:
        if empty := frame[name].null_count():
            reason = f"the column {name!r} is empty in {empty} row(s)"
            faults.append(Fault(Kind.EMPTY_CELLS, file, reason, count=empty))
    faults += _scores_that_are_none(file, frame)
    rows, frame = frame.height, frame.drop_nulls(needed)
    pools = task.benchmark.pools
    if strange := sorted(set(frame["pool"].cast(pl.String).unique()) - set(pools)):
        raise RankingFileError(
            f"has the pool {shown(strange[0])}: {task.key} has {' and '.join(pools)} only", file=file
        )
    columns = [pl.col(name).cast(pl.String) for name in ("query_id", "pool", "image_id")]
    columns.append(pl.col("rank").cast(pl.Int64, strict=False).fill_null(0))
    if task.benchmark.ties_count_against and _SCORE in frame.columns and frame.schema[_SCORE].is_numeric():
        columns.append(pl.col(_SCORE).cast(pl.Float64))
    return frame.select(columns), frame.height < rows


def _column_fault(frame: pl.DataFrame, name: str) -> str | None:
    """Why a column cannot be used; None where it can."""
    if name not in frame.columns:
        return f"the column {name!r} is missing; there is {frame.columns}"
    kind = frame.schema[name]
    texts = name != "rank" and isinstance(kind, pl.String | pl.Categorical | pl.Enum)
    if texts or (kind.is_integer() and name != "pool"):
        return None
    return f"the column {name!r} must hold {'whole numbers' if name == 'rank' else 'text'}, not {kind}"


def _scores_that_are_none(file: Path, frame: pl.DataFrame) -> list[Fault]:
    """A list that was sorted by NaN is in no order."""
    faults: list[Fault] = []
    for name in frame.columns:
        if not frame.schema[name].is_float() or not name.lower().endswith(_SCORES):
            continue
        rows = frame.filter(pl.col(name).is_nan())
        reason = f"{name!r} is NaN, so that the list is in no order"
        queries = Counter(rows["query_id"].cast(pl.String).fill_null("").to_list())
        faults += [
            Fault(Kind.NO_NUMBER, file, f"{reason} ({count:,} row(s))", query, count)
            for query, count in queries.items()
        ]
    return faults


# Checking.


def _second_answers(part: _Part, earlier: Iterable[_Part], task: _Task) -> list[Fault]:
    hint = ": give one file per metric" if len(task.benchmark.pools) > 1 else ""
    return [
        Fault(Kind.SECOND_ANSWER, part.file, f"{other.file} has its {part.pool} ranking already{hint}", query)
        for other in earlier
        if other.pool == part.pool
        for query in part.lists
        if query in other.lists
    ]


def _checked(part: _Part, task: _Task, notes: list[str]) -> list[Fault]:
    """All that is wrong with a file's lists."""
    faults = _unknown_queries(part, task)
    sound = {query: part.lists[query] for query in part.lists if query in task.queries}
    hints = _Hints(_SHOWN_UNKNOWN)
    for query, images in sound.items():
        if query not in part.unsound:
            found = _list_faults(part, query, images, task, hints)
            faults += [Fault(kind, part.file, reason, query, count) for kind, reason, count in found]
    if part.submission and part.pool in task.benchmark.submitted_lengths:
        if not faults and (wrong := _wrong_metric(part, task)):
            return wrong
        faults += _length_faults(part, {query: part.length(query) for query in sound}, task, notes)
    return faults


def _unknown_queries(part: _Part, task: _Task) -> list[Fault]:
    unknown = [query for query in part.lists if query not in task.queries]
    hint = ": is it for another data set or split?" if len(unknown) == len(part.lists) else ""
    near = {query: "" if hint else meant(query, task.queries) for query in unknown[:_SHOWN_UNKNOWN]}
    reason = f"{task.key} has no such query{hint}"
    return [Fault(Kind.UNKNOWN_QUERY, part.file, reason + near.get(query, ""), query) for query in unknown]


@dataclass
class _Hints:
    """Which known image is meant by an unknown one: of as many as are shown, for looking takes a while."""

    left: int

    def of(self, image: str, known: frozenset[str]) -> str:
        self.left -= 1
        return meant(image, known) if self.left >= 0 else ""


def _list_faults(
    part: _Part, query_id: str, images: list[str], task: _Task, hints: _Hints
) -> Iterator[tuple[Kind, str, int]]:
    """Why this list cannot be an answer to its query: kind, reason, and how often."""
    query, benchmark = task.queries[query_id], task.benchmark
    if not images and not part.left_out.get(query_id):
        yield Kind.LENGTH, "the list is empty", 1
    if len(set(images)) < len(images):
        for image, count in Counter(images).items():
            if count > 1:
                yield Kind.TWICE, f"{shown(image)} is ranked {_times(count)}", count - 1
    if benchmark.removes_reference and query.reference in images:
        reason = f"the reference {shown(query.reference)} is in the list: {benchmark.name} takes it out of"
        yield Kind.REFERENCE, f"{reason} every ranking", 1
    known = query.members if part.pool == SUBSET else task.known_images(query)
    for image in dict.fromkeys(images):
        if known is None:
            if fault := benchmark.image_id_fault(image):
                yield Kind.NO_ID, fault, 1
        elif image not in known and not (benchmark.removes_reference and image == query.reference):
            reason = _unknown_image(image, known, part.pool, task, query)
            yield Kind.UNKNOWN_IMAGE, reason + hints.of(image, known), 1


def _unknown_image(image: str, known: frozenset[str], pool: str, task: _Task, query: _Query) -> str:
    if _EXTENSION.sub("", image) in known:
        return f"{shown(image)} must be written without its extension"
    if pool == SUBSET:
        return f"{shown(image)} is not a member of the query's subset"
    name = "gallery" if query.gallery == "all" else f"gallery {query.gallery!r}"
    protocol, usual = task.evaluation_set.gallery, task.benchmark.galleries[0]
    hint = "" if protocol == usual else f" (protocol {protocol!r}: is it a ranking of {usual!r}?)"
    return f"the {name} of {task.key} has no image {shown(image)}{hint}"


def _wrong_metric(part: _Part, task: _Task) -> list[Fault]:
    """A ranking of subsets under the name of a gallery's would pass its hit rate off as recall."""
    if SUBSET not in task.benchmark.pools or part.pool != GALLERY or not part.lists:
        return []
    if not all(set(images) <= task.queries[query].members for query, images in part.lists.items()):
        return []
    reason = (
        "should rank the gallery, but every list names members of its query's subset only: is it a ranking "
        "of the subsets ('recall_subset')?"
    )
    return [Fault(Kind.FILE, part.file, reason)]


def _length_faults(part: _Part, lengths: Mapping[str, int], task: _Task, notes: list[str]) -> list[Fault]:
    """A submission's lists are as long as the server wants them; of a public split at least all of one
    length.

    A public split is not sent to a server, so a whole file of other lengths is scored as deep as it goes.
    """
    wanted = {query: task.submitted_length(part.pool, task.queries[query]) for query in lengths}
    wrong = {
        query: length
        for query, length in lengths.items()
        if length != wanted[query] and length and query not in part.unsound
    }
    if not wrong:
        return []
    if task.evaluation_set.hidden or len(set(lengths.values())) > 1:
        return [
            Fault(Kind.LENGTH, part.file, f"has {length} images, and the format takes {wanted[query]}", query)
            for query, length in wrong.items()
        ]
    notes.append(
        f"{part.file}: every list has {next(iter(wrong.values()))} images; a submission's have "
        f"{task.benchmark.submitted_lengths[part.pool]}"
    )
    return []


def _missing_queries(parts: Sequence[_Part], task: _Task) -> list[Fault]:
    faults: list[Fault] = []
    whole = "of its category" if task.benchmark.categories else f"of {task.key}"
    for pool in dict.fromkeys(part.pool for part in parts):
        chosen = [part for part in parts if part.pool == pool]
        named_queries = {query for part in chosen for query in part.lists}
        answered = named_queries & task.queries.keys()
        if named_queries and not answered:
            continue  # the file of another set: that is said
        galleries = {task.queries[query].gallery for query in answered}
        faults += [
            Fault(
                Kind.MISSING_QUERY,
                chosen[-1].file,
                f"is missing: a ranking answers every query {whole}",
                query,
            )
            for query, each in task.queries.items()
            if each.needed and query not in answered and _expected(each, galleries, task)
        ]
    return faults


def _expected(query: _Query, galleries: set[str], task: _Task) -> bool:
    """Whether the files answer queries like this one: of categories some may be left out, but not all."""
    return not task.benchmark.categories or not galleries or query.gallery in galleries


def _answered(queries: pl.DataFrame, answered: set[str], task: _Task) -> pl.DataFrame:
    if not task.benchmark.categories:
        return queries
    return queries.filter(pl.col("gallery").is_in({task.queries[query].gallery for query in answered}))


def _frame(parts: Sequence[_Part]) -> pl.DataFrame:
    """``query_id``, ``pool``, ``rank``, ``image_id``; and ``score``, null of lists without, where any has."""
    lists: dict[str, list[object]] = {"query_id": [], "pool": [], "image_id": []}
    kinds: dict[str, pl.DataType] = {
        "query_id": pl.String(),
        "pool": pl.String(),
        "image_id": pl.List(pl.String()),
    }
    if any(part.scores for part in parts):
        lists[_SCORE], kinds[_SCORE] = [], pl.List(pl.Float64())
    for part in parts:
        lists["query_id"] += part.lists
        lists["pool"] += [part.pool] * len(part.lists)
        lists["image_id"] += part.lists.values()
        if _SCORE in lists:
            lists[_SCORE] += (part.scores.get(query, [None] * len(part.lists[query])) for query in part.lists)
    frame = pl.DataFrame(lists, schema=kinds)
    ranks = pl.int_ranges(1, pl.col("image_id").list.len() + 1, dtype=pl.Int32).alias("rank")
    listed = [name for name, kind in kinds.items() if isinstance(kind, pl.List)]
    return frame.select("query_id", "pool", ranks, *listed).explode("rank", *listed)
