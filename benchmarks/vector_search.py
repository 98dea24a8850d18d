"""What one query costs by LanceDB's search, against reading all vectors and ranking them by NumPy.

Run it from the repository root: `.venv/bin/python -m benchmarks.vector_search`. Both give the same answer;
they are measured in turns so that other work on the machine slows both alike, and the smallest time of each
counts. `benchmarks.speed.search` measures how galleries are ranked.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pyarrow as pa

from setr_lib.methods.ranking import top_k
from setr_lib.methods.similarity import similarity, unit
from setr_lib.spaces.vector_store import GalleryStore

ROUNDS = 5
TABLE = "gallery"


def drawn_store(folder: Path, rows: int, dimension: int) -> GalleryStore:
    """A vector store of random unit vectors.

    Args:
        folder: Where it is written.
        rows: Vectors.
        dimension: Of each.

    Returns:
        The store, with one table.
    """
    vectors = unit(np.random.default_rng(0).standard_normal((rows, dimension), dtype=np.float32))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension)
    store = GalleryStore(folder)
    store.connect().create_table(
        TABLE, pa.table({"image_id": [f"{row:08d}" for row in range(rows)], "vector": column})
    )
    return store


def by_lancedb(store: GalleryStore, query: np.ndarray, k: int) -> list[str]:
    """The ``k`` nearest ids, with no vectors held; the ids are read, as a retriever does."""
    store.ids(TABLE)
    return store.search(TABLE, query, k)["image_id"].to_list()


def by_numpy(store: GalleryStore, query: np.ndarray, k: int) -> list[str]:
    """The ``k`` nearest ids, of all vectors read into memory."""
    ids, vectors = store.read(TABLE)
    _, columns = top_k(similarity(query, vectors), k)
    return [ids[column] for column in columns]


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--k", type=int, default=50)
    chosen = parser.parse_args()
    query = unit(np.random.default_rng(1).standard_normal((1, chosen.dimension), dtype=np.float32))
    times: dict[str, list[float]] = {"LanceDB": [], "NumPy": []}
    with TemporaryDirectory() as folder:
        store = drawn_store(Path(folder), chosen.rows, chosen.dimension)
        for _ in range(ROUNDS):
            answers: list[list[str]] = []
            for name, search in (("LanceDB", by_lancedb), ("NumPy", by_numpy)):
                begun = perf_counter()
                answers.append(search(store, query, chosen.k))
                times[name].append(perf_counter() - begun)
            if answers[0] != answers[1]:
                raise SystemExit("the answers differ")
    best = {name: min(found) for name, found in times.items()}
    print(f"one query, {chosen.rows:,} vectors of {chosen.dimension} dimensions, first {chosen.k}")
    for name, seconds in best.items():
        print(f"{name:<8} {seconds:.3f} s")
    print(f"ratio {best['LanceDB'] / best['NumPy']:.2f} (LanceDB's search / read all and rank by NumPy)")


if __name__ == "__main__":
    main()
