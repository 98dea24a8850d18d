"""The vectors of a gallery's captions in LanceDB, beside the captions: a table for each embedding space.

One row a distinct caption, whichever images have it; the table of captions says whose it is. A
synchronisation embeds new captions only and removes what is gone; every batch is one commit, so a kill costs
at most the batch under way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from setr_lib.hashing import digest_strings
from setr_lib.models.device import iterate_in_batches
from setr_lib.models.refusals import CONTROL_TEXT, run_without_refused
from setr_lib.progress import Progress, silent
from setr_lib.spaces.space import checked_vectors
from setr_lib.spaces.vector_store import PRIMARY_KEY, GalleryError, GalleryStore, only_writer, slug

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.spaces.caption_store import CaptionIndex
    from setr_lib.spaces.space import EmbeddingSpace

_LOG = logging.getLogger(__name__)
_KEY = "caption_digest"
_DELETE_CHUNK = 1000  # keys per SQL filter
_BATCHES_PER_COMMIT = 8


@dataclass(frozen=True)
class CaptionVectors:
    """The vectors of a gallery's captions, image by image."""

    vectors: NDArray[np.float32]
    """``float32[captions, d]``, norm 1; the captions of an image stand together, in their order."""
    images: NDArray[np.intp]
    """``int[captions]``: each caption's image, as its row in the caption index's ``ids``; ascending."""


@dataclass(frozen=True)
class CaptionVectorReport:
    """What a synchronisation did; counts are distinct captions."""

    table: str
    version: int
    """The table version that holds exactly the result; tagged, so that LanceDB's clean-up spares it."""
    rows: int
    embedded: int
    removed: int


class CaptionVectorStore:
    """The tables of caption vectors of a store; like ``GalleryStore``, it holds no connection.

    Args:
        store: The store of the vectors, whose database holds the tables.
    """

    def __init__(self, store: GalleryStore) -> None:
        self.store = store

    @staticmethod
    def table_name(gallery: str, space: EmbeddingSpace) -> str:
        """The table of a gallery's captions in an embedding space.

        Args:
            gallery: A key of the images' origin.
            space: The embedding space.

        Returns:
            The table's name.
        """
        exact = digest_strings([gallery, "captions", space.id])[:12]
        return f"{slug(gallery)}--captions--{slug(space.id.split('@')[0])}--{exact}"

    def synchronise(
        self,
        table: str,
        captions: Iterable[Sequence[str]],
        space: EmbeddingSpace,
        progress: Progress = silent,
    ) -> CaptionVectorReport:
        """Make a table hold exactly the vectors of these captions, embedding no caption twice.

        Args:
            table: The table's name.
            captions: The captions of each image.
            space: The embedding space.
            progress: Told how many captions are embedded.

        Returns:
            What was done, and the table's version. A caption that the space's tokenizer refuses is logged,
            and its vector is zero.

        Raises:
            SpaceError: The space has no text side, or gave vectors that are none.
        """
        wanted = {_key(text): text for texts in captions for text in texts}
        with only_writer(self.store.uri, table):
            handle = self.store.connect(table).create_table(table, schema=_schema(space), exist_ok=True)
            handle.checkout_latest()
            stored = _keys(handle)
            twice = {key for key, count in stored.items() if count > 1}
            stale = sorted((set(stored) - set(wanted)) | twice)
            for start in range(0, len(stale), _DELETE_CHUNK):
                keys = ", ".join(f"'{key}'" for key in stale[start : start + _DELETE_CHUNK])
                handle.delete(f"{_KEY} IN ({keys})")
            kept = set(stored) - set(stale)
            todo = [key for key in sorted(wanted) if key not in kept]
            self._embed(handle, {key: wanted[key] for key in todo}, space, progress)
            version = self.store.tag(handle)
        return CaptionVectorReport(table, version, len(wanted), len(todo), len(stale))

    def read(self, table: str, version: int | None, index: CaptionIndex) -> CaptionVectors:
        """The vectors of the captions of an index.

        Args:
            table: The table's name.
            version: Its version, by default the latest.
            index: The gallery's captions.

        Returns:
            The vectors, image by image.

        Raises:
            GalleryError: There is no such table or version, or it lacks a caption.
        """
        data = self.store.open(table, version).to_arrow().select([_KEY, "vector"])
        dimension = data.schema.field("vector").type.list_size
        vectors = data["vector"].combine_chunks().flatten().to_numpy().reshape(-1, dimension)
        row_of = {key: row for row, key in enumerate(data[_KEY].to_pylist())}
        rows, images = list[int](), list[int]()
        for image, image_id in enumerate(index.ids):
            for text in index.captions(image_id):
                if (row := row_of.get(_key(text))) is None:
                    raise GalleryError(
                        f"{self.store.uri}: table {table} lacks the vector of a caption of image "
                        f"{image_id!r} ({text!r}); materialise the gallery's embeddings again"
                    )
                rows.append(row)
                images.append(image)
        return CaptionVectors(vectors[rows], np.array(images, dtype=np.intp))

    def _embed(
        self, handle: Any, texts: Mapping[str, str], space: EmbeddingSpace, progress: Progress
    ) -> None:
        keys, schema, done = list(texts), _schema(space), 0

        def run(batch: Sequence[str]) -> list[NDArray[np.float32]]:
            return list(checked_vectors(space, space.embed_captions(batch), len(batch)))

        def embedded(batch: Sequence[str]) -> list[NDArray[np.float32]]:
            ran = run_without_refused([texts[key] for key in batch], run, lambda: CONTROL_TEXT)
            for place, reason in ran.refused.items():
                _LOG.warning("%s refuses the caption %r (%s)", space.id, texts[batch[place]][:80], reason)
            nothing = np.zeros(space.dimension, dtype=np.float32)  # as like to every text as to any other
            return [ran.results.get(place, nothing) for place in range(len(batch))]

        if keys:
            progress(0, len(keys), "captions embedded")
        for batch, vectors in iterate_in_batches(keys, embedded, space.batch_size * _BATCHES_PER_COMMIT):
            flat = pa.array(np.concatenate(vectors))
            columns = [
                pa.array(list(batch), pa.string()),
                pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type),
            ]
            handle.add(pa.Table.from_arrays(columns, schema=schema))
            done += len(batch)
            progress(done, len(keys), "captions embedded")


def _key(caption: str) -> str:
    return digest_strings([caption])


def _keys(handle: Any) -> dict[str, int]:
    """How often each caption is stored: once, unless two runs wrote at a time."""
    rows = handle.search().select([_KEY]).limit(handle.count_rows() + 1).to_arrow()
    return dict(pl.Series(rows[_KEY].to_pylist(), dtype=pl.String()).value_counts().iter_rows())


def _schema(space: EmbeddingSpace) -> pa.Schema:
    return pa.schema(
        [
            pa.field(_KEY, pa.string(), nullable=False, metadata=PRIMARY_KEY),
            pa.field("vector", pa.list_(pa.float32(), space.dimension), nullable=False),
        ],
        metadata={"setr.encoder": space.id},
    )
