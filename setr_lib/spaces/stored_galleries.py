"""What the vector store holds of a gallery, whichever embedding spaces it was embedded in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from setr_lib.errors import SetrError
from setr_lib.spaces.removals import origins_of
from setr_lib.spaces.vector_store import (
    MADE_BY,
    PREPROCESSED_BY,
    only_writer,
    slug,
    stored_rows,
    table_name_of,
)

if TYPE_CHECKING:
    from setr_lib.spaces.vector_store import GalleryStore

_LOG = logging.getLogger(__name__)
Found = TypeVar("Found")


def tables_of(store: GalleryStore, gallery: str) -> list[str]:
    """The tables of vectors of one gallery, in every embedding space that it was ever embedded in.

    Args:
        store: The vector store; a folder that is not there is not made.
        gallery: The key of the images' origin.

    Returns:
        Names of tables, sorted.
    """
    if "://" not in store.uri and not Path(store.uri).is_dir():
        return []
    likely = [name for name in store.table_names() if name.startswith(f"{slug(gallery)}--")]
    return [name for name in likely if _read_or(False, lambda name=name: _is_of(store, gallery, name))]


def stored_images_of(store: GalleryStore, gallery: str) -> list[tuple[set[str], set[str]]]:
    """The images of each table of a gallery. A table that cannot be read is left out: whoever stores vectors
    in it says what is wrong.

    Args:
        store: The vector store; a folder that is not there is not made.
        gallery: The key of the images' origin.

    Returns:
        Of each table that has rows, image ids and the origins that they are of.
    """
    nothing: tuple[set[str], set[str]] = (set(), set())
    found = [
        _read_or(nothing, lambda table=table: stored_images(store, table))
        for table in tables_of(store, gallery)
    ]
    return [(ids, origins) for ids, origins in found if ids]


def _read_or(fallback: Found, read: Callable[[], Found]) -> Found:
    """What a table says, or ``fallback`` where it cannot be read."""
    try:
        return read()
    except (SetrError, OSError, RuntimeError, ValueError) as error:
        _LOG.debug("a table of the vector store cannot be read: %s", error)
        return fallback


def _is_of(store: GalleryStore, gallery: str, table: str) -> bool:
    """Whether a table is of a gallery: its name holds a digest of gallery, encoder and preprocessing."""
    metadata = store.open(table).schema.metadata or {}
    encoder, preprocessing = metadata.get(MADE_BY.encode()), metadata.get(PREPROCESSED_BY.encode())
    if encoder is None or preprocessing is None:
        return False
    return table == table_name_of(gallery, encoder.decode(), preprocessing.decode())


def stored_images(store: GalleryStore, table: str) -> tuple[set[str], set[str]]:
    """The images of a table as it is now.

    Args:
        store: The vector store.
        table: The table's name.

    Returns:
        Their ids, and the origins that they are of, where these are known.

    Raises:
        GalleryError: There is no such table.
    """
    handle = store.open(table)
    return set(stored_rows(handle)["image_id"]), origins_of(handle)


def clear(store: GalleryStore, table: str) -> int:
    """Remove every image of a table; earlier versions that were reported stay.

    Args:
        store: The vector store.
        table: The table's name.

    Returns:
        How many were removed.

    Raises:
        GalleryError: There is no such table.
    """
    with only_writer(store.uri, table):
        handle = store.open(table)
        removed = int(handle.count_rows())
        if removed:
            handle.delete("true")
            store.tag(handle)
    return removed
