"""Captions in the store: written once, indexed, versioned, and scored by the BM25 that LanceDB documents."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest

from setr_lib.spaces.caption_store import CaptionIndex, CaptionStore
from setr_lib.spaces.vector_store import GalleryError, GalleryStore

TEXTS = {
    "b": ["Two dogs run.", "The dogs are running on grass."],
    "a": ["A dog sleeps."],
    "c": ["A cat's bowl", "a cat"],
    'it\'s "d"': ["Nothing like it: a t-shirt, naïve"],
}


def frame(texts: dict[str, list[str]]) -> pl.DataFrame:
    schema = {"image_id": pl.String(), "captions": pl.List(pl.String())}
    return pl.DataFrame({"image_id": list(texts), "captions": list(texts.values())}, schema=schema)


@pytest.fixture
def store(tmp_path: Path) -> CaptionStore:
    return CaptionStore(GalleryStore(tmp_path / "lancedb"))


@pytest.fixture
def index(store: CaptionStore) -> CaptionIndex:
    return store.open("t", store.write("t", frame(TEXTS)).version)


def test_what_is_written_is_read_in_id_order(index: CaptionIndex) -> None:
    assert index.ids == sorted(TEXTS)
    assert {image: index.captions(image) for image in index.ids} == TEXTS
    assert list(index.captions("absent")) == []


def test_terms_are_stems_and_what_makes_no_single_term_is_none(index: CaptionIndex) -> None:
    assert index.term("Dogs") == index.term("dog") == "dog"
    assert index.term("running") == index.term("runs") == "run"
    assert index.term("the") == "the", "function words can be searched: the union has them"
    assert [index.term(word) for word in ("t-shirt", "", "x" * 50)] == [None, None, None]


def test_scores_are_bm25(index: CaptionIndex) -> None:
    def bm25(count: int, length: int, holding: int) -> float:
        mean = (3 + 9 + 6 + 7) / 4  # words of each image: "cat's" and "t-shirt" are two
        rarity = math.log(1 + (4 - holding + 0.5) / (holding + 0.5))
        return rarity * count * 2.2 / (count + 1.2 * (1 - 0.75 + 0.75 * length / mean))

    rows, fits = index.matches("dog")
    found = dict(zip([index.ids[row] for row in rows], fits, strict=True))
    assert found == {"a": pytest.approx(bm25(1, 3, 2), rel=1e-5), "b": pytest.approx(bm25(2, 9, 2), rel=1e-5)}
    assert [len(each) for each in index.matches("zebra")] == [0, 0]


def test_a_sum_of_terms_is_lancedbs_own_query_of_boosted_matches(store: CaptionStore) -> None:
    from lancedb.query import BooleanQuery, MatchQuery, Occur

    index = store.open("t", store.write("t", frame(TEXTS)).version)
    weights = {"dog": 2.0, "run": 0.5, "cat": 1.0}
    summed: dict[str, float] = {}
    for term, weight in weights.items():
        for row, fit in zip(*index.matches(term), strict=True):
            summed[index.ids[row]] = summed.get(index.ids[row], 0.0) + weight * fit
    matches = [MatchQuery(t, "text", boost=w) for t, w in weights.items()]  # pyright: ignore[reportCallIssue]
    query = BooleanQuery([(Occur.SHOULD, match) for match in matches])
    table = store.store.open("t")
    hits = (
        table.search(query, query_type="fts").limit(10).select(["image_id", "_score"]).to_arrow().to_pylist()
    )
    assert {hit["image_id"]: hit["_score"] for hit in hits} == pytest.approx(summed, rel=1e-5)


def test_a_second_write_of_the_same_does_nothing(store: CaptionStore) -> None:
    first = store.write("t", frame(TEXTS))
    again = store.write("t", frame(TEXTS).reverse())
    assert (first.written, again.written) == (True, False)
    assert (again.version, again.rows) == (first.version, 4)


def test_changed_captions_are_a_new_version_and_the_old_one_stays(store: CaptionStore) -> None:
    first = store.write("t", frame(TEXTS))
    second = store.write("t", frame({**TEXTS, "a": ["A fox."], "e": ["A dog."]}))
    assert second.written and second.version > first.version
    old, new = store.open("t", first.version), store.open("t")
    assert (len(old.ids), len(new.ids)) == (4, 5)
    for index, images in ((old, ["a", "b"]), (new, ["b", "e"])):
        assert sorted(index.ids[row] for row in index.matches("dog")[0]) == images


def test_a_table_that_lost_its_index_is_made_anew(store: CaptionStore) -> None:
    store.write("t", frame(TEXTS))
    store.store.open("t").drop_index("text_idx")
    with pytest.raises(GalleryError, match="no full-text index"):
        store.open("t")
    assert store.write("t", frame(TEXTS)).written
    assert len(store.open("t").matches("dog")[0]) == 2


def test_no_captions_at_all_are_an_empty_table(store: CaptionStore) -> None:
    report = store.write("t", frame({}))
    index = store.open("t", report.version)
    assert (report.rows, index.ids) == (0, [])
    assert len(index.matches("dog")[0]) == 0


def test_an_image_twice_is_refused_and_absence_explained(store: CaptionStore) -> None:
    with pytest.raises(GalleryError, match="two rows"):
        store.write("t", pl.concat([frame(TEXTS), frame({"a": ["x"]})]))
    with pytest.raises(GalleryError, match="no table t"):
        store.open("t")


def test_names_are_apart_by_gallery() -> None:
    names = {
        CaptionStore.table_name(name) for name in ("cirr-val", "cirr/val", "cirr val", "x" * 60, "x" * 61)
    }
    assert len(names) == 5
