"""The float32 search with exact re-scoring, against all scores in float64: the same ids, scores and order."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setr_lib.methods.best_rows import BestRows
from setr_lib.methods.inputs import GalleryIndex, MethodError, MethodInputs, encode_queries
from setr_lib.methods.linear_search import LinearSearch, search_blocks
from setr_lib.methods.method import VectorMethod
from setr_lib.methods.ranking import rank
from setr_lib.methods.search_threads import search_threads
from setr_lib.methods.similarity import unit
from tests.methods.worlds import TableEncoder, queries_of

DIMENSION = TableEncoder.dimension


def by_float64(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and scores, ``[q, k]``: every inner product in float64, rounded once, sorted stably."""
    scores = np.array([[float(np.dot(q, x)) for x in gallery.astype(float)] for q in queries.astype(float)])
    rounded = scores.astype(np.float32) + np.float32(0)
    rows = np.argsort(-rounded, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(rounded, rows, axis=1)


def found_in(
    queries: np.ndarray, gallery: np.ndarray, k: int, blocks: list[np.ndarray], scores: int = 10**6
) -> tuple[np.ndarray, np.ndarray]:
    with search_threads() as threads:
        return _found_in(BestRows(queries, k, threads, scores), queries, gallery, k, blocks)


def _found_in(
    best: BestRows, queries: np.ndarray, gallery: np.ndarray, k: int, blocks: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    for rows in blocks:
        vectors = gallery[rows]
        best.add(rows, vectors, float(np.linalg.norm(vectors.astype(float), axis=1).max(initial=0)))
    result = best.result()
    shape = (len(queries), min(k, len(gallery)))
    assert (result.queries == np.repeat(np.arange(len(queries)), shape[1])).all()
    return result.rows.reshape(shape), result.scores.reshape(shape)


def near_ties(gallery: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each row again, with one number moved by its last bit: float32 sums cannot tell them apart."""
    moved = gallery.copy()
    columns = random.integers(0, gallery.shape[1], len(gallery))
    chosen = np.arange(len(gallery)), columns
    moved[chosen] = np.nextafter(moved[chosen], np.float32(np.inf))
    return moved


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 17, 40, 300]), st.integers(1, 90))
@settings(max_examples=60, deadline=None)
def test_ids_scores_and_order_are_those_of_float64(seed: int, dimension: int, k: int) -> None:
    random = np.random.default_rng(seed)
    gallery = unit(random.normal(size=(60, dimension)) + random.choice([0, 3]))
    gallery = np.concatenate([gallery, near_ties(gallery, random), gallery[:20], np.zeros_like(gallery[:3])])
    gallery = gallery[random.permutation(len(gallery))] * np.float32(random.choice([1, 0.25, 3]))
    queries = np.concatenate([unit(random.normal(size=(7, dimension))), gallery[:4], gallery[:1] * 0])
    rows = random.permutation(len(gallery))
    blocks = np.split(rows, np.sort(random.integers(0, len(rows), random.integers(0, 6))))
    found = found_in(queries, gallery, k, blocks, scores=int(random.choice([1, 200, 10**6])))
    for mine, expected in zip(found, by_float64(queries, gallery, k), strict=True):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("rising", [True, False])
def test_five_hundred_identical_pictures_at_the_cut(rising: bool) -> None:
    random = np.random.default_rng(0)
    gallery = unit(random.normal(size=(2000, 64)))
    query = gallery[:1].copy()
    order = np.argsort(gallery @ query[0])
    gallery = gallery[order if rising else order[::-1]]
    order = np.argsort(-(gallery @ query[0]))
    same = np.sort([order[30], *random.choice(order[31:], 499, replace=False)])
    gallery[same] = gallery[order[30]]  # ranks 31 to 530 are one picture
    k = 50
    rows, scores = found_in(query, gallery, k, np.array_split(np.arange(2000), 7))
    assert rows[0, :30].tolist() == order[:30].tolist() and rows[0, 30:].tolist() == same[:20].tolist()
    expected = by_float64(query, gallery, k)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(scores, expected[1])
    assert len(set(scores[0, 30:])) == 1


def test_a_gallery_of_one_picture_keeps_k_rows_of_each_query() -> None:
    random = np.random.default_rng(1)
    gallery = np.repeat(unit(random.normal(size=(1, 48))), 3000, axis=0)
    queries = unit(random.normal(size=(5, 48)))
    with search_threads() as threads:
        best = BestRows(queries, 10, threads)
        for rows in np.array_split(random.permutation(3000), 9):
            best.add(rows, gallery[rows], 1.0)
            assert best.result().rows.size <= 50
    assert best.result().rows.reshape(5, 10).tolist() == [list(range(10))] * 5


def test_what_float32_orders_wrongly_is_ordered_rightly() -> None:
    """Sums that cancel: float32 finds another order, by far more than the last digit."""
    random = np.random.default_rng(2)
    half = random.normal(size=(400, 500)).astype(np.float32)
    gallery = np.concatenate([half, -half + random.normal(size=half.shape).astype(np.float32) * 1e-7], axis=1)
    queries = np.ones((1, 1000), dtype=np.float32)
    rough = np.argsort(-(queries @ gallery.T)[0], kind="stable")[:25]
    rows, _ = found_in(queries, gallery, 25, [np.arange(400)])
    expected, _ = by_float64(queries, gallery, 25)
    assert rough.tolist() != expected[0].tolist()
    assert rows.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["random", "clustered", "orthogonal", "tied"])
@pytest.mark.parametrize("rows", [150, 2500])
def test_many_queries_get_the_scores_that_each_pair_has_alone(kind: str, rows: int) -> None:
    """Blocks that are multiplied in float64, and rows that many queries are near, among them."""
    random = np.random.default_rng(rows)
    gallery = random.normal(size=(rows, 24))
    queries = random.normal(size=(130, 24))
    if kind == "clustered":
        gallery = gallery[:3][random.integers(0, 3, rows)] + 1e-6 * gallery
    elif kind == "orthogonal":  # sums of exactly 0, which no bound of an error settles
        gallery[:, :12], queries[:, 12:] = 0, 0
    elif kind == "tied":
        gallery[random.permutation(rows)[: rows // 2]] = gallery[0]
    gallery, queries = unit(gallery), unit(queries)
    blocks = np.array_split(random.permutation(rows), 4)
    found = found_in(queries, gallery, 11, blocks, scores=5000)
    for mine, expected in zip(found, by_float64(queries, gallery, 11), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_blas_has_its_threads_again_after_searches_side_by_side() -> None:
    from threadpoolctl import threadpool_info

    def threads() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    before = threads()
    with search_threads():
        with pytest.raises(ValueError, match="stopped"), search_threads():
            raise ValueError("stopped")
        assert set(threads()) == {1}
    assert threads() == before


COUNT = 90
IDS = [f"i{(37 * number) % COUNT:02d}" for number in range(COUNT)]  # not in order
VECTORS = unit(np.random.default_rng(3).normal(size=(COUNT, DIMENSION)))
VECTORS[40:60] = VECTORS[39]


def _given(inputs: MethodInputs) -> np.ndarray:
    return inputs.queries.reference_vectors + 0.1 * inputs.queries.modification_vectors


class Scoring(VectorMethod):
    """The same method, whose scores are all made in float64."""

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        return super().scores(inputs)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([1, 5, 40, COUNT, 2 * COUNT]))
@settings(max_examples=25, deadline=None)
def test_pools_categories_and_references_are_as_with_all_scores(seed: int, removes: bool, k: int) -> None:
    random = np.random.default_rng(seed)
    names = random.choice(["all", "shirt", "dress"], size=30)
    queries = queries_of(
        [str(name) for name in random.choice([*IDS, "nowhere"], size=30)],
        [str(name) for name in names],
        [list(random.choice([*IDS, "gone"], size=size)) for size in random.integers(0, 7, 30)],
    )
    members = [["all", *random.choice(["shirt", "dress"], size=random.integers(0, 2))] for _ in IDS]
    members[0], members[1] = ["all", "shirt"], ["all", "dress"]
    gallery = pl.DataFrame({"image_id": IDS, "galleries": members})
    encoded = encode_queries(queries, TableEncoder(), IDS, VECTORS)
    index = GalleryIndex(IDS, VECTORS)
    memory = int(random.choice([1, 32 * 4 * DIMENSION * 11, 2**28]))
    whole: Any = rank(Scoring("m", _given), encoded, gallery, index, k, remove_reference=removes)
    found = rank(
        VectorMethod("m", _given), encoded, gallery, index, k, remove_reference=removes, memory=memory
    )
    assert found.equals(whole)


def test_a_vector_that_is_not_finite_is_named() -> None:
    vectors = VECTORS.copy()
    vectors[7, 2] = np.nan
    encoded = encode_queries(queries_of(IDS[:3]), TableEncoder(), IDS, VECTORS)
    gallery = pl.DataFrame({"image_id": IDS, "galleries": [["all"]] * COUNT})
    with pytest.raises(MethodError, match=f"image '{IDS[7]}' is not finite"):
        rank(
            VectorMethod("m", _given), encoded, gallery, GalleryIndex(IDS, vectors), 5, remove_reference=False
        )


class Centred(VectorMethod):
    """The query's vector less the gallery's mean, which a first pass finds."""

    def statistics(self, gallery: Any) -> np.ndarray:
        return gallery.center


def test_a_first_pass_gives_the_mean_vector_of_each_gallery() -> None:
    seen: list[np.ndarray] = []

    def centred(inputs: MethodInputs) -> np.ndarray:
        seen.append(inputs.statistics)
        return inputs.queries.reference_vectors - inputs.statistics

    members = [["all", "shirt"] if number % 3 else ["all"] for number in range(COUNT)]
    gallery = pl.DataFrame({"image_id": IDS, "galleries": members})
    encoded = encode_queries(queries_of(IDS[:4], ["all", "shirt"] * 2), TableEncoder(), IDS, VECTORS)
    table = rank(
        Centred("m", centred), encoded, gallery, GalleryIndex(IDS, VECTORS), 3, remove_reference=False
    )
    inside = np.array([number % 3 > 0 for number in range(COUNT)])
    means = sorted((VECTORS.mean(axis=0).tolist(), VECTORS[inside].mean(axis=0).tolist()))
    np.testing.assert_allclose(sorted(mean.tolist() for mean in seen), means, atol=1e-6)
    assert table.height == 12


@pytest.mark.parametrize(
    ("of_queries", "of_rows"), [(1e-30, 1), (1e-42, 1), (1, 1e-30), (1, 1e30), (1e25, 1e12)]
)
@pytest.mark.parametrize("count", [1, 70])
def test_vectors_whose_squares_float32_does_not_hold(of_queries: float, of_rows: float, count: int) -> None:
    random = np.random.default_rng(3)
    rows = unit(random.normal(size=(900, 24))) * np.float32(of_rows)
    searching = unit(random.normal(size=(count, 24))) * np.float32(of_queries)
    names = [f"{number:03d}" for number in range(len(rows))]
    numbers, none = np.arange(len(rows)), np.zeros(0, dtype=np.intp)
    search = LinearSearch(np.arange(count), numbers, searching, (none, none))
    (found,) = search_blocks([search], GalleryIndex(names, rows), 5, 2**28)
    expected, scores = by_float64(searching, rows, 5)
    np.testing.assert_array_equal(found.images.reshape(count, 5), expected)
    np.testing.assert_array_equal(found.scores.reshape(count, 5), scores)


class Long(VectorMethod):
    """Queries of a norm that is not 1."""

    def search_vectors(self, inputs: MethodInputs) -> np.ndarray:
        return self.query_vectors(inputs)


def test_scores_above_all_float32_numbers_are_refused() -> None:
    encoded = encode_queries(queries_of(IDS[:3]), TableEncoder(), IDS, VECTORS)
    gallery = pl.DataFrame({"image_id": IDS, "galleries": [["all"]] * COUNT})
    long = Long("long", lambda inputs: inputs.queries.reference_vectors * np.float32(1e30))
    index = GalleryIndex(IDS, VECTORS * np.float32(1e30))
    with pytest.raises(MethodError, match="'long' gave scores that are not finite for 3 queries"):
        rank(long, encoded, gallery, index, 5, remove_reference=False)
