"""What one query costs by LanceDB's exact search, as `setr search` does it, against reading every vector and
ranking by NumPy.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.speed.figure import BenchSetting, Figure
from benchmarks.speed.timing import in_turns
from setr_lib.spaces.vector_store import GalleryStore

NAMES = ("search-one-query",)
TABLE = "gallery"
ROWS = {False: 40_000, True: 200_000}
"""Images, by whether the run is a full one."""
DIMENSION, K = 768, 50


def figures(setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
    """Measure the figure.

    Args:
        setting: How it is run.
        names: Of :data:`NAMES`.

    Yields:
        The figure.
    """
    rows = ROWS[setting.full]
    store = _drawn_store(setting.folder / "one-query", rows)
    query = _unit(np.random.default_rng(1).standard_normal((1, DIMENSION), dtype=np.float32))
    found = in_turns(
        {"LanceDB": partial(_by_lancedb, store, query), "NumPy": partial(_by_numpy, store, query)}, rounds=5
    )
    ours, other = found["LanceDB"], found["NumPy"]
    yield Figure(
        "search-one-query",
        f"one query, {rows:,} vectors of {DIMENSION} dimensions on disk, first {K}, by LanceDB's search",
        ours.seconds,
        "NumPy, after every vector is read",
        other.seconds,
        equal=ours.output == other.output,
        checked="the ids, in their order",
    )


def _drawn_store(folder: Path, rows: int) -> GalleryStore:
    """A vector store with one table of random unit vectors."""
    shutil.rmtree(folder, ignore_errors=True)
    vectors = _unit(np.random.default_rng(0).standard_normal((rows, DIMENSION), dtype=np.float32))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION)
    store = GalleryStore(folder)
    store.connect().create_table(
        TABLE, pa.table({"image_id": [f"{row:08d}" for row in range(rows)], "vector": column})
    )
    return store


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _by_lancedb(store: GalleryStore, query: np.ndarray) -> list[str]:
    store.ids(TABLE)  # a retriever reads the ids, too
    return store.search(TABLE, query, K)["image_id"].to_list()


def _by_numpy(store: GalleryStore, query: np.ndarray) -> list[str]:
    table = store.connect().open_table(TABLE).to_lance().to_table(columns=["image_id", "vector"])
    vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    scores = vectors.reshape(-1, DIMENSION) @ query[0]
    ids = table["image_id"]
    return [ids[int(row)].as_py() for row in np.argsort(-scores, kind="stable")[:K]]
