"""Imported captions, compositions and other texts: where they fit, they are used in place of a call of the
model.

An imported row fits an image (or query) while that is still what the row was made from. It then goes before
what the model here would write, with its own ``model`` and ``prompt_hash``; the model is not even loaded when
nothing is left. A row is *newer* than another when it was made later (``made_at``); one without a time is
older than any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from setr_lib.tables import CAPTIONS, COMPOSITIONS, conform
from setr_lib.texts.kind import OK, TextKind

DETAIL = "imported"
"""What the tables' ``detail`` says of an imported row."""
_NOT_CONTENT = ("fingerprint", "made_at", "reference_id", "modification")


@dataclass(frozen=True)
class Filled:
    """A table made of imported rows and, for the rest, the model's."""

    frame: pl.DataFrame
    imported: int
    unfit: int
    """Imported rows that were left aside: the image or query is no longer what they were made from."""


@dataclass(frozen=True)
class Settlement:
    """What an import comes to. ``taken`` are the rows to store; the counts are of the file's rows."""

    taken: pl.DataFrame
    new: int
    replaced: int
    unchanged: int
    kept: int
    """Rows left aside because what is here is as new or newer."""


def describe_with(
    imported: pl.DataFrame, images: pl.DataFrame, describe: Callable[[pl.DataFrame], pl.DataFrame]
) -> Filled:
    """The captions of images: imported ones where they fit, the model's for the rest.

    Args:
        imported: An ``IMPORTED_CAPTIONS`` frame.
        images: ``image_id``, ``path``, ``status``, ``detail``, ``fingerprint``.
        describe: Makes a ``CAPTIONS`` frame of the images that are left; called only if there are any.

    Returns:
        A ``CAPTIONS`` frame in the order of ``images``, and counts.
    """
    named = imported.join(images, on="image_id", how="semi")
    given = named.join(unfit_captions(named, images), on="image_id", how="anti")
    rest = images.join(given, on="image_id", how="anti", maintain_order="left")
    made = describe(rest) if rest.height else CAPTIONS.to_frame()
    used = given.with_columns(status=pl.lit("ok"), detail=pl.lit(DETAIL)).drop("made_at")
    frame = _in_order(images, "image_id", used.select(list(CAPTIONS)), made)
    return Filled(conform(frame, CAPTIONS, "captions"), given.height, named.height - given.height)


def compose_with(
    imported: pl.DataFrame,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    compose: Callable[[pl.DataFrame], pl.DataFrame],
) -> Filled:
    """The compositions of queries: imported ones where they fit, the model's for the rest.

    Args:
        imported: An ``IMPORTED_COMPOSITIONS`` frame.
        queries: A ``tables.QUERIES`` frame.
        gallery: ``image_id``, ``status``, ``fingerprint`` of the reference images.
        compose: Makes a ``COMPOSITIONS`` frame of the queries that are left; called only if there are any.

    Returns:
        A ``COMPOSITIONS`` frame in the order of ``queries``, and counts.
    """
    named = imported.join(queries, on="query_id", how="semi")
    given = named.join(unfit_compositions(named, queries, gallery), on="query_id", how="anti")
    rest = queries.join(given, on="query_id", how="anti", maintain_order="left")
    made = compose(rest) if rest.height else COMPOSITIONS.to_frame()
    used = given.with_columns(status=pl.lit("ok"), detail=pl.lit(DETAIL))
    frame = _in_order(queries, "query_id", used.select(list(COMPOSITIONS)), made)
    return Filled(conform(frame, COMPOSITIONS, "compositions"), given.height, named.height - given.height)


def texts_with(
    kind: TextKind,
    imported: pl.DataFrame,
    rows: pl.DataFrame,
    images: pl.DataFrame,
    make: Callable[[pl.DataFrame], pl.DataFrame],
) -> Filled:
    """The texts of one kind, carried ones first.

    Args:
        kind: What is asked.
        imported: Carried rows (columns as :func:`setr_lib.texts.kind.imported_schema`).
        rows: The queries, or for a kind per image the images.
        images: GALLERY rows of the reference images.
        make: Asked for the rows that are left, and only if there are any.

    Returns:
        A table with ``kind.schema`` in the order of ``rows``, and what was used of the carried rows.
    """
    named = imported.join(rows, on=kind.key, how="semi")
    unfit = unfit_texts(kind, named, rows, images)
    given = named.join(unfit, on=kind.key, how="anti")
    rest = rows.join(given, on=kind.key, how="anti", maintain_order="left")
    made = make(rest) if rest.height else kind.schema.to_frame()
    carried = given.with_columns(status=pl.lit(OK), detail=pl.lit(DETAIL))
    frame = _in_order(rows, kind.key, carried.select(list(kind.schema)), made)
    return Filled(conform(frame, kind.schema, kind.name), given.height, unfit.height)


def unfit_texts(
    kind: TextKind, imported: pl.DataFrame, rows: pl.DataFrame, images: pl.DataFrame
) -> pl.DataFrame:
    """The carried rows whose image or query is not what they were made from any more.

    Args:
        kind: The kind of text.
        imported: Carried rows (columns as :func:`setr_lib.texts.kind.imported_schema`).
        rows: The queries, or for a kind per image the images.
        images: GALLERY rows of the reference images.

    Returns:
        Their rows.
    """
    if kind.per == "image":
        return unfit_captions(imported, rows)
    return unfit_compositions(imported, rows, images)


def unfit_captions(imported: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """The imported captions that were made from other bytes than those of the readable image here.

    Args:
        imported: An ``IMPORTED_CAPTIONS`` frame.
        images: ``image_id``, ``status``, ``fingerprint``.

    Returns:
        Their rows.
    """
    here = images.filter(status="ok").select("image_id", here="fingerprint")
    return imported.join(here, on="image_id", how="inner").filter(_other_picture())


def unfit_compositions(imported: pl.DataFrame, queries: pl.DataFrame, gallery: pl.DataFrame) -> pl.DataFrame:
    """The imported compositions whose query has another reference, another text, or another picture by now.

    Args:
        imported: An ``IMPORTED_COMPOSITIONS`` frame.
        queries: A ``tables.QUERIES`` frame.
        gallery: ``image_id``, ``status``, ``fingerprint`` of the reference images.

    Returns:
        Their rows.
    """
    pictures = gallery.filter(status="ok").select(reference="image_id", here="fingerprint")
    now = queries.select("query_id", reference="reference_id", text="modification")
    now = now.join(pictures, on="reference", how="left")
    other_query = (pl.col("reference_id") != pl.col("reference")) | (pl.col("modification") != pl.col("text"))
    return imported.join(now, on="query_id", how="inner").filter(other_query | _other_picture())


def _other_picture() -> pl.Expr:
    known = (pl.col("fingerprint") != "") & pl.col("here").is_not_null()
    return known & (pl.col("fingerprint") != pl.col("here"))


def _in_order(wanted: pl.DataFrame, key: str, *parts: pl.DataFrame) -> pl.DataFrame:
    return wanted.select(key).join(pl.concat(parts), on=key, how="inner", maintain_order="left")


def settle(incoming: pl.DataFrame, here: pl.DataFrame, *, overwrite: bool) -> Settlement:
    """Decide which rows of an import to store: new ones, and those that are newer than the stored one.

    Args:
        incoming: The rows of the file: ``IMPORTED_CAPTIONS`` or ``IMPORTED_COMPOSITIONS``.
        here: What is stored, of the same columns.
        overwrite: Whether a row that differs replaces the stored one though it is not newer.

    Returns:
        The rows to store, and counts.
    """
    key = incoming.columns[0]
    content = [name for name in incoming.columns if name not in _NOT_CONTENT]
    known = {row[key]: row for row in here.iter_rows(named=True)}
    verdicts: list[str] = []
    for row in incoming.iter_rows(named=True):
        old = known.get(row[key])
        if old is None:
            verdicts.append("new")
        elif all(old[name] == row[name] for name in content):
            verdicts.append("unchanged")
        else:
            verdicts.append("replaced" if overwrite or row["made_at"] > old["made_at"] else "kept")
    count = Counter(verdicts)
    taken = incoming.filter(
        pl.Series([verdict in ("new", "replaced") for verdict in verdicts], dtype=pl.Boolean)
    )
    return Settlement(taken, count["new"], count["replaced"], count["unchanged"], count["kept"])


def store_with(stored: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Stored rows with those of an import.

    Args:
        stored: ``IMPORTED_CAPTIONS`` or ``IMPORTED_COMPOSITIONS``.
        taken: Rows of the same columns, which replace those of the same id.

    Returns:
        All rows, sorted by id.
    """
    key = stored.columns[0]
    return pl.concat([stored.join(taken, on=key, how="anti"), taken]).sort(key)
