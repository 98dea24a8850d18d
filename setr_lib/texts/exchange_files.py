"""Files that exchange captions, compositions and other generated texts between machines: JSON Lines, one
object a line, read strictly.

A caption has ``dataset``, ``image_id``, ``caption``, ``model``, ``prompt_hash``; a composition ``dataset``,
``query_id``, ``composition`` (the five keys that the model writes), ``model``, ``prompt_hash``. What follows
may be left out, and is checked where it is there: ``split`` (compositions; needed where two splits know the
query id), ``fingerprint`` (of the picture's bytes; of a composition's reference), ``reference_id`` and
``modification`` (compositions), ``made_at`` (ISO 8601 with its zone). A text of another kind is like a
caption (one per image) or a composition (one per query), with ``kind`` and, for its fields, ``text``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from setr_lib.benchmarks import DatasetError
from setr_lib.benchmarks.annotations import Row, Unique, line_row, numbered_lines, shown
from setr_lib.benchmarks.near_ids import meant
from setr_lib.errors import SetrError
from setr_lib.tables import IMPORTED_CAPTIONS, IMPORTED_COMPOSITIONS
from setr_lib.texts.answers import LISTS, AnswerError, Composition
from setr_lib.texts.kind import TextKind, imported_schema

_T = TypeVar("_T")
_SHOWN_PROBLEMS = 20
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_CAPTION_KEYS = ("dataset", "image_id", "caption", "model", "prompt_hash")
_COMPOSITION_KEYS = ("dataset", "query_id", "composition", "model", "prompt_hash")
_EVIDENCE = ("fingerprint", "made_at")
_QUERY_EVIDENCE = ("split", "reference_id", "modification")
_CLOCK_ERROR = timedelta(days=1)

ImagesOf = Callable[[str], Collection[str] | None]
"""Data set -> its image ids; ``None`` where there is no such data set."""
FingerprintOf = Callable[[str, str], str | None]
"""(data set, image id) -> fingerprint of the picture that is here; ``None`` where it is not."""


@dataclass(frozen=True)
class KnownQuery:
    """The query that an imported composition is checked against."""

    reference_id: str
    modification: str


QueriesOf = Callable[[str, str], Mapping[str, KnownQuery] | None]
"""(data set, split) -> its queries by id; ``None`` where there is no such evaluation set."""


SplitsOf = Callable[[str], Sequence[str]]
"""Data set -> its configured splits."""


class ImportRefusedError(SetrError):
    """A file has rows that cannot be taken, so none was.

    Args:
        file: The file.
        problems: One error per row.
    """

    def __init__(self, file: Path, problems: list[DatasetError]) -> None:
        self.problems = problems
        lines = [f"  {problem}" for problem in problems[:_SHOWN_PROBLEMS]]
        if len(problems) > _SHOWN_PROBLEMS:
            lines.append(f"  and {len(problems) - _SHOWN_PROBLEMS:,} more")
        counted = f"{len(problems):,} row{'s' if len(problems) > 1 else ''}"
        super().__init__("\n".join([f"{file}: {counted} cannot be taken, so nothing was imported:", *lines]))


def time_text(seconds: float) -> str:
    """A time as files and tables spell it (ISO 8601, UTC); such texts sort as the times do.

    Args:
        seconds: Seconds since 1970.

    Returns:
        The text.
    """
    return _spelled(datetime.fromtimestamp(seconds, UTC))


def caption_line(dataset: str, row: Mapping[str, Any]) -> str:
    """A caption as one line of an exchange file.

    Args:
        dataset: The data set's name.
        row: A row of an ``IMPORTED_CAPTIONS`` frame.

    Returns:
        A JSON object, without a line end.
    """
    return _line({"dataset": dataset, **{name: row[name] for name in IMPORTED_CAPTIONS}})


def composition_line(dataset: str, split: str, row: Mapping[str, Any]) -> str:
    """A composition as one line of an exchange file.

    Args:
        dataset: The data set's name.
        split: The query's split.
        row: A row of an ``IMPORTED_COMPOSITIONS`` frame.

    Returns:
        A JSON object, without a line end.
    """
    inner = (*LISTS, "target_caption")
    return _line(
        {
            "dataset": dataset,
            "split": split,
            "query_id": row["query_id"],
            "composition": {name: row[name] for name in inner},
            **{name: row[name] for name in IMPORTED_COMPOSITIONS if name not in ("query_id", *inner)},
        }
    )


def text_line(kind: TextKind, dataset: str, split: str, row: Mapping[str, Any]) -> str:
    """One line, without its end, for a row of a kind of text.

    Args:
        kind: The kind of text.
        dataset: The data set.
        split: The split of a query's text; empty for an image's.
        row: The row (columns as :func:`setr_lib.texts.kind.imported_schema`).

    Returns:
        A JSON object.
    """
    of = {"split": split} if kind.per == "query" else {}
    return _line(
        {
            "dataset": dataset,
            **of,
            kind.key: row[kind.key],
            "kind": kind.name,
            "text": {name: row[name] for name in kind.fields},
            **{name: row[name] for name in imported_schema(kind) if name not in (kind.key, *kind.fields)},
        }
    )


@dataclass(frozen=True)
class Known:
    """What rows of a file are checked against."""

    images_of: ImagesOf
    queries_of: QueriesOf
    fingerprint_of: FingerprintOf
    splits_of: SplitsOf


def read_texts(
    file: Path, kind: TextKind, known: Known, *, dataset: str | None = None, other_pictures: bool = False
) -> dict[tuple[str, str], pl.DataFrame]:
    """The texts of one kind in a file.

    Args:
        file: JSON Lines, as :func:`text_line` writes them.
        kind: What the rows must be.
        known: The configured data sets.
        dataset: Replaces every row's own name of its data set.
        other_pictures: Whether texts are taken that were made from pictures with other bytes than those here.

    Returns:
        (data set, split) -> a frame with the columns of ``imported_schema``; for a kind per image the split
        is empty.

    Raises:
        ImportRefusedError: Rows cannot be taken; all of them are named.
        DatasetError: The file, or a data set, cannot be read at all.
    """
    ids: dict[tuple[str, str], Unique] = {}
    required = ("dataset", kind.key, "kind", "text", "model", "prompt_hash")
    optional = (*_EVIDENCE, *(_QUERY_EVIDENCE if kind.per == "query" else ()))

    def read(row: Row) -> tuple[tuple[str, str], dict[str, Any]]:
        _check_keys(row, required, optional)
        if (given := row.text("kind")) != kind.name:
            raise row.error(f"'kind' is {shown(given)}, not {shown(kind.name)}")
        name = dataset or row.text("dataset")
        key, query = (
            ((name, ""), None)
            if kind.per == "image"
            else _query_of(row, name, known.queries_of, known.splits_of)
        )
        image = _image_of(row, name, known.images_of) if query is None else query.reference_id
        ids.setdefault(key, Unique(f"text of {kind.per}")).claim(row, row.text(kind.key))
        of_query = {} if query is None else {"reference_id": image, "modification": query.modification}
        values = {
            kind.key: row.text(kind.key),
            **_fields(row, kind),
            **of_query,
            "fingerprint": _fingerprint(row, known.fingerprint_of(name, image), other_pictures),
            **_origin(row),
        }
        return key, values

    return _frames(_collect(file, f"{kind.name} to import", read), imported_schema(kind))


def _fields(row: Row, kind: TextKind) -> dict[str, Any]:
    try:
        made = kind.answer.of(row.row("text").values).model_dump()
    except AnswerError as error:
        raise row.error(f"'text': {error}") from None
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in made.items()}
    for value in fields.values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "\x00" in text:
                raise row.error(f"'text': {shown(text)} holds a NUL character")
    return fields


def read_captions(
    file: Path,
    images_of: ImagesOf,
    fingerprint_of: FingerprintOf,
    *,
    dataset: str | None = None,
    other_pictures: bool = False,
) -> dict[str, pl.DataFrame]:
    """The captions of an exchange file, every row checked.

    Args:
        file: A JSON Lines file.
        images_of: The image ids of a data set.
        fingerprint_of: The fingerprint of an image as it is here.
        dataset: The data set of all rows, in place of the names in them.
        other_pictures: Whether to accept captions of images whose bytes differ from those here.

    Returns:
        Data set -> an ``IMPORTED_CAPTIONS`` frame of its rows.

    Raises:
        ImportRefusedError: Rows cannot be taken; it has an error for every one of them.
        DatasetError: The file cannot be read at all.
    """
    ids: dict[str, Unique] = {}

    def read(row: Row) -> tuple[str, dict[str, Any]]:
        _check_keys(row, _CAPTION_KEYS, _EVIDENCE)
        name = dataset or row.text("dataset")
        image_id = _image_of(row, name, images_of)
        ids.setdefault(name, Unique("caption of image")).claim(row, image_id)
        caption = " ".join(row.text("caption").split())
        made_from = _fingerprint(row, fingerprint_of(name, image_id), other_pictures)
        return name, {"image_id": image_id, "caption": caption, "fingerprint": made_from, **_origin(row)}

    return _frames(_collect(file, "captions to import", read), IMPORTED_CAPTIONS)


def read_compositions(
    file: Path,
    queries_of: QueriesOf,
    fingerprint_of: FingerprintOf,
    *,
    splits_of: SplitsOf = lambda dataset: (),
    dataset: str | None = None,
    other_pictures: bool = False,
) -> dict[tuple[str, str], pl.DataFrame]:
    """The compositions of an exchange file, every row checked.

    Args:
        file: A JSON Lines file.
        queries_of: The queries of a data set's split.
        fingerprint_of: The fingerprint of a reference image as it is here.
        splits_of: The splits of a data set; a row without a split belongs to the one that knows its query.
        dataset: The data set of all rows, in place of the names in them.
        other_pictures: Whether to accept rows made from images whose bytes differ from those here.

    Returns:
        (data set, split) -> an ``IMPORTED_COMPOSITIONS`` frame of its rows.

    Raises:
        ImportRefusedError: Rows cannot be taken; it has an error for every one of them.
        DatasetError: The file cannot be read at all.
    """
    ids: dict[tuple[str, str], Unique] = {}

    def read(row: Row) -> tuple[tuple[str, str], dict[str, Any]]:
        _check_keys(row, _COMPOSITION_KEYS, (*_EVIDENCE, *_QUERY_EVIDENCE))
        key, query = _query_of(row, dataset or row.text("dataset"), queries_of, splits_of)
        query_id = row.text("query_id")
        ids.setdefault(key, Unique("composition of query")).claim(row, query_id)
        here = fingerprint_of(key[0], query.reference_id)
        values = {
            "query_id": query_id,
            **_composition(row),
            "reference_id": query.reference_id,
            "modification": query.modification,
            "fingerprint": _fingerprint(row, here, other_pictures),
            **_origin(row),
        }
        return key, values

    return _frames(_collect(file, "compositions to import", read), IMPORTED_COMPOSITIONS)


def _image_of(row: Row, dataset: str, images_of: ImagesOf) -> str:
    """The id of the image that the row is of. Raises ``DatasetError`` where it is not known."""
    known = images_of(dataset)
    if known is None:
        raise row.error(f"'dataset' {shown(dataset)} is not configured: see [datasets] of setr.toml")
    return row.known("image_id", row.text("image_id"), known, f"the galleries of {dataset}")


def _query_of(
    row: Row, dataset: str, queries_of: QueriesOf, splits_of: SplitsOf
) -> tuple[tuple[str, str], KnownQuery]:
    """(data set, split) of the query that the row is of, and the query. Raises ``DatasetError`` where it is
    not known, or was another one when the row was made.
    """
    split = row.text("split") if "split" in row.values else _split_of(row, dataset, queries_of, splits_of)
    known = queries_of(dataset, split)
    if known is None:
        raise row.error(f"split {shown(split)} of data set {shown(dataset)} is not configured")
    query_id = row.text("query_id")
    if query_id not in known:
        hint = meant(query_id, known)
        raise row.error(f"'query_id' {shown(query_id)} is not a query of {dataset} {split}{hint}")
    query = known[query_id]
    _check_query(row, query)
    return (dataset, split), query


def _split_of(row: Row, dataset: str, queries_of: QueriesOf, splits_of: SplitsOf) -> str:
    query_id = row.text("query_id")
    found = [split for split in splits_of(dataset) if query_id in (queries_of(dataset, split) or ())]
    if len(found) == 1:
        return found[0]
    if found:
        raise row.error(
            f"'query_id' {shown(query_id)} is in {' and '.join(found)} of {dataset}: add the key 'split'"
        )
    hints = (meant(query_id, queries_of(dataset, split)) for split in splits_of(dataset))
    raise row.error(
        f"'query_id' {shown(query_id)} is not a query of any configured split of {shown(dataset)}"
        f"{next(filter(None, hints), '')}"
    )


def _line(values: Mapping[str, Any]) -> str:
    # What is unknown is left out: an empty fingerprint would be a wrong one.
    return json.dumps({name: value for name, value in values.items() if value != ""}, ensure_ascii=False)


def _collect(file: Path, purpose: str, read: Callable[[Row], _T]) -> list[_T]:
    """Every row as ``read`` makes it. Raises ``ImportRefusedError`` with all that it refuses."""
    taken: list[_T] = []
    refused: list[DatasetError] = []
    for where, line in numbered_lines(file, purpose):
        try:
            taken.append(read(line_row(file, where, line)))
        except DatasetError as error:
            if error.file != file:  # the data set itself cannot be read: no row's fault
                raise
            refused.append(error)
    if refused:
        raise ImportRefusedError(file, refused)
    if not taken:
        raise DatasetError(f"holds no row ({purpose})", file=file)
    return taken


def _frames(rows: list[tuple[_T, dict[str, Any]]], schema: pl.Schema) -> dict[_T, pl.DataFrame]:
    grouped: dict[_T, list[dict[str, Any]]] = {}
    for key, values in rows:
        grouped.setdefault(key, []).append(values)
    return {key: pl.DataFrame(values, schema=schema) for key, values in grouped.items()}


def _check_keys(row: Row, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    for key in required:
        if key not in row.values:
            raise row.error(f"the key {key!r} is missing")
    if unknown := [key for key in row.values if key not in (*required, *optional)]:
        raise row.error(
            f"unknown key {shown(unknown[0])}: a row may have {', '.join((*required, *optional))}"
        )


def _check_query(row: Row, query: KnownQuery) -> None:
    """Raise ``DatasetError`` where the row was made from another query of that id."""
    if "reference_id" in row.values and (given := row.text("reference_id")) != query.reference_id:
        raise row.error(f"was made for reference {shown(given)}; the query's is {shown(query.reference_id)}")
    if "modification" not in row.values:
        return
    given = row.text("modification", blank=True)
    if given.split() != query.modification.split():
        raise row.error(f"was made for the text {shown(given)}; the query's is {shown(query.modification)}")


def _composition(row: Row) -> dict[str, Any]:
    fields = row.row("composition").values
    try:
        made = Composition.of(fields)
    except AnswerError as error:
        raise row.error(f"'composition': {error}") from None
    for text in (made.target_caption, *(phrase for name in LISTS for phrase in getattr(made, name))):
        if "\x00" in text:
            raise row.error(f"'composition': {shown(text)} holds a NUL character")
    return {**{name: list(getattr(made, name)) for name in LISTS}, "target_caption": made.target_caption}


def _origin(row: Row) -> dict[str, str]:
    return {"model": row.text("model"), "prompt_hash": row.text("prompt_hash"), "made_at": _made_at(row)}


def _fingerprint(row: Row, here: str | None, other_pictures: bool) -> str:
    """The fingerprint that the row was made from; empty where it says none, or another picture's was
    accepted.
    """
    if "fingerprint" not in row.values:
        return ""
    given = row.text("fingerprint")
    if not _FINGERPRINT.fullmatch(given):
        raise row.error(
            f"'fingerprint' must be 32 hexadecimal digits, not {shown(given)}; leave the key out if unknown"
        )
    if here in (None, given):
        return given
    if other_pictures:
        return ""
    raise row.error(
        f"was made from another picture (fingerprint {given}, the one here has {here}); "
        "--other-pictures takes it all the same"
    )


def _made_at(row: Row) -> str:
    if "made_at" not in row.values:
        return ""
    given = row.text("made_at")
    try:
        time = datetime.fromisoformat(given)
        if time.tzinfo is None:
            raise ValueError
        time = time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise row.error(
            f"'made_at' must be a time with its zone, like 2026-01-31T08:00:00Z, not {shown(given)}"
        ) from None
    if time > datetime.now(UTC) + _CLOCK_ERROR:
        raise row.error(f"'made_at' {shown(given)} lies in the future")
    return _spelled(time)


def _spelled(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
