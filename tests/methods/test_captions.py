"""Stage 1 over captions: which terms a reading searches, and the rules that all rankings of captions keep."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from setr_lib.methods.caption_reading import Reading
from setr_lib.methods.captions import CaptionMethod
from setr_lib.methods.inputs import MethodError
from setr_lib.methods.method import get_method, method_names, ranks_captions
from setr_lib.tables import RANKINGS
from tests.methods.captioned import CAPTIONS, IDS, Counted, queries, ranked

NAMES = ["captions_intersection", "captions_text", "captions_union"]


def test_three_methods_search_captions() -> None:
    assert set(NAMES) <= {name for name in method_names() if ranks_captions(get_method(name))}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("captions_text", {"a": 1, "sleeping": 1, "cat": 1, "instead": 1, "of": 1, "the": 1, "dog": 1}),
        (
            "captions_union",
            {"a": 1.25, "sleeping": 1, "cat": 1, "instead": 1, "of": 1, "the": 1.25, "dog": 1.5}
            | {"white": 0.5, "stands": 0.25, "on": 0.25, "grass": 0.25, "is": 0.25},
        ),
        ("captions_intersection", {"sleeping": 1, "cat": 1, "white": 0.5, "stands": 0.25, "grass": 0.075}),
    ],
)
def test_what_each_reading_searches(name: str, weights: dict[str, float]) -> None:
    method = get_method(name)
    assert isinstance(method, CaptionMethod)
    found = method.reading.weights("a sleeping cat instead of the dog", CAPTIONS["a"], Counted().term)
    assert found == pytest.approx(weights)


def test_what_is_wanted_elsewhere_in_the_text_is_not_refused() -> None:
    reading = Reading(reference=0.5, obey_rejections=True)
    found = reading.weights("two dogs instead of one dogs 7", ["many dogs"], Counted().term)
    assert found == pytest.approx({"two": 1, "dogs": 1.5, "many": 0.5})


@pytest.mark.parametrize("name", NAMES)
def test_a_full_table_with_the_uncaptioned_last_and_ties_by_id(name: str) -> None:
    table = ranked(queries(("b", "white cat"), ("f", "white cat")), name)
    assert table.schema == RANKINGS
    for _, one in table.group_by("query_id"):
        order = one["image_id"].to_list()
        assert len(order) == 5 and order[-1] == "e"
        twins = one.filter(pl.col("image_id").is_in(["c", "d"]))
        assert twins["image_id"].to_list() == ["c", "d"] and twins["score"].n_unique() == 1
        assert one.rows() == one.sort(["score", "image_id"], descending=[True, False]).rows()


def test_the_union_drags_the_surroundings_along_and_the_intersection_does_not() -> None:
    asked = queries(("b", "a dog on grass instead of a red sofa"))
    captions = Counted({"b": ["A black dog on a red sofa."], "x": ["A red sofa."], "y": ["Dog, grass."]})
    ids = ["b", "x", "y"]
    best = {name: ranked(asked, name, 1, ids=ids, captions=captions)["image_id"][0] for name in NAMES}
    assert best["captions_union"] == "x"
    assert best["captions_intersection"] == "y"


@pytest.mark.parametrize("name", NAMES)
def test_neither_order_nor_blocks_nor_k_change_anything(name: str) -> None:
    texts = [("a", "a black dog"), ("b", "not on a sofa"), ("e", "a cat on grass"), ("f", ""), ("c", "7")]
    asked, whole = queries(*texts), ranked(queries(*texts), name)
    shuffled = ranked(
        asked.rows(np.array([3, 1, 4, 0, 2])), name, ids=IDS[::-1], block_scores=1, captions=Counted()
    )
    assert shuffled.sort("query_id", "rank").rows() == whole.sort("query_id", "rank").rows()
    assert ranked(asked, name, 2).rows() == whole.filter(pl.col("rank") <= 2).rows()


def test_the_subset_is_ranked_by_the_same_scores() -> None:
    subsets = [["a", "c", "e", "d", "f"]]
    table = ranked(queries(("b", "white cat"), subsets=subsets), "captions_union", 1)
    pool = table.filter(pool="subset")
    assert pool["image_id"].to_list() == ["c", "d", "a", "f", "e"]


def test_captions_of_images_outside_the_gallery_are_passed_over() -> None:
    table = ranked(queries(("b", "white cat")), "captions_text", ids=["e", "c", "b"])
    assert table["image_id"].to_list() == ["c", "e"]


def test_no_caption_at_all_still_ranks_every_image() -> None:
    table = ranked(queries(("b", "white cat")), "captions_union", captions=Counted({}))
    assert table["image_id"].to_list() == ["a", "c", "d", "e", "f"]


def test_an_encoding_is_refused_where_there_is_no_encoder() -> None:
    asked = queries(("b", "white cat"))
    with pytest.raises(MethodError, match="without an encoder"):
        asked.encode(["a text"])
