"""The two kinds of row that every data set is read into, and the frames made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from setr_lib.tables import GALLERY, QUERIES

LISTED_GALLERY = pl.Schema({name: GALLERY[name] for name in ("image_id", "path", "galleries")})
"""What a gallery is before anyone has opened its images."""


@dataclass(slots=True)
class QueryRecord:
    """One query; the fields are those of ``tables.QUERIES``."""

    query_id: str
    reference_id: str
    modification: str
    captions: list[str]
    target_ids: list[str] = field(default_factory=list)
    subset_ids: list[str] = field(default_factory=list)
    gallery: str = "all"
    aspects: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ImageRecord:
    """One gallery image: its id, absolute path, and the galleries that hold it."""

    image_id: str
    path: str
    galleries: list[str]


def query_frame(records: Sequence[QueryRecord]) -> pl.DataFrame:
    """A ``tables.QUERIES`` frame in the records' order."""
    return pl.DataFrame({name: [getattr(each, name) for each in records] for name in QUERIES}, schema=QUERIES)


def gallery_frame(records: Sequence[ImageRecord]) -> pl.DataFrame:
    """A :data:`LISTED_GALLERY` frame in the records' order."""
    return pl.DataFrame(
        {name: [getattr(each, name) for each in records] for name in LISTED_GALLERY}, schema=LISTED_GALLERY
    )
