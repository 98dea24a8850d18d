"""Hard negatives mined through LanceDB: what NumPy gives, nothing that answers, and the table untouched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from setr_lib.spaces.vector_store import GalleryStore
from setr_lib.systems.mining import MiningError, MiningQueries, mine_negatives
from setr_lib.systems.options import RetrievalDpoFusedOptions, RetrievalDpoOptions

ROWS, QUERIES, WIDTH = 120, 9, 8


def unit_rows(seed: int, count: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


IDS = [f"it's {row:03d}" for row in range(ROWS)]
VECTORS = unit_rows(0, ROWS)
VECTORS[17] = VECTORS[3]  # a second copy of image 3
QUERY_VECTORS = unit_rows(1, QUERIES)
TARGETS = [[IDS[3 + query]] for query in range(QUERIES)]


def written(store: GalleryStore, ids: list[str], vectors: np.ndarray) -> GalleryStore:
    flat = pa.array(vectors.reshape(-1))
    rows = pa.table({"image_id": ids, "vector": pa.FixedSizeListArray.from_arrays(flat, WIDTH)})
    store.connect().create_table("t", rows)
    return store


@pytest.fixture
def store(tmp_path: Path) -> GalleryStore:
    return written(GalleryStore(tmp_path / "lancedb"), IDS, VECTORS)


def queries(excluded: list[list[str]] | None = None) -> MiningQueries:
    return MiningQueries(QUERY_VECTORS, TARGETS, excluded or [[] for _ in range(QUERIES)])


def by_cosine(query: int, may: Callable[[int], bool]) -> list[str]:
    order = np.argsort(-(VECTORS.astype(float) @ QUERY_VECTORS[query].astype(float)), kind="stable")
    return [IDS[row] for row in order if may(row)]


def test_the_hardest_are_the_nearest_that_do_not_answer(store: GalleryStore) -> None:
    nearest = [by_cosine(query, lambda row: True) for query in range(QUERIES)]
    excluded = [nearest[query][:2] for query in range(QUERIES)]
    mined = mine_negatives(store, "t", queries(excluded), RetrievalDpoOptions(negatives=4, depth=10))
    for query in range(QUERIES):
        barred = {*TARGETS[query], *excluded[query]}
        assert mined.ids[query] == [image for image in nearest[query] if image not in barred][:4]
    assert mined.short == 0


def test_near_duplicates_of_the_target_are_left_out_and_not_replaced(store: GalleryStore) -> None:
    likeness = VECTORS.astype(float) @ VECTORS.astype(float).T
    for cosine in (0.999, 0.5):
        options = RetrievalDpoOptions(negatives=30, depth=30, near_duplicate_cosine=cosine)
        mined = mine_negatives(store, "t", queries(), options)
        for query in range(QUERIES):
            target = 3 + query
            pool = by_cosine(query, lambda row, target=target: row != target)[:30]
            kept = [image for image in pool if likeness[target, IDS.index(image)] < cosine]
            assert mined.ids[query][: len(kept)] == kept
            assert set(mined.ids[query]) == set(kept)
    whole = RetrievalDpoOptions(negatives=ROWS - 1, depth=ROWS)
    assert IDS[17] in mine_negatives(store, "t", queries(), whole).ids[0]


def test_curated_negatives_are_a_switch_of_the_mended_system() -> None:
    assert RetrievalDpoOptions().duplicate_cosine is None
    assert RetrievalDpoFusedOptions(near_duplicate_cosine=0.9).duplicate_cosine == 0.9
    assert RetrievalDpoFusedOptions(near_duplicate_cosine=0.9, curated=False).duplicate_cosine is None


def test_a_uniform_draw_is_from_the_pool_and_by_the_seed(store: GalleryStore) -> None:
    def drawn(seed: int, depth: int = 20) -> list[list[str]]:
        options = RetrievalDpoOptions(negatives=6, depth=depth, choice="uniform", seed=seed)
        return mine_negatives(store, "t", queries(), options).ids

    first = drawn(1)
    for query in range(QUERIES):
        pool = by_cosine(query, lambda row, query=query: row != 3 + query)[:20]
        assert set(first[query]) <= set(pool) and len(set(first[query])) == 6
        assert first[query] != pool[:6]
    assert drawn(1) == first and drawn(2) != first
    everywhere = {image for ids in drawn(1, depth=ROWS) for image in ids}
    pools = [by_cosine(query, lambda row: True)[:21] for query in range(QUERIES)]
    assert everywhere - {image for pool in pools for image in pool}


def test_all_partitions_of_an_ivf_index_give_what_an_exact_search_gives(store: GalleryStore) -> None:
    exact = mine_negatives(store, "t", queries(), RetrievalDpoOptions(negatives=5))
    whole = RetrievalDpoOptions(negatives=5, index="ivf", probes=ROWS)
    assert mine_negatives(store, "t", queries(), whole) == exact
    few = RetrievalDpoOptions(negatives=60, depth=60, index="ivf", probes=1)
    mined = mine_negatives(store, "t", queries(), few)
    assert mined.short == QUERIES  # one of ten partitions has not got that many
    for query in range(QUERIES):
        distinct = list(dict.fromkeys(mined.ids[query]))
        order = by_cosine(query, lambda row: True)
        assert distinct == sorted(distinct, key=order.index) and TARGETS[query][0] not in distinct
    assert mine_negatives(store, "t", queries(), few) == mined  # the index is kept


@pytest.mark.parametrize("index", ["exact", "ivf"])
def test_negatives_of_some_images_only_are_the_nearest_of_these(store: GalleryStore, index: str) -> None:
    some = [*IDS[::3], "elsewhere"]
    options = RetrievalDpoOptions(negatives=5, depth=8, index=index, probes=ROWS)  # pyright: ignore[reportArgumentType]
    mined = mine_negatives(store, "t", queries(), options, images=some)
    for query in range(QUERIES):
        assert mined.ids[query] == by_cosine(query, lambda row, q=query: row % 3 == 0 and row != 3 + q)[:5]
    # Another choice of images is another copy, and both are kept.
    assert mine_negatives(store, "t", queries(), options, images=IDS[1::3]).ids != mined.ids
    assert mine_negatives(store, "t", queries(), options, images=some) == mined
    assert len(GalleryStore(f"{store.uri}-mining").table_names()) == 2


def test_an_ivf_index_is_not_on_the_table_itself(store: GalleryStore) -> None:
    before = store.open("t").version
    mine_negatives(store, "t", queries(), RetrievalDpoOptions(index="ivf"))
    assert store.open("t").version == before and not store.open("t").list_indices()
    assert store.table_names() == ["t"]


def test_a_new_version_of_the_table_has_an_index_of_its_own(store: GalleryStore) -> None:
    options = RetrievalDpoOptions(negatives=ROWS, depth=ROWS, index="ivf", probes=ROWS)
    version = int(store.open("t").version)
    assert IDS[50] in mine_negatives(store, "t", queries(), options).ids[0]
    store.open("t").delete(f"image_id = '{IDS[50].replace(chr(39), chr(39) * 2)}'")
    assert IDS[50] not in mine_negatives(store, "t", queries(), options).ids[0]
    assert IDS[50] in mine_negatives(store, "t", queries(), options, version).ids[0]
    assert len(GalleryStore(f"{store.uri}-mining").table_names()) == 1


@pytest.mark.parametrize("index", ["exact", "ivf"])
@pytest.mark.parametrize("rows", [2, 3, 5])
def test_few_images_are_repeated_in_turn(tmp_path: Path, index: str, rows: int) -> None:
    store = written(GalleryStore(tmp_path / "few"), IDS[:rows], VECTORS[:rows])
    asked = MiningQueries(QUERY_VECTORS[:1], [[IDS[0]]], [[]])
    options = RetrievalDpoOptions(negatives=4, index=index, probes=10)  # pyright: ignore[reportArgumentType]
    mined = mine_negatives(store, "t", asked, options)
    order = by_cosine(0, lambda row: 0 < row < rows)
    assert mined.ids == [[order[place % len(order)] for place in range(4)]]
    assert mined.short == (1 if rows < 5 else 0)


def test_what_cannot_be_mined_is_told(store: GalleryStore, tmp_path: Path) -> None:
    everything = [list(IDS) for _ in range(QUERIES)]
    with pytest.raises(MiningError, match=r"query 0 .* has no negative among its 50 nearest"):
        mine_negatives(store, "t", queries(everything), RetrievalDpoOptions())
    elsewhere = MiningQueries(QUERY_VECTORS[:1], [["elsewhere"]], [[]])
    with pytest.raises(MiningError, match="'elsewhere' has no vector"):
        mine_negatives(store, "t", elsewhere, RetrievalDpoOptions(near_duplicate_cosine=0.9))
    with pytest.raises(MiningError, match="give one of each"):
        MiningQueries(QUERY_VECTORS, TARGETS[1:], [[] for _ in range(QUERIES)])
    empty = written(GalleryStore(tmp_path / "empty"), [], VECTORS[:0])
    with pytest.raises(MiningError, match="none of the images is in the table"):
        mine_negatives(empty, "t", queries(), RetrievalDpoOptions(index="ivf"))
