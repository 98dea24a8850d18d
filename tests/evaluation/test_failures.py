"""Why queries fail: each kind on made-up cases, and on what the miniature truly shows."""

from __future__ import annotations

from random import Random
from typing import Any

import polars as pl
import pytest

from setr_lib.evaluation import failures as kinds
from setr_lib.evaluation.failures import FailureTexts, composition_fault, counted, failure_table
from setr_lib.evaluation.row import Row
from setr_lib.miniature.families import random_picture
from setr_lib.miniature.pictures import describe_modification, pick_background
from setr_lib.tables import FAILURES, GALLERY, QUERIES, RANKINGS

JUDGED = Row("intersection", "adapter")
IMAGES = ("ref", "a", "b", "c", "goal")


def query(modification: str = "make the dog black", targets: tuple[str, ...] = ("goal",)) -> pl.DataFrame:
    row = ("q", "ref", modification, [modification], list(targets), [], "all", [])
    return pl.DataFrame([row], schema=QUERIES, orient="row")


def gallery(broken: tuple[str, ...] = ()) -> pl.DataFrame:
    rows = [
        (name, f"/{name}.png", ["all"], "broken" if name in broken else "ok", "", 1, 1, None, "")
        for name in IMAGES
    ]
    return pl.DataFrame(rows, schema=GALLERY, orient="row")


def ranking(order: str, scores: tuple[float, ...] | None = None) -> pl.DataFrame:
    names = order.split()
    given = scores or (None,) * len(names)
    rows = [
        ("q", "gallery", rank, name, 1 / rank, 1 / rank, score)
        for rank, (name, score) in enumerate(zip(names, given, strict=True), start=1)
    ]
    return pl.DataFrame(rows, schema=RANKINGS, orient="row")


def composition(**changes: Any) -> dict[str, dict[str, Any]]:
    row = {
        "query_id": "q",
        "keep": ["a dog"],
        "add": ["black"],
        "remove": ["white"],
        "drop": [],
        "target_caption": "a black dog",
        "status": "ok",
        **changes,
    }
    return {"q": row}


def judged(
    before: str,
    after: str | None,
    *,
    depth: int = 3,
    captions: dict[str, str] | None = None,
    composed: dict[str, dict[str, Any]] | None = None,
    queries: pl.DataFrame | None = None,
    images: pl.DataFrame | None = None,
) -> dict[str, Any]:
    table = failure_table(
        query() if queries is None else queries,
        gallery() if images is None else images,
        JUDGED if after else Row("intersection"),
        ranking(before),
        ranking(after, tuple(2.0 - at for at in range(len(after.split())))) if after else None,
        depth=depth,
        texts=FailureTexts(captions or {}, composed or {}),
        says=lambda score: f"says {score:+.1f}",
    )
    assert table.schema == FAILURES and table.height == 1
    return table.row(0, named=True)


def test_a_target_in_first_place_is_no_failure():
    found = judged("a goal b c", "goal a b c")
    assert (found["kind"], found["rank_before"], found["rank_after"]) == (kinds.FOUND, 2, 1)
    assert judged("goal a b c", None)["kind"] == kinds.FOUND
    assert judged("goal a b c", None)["rank_after"] is None


def test_a_candidate_that_stays_behind_another_is_lost_by_the_judge_with_both_answers():
    found = judged("a goal b c", "b goal a c")
    assert found["kind"] == kinds.JUDGE and found["first_image"] == "b"
    assert found["detail"] == "the target: says +1.0; in first place: says +2.0"


def test_what_is_not_handed_on_is_missed_by_stage_1():
    found = judged("a b c goal", "b a c goal")
    assert (found["kind"], found["detail"]) == (kinds.SIMILARITY, "rank 4, and 3 are handed on")
    assert judged("a b c", "b a c")["detail"] == "not among the images that were kept"
    assert judged("a b c goal", "b a c goal", depth=4)["kind"] == kinds.JUDGE


def test_a_miss_is_the_compositions_where_the_targets_caption_says_so():
    target = {"goal": "a white dog"}
    found = judged("a b c goal", "b a c goal", captions=target, composed=composition())
    assert found["kind"] == kinds.COMPOSITION and "removes 'white'" in found["detail"]
    right = {"goal": "a black dog"}
    assert judged("a b c goal", "b a c goal", captions=right, composed=composition())["kind"] == (
        kinds.SIMILARITY
    )
    assert judged("a b c goal", "b a c goal", composed=composition())["kind"] == kinds.SIMILARITY
    unread = composition(status="fallback", target_caption="make the dog black")
    assert judged("a b c goal", "b a c goal", composed=unread)["kind"] == kinds.COMPOSITION


@pytest.mark.parametrize(
    ("changes", "caption", "says"),
    [
        ({}, "a black dog", ""),
        ({}, "a brown dog on grass", "it adds black"),
        ({"keep": ["a white cat"]}, "a black dog and a white cat", ""),
        ({"add": [], "remove": ["hat"]}, "a dog with a hat", "it removes 'hat'"),
        ({"add": [], "remove": []}, "a dog", ""),
        ({"add": ["plain"], "remove": ["dotted"]}, "a dog", ""),
        ({}, "", ""),
    ],
)
def test_a_composition_is_wrong_only_where_the_caption_contradicts_it(changes, caption, says):
    assert composition_fault(composition(**changes)["q"], caption).startswith(says)
    assert bool(composition_fault(composition(**changes)["q"], caption)) == bool(says)


def test_a_composition_that_contradicts_the_text_is_a_kind_unless_the_judge_made_it_worse():
    wrong = composition(add=["red"], target_caption="a red dog")
    found = judged("a b goal c", "b goal a c", composed=wrong)
    assert found["kind"] == kinds.CONTRADICTS and found["left_out"] == ["black"]
    assert judged("a goal b c", "b a goal c", composed=wrong)["kind"] == kinds.JUDGE
    right = judged("a goal b c", "goal a b c", composed=wrong)
    assert right["kind"] == kinds.FOUND and right["left_out"] == ["black"], "counted all the same"
    unread = composition(status="fallback", add=[], remove=[], target_caption="x")
    assert judged("a goal b c", "b goal a c", composed=unread)["left_out"] == []


def test_a_look_alike_that_satisfies_the_text_makes_a_query_ambiguous():
    captions = {"b": "a black dog on grass"}
    found = judged("a goal b c", "b goal a c", captions=captions, composed=composition())
    assert (found["kind"], found["detail"]) == (
        kinds.AMBIGUOUS,
        "in first place, b: a black dog on grass",
    )
    for other in ({"b": "a black cat"}, {"b": "a white dog"}, {"a": "a black dog"}):
        assert judged("a goal b c", "b goal a c", captions=other, composed=composition())["kind"] == (
            kinds.JUDGE
        )


def test_a_text_that_only_takes_away_makes_no_look_alike_of_whatever_lacks_the_thing():
    captions, text = {"b": "a pizza on a plate"}, query("remove the lemon")
    assert judged("a goal b c", "b goal a c", captions=captions, queries=text)["kind"] == kinds.JUDGE
    kept = composition(keep=["a pizza"], add=[], remove=["lemon"], target_caption="a pizza")
    found = judged("a goal b c", "b goal a c", captions=captions, queries=text, composed=kept)
    assert found["kind"] == kinds.AMBIGUOUS, "the composition says what stays"


def test_without_a_re_ranker_no_explanation_speaks_of_one():
    for kind in (kinds.CONTRADICTS, kinds.COMPOSITION, kinds.SIMILARITY):
        assert "re-rank" in kinds.explanation(kind, "adapter")
        assert "re-rank" not in kinds.explanation(kind, "")


def test_without_a_re_ranker_all_is_stage_1s():
    assert judged("a goal b c", None)["kind"] == kinds.SIMILARITY
    wrong = composition(add=["red"], target_caption="a red dog")
    assert judged("a goal b c", None, composed=wrong)["kind"] == kinds.CONTRADICTS


def test_a_target_without_a_picture_is_told_from_one_that_was_missed():
    assert judged("a b c", "a b c", images=gallery(broken=("goal",)))["kind"] == kinds.UNUSABLE


def test_hidden_targets_have_no_kind_and_are_not_counted():
    table = failure_table(
        query(targets=()),
        gallery(),
        JUDGED,
        ranking("a b"),
        ranking("b a", (1.0, 0.0)),
        depth=2,
        texts=FailureTexts(),
    )
    assert table.item(0, "kind") == "" and counted(table) == []


def test_kinds_are_counted_in_one_order_and_each_is_explained():
    named = [kinds.JUDGE, kinds.FOUND, kinds.JUDGE, kinds.SIMILARITY, ""]
    table = pl.DataFrame({"kind": named})
    assert counted(table) == [(kinds.FOUND, 1), (kinds.SIMILARITY, 1), (kinds.JUDGE, 2)]
    assert all(text.endswith(".") for text in kinds.EXPLANATIONS.values())


def test_any_of_several_targets_counts():
    found = judged("a goal b c", "b c goal a", queries=query(targets=("goal", "c")))
    assert (found["rank_before"], found["rank_after"]) == (2, 2)


def drawn(count: int) -> list[tuple[Any, Any, Any]]:
    """Pictures of the miniature, and texts with what they truly mean."""
    rng, found = Random(3), []
    while len(found) < count:
        reference = random_picture(rng)
        target = reference.near_miss(rng)
        if (meant := describe_modification(reference, target, rng)) is not None:
            found.append((reference, target, meant))
    return found


def kind_of(target: Any, first: Any, text: str, gold: Any, *, handed_on: bool) -> str:
    """What is said of a query whose ``first`` image stands before its target, by captions that are true."""
    composed = composition(
        keep=list(gold.keep), add=list(gold.add), remove=list(gold.remove), target_caption=gold.target_caption
    )
    captions = {"b": first.caption(), "goal": target.caption()}
    before = "b goal a c" if handed_on else "b a c goal"
    return judged(before, before, captions=captions, composed=composed, queries=query(text))["kind"]


def test_kinds_agree_with_what_the_miniature_truly_shows():
    told, rng = drawn(100), Random(4)
    alike = [
        kind_of(target, target.on(pick_background(rng)), meant.text, meant.composition, handed_on=True)
        for _, target, meant in told
    ]
    assert alike.count(kinds.AMBIGUOUS) >= 88, "the same things in another place satisfy the text"
    others = [
        kind_of(target, reference, meant.text, meant.composition, handed_on=True)
        for reference, target, meant in told
    ]
    assert others.count(kinds.JUDGE) >= 75, "the reference itself does not"
    missed = [
        kind_of(target, random_picture(rng), meant.text, meant.composition, handed_on=False)
        for _, target, meant in told
    ]
    assert missed.count(kinds.SIMILARITY) >= 95, "true compositions are not blamed"
    exchanged = [
        kind_of(target, random_picture(rng), meant.text, other.composition, handed_on=False)
        for (_, target, meant), (_, _, other) in zip(told[1:], told[:-1], strict=True)
    ]
    blamed = exchanged.count(kinds.CONTRADICTS) + exchanged.count(kinds.COMPOSITION)
    assert blamed >= 75, "those of other queries are"
