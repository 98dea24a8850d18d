"""What one query costs where the gallery is read in blocks, as `setr search` does, against reading every
vector and ranking by NumPy; and by LanceDB's own search.
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
from setr_lib.methods.linear_search import LinearSearch, search_blocks
from setr_lib.methods.searched_gallery import GalleryIndex
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
    ways = {"blocks": _by_blocks, "LanceDB": _by_lancedb, "NumPy": _by_numpy}
    found = in_turns({name: partial(way, store, query) for name, way in ways.items()}, rounds=5)
    ours, lancedb, numpy = found["blocks"], found["LanceDB"], found["NumPy"]
    other, parts = min(lancedb.seconds, numpy.seconds), _parts(store, query)
    yield Figure(
        "search-one-query",
        f"one query, {rows:,} vectors of {DIMENSION} dimensions on disk, first {K}, read in blocks",
        ours.seconds,
        "the quicker of LanceDB's own exact search and NumPy after every vector is read",
        other,
        equal=ours.output == numpy.output == lancedb.output,
        checked="the ids, in their order",
        target="at most 1.1 x the quicker of the two",
        met=ours.seconds <= 1.1 * other,
        bound_s=sum(parts.values()),
        bound=f"{', '.join(parts)}: each measured alone in this run",
        also={
            "LanceDB's own exact search, s": lancedb.seconds,
            "NumPy after every vector is read, s": numpy.seconds,
        },
        profile=sorted(parts.items(), key=lambda part: -part[1]),
    )


def _parts(store: GalleryStore, query: np.ndarray) -> dict[str, float]:
    """Seconds of the least that has to be done."""
    block = next(store.vectors(TABLE).blocks(10**6))[1]

    def read() -> None:
        for _ in store.vectors(TABLE).blocks(10**6):
            pass

    works = {"ids and vectors read": read, "the product with one query": lambda: query @ block.T}
    timed = {name: timing.seconds for name, timing in in_turns(works, rounds=5).items()}
    rows = store.open(TABLE).count_rows()
    return {name: s * (rows / len(block) if "product" in name else 1) for name, s in timed.items()}


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


def _by_blocks(store: GalleryStore, query: np.ndarray) -> list[str]:
    stored = store.vectors(TABLE)
    index, none = GalleryIndex(stored.names, stored), np.empty(0, dtype=np.intp)
    images = index.names.arg_sort().to_numpy().astype(np.intp)
    search = LinearSearch(np.zeros(1, dtype=np.intp), images, query, (none, none))
    found = search_blocks([search], index, K, 256 * 2**20)
    return index.names.gather(found[0].images).to_list()


def _by_lancedb(store: GalleryStore, query: np.ndarray) -> list[str]:
    store.ids(TABLE)
    return store.search(TABLE, query, K)["image_id"].to_list()


def _by_numpy(store: GalleryStore, query: np.ndarray) -> list[str]:
    table = store.open(TABLE).to_arrow()
    vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    scores = vectors.reshape(-1, DIMENSION) @ query[0]
    ids = table["image_id"]
    return [ids[int(row)].as_py() for row in np.argsort(-scores, kind="stable")[:K]]
