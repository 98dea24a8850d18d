"""Makes queries, galleries and rankings without files: the tables as any data set would be read into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
import pytest

from setr_lib.tables import QUERIES

Lists = Mapping[str, Sequence[str]]


def _queries(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    blank = {"modification": "x", "captions": ["x"], "subset_ids": [], "gallery": "all", "aspects": []}
    return pl.DataFrame([{**blank, **row} for row in rows], schema=QUERIES)


def _rankings(gallery: Lists, subset: Lists | None = None) -> pl.DataFrame:
    rows = [
        (query_id, pool, rank, image_id)
        for pool, lists in (("gallery", gallery), ("subset", subset or {}))
        for query_id, images in lists.items()
        for rank, image_id in enumerate(images, start=1)
    ]
    return pl.DataFrame(
        rows, schema={"query_id": str, "pool": str, "rank": pl.Int32, "image_id": str}, orient="row"
    )


def _gallery(images: Mapping[str, Sequence[str]], broken: Sequence[str] = ()) -> pl.DataFrame:
    """From image id to its galleries."""
    return pl.DataFrame(
        {
            "image_id": list(images),
            "galleries": [list(names) for names in images.values()],
            "status": ["broken" if name in broken else "ok" for name in images],
        },
        schema={"image_id": pl.String, "galleries": pl.List(pl.String), "status": pl.String},
    )


@pytest.fixture(scope="session")
def queries_of() -> Callable[..., pl.DataFrame]:
    return _queries


@pytest.fixture(scope="session")
def rankings_of() -> Callable[..., pl.DataFrame]:
    return _rankings


@pytest.fixture(scope="session")
def gallery_of() -> Callable[..., pl.DataFrame]:
    return _gallery
