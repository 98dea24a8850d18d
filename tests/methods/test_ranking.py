"""Properties of the exact ranking: growth with K, ties, permutations, the benchmarks' pools."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setr_lib.benchmarks import benchmark_of
from setr_lib.methods.inputs import (
    CAPTIONS,
    COMPOSITIONS,
    EncodedQueries,
    GalleryIndex,
    MethodError,
    MethodInputs,
    SearchedGallery,
    encode_queries,
)
from setr_lib.methods.method import VectorMethod, as_method, get_method
from setr_lib.methods.ranking import rank, top_k
from setr_lib.spaces.vector_store import GalleryStore
from setr_lib.tables import RANKINGS
from tests.methods.worlds import (
    TableEncoder,
    captions_of,
    compositions_of,
    methods_of_vectors,
    queries_of,
    random_unit,
)

COUNT = 40
IDS = [f"i{i:02d}" for i in range(COUNT)]
VECTORS = random_unit(COUNT, seed=5)
VECTORS[20:28] = VECTORS[19]  # equal pictures tie


def gallery_frame(members: dict[str, list[str]] | None = None) -> pl.DataFrame:
    return pl.DataFrame({"image_id": IDS, "galleries": [(members or {}).get(i, ["all"]) for i in IDS]})


def encoded(queries: pl.DataFrame) -> EncodedQueries:
    return encode_queries(
        queries,
        TableEncoder(),
        IDS,
        VECTORS,
        texts={CAPTIONS: captions_of(queries), COMPOSITIONS: compositions_of(queries)},
    )


QUERIES = queries_of([IDS[(3 * i) % COUNT] for i in range(24)])
ENCODED = encoded(QUERIES)


def ranked(method: str = "sum", k: int = 10, **options: Any) -> pl.DataFrame:
    chosen: dict[str, Any] = {"remove_reference": False, **options}
    queries = chosen.pop("queries", ENCODED)
    gallery = chosen.pop("gallery", gallery_frame())
    return rank(get_method(method), queries, gallery, GalleryIndex(IDS, VECTORS), k, **chosen)


few_scores = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(-2, 3, size=(5, 17)).astype(np.float32)
)


@given(few_scores, st.integers(0, 20), st.booleans())
@settings(max_examples=60, deadline=None)
def test_top_k_is_a_stable_sort_cut_off(scores: np.ndarray, k: int, exclude: bool) -> None:
    excluded = (np.arange(scores.size).reshape(scores.shape) % 3 == 0) if exclude else None
    rows, columns = top_k(scores, k, excluded)
    for row in range(len(scores)):
        allowed = [c for c in range(scores.shape[1]) if excluded is None or not excluded[row, c]]
        expected = sorted(allowed, key=lambda c: (-scores[row, c], c))[:k]
        assert columns[rows == row].tolist() == expected


@pytest.mark.parametrize(
    "name", ["image", "text", "sum", "product", "union_text", "intersection", "intersection_anchor"]
)
def test_every_method_gives_a_full_table_ordered_as_said(name: str) -> None:
    table = ranked(name)
    assert table.schema == RANKINGS and len(table) == 240
    assert table["query_id"].unique(maintain_order=True).to_list() == QUERIES["query_id"].to_list()
    assert table["judge_score"].is_null().all() and (table["score"] == table["coarse_score"]).all()
    for _, one in table.group_by("query_id"):
        assert one["rank"].to_list() == list(range(1, 11))
        assert one.rows() == one.sort(["score", "image_id"], descending=[True, False]).rows()


@pytest.mark.parametrize("name", ["sum", "product", "intersection_anchor"])
def test_a_larger_k_only_appends(name: str) -> None:
    whole = ranked(name, COUNT)
    for k in (1, 7, 25, COUNT - 1):
        assert ranked(name, k).rows() == whole.filter(pl.col("rank") <= k).rows()
    assert ranked(name, COUNT + 5).rows() == whole.rows()


def test_ties_are_ordered_by_id() -> None:
    twins = IDS[19:28]
    for name in methods_of_vectors():
        for _, one in ranked(name, COUNT).group_by("query_id"):
            found = one.filter(pl.col("image_id").is_in(twins))
            assert found["image_id"].to_list() == twins
            assert found["score"].n_unique() == 1


@given(st.randoms(use_true_random=False))
@settings(max_examples=8, deadline=None)
def test_no_order_and_no_block_size_changes_anything(random: Any) -> None:
    columns, rows = list(range(COUNT)), list(range(len(QUERIES)))
    random.shuffle(columns)
    random.shuffle(rows)
    for name in ("sum", "product", "intersection_anchor"):
        again = rank(
            get_method(name),
            ENCODED.rows(np.array(rows)),
            gallery_frame()[columns],
            GalleryIndex([IDS[c] for c in columns], VECTORS[columns]),
            10,
            remove_reference=True,
            block_scores=random.choice([1, 100, 1000]),
        )
        expected = ranked(name, remove_reference=True)
        assert again.sort("query_id", "rank").rows() == expected.sort("query_id", "rank").rows()


def test_cirr_loses_the_reference_before_the_cut() -> None:
    kept, removed = ranked("image", COUNT), ranked("image", 10, remove_reference=True)
    references = QUERIES.select("query_id", "reference_id")
    assert len(removed) == 240
    for query, reference in references.rows():
        order = kept.filter(pl.col("query_id") == query)["image_id"].to_list()
        order.remove(reference)
        assert removed.filter(pl.col("query_id") == query)["image_id"].to_list() == order[:10]
    kinds = ("cirr", "fashioniq", "circo", "folder")
    assert [benchmark_of(kind).removes_reference for kind in kinds] == [True, False, False, False]


def test_the_subset_pool_holds_exactly_the_members_by_the_same_scores() -> None:
    subsets = [[IDS[(3 * i + j) % COUNT] for j in (11, 2, 5, 30, 17)] for i in range(24)]
    queries = queries_of(QUERIES["reference_id"].to_list(), subsets=subsets)
    table = ranked("sum", 3, queries=encoded(queries), remove_reference=True)
    scores = ranked("sum", COUNT, queries=encoded(queries)).filter(pl.col("pool") == "gallery")
    for query, subset in queries.select("query_id", "subset_ids").rows():
        pool = table.filter((pl.col("query_id") == query) & (pl.col("pool") == "subset"))
        expected = (
            scores.filter((pl.col("query_id") == query) & pl.col("image_id").is_in(subset))
            .sort(["score", "image_id"], descending=[True, False])
            .select("image_id", "score")
        )
        assert pool.select("image_id", "score").rows() == expected.rows()
        assert pool["rank"].to_list() == [1, 2, 3, 4, 5]
    assert (table["pool"] == "gallery").sum() == 24 * 3


def test_a_category_is_ranked_as_if_it_were_alone() -> None:
    shirts = set(IDS[::2])
    members = {i: ["shirt", "all"] if i in shirts else ["all"] for i in IDS}
    names = ["shirt" if i % 2 else "all" for i in range(24)]
    queries = queries_of(QUERIES["reference_id"].to_list(), galleries=names)
    for name in ("sum", "product"):
        table = ranked(name, 12, queries=encoded(queries), gallery=gallery_frame(members))
        of_shirts = table.join(queries.filter(pl.col("gallery") == "shirt"), on="query_id", how="semi")
        assert set(of_shirts["image_id"]) <= shirts and len(of_shirts) == 12 * 12
        alone = rank(
            get_method(name),
            encoded(queries.filter(pl.col("gallery") == "shirt")),
            gallery_frame(members),
            GalleryIndex(IDS[::2], VECTORS[::2]),
            12,
            remove_reference=False,
        )
        assert alone.select("query_id", "image_id").rows() == of_shirts.select("query_id", "image_id").rows()


def test_pictures_without_a_vector_are_in_no_ranking() -> None:
    subsets = [IDS[:5]] * 24
    queries = encoded(queries_of(["not embedded"] * 24, subsets=subsets))
    index = GalleryIndex(IDS[2:], VECTORS[2:])
    table = rank(get_method("sum"), queries, gallery_frame(), index, COUNT, remove_reference=True)
    assert set(table.filter(pl.col("pool") == "gallery")["image_id"]) == set(IDS[2:])
    assert set(table.filter(pl.col("pool") == "subset")["image_id"]) == set(IDS[2:5])


def test_no_queries_no_rows() -> None:
    assert ranked(queries=ENCODED.rows(np.array([], dtype=np.intp))).schema == RANKINGS


def test_progress_counts_queries() -> None:
    seen: list[tuple[int, int]] = []
    ranked("product", block_scores=COUNT * 10, progress=lambda done, total, _: seen.append((done, total)))
    assert seen == [(10, 24), (20, 24), (24, 24)]
    seen.clear()
    memory = 4 * VECTORS.shape[1] * 32 * 15  # blocks of 15 images
    ranked("sum", memory=memory, progress=lambda done, total, _: seen.append((done, total)))
    assert seen == [(9, 24), (18, 24), (24, 24)]


class Misbehaving:
    needs: frozenset[str] = frozenset()

    def __init__(self, name: str) -> None:
        self.name = name

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        shape = (len(inputs.queries.frame), len(inputs.gallery.vectors))
        return np.full(shape, np.nan) if self.name == "nan" else np.zeros(shape[0])


def test_what_is_missing_or_wrong_is_named() -> None:
    bare = encode_queries(QUERIES, TableEncoder(), IDS, VECTORS)
    with pytest.raises(MethodError, match="'intersection' needs compositions"):
        ranked("intersection", queries=bare)
    with pytest.raises(MethodError, match=r"'captions_text' searches the captions .* image_captions\.json"):
        ranked("captions_text")
    with pytest.raises(MethodError, match="gallery 'dress' has no embedded picture"):
        ranked(queries=encoded(queries_of(IDS[:24], galleries=["dress"] * 24)))
    for name, says in (("nan", "not finite"), ("shape", "shape")):
        method = as_method(Misbehaving(name), "here")
        with pytest.raises(MethodError, match=says):
            rank(method, ENCODED, gallery_frame(), GalleryIndex(IDS, VECTORS), 5, remove_reference=False)


@pytest.mark.parametrize("name", ["sum", "product"])
def test_queries_of_an_empty_gallery_have_no_ranking_and_the_others_theirs(name: str) -> None:
    mixed = queries_of(IDS[:24], galleries=["all", "dress", "all"] * 8)
    found = ranked(name, queries=encoded(mixed))
    others = mixed.filter(gallery="all")
    assert found["query_id"].unique(maintain_order=True).to_list() == others["query_id"].to_list()
    assert found.equals(ranked(name, queries=encoded(others)))


class Raising:
    """Raises where it is told to."""

    name = "raising"

    def __init__(self, where: str) -> None:
        self.where = where

    def statistics(self, gallery: SearchedGallery) -> None:
        if self.where == "statistics":
            raise KeyError("y")

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        return {}["y"]


@pytest.mark.parametrize("where", ["statistics", "scores"])
def test_what_a_method_raises_is_told_with_its_name_and_line(where: str) -> None:
    method = as_method(Raising(where), "here")
    words = r"retrieval method 'raising' raised KeyError: 'y' \(test_ranking\.py, line \d+\)"
    with pytest.raises(MethodError, match=words) as caught:
        rank(method, ENCODED, gallery_frame(), GalleryIndex(IDS, VECTORS), 5, remove_reference=False)
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_a_method_raises_while_it_makes_vectors_is_told() -> None:
    method = VectorMethod("raising", lambda inputs: inputs.options["y"])
    with pytest.raises(MethodError, match="retrieval method 'raising' raised KeyError: 'y'"):
        rank(method, ENCODED, gallery_frame(), GalleryIndex(IDS, VECTORS), 5, remove_reference=False)


class Sized:
    """Scores by what a first pass over the gallery has found."""

    name = "sized"
    passes = 0

    def statistics(self, gallery: SearchedGallery) -> int:
        self.passes += 1
        return len(gallery.vectors)

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        shape = (len(inputs.queries.frame), len(inputs.gallery.vectors))
        return np.full(shape, inputs.statistics * inputs.options["factor"])


def test_a_first_pass_is_made_once_per_gallery_and_options_arrive() -> None:
    sized = Sized()
    table = rank(
        as_method(sized, "here"),
        ENCODED,
        gallery_frame(),
        GalleryIndex(IDS, VECTORS),
        2,
        remove_reference=False,
        options={"factor": 2},
        block_scores=COUNT,
    )
    assert table["score"].unique().to_list() == [2 * COUNT]
    assert sized.passes == 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> GalleryStore:
    """The gallery in a vector store, its rows in another order."""
    made = GalleryStore(tmp_path_factory.mktemp("store"))
    order = np.random.default_rng(1).permutation(COUNT)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS[order].reshape(-1)), VECTORS.shape[1])
    ids = [IDS[row] for row in order]
    made.connect().create_table("t", pa.table({"image_id": ids, "vector": vectors}))
    return made


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize(
    "name", ["image", "text", "sum", "union_text", "intersection", "intersection_anchor"]
)
def test_a_store_ranks_as_numpy_does(store: GalleryStore, name: str, k: int) -> None:
    members = {image: ["all", "odd"] if number % 2 else ["all"] for number, image in enumerate(IDS)}
    gallery, method = gallery_frame(members), get_method(name)
    queries = encoded(queries_of(QUERIES["reference_id"].to_list(), ["all", "odd", "odd"] * 8))
    stored = store.vectors("t")
    index = GalleryIndex(stored.names, stored)
    memory = 4 * VECTORS.shape[1] * 12 * 5  # blocks of 5 vectors, less than twice the whole gallery
    found = rank(method, queries, gallery, index, k, remove_reference=False, memory=memory)
    assert not index.is_held
    assert found.equals(rank(method, queries, gallery, GalleryIndex(IDS, VECTORS), k, remove_reference=False))
