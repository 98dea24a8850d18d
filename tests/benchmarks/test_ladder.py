"""The ladder's arithmetic: what is compared with what, marks, breaks, the table, and the perfect reader and
judge.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.ablations import Judge, fusions, variants, without_ending
from benchmarks.comparison import (
    BROKEN,
    UNCERTAIN,
    Break,
    Gap,
    Row,
    Score,
    Section,
    as_json,
    beside,
    best_below,
    climb,
    compared_with,
    from_json,
    markdown,
)
from benchmarks.ladder import BY_HAND, COLUMN_TEXTS, breaks_in_words, page, stored, written_by_hand
from benchmarks.material import COLUMNS, Material
from setr_lib.errors import SetrError
from setr_lib.evaluation.intervals import Interval
from setr_lib.evaluation.metrics import PER_QUERY
from setr_lib.methods.inputs import GalleryIndex, plain_queries
from setr_lib.miniature.gold import gold_caption, planned_pictures, require_current_world
from setr_lib.miniature.pictures import BACKGROUNDS
from setr_lib.miniature.worlds import WORLD_VERSION
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.query_set import QuerySet
from setr_lib.reranking.fusion_choice import TRIALS, FusionChoice
from setr_lib.settings import AdapterSettings, MiniatureSettings, PairSettings, Settings
from setr_lib.tables import RANKINGS

OPTIONS = (200, 5)


def hits(*values: float) -> pl.DataFrame:
    """One metric of as many queries."""
    rows = [(f"q{place}", "all", "R@1", value) for place, value in enumerate(values)]
    return pl.DataFrame(rows, schema=PER_QUERY, orient="row")


def test_a_rung_is_compared_with_the_better_one_of_the_level_below() -> None:
    values = {"random": 1.0, "image": 5.0, "text": 7.0, "sum": 9.0, "intersection": 8.0}
    assert compared_with("sum", values) == "text"
    assert compared_with("text", values) == "random"
    assert compared_with("intersection", values) == "sum"  # no value of the union: the level before it
    assert compared_with("random", values) is None


def test_a_judge_is_compared_with_what_it_reranks() -> None:
    values = {"intersection": 8.0, "intersection_anchor": 9.0, "base judge": 10.0}
    assert compared_with("base judge", values) == "intersection"
    assert best_below("base judge", values) == "intersection_anchor"


def test_an_ordered_ladder_has_no_marks() -> None:
    low, high = hits(*[0.0] * 20), hits(*[1.0] * 20)
    scores, breaks = climb("CIRR R@1", {"random": low, "image": high}, *OPTIONS)
    assert not breaks
    assert scores["random"].gap is None
    gap = scores["image"].gap
    assert gap is not None
    assert (gap.over, gap.value, scores["image"].mark) == ("random", 100.0, "")


def test_a_rung_below_a_lower_one_is_marked_and_told() -> None:
    measured = {"sum": hits(*[1.0] * 15, *[0.0] * 5), "union_text": hits(*[0.0] * 20)}
    scores, (found,) = climb("CIRR R@1", measured, *OPTIONS)
    assert scores["union_text"].mark == BROKEN
    assert (found.rung, found.gap.over, found.gap.value) == ("union_text", "sum", -75.0)
    assert "**CIRR R@1**: union text (0.0) is below sum (75.0): −75.0" in found.sentence
    assert "beyond" in found.sentence
    assert Break.from_json(json.loads(json.dumps(asdict(found)))) == found


def test_a_break_is_seen_across_several_levels() -> None:
    measured = {"image": hits(1, 1, 1, 0), "sum": hits(0, 0, 0, 0), "intersection": hits(1, 0, 0, 0)}
    scores, breaks = climb("c", measured, *OPTIONS)
    gap = scores["intersection"].gap
    assert gap is not None and gap.over == "sum" and gap.value > 0
    assert [(each.rung, each.gap.over) for each in breaks] == [("sum", "image"), ("intersection", "image")]


def test_a_difference_that_could_be_none_is_marked_as_uncertain() -> None:
    measured = {"base judge": hits(1, 0, 1, 0), "adapter": hits(1, 1, 1, 0)}
    assert climb("c", measured, *OPTIONS)[0]["adapter"].mark == UNCERTAIN


def test_known_intervals_stand_for_chance() -> None:
    scores, _ = climb("c", {"random": hits(0.1, 0.1)}, *OPTIONS, {"random": Interval(0.0, 50.0)})
    assert (scores["random"].low, scores["random"].high) == (0.0, 50.0)


def test_no_hit_at_all_is_not_certainly_below_chance() -> None:
    measured = {"random": hits(*[0.002] * 20), "image": hits(*[0.0] * 20), "text": hits(*[0.5] * 20)}
    scores, (found,) = climb("c", measured, *OPTIONS, {"random": Interval(0.0, 1.0)})
    assert (found.gap.low, found.gap.high) == (-1.0, 0.0)
    assert "within the noise" in found.sentence
    assert scores["text"].mark == ""


def test_the_table_has_two_numbers_a_cell_and_survives_json() -> None:
    score = Score(41.23, 30.0, 50.0, Gap("sum", -3.21, -5.0, -1.0), BROKEN)
    sections = [Section("The ladder", [Row("union text", {"A": score}), Row("other", {})])]
    assert from_json(json.loads(json.dumps(as_json(sections)))) == sections
    lines = markdown(sections, ["A", "B"]).splitlines()
    assert lines[:3] == ["|  | A | B |", "| --- | --- | --- |", "| **The ladder** |  |  |"]
    assert lines[3] == "| union text | **41.2** 30.0 to 50.0<br>−3.2 (−5.0 to −1.0) ✗ |  |"


def test_the_reference_of_an_ablation_has_no_difference() -> None:
    frame = hits(1, 0)
    assert beside(frame, None, "as configured", *OPTIONS).gap is None
    assert beside(frame, frame, "as configured", *OPTIONS).gap == Gap("as configured", 0.0, 0.0, 0.0)


def test_each_variant_changes_one_thing() -> None:
    found = variants(PairSettings(), AdapterSettings())
    labels = {title: [each.label for each in chosen] for title, chosen in found.items()}
    assert labels == {
        "The same training again": ["another training seed"],
        "Kinds of negatives": [
            "without coarse negatives",
            "without reference negatives",
            "without text-only negatives",
            "without shuffled-text negatives",
        ],
        "Groups of training pairs": [
            "300 of 1,200 groups to learn from",
            "600 of 1,200 groups to learn from",
        ],
        "LoRA rank": ["rank 4", "rank 64"],
    }
    assert found["LoRA rank"][0].adapter == {"rank": 4, "alpha": 8}
    assert found["Kinds of negatives"][0].pairs["negatives_per_group"]["reference_negative"] == 1


def test_the_weight_of_the_cosine_is_the_rehearsals_best() -> None:
    rows = [("judge", None, 0.9), ("cosine_judge", 0.5, 0.6), ("cosine_judge", 2.0, 0.7)]
    trials = pl.DataFrame([(f, w, m, m, 9) for f, w, m in rows], schema=TRIALS, orient="row")
    model = object()
    made = dict(fusions(Judge(model, "judge", 1.0), FusionChoice("judge", 1.0, trials)))  # pyright: ignore[reportArgumentType]
    assert list(made) == ["the judge alone", "cosine + 2 P(Yes)", "reciprocal rank"]
    assert made["cosine + 2 P(Yes)"].weight == 2.0
    lighter = dict(fusions(Judge(model, "judge", 1.0), FusionChoice("cosine_judge", 0.5, trials)))  # pyright: ignore[reportArgumentType]
    assert "cosine + 0.5 P(Yes)" in lighter


def test_a_caption_loses_its_place_and_nothing_else() -> None:
    places = BACKGROUNDS.values()
    assert without_ending("a red star on the beach", places) == "a red star"
    assert (
        without_ending("a star in the snow and a ball in a forest", places) == "a star in the snow and a ball"
    )
    assert without_ending("a red star", places) == "a red star"


def test_a_perfect_judge_moves_targets_within_k_only() -> None:
    names = ["a", "b", "c", "d"]
    rows = [("q", "gallery", place, name, 0.0, 0.0, None) for place, name in enumerate(names, 1)]
    rankings = pl.DataFrame(rows, schema=RANKINGS, orient="row")
    queries = pl.DataFrame({"query_id": ["q"], "target_ids": [["c", "d"]]})
    images, index = pl.DataFrame(), GalleryIndex([], np.zeros((0, 0), dtype=np.float32))
    ready = QuerySet(PipelineContext(Settings()), plain_queries(queries), images, index)
    material = Material("circo", ready, 50)
    for k, expected in ((3, "cabd"), (4, "cdab"), (2, "abcd")):
        ordered = material.perfectly_judged(rankings, k).sort("rank")
        assert "".join(ordered["image_id"]) == expected
        assert ordered["rank"].to_list() == [1, 2, 3, 4]


def test_the_page_explains_every_column_and_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    assert set(COLUMN_TEXTS) == set(COLUMNS)
    path = tmp_path / "ladder.md"
    assert written_by_hand(path) == ""
    path.write_text(page([], [], {"K": 50}, "Because the union names the place."), encoding="utf-8")
    assert written_by_hand(path) == "Because the union names the place."
    text = path.read_text(encoding="utf-8")
    assert all(f"**{name}**: " in text for name in COLUMNS)
    assert text.count(BY_HAND[0]) == 1 and "- K: 50" in text and breaks_in_words([]) in text


def test_numbers_of_another_world_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    assert stored(path, {"K": 50}) is None
    path.write_text(json.dumps({"made_by": {"K": 50}, "sections": []}), encoding="utf-8")
    assert stored(path, {"K": 50}) is not None
    assert stored(path, {"K": 20}) is None


def test_the_gold_caption_names_the_place_only_where_the_text_does() -> None:
    pictures = planned_pictures("cirr", MiniatureSettings(size=0.02))
    target = next(iter(pictures.values()))
    place = BACKGROUNDS[target.background]
    assert gold_caption(target, f"put it {place}").endswith(place)
    assert place not in gold_caption(target, "make it blue")


@pytest.mark.parametrize("dataset", ["cirr", "fashioniq", "circo"])
def test_the_plan_is_the_same_every_time(dataset: str) -> None:
    options = MiniatureSettings(size=0.02)
    assert planned_pictures(dataset, options) == planned_pictures(dataset, options)


def test_a_world_of_other_settings_is_refused(tmp_path: Path) -> None:
    options, stamp = MiniatureSettings(size=0.5), tmp_path / "cirr" / "miniature.json"
    with pytest.raises(SetrError, match="setr miniature write"):
        require_current_world(tmp_path, "cirr", options)
    stamp.parent.mkdir()
    stamp.write_text(json.dumps({"version": WORLD_VERSION, "seed": 0, "size": 0.5}), encoding="utf-8")
    require_current_world(tmp_path, "cirr", options)
    with pytest.raises(SetrError, match="setr miniature write"):
        require_current_world(tmp_path, "cirr", options.model_copy(update={"near_misses": 2.0}))
