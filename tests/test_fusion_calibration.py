"""The calibration's queries: held-out groups only, with every image that answers them as a target."""

from __future__ import annotations

import polars as pl

from setr_lib.pipeline.fusion_calibration import held_out_queries
from setr_lib.tables import PAIRS, QUERIES


def pair(
    group: str,
    split: str,
    target: str,
    source: str = "captions",
    kind: str = "positive",
    reference: str = "ref",
    modification: str = "make the ball blue",
) -> dict:
    return {
        "pair_id": f"{group}/{kind}",
        "split": split,
        "group": group,
        "reference_id": reference,
        "modification": modification,
        "candidate_id": target,
        "label": kind == "positive",
        "kind": kind,
        "source": source,
    }


IMAGES = pl.DataFrame(
    {
        "image_id": ["ref", "beach", "snow", "other"],
        "caption": [
            "a red ball on the beach",
            "a blue ball on the beach",
            "a blue ball in the snow",
            "a blue kite in the snow",
        ],
    }
)


def test_held_out_groups_become_queries_with_all_their_answers() -> None:
    rows = [
        pair("g1", "held_out", "beach"),
        pair("g1", "held_out", "other", kind="coarse_negative"),
        pair("g2", "train", "snow"),
    ]
    queries = held_out_queries(pl.DataFrame(rows, schema=PAIRS), IMAGES)
    assert queries.schema == QUERIES
    assert queries["query_id"].to_list() == ["g1"]
    assert queries["target_ids"].to_list() == [["beach", "snow"]]
    assert queries["captions"].to_list() == [["make the ball blue"]]


def test_a_place_that_the_text_names_counts_and_the_reference_never_does() -> None:
    rows = [
        pair("g1", "held_out", "snow", modification="make the ball blue, in the snow"),
        pair("g2", "held_out", "snow", modification="in the snow", reference="beach"),
        pair("g3", "held_out", "snow", modification="make it the other one", reference="beach"),
    ]
    queries = held_out_queries(pl.DataFrame(rows, schema=PAIRS), IMAGES)
    assert queries["target_ids"].to_list() == [["snow"], ["snow"], ["snow"]]


def test_triplets_have_their_own_target_only() -> None:
    rows = [pair("g1", "held_out", "beach", source="triplets"), pair("g3", "held_out", "snow", "triplets")]
    queries = held_out_queries(pl.DataFrame(rows, schema=PAIRS), IMAGES, most=1)
    assert queries["target_ids"].to_list() == [["beach"]]


def test_no_held_out_group_is_no_query() -> None:
    assert held_out_queries(pl.DataFrame([pair("g", "train", "snow")], schema=PAIRS), IMAGES).is_empty()
