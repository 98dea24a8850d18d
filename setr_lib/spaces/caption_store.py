"""The captions of a gallery's images in LanceDB, beside the vectors: a table of their own with a full-text
index.

A table of their own, because captions come without vectors (a data set whose images are not here) and stay
the same when the encoder changes. One row an image; the index is over its captions together, stemmed,
function words included. Nothing here knows of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from setr_lib.hashing import digest_strings
from setr_lib.spaces.removals import RemovalRule, origins_of, remember_origin
from setr_lib.spaces.vector_store import PRIMARY_KEY, GalleryError, GalleryStore, only_writer, slug

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TEXT = "text"
_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field(_TEXT, pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class CaptionReport:
    """What storing captions did."""

    table: str
    version: int
    """Holds exactly these captions and their index; tagged, so that LanceDB's clean-up spares it."""
    rows: int
    written: bool
    """False where the table held exactly these captions already."""


class CaptionStore:
    """The caption tables of a store; like ``GalleryStore``, it holds no connection.

    Args:
        store: The store of the vectors, whose database holds the tables.
    """

    def __init__(self, store: GalleryStore) -> None:
        self.store = store

    @staticmethod
    def table_name(gallery: str) -> str:
        """The table of a gallery's captions; evaluation sets over the same images share it.

        Args:
            gallery: A key of the images' origin.

        Returns:
            The table's name.
        """
        return f"{slug(gallery)}--captions--{digest_strings([gallery])[:12]}"

    def write(self, table: str, captions: pl.DataFrame, removals: RemovalRule | None = None) -> CaptionReport:
        """Make a table hold exactly these captions, indexed; nothing happens where it does.

        Args:
            table: The table's name.
            captions: ``image_id`` and ``captions``.
            removals: Of how many images captions may be removed; by default of a fifth without consent.

        Returns:
            The table's version, its rows, and whether it was written.

        Raises:
            GalleryError: An id occurs twice.
            RemovalRefusedError: More would be removed than may be; nothing was changed.
        """
        rule = removals or RemovalRule()
        rows = captions.select("image_id", "captions").sort("image_id")
        if rows["image_id"].n_unique() < rows.height:
            raise GalleryError(f"table {table}: an image has two rows of captions; ids must be unique")
        with only_writer(self.store.uri, table):
            handle = self._current(table, rows)
            written = handle is None
            if handle is None:
                self._check_removal(table, rows, rule)
                handle = self._overwrite(table, rows)
            version = self.store.tag(handle)
            remember_origin(handle, version, rule.origin)
        return CaptionReport(table, version, rows.height, written)

    def open(self, table: str, version: int | None = None) -> CaptionIndex:
        """The captions of a table, ready to be searched.

        Args:
            table: The table's name.
            version: The table's version; by default the latest.

        Returns:
            The captions.

        Raises:
            GalleryError: There is no such table, version or index.
        """
        handle = self.store.open(table, version)
        if not _indexed(handle):
            raise GalleryError(
                f"{self.store.uri}: table {table} has no full-text index; materialise the gallery's "
                "embeddings again"
            )
        return CaptionIndex(handle)

    def _current(self, table: str, rows: pl.DataFrame) -> Any | None:
        """The table, where it holds exactly ``rows`` and their index; a kill may have left it without."""
        if table not in self.store.table_names():
            return None
        handle = self.store.open(table)
        return handle if _indexed(handle) and _rows(handle).equals(rows) else None

    def _check_removal(self, table: str, rows: pl.DataFrame, rule: RemovalRule) -> None:
        if table in self.store.table_names():
            handle = self.store.open(table)
            rule.check(_rows(handle)["image_id"], rows["image_id"], origins_of(handle), "captions")

    def _overwrite(self, table: str, rows: pl.DataFrame) -> Any:
        from lancedb.index import FTS

        columns = [
            pa.array(rows["image_id"].to_list(), pa.string()),
            pa.array(rows["captions"].to_list(), pa.list_(pa.string())),
            pa.array(["\n".join(texts) for texts in rows["captions"].to_list()], pa.string()),
        ]
        content = pa.Table.from_arrays(columns, schema=_SCHEMA)
        handle = self.store.connect(table).create_table(table, content, mode="overwrite")
        # One worker: the index, and with it every score, is then the same on every machine.
        handle.create_index(_TEXT, config=FTS(remove_stop_words=False, num_workers=1))
        return handle


class CaptionIndex:
    """The captions of a gallery, searched term by term; each term once, however many queries have it.

    A query of weighted terms scores as the weighted sum of its terms: that is what LanceDB's own Boolean
    query of boosted matches gives, term for term.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._terms: dict[str, str | None] = {}
        self._words: dict[str, str] = {}
        self._found: dict[str, tuple[NDArray[np.intp], NDArray[np.float64]]] = {}

    @cached_property
    def _captions(self) -> dict[str, list[str]]:
        return dict(_rows(self._handle).iter_rows())

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self._captions)}

    @property
    def ids(self) -> list[str]:
        """The images that have captions, sorted."""
        return list(self._captions)

    def captions(self, image_id: str) -> Sequence[str]:
        """The captions of an image.

        Args:
            image_id: The image.

        Returns:
            Its captions; none for an image without.
        """
        return self._captions.get(image_id, ())

    def term(self, word: str) -> str | None:
        """The one term that the index makes of a word (its stem).

        Args:
            word: A word in lower case.

        Returns:
            The term; None where the index makes none or several.
        """
        if word not in self._terms:
            tokens = [token.text for token in self._handle.tokenize(word, column=_TEXT)]
            self._terms[word] = tokens[0] if len(tokens) == 1 else None
            if len(tokens) == 1:
                # A stem may have a stem of its own: the index is asked with a word that it makes this term
                # of.
                self._words.setdefault(tokens[0], word)
        return self._terms[word]

    def matches(self, term: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The images whose captions have a term.

        Args:
            term: As :meth:`term` gave it.

        Returns:
            Their rows in ``ids``, ``int[hits]``, and the BM25 of each, ``float64[hits]``.
        """
        if term not in self._found:
            self._found[term] = self._search(self._words.get(term, term))
        return self._found[term]

    def _search(self, word: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        from lancedb.query import MatchQuery

        if not self._captions:
            return np.zeros(0, dtype=np.intp), np.zeros(0)
        query = MatchQuery(word, _TEXT)  # pyright: ignore[reportCallIssue] - its fields have defaults
        search = self._handle.search(query, query_type="fts").limit(len(self._captions))
        hits = search.select(["image_id", "_score"]).to_arrow()
        rows = [self._row_of[image_id] for image_id in hits["image_id"].to_pylist()]
        return np.array(rows, dtype=np.intp), np.array(hits["_score"].to_pylist(), dtype=np.float64)


def _rows(handle: Any) -> pl.DataFrame:
    """``image_id`` and ``captions`` of every row, in id order."""
    stored = handle.search().select(["image_id", "captions"]).limit(handle.count_rows() + 1).to_arrow()
    return pl.DataFrame(pl.from_arrow(stored)).sort("image_id")


def _indexed(handle: Any) -> bool:
    """Whether the full-text index covers every row (an empty table needs none to cover)."""
    names = [index.name for index in handle.list_indices() if list(index.columns) == [_TEXT]]
    found = [stats for name in names if (stats := handle.index_stats(name)) is not None]
    return any(stats.num_unindexed_rows == 0 for stats in found)
