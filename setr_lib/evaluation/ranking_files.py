"""Ranking files that any system made, read and checked against the queries and gallery that they answer.

Belongs here: the formats (CIRR's and CIRCO's submissions, a JSON object for FashionIQ and folders, SETR's own Parquet)
and every reason to refuse a file, each naming file, query and cause. Computing metrics from what was read does not.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from setr_lib.benchmarks.annotations import json_value, shown
from setr_lib.benchmarks.circo import image_list_file
from setr_lib.datasets import DatasetError, EvaluationSet
from setr_lib.evaluation.pools import pools_of
from setr_lib.evaluation.rankings import RankingError

CIRR_VERSION = "rc2"
SUBMITTED_LENGTHS = {"gallery": 50, "subset": 3}
"""How many images a submission names for each query: CIRR's and CIRCO's top 50, the top 3 of CIRR's subsets."""
CIRR_METRICS = {"recall": "gallery", "recall_subset": "subset"}
"""CIRR's word under ``metric`` -> the pool that the file ranks."""
CIRR_FILE_LIMIT = 5_000_000
"""Bytes that CIRR's server accepts per file; CIRCO's names no limit."""

_PARQUET_MAGIC = b"PAR1"
_DECIMAL = re.compile(r"[0-9]{1,18}", re.ASCII)
_COCO_ID = re.compile(r"[1-9][0-9]*", re.ASCII)
_EXTENSION = re.compile(r"\.(png|jpe?g|webp)$", re.IGNORECASE)
_LARGEST_ID = 2**63 - 1
_FORMATS = {
    "cirr": "a submission of CIRR's",
    "circo": "a submission of CIRCO's",
    "fashioniq": "an object from query id ('dress-0': category and row) to a list of image names",
    "folder": "an object from query id to a list of image ids",
}


class RankingFileError(RankingError):
    """A ranking file cannot be what the queries were answered with.

    ``file`` and ``query`` say where (``None`` where the fault is no single query's), ``reason`` why.
    """

    def __init__(self, reason: str, *, file: Path, query: str | None = None) -> None:
        self.file = file
        self.query = query
        self.reason = reason
        where = str(file) if query is None else f"{file}: query {shown(query)}"
        super().__init__(f"{where}: {reason}")


@dataclass(frozen=True)
class ReadRankings:
    """What the files hold. ``queries`` are those that they answer: of FashionIQ, the categories that they have."""

    queries: pl.DataFrame
    rankings: pl.DataFrame
    """``query_id``, ``pool``, ``rank``, ``image_id`` of ``tables.RANKINGS``."""
    notes: list[str]
    """What a reader must know: what could not be checked, what is unusual."""


@dataclass(frozen=True)
class _Lists:
    """One file's lists of one pool. ``submission``: in the format of a benchmark's server."""

    file: Path
    pool: str
    lists: dict[str, list[str]]
    submission: bool = False


@dataclass(frozen=True)
class _Query:
    reference: str
    gallery: str
    members: frozenset[str]
    needed: bool
    """Whether a ranking without it is incomplete: a folder's queries without targets may be left out."""


@dataclass(frozen=True)
class _Task:
    """What the files are checked against."""

    key: str
    kind: str
    hidden: bool
    protocol: str
    """The set's ``gallery``: of FashionIQ ``original`` or ``val``."""
    queries: dict[str, _Query]
    images: Mapping[str, frozenset[str]] | None
    """Gallery -> its images; None where CIRCO's image list is absent."""

    @classmethod
    def of(cls, evaluation_set: EvaluationSet, queries: pl.DataFrame, gallery: pl.DataFrame | None) -> _Task:
        some_targets = bool((queries["target_ids"].list.len() > 0).any())
        columns = queries.select("query_id", "reference_id", "gallery", "subset_ids", "target_ids")
        return cls(
            evaluation_set.key,
            evaluation_set.kind,
            evaluation_set.hidden,
            evaluation_set.gallery,
            {
                query: _Query(reference, name, frozenset(members), bool(targets) or not some_targets)
                for query, reference, name, members, targets in columns.iter_rows()
            },
            None if gallery is None else pools_of(gallery).members,
        )

    def known_images(self, query: _Query) -> frozenset[str] | None:
        """The images that ``query`` searches; None where they are not known."""
        return None if self.images is None else self.images.get(query.gallery, frozenset())

    def submitted_length(self, pool: str, query: _Query) -> int:
        """Entries of a submission's list: fewer than the server takes where there are not as many images."""
        length = SUBMITTED_LENGTHS[pool]
        if pool == "subset":
            return min(length, len(query.members))
        images = self.known_images(query)
        if images is None:
            return length
        return min(length, len(images) - (self.kind == "cirr" and query.reference in images))


def read_ranking_files(
    evaluation_set: EvaluationSet,
    files: Sequence[Path],
    queries: pl.DataFrame,
    gallery: pl.DataFrame | None,
) -> ReadRankings:
    """Read ``files`` (one; for CIRR up to one per metric; for FashionIQ any split of the queries) and check them.

    ``queries``: all of the set's (``tables.QUERIES``); ``gallery``: ``image_id`` and ``galleries``, or None where CIRCO's
    image list is absent: ids are then checked as positive whole numbers only. Raises ``RankingFileError``.
    """
    task = _Task.of(evaluation_set, queries, gallery)
    notes = [] if gallery is not None else [_unchecked_ids(evaluation_set)]
    parts: list[_Lists] = []
    for file in files:
        for part in _read(file, task, notes):
            _refuse_second_answers(part, parts, task)
            parts.append(part)
    for part in parts:
        _check(part, task, notes)
    _refuse_missing_queries(parts, task)
    answered = {query for part in parts for query in part.lists}
    return ReadRankings(_answered(queries, answered, task), _frame(parts), notes)


def _unchecked_ids(evaluation_set: EvaluationSet) -> str:
    return (
        f"COCO's image list is absent ({image_list_file(evaluation_set)}): image ids were checked as positive whole "
        "numbers only"
    )


# Reading.


def _read(file: Path, task: _Task, notes: list[str]) -> list[_Lists]:
    try:
        content = file.read_bytes()  # once: a pipe cannot be read again
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RankingFileError(f"cannot be read: {reason}", file=file) from error
    if content.startswith(_PARQUET_MAGIC):
        return _parquet_lists(file, content, task)
    return [_json_lists(file, content, task, notes)]


def _json_lists(file: Path, raw: bytes, task: _Task, notes: list[str]) -> _Lists:
    try:
        content = json_value(raw, file)
    except DatasetError as error:
        raise RankingFileError(error.reason, file=file) from error
    if not isinstance(content, dict):
        raise RankingFileError(
            f"must hold {_FORMATS[task.kind]} (or be Parquet), not {_named(content)}", file=file
        )
    if task.kind == "cirr":
        return _cirr_lists(file, content, len(raw), task)
    if {"version", "metric"} <= content.keys():
        raise RankingFileError(
            f"has the keys 'version' and 'metric' of a submission to CIRR: {task.key} takes {_FORMATS[task.kind]}",
            file=file,
        )
    if task.kind == "circo":
        return _circo_lists(file, content, notes)
    return _Lists(file, "gallery", {query: _names(file, query, each) for query, each in content.items()})


def _cirr_lists(file: Path, content: dict[str, object], size: int, task: _Task) -> _Lists:
    for key, allowed in (("version", [CIRR_VERSION]), ("metric", list(CIRR_METRICS))):
        if key not in content:
            raise RankingFileError(f"the key {key!r} is missing: it must say {_either(allowed)}", file=file)
        if content[key] not in allowed:
            raise RankingFileError(
                f"{key!r} must be {_either(allowed)}, not {_named(content[key])}", file=file
            )
    if task.hidden and size > CIRR_FILE_LIMIT:
        raise RankingFileError(
            f"has {size:,} bytes, and the server takes {CIRR_FILE_LIMIT:,}: write it without indentation",
            file=file,
        )
    lists = {
        query: _names(file, query, each)
        for query, each in content.items()
        if query not in ("version", "metric")
    }
    return _Lists(file, CIRR_METRICS[str(content["metric"])], lists, submission=True)


def _circo_lists(file: Path, content: dict[str, object], notes: list[str]) -> _Lists:
    lists = {
        query: [_circo_id(file, query, entry) for entry in _entries(file, query, each)]
        for query, each in content.items()
    }
    if any(isinstance(entry, str) for each in content.values() if isinstance(each, list) for entry in each):
        notes.append(
            f"{file}: image ids are written as text; they are read as the numbers that CIRCO asks for"
        )
    return _Lists(file, "gallery", lists, submission=True)


def _circo_id(file: Path, query: str, entry: object) -> str:
    """The id in decimal. Published submissions have it as text too, and the official code reads both."""
    number = int(entry) if isinstance(entry, str) and _DECIMAL.fullmatch(entry) else entry
    if type(number) is not int or not 1 <= number <= _LARGEST_ID:
        raise RankingFileError(_no_coco_id(entry), file=file, query=query)
    return str(number)


def _entries(file: Path, query: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise RankingFileError(f"must have a list of images, not {_named(value)}", file=file, query=query)
    return value


def _names(file: Path, query: str, value: object) -> list[str]:
    names: list[str] = []
    for entry in _entries(file, query, value):
        if not isinstance(entry, str):
            raise RankingFileError(f"an image name must be text, not {_named(entry)}", file=file, query=query)
        names.append(entry)
    return names


def _parquet_lists(file: Path, content: bytes, task: _Task) -> list[_Lists]:
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
    return [_Lists(file, pool, pools[pool]) for pool in sorted(pools)]


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
    pools = set(SUBMITTED_LENGTHS) if task.kind == "cirr" else {"gallery"}
    if strange := sorted(set(frame["pool"].cast(pl.String).unique()) - pools):
        raise RankingFileError(
            f"has the pool {shown(strange[0])}: {task.key} has {' and '.join(sorted(pools))} only", file=file
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


def _refuse_second_answers(part: _Lists, earlier: Iterable[_Lists], task: _Task) -> None:
    for other in earlier:
        if other.pool == part.pool and (twice := next((q for q in part.lists if q in other.lists), None)):
            hint = ": give one file per metric" if task.kind == "cirr" else ""
            raise RankingFileError(
                f"{other.file} has its {part.pool} ranking already{hint}", file=part.file, query=twice
            )


def _check(part: _Lists, task: _Task, notes: list[str]) -> None:
    _refuse_unknown_queries(part, task)
    for query, images in part.lists.items():
        if reason := _fault(images, part.pool, task, task.queries[query]):
            raise RankingFileError(reason, file=part.file, query=query)
    if part.submission:
        _refuse_wrong_metric(part, task)
        _check_lengths(part, task, notes)


def _refuse_unknown_queries(part: _Lists, task: _Task) -> None:
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
    if task.kind == "cirr" and query.reference in images:
        return f"the reference {shown(query.reference)} is in the list: CIRR takes it out of every ranking"
    known = query.members if pool == "subset" else task.known_images(query)
    if known is None:
        strange = next((image for image in images if not _COCO_ID.fullmatch(image)), None)
        return None if strange is None else _no_coco_id(strange)
    strange = next((image for image in images if image not in known), None)
    return None if strange is None else _unknown_image(strange, known, pool, task, query)


def _no_coco_id(entry: object) -> str:
    return f"an image id must be a positive whole number, not {_named(entry)}"


def _unknown_image(image: str, known: frozenset[str], pool: str, task: _Task, query: _Query) -> str:
    if _EXTENSION.sub("", image) in known:
        return f"{shown(image)} must be written without its extension"
    if pool == "subset":
        return f"{shown(image)} is none of the five other members of the image set"
    name = "gallery" if query.gallery == "all" else f"gallery {query.gallery!r}"
    hint = " (of references and targets only: is it a ranking of the original one?)"
    return f"the {name} of {task.key} has no image {shown(image)}{hint if task.protocol == 'val' else ''}"


def _refuse_wrong_metric(part: _Lists, task: _Task) -> None:
    """A ranking of subsets under the name of a gallery's would pass its hit rate off as recall."""
    if task.kind != "cirr" or part.pool != "gallery":
        return
    if all(set(images) <= task.queries[query].members for query, images in part.lists.items()):
        raise RankingFileError(
            "'metric' says 'recall', but every list names members of its query's own image set only: "
            "is it 'recall_subset'?",
            file=part.file,
        )


def _check_lengths(part: _Lists, task: _Task, notes: list[str]) -> None:
    """A submission's lists are as long as the server wants them; of a public split at least all of one length.

    Nobody sends a public split to a server, so a whole file of other lengths is scored as deep as it goes.
    """
    wanted = {query: task.submitted_length(part.pool, task.queries[query]) for query in part.lists}
    wrong = {query: images for query, images in part.lists.items() if len(images) != wanted[query]}
    lengths = {len(images) for images in part.lists.values()}
    if wrong and (task.hidden or len(lengths) > 1):
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
            f"{SUBMITTED_LENGTHS[part.pool]}"
        )


def _refuse_missing_queries(parts: Sequence[_Lists], task: _Task) -> None:
    for pool in dict.fromkeys(part.pool for part in parts):
        chosen = [part for part in parts if part.pool == pool]
        answered = {query for part in chosen for query in part.lists}
        galleries = {task.queries[query].gallery for query in answered}
        wanted = [q for q, each in task.queries.items() if each.needed and _expected(each, galleries, task)]
        missing = [query for query in wanted if query not in answered]
        if missing:
            more = f", and so are {len(missing) - 1:,} others" if len(missing) > 1 else ""
            whole = "of its category" if task.kind == "fashioniq" else f"of {task.key}"
            raise RankingFileError(
                f"is missing{more}: a ranking answers every query {whole}",
                file=chosen[-1].file,
                query=missing[0],
            )


def _expected(query: _Query, galleries: set[str], task: _Task) -> bool:
    """Whether the files answer queries like this one: of FashionIQ's categories some may be left out, but not all."""
    return task.kind != "fashioniq" or not galleries or query.gallery in galleries


def _answered(queries: pl.DataFrame, answered: set[str], task: _Task) -> pl.DataFrame:
    if task.kind != "fashioniq":
        return queries
    return queries.filter(pl.col("gallery").is_in({task.queries[query].gallery for query in answered}))


def _frame(parts: Sequence[_Lists]) -> pl.DataFrame:
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


def _either(words: Sequence[str]) -> str:
    return " or ".join(repr(word) for word in words)


def _named(value: object) -> str:
    """``value`` as a message names it; what holds other values is not spelt out."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else shown(value)
