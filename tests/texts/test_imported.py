"""Carried rows in the pipeline: they stand in for the model where they fit, and never where they do not."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setr_lib.tables import (
    CAPTIONS,
    COMPOSITIONS,
    GALLERY,
    IMPORTED_CAPTIONS,
    IMPORTED_COMPOSITIONS,
    QUERIES,
)
from setr_lib.texts.imported import DETAIL, compose_with, describe_with, settle, store_with


def carried(
    image_id: str, caption: str = "carried", made_at: str = "", fingerprint: str = ""
) -> dict[str, str]:
    return {
        "image_id": image_id,
        "caption": caption,
        "model": "theirs",
        "prompt_hash": "their prompt",
        "fingerprint": fingerprint,
        "made_at": made_at,
    }


def captions(*rows: dict[str, str]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=IMPORTED_CAPTIONS)


def compositions(*rows: dict[str, Any]) -> pl.DataFrame:
    blank = {
        **{name: ["x"] for name in ("keep", "add", "remove", "drop")},
        "target_caption": "carried",
        "model": "theirs",
        "prompt_hash": "their prompt",
        "reference_id": "a",
        "modification": "text",
        "fingerprint": "",
        "made_at": "",
    }
    return pl.DataFrame([blank | row for row in rows], schema=IMPORTED_COMPOSITIONS)


@pytest.fixture
def images() -> pl.DataFrame:
    rows = [
        {"image_id": "b", "path": "b.png", "status": "ok", "detail": "", "fingerprint": "fb"},
        {"image_id": "a", "path": "a.png", "status": "ok", "detail": "", "fingerprint": "fa"},
        {"image_id": "gone", "path": "gone.png", "status": "missing", "detail": "no such file"},
        {"image_id": "cut", "path": "cut.png", "status": "broken", "detail": "cut", "fingerprint": "fc"},
    ]
    return pl.DataFrame(rows, schema=GALLERY)


@pytest.fixture
def queries() -> pl.DataFrame:
    rows = [{"query_id": str(n), "reference_id": "a", "modification": "text"} for n in range(3)]
    return pl.DataFrame(rows, schema=QUERIES)


def described(images: pl.DataFrame) -> pl.DataFrame:
    rows = [
        {
            "image_id": image,
            "caption": "ours",
            "status": "ok",
            "detail": "",
            "model": "ours",
            "prompt_hash": "p",
            "fingerprint": "",
        }
        for image in images["image_id"]
    ]
    return pl.DataFrame(rows, schema=CAPTIONS)


def composed(queries: pl.DataFrame) -> pl.DataFrame:
    rows = [
        {
            "query_id": query,
            **{name: [] for name in ("keep", "add", "remove", "drop")},
            "target_caption": "ours",
            "status": "ok",
            "detail": "",
            "model": "ours",
            "prompt_hash": "p",
        }
        for query in queries["query_id"]
    ]
    return pl.DataFrame(rows, schema=COMPOSITIONS)


def never(frame: pl.DataFrame) -> pl.DataFrame:
    pytest.fail(f"the model was asked for {frame.height} rows")


def test_without_carried_rows_the_model_writes_everything(
    images: pl.DataFrame, queries: pl.DataFrame
) -> None:
    assert describe_with(captions(), images, described).frame.equals(described(images))
    assert compose_with(compositions(), queries, images, composed).frame.equals(composed(queries))


def test_carried_captions_go_first_and_keep_their_origin(images: pl.DataFrame) -> None:
    filled = describe_with(captions(carried("a", fingerprint="fa"), carried("elsewhere")), images, described)
    assert filled.frame.schema == CAPTIONS
    assert filled.frame["image_id"].to_list() == images["image_id"].to_list()
    assert filled.frame["caption"].to_list() == ["ours", "carried", "ours", "ours"]
    row = filled.frame.row(1, named=True)
    assert (row["model"], row["prompt_hash"]) == ("theirs", "their prompt")
    assert (row["status"], row["detail"]) == ("ok", DETAIL)
    assert (filled.imported, filled.unfit) == (1, 0)


def test_a_caption_of_another_picture_is_left_aside(images: pl.DataFrame) -> None:
    rows = [
        carried("a", fingerprint="other"),
        carried("gone", fingerprint="x"),
        carried("cut", fingerprint="x"),
    ]
    filled = describe_with(captions(*rows), images, described)
    assert dict(filled.frame.select("image_id", "caption").iter_rows()) == {
        "b": "ours",
        "a": "ours",
        "gone": "carried",
        "cut": "carried",
    }
    assert (filled.imported, filled.unfit) == (2, 1)


def test_the_model_is_not_asked_when_nothing_is_left(images: pl.DataFrame, queries: pl.DataFrame) -> None:
    every = captions(*[carried(image) for image in images["image_id"]])
    assert describe_with(every, images, never).imported == images.height
    made = compositions(*[{"query_id": query} for query in queries["query_id"]])
    filled = compose_with(made, queries, images, never)
    assert filled.frame.schema == COMPOSITIONS
    assert filled.frame["query_id"].to_list() == ["0", "1", "2"]
    assert set(filled.frame["model"]) == {"theirs"}


def test_a_composition_of_another_query_is_left_aside(images: pl.DataFrame, queries: pl.DataFrame) -> None:
    made = compositions(
        {"query_id": "0", "modification": "another text"},
        {"query_id": "1", "reference_id": "b"},
        {"query_id": "2", "fingerprint": "other"},
    )
    filled = compose_with(made, queries, images, composed)
    assert filled.frame.equals(composed(queries))
    assert (filled.imported, filled.unfit) == (0, 3)
    missing = images.with_columns(status=pl.lit("missing"))
    assert compose_with(made, queries, missing, composed).imported == 1, "no picture here to compare"


def test_newer_rows_stay_unless_asked() -> None:
    here = captions(
        carried("a", "here", "2026-02"), carried("b", "here", "2026-02"), carried("c", "same", "2026-02")
    )
    incoming = captions(
        carried("a", "older", "2026-01"),
        carried("b", "newer", "2026-03"),
        carried("c", "same"),
        carried("d", "new"),
    )
    settled = settle(incoming, here, overwrite=False)
    assert (settled.new, settled.replaced, settled.unchanged, settled.kept) == (1, 1, 1, 1)
    assert settled.taken["caption"].to_list() == ["newer", "new"]
    asked = settle(incoming, here, overwrite=True)
    assert (asked.new, asked.replaced, asked.unchanged, asked.kept) == (1, 2, 1, 0)
    assert store_with(here, asked.taken)["caption"].to_list() == ["older", "newer", "same", "new"]


def test_a_row_of_unknown_or_equal_time_does_not_replace() -> None:
    here = captions(carried("a", "here", "2026-02"), carried("b", "here"))
    incoming = captions(carried("a", "theirs", "2026-02"), carried("b", "theirs"))
    assert settle(incoming, here, overwrite=False).kept == 2
    timed = captions(carried("b", "theirs", "2026-01"))
    assert settle(timed, here, overwrite=False).replaced == 1, "one without a time is older than any other"


def test_another_model_or_prompt_is_another_row() -> None:
    here = captions(carried("a", "same words"))
    other = here.with_columns(model=pl.lit("another"))
    assert settle(other, here, overwrite=True).replaced == 1
    elsewhere = here.with_columns(fingerprint=pl.lit("f"), made_at=pl.lit("2026-01"))
    assert settle(elsewhere, here, overwrite=True).unchanged == 1


rows = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.sampled_from("xyz"), st.sampled_from(["", "2026-01", "2026-02"]))
).map(lambda made: captions(*[carried(key, text, time) for key, (text, time) in made.items()]))


@given(rows, rows, st.booleans())
def test_settling_loses_nothing_and_happens_once(
    here: pl.DataFrame, incoming: pl.DataFrame, asked: bool
) -> None:
    settled = settle(incoming, here, overwrite=asked)
    assert settled.new + settled.replaced + settled.unchanged + settled.kept == incoming.height
    after = store_with(here, settled.taken)
    assert set(after["image_id"]) == set(here["image_id"]) | set(incoming["image_id"])
    assert not after["image_id"].is_duplicated().any()
    again = settle(incoming, after, overwrite=asked)
    assert again.taken.is_empty()
    old = dict(here.select("image_id", "made_at").iter_rows())
    if not asked:
        assert all(time >= old.get(key, "") for key, time in after.select("image_id", "made_at").iter_rows())
