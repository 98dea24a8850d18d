"""Pairs from captions and triplets: what the edits mean, how they are phrased, and that no label or split
lies.
"""

from __future__ import annotations

import re
import zlib
from random import Random

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from setr_lib.reranking.captions import Caption, find_spans, parse_captions, plural, singular, tokenise
from setr_lib.reranking.differences import Edit, find_edits, is_contradicted
from setr_lib.reranking.pairs import (
    NEGATIVE_KINDS,
    PairError,
    pair_summary,
    pairs_digest,
    synthesise_pairs,
)
from setr_lib.reranking.phrasing import phrase_edits, phrasings
from setr_lib.settings import NegativeKind, PairSettings
from setr_lib.tables import PAIRS

COLOURS, SHAPES, SIZES = ("red", "blue", "green", "amber"), ("cube", "vase", "lamp"), ("small", "large")
PLACES = ("on a shelf", "in the garden", "against a grey wall")


def caption(text: str) -> Caption:
    return Caption(tokenise(text))


def edits(before: str, after: str, *substitutions: tuple[str, str]) -> list[Edit] | None:
    return find_edits(
        caption(before), caption(after), {pair for a, b in substitutions for pair in ((a, b), (b, a))}
    )


def a_world(count: int = 240, seed: int = 0) -> pl.DataFrame:
    rng = Random(seed)
    texts: list[str] = []
    for _ in range(count):
        things = [f"a {rng.choice(SIZES)} {rng.choice(COLOURS)} {shape}" for shape in rng.sample(SHAPES, 2)]
        texts.append(f"{' above '.join(things[: rng.choice((1, 2))])} {rng.choice(PLACES)}")
    return pl.DataFrame({"image_id": [f"{row:03d}.png" for row in range(count)], "caption": texts})


def word_vectors(texts: list[str]) -> np.ndarray:
    """Unit vectors of word counts: texts that share words are near."""
    vectors = np.full((len(texts), 128), 1e-3, dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            vectors[row, zlib.crc32(word.encode()) % 128] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def synthesise(images: pl.DataFrame, **options: object) -> pl.DataFrame:
    choices = {"groups": 120, "near_duplicate_cosine": 0.99999, **options}
    ids, texts = images["image_id"].to_list(), images["caption"].to_list()
    return synthesise_pairs(
        images,
        ids,
        word_vectors(texts),
        PairSettings(**choices),
        embed_texts=lambda t: word_vectors(list(t)),
    )


@pytest.fixture(scope="module")
def images() -> pl.DataFrame:
    return a_world()


@pytest.fixture(scope="module")
def pairs(images: pl.DataFrame) -> pl.DataFrame:
    return synthesise(images)


# --- captions


def test_a_caption_is_cut_into_noun_phrases_and_links() -> None:
    tokens = tokenise("A man riding a brown horse to the left of two old barns.")
    cut = [(" ".join(tokens[s.start : s.end]), s.kind) for s in find_spans(tokens)]
    assert cut == [
        ("a man", "noun"),
        ("riding", "link"),
        ("a brown horse", "noun"),
        ("to the left of", "link"),
        ("two old barns", "noun"),
    ]


def test_context_is_a_place_that_several_captions_share() -> None:
    first, second, third = parse_captions(
        ["a red cube on a shelf", "two blue vases on a shelf", "a dog in a very unusual hat"]
    )
    assert (first.text, first.context) == ("a red cube", ("on", "a", "shelf"))
    assert second.context == first.context
    assert third.context == ()  # said of one picture only: a detail, not a place
    assert third.text == "a dog in a very unusual hat"


@pytest.mark.parametrize("noun", ["cube", "dress", "box", "city", "context", "toy", "house"])
def test_plural_and_singular_undo_each_other(noun: str) -> None:
    assert singular(plural(noun)) == noun


# --- edits


@pytest.mark.parametrize(
    ("before", "after", "kind", "texts"),
    [
        ("a small red cube", "a small blue cube", "attribute", {"make the cube blue", ("the cube is blue "
            "instead of "
            "red")}),
        (
            "a small red cube",
            "a large red cube",
            "attribute",
            {"make the cube larger", "make the cube large"},
        ),
        (
            "a red cube",
            "a red striped cube",
            "attribute",
            {"make the cube striped", "add stripes to the cube"},
        ),
        ("a red striped cube", "a red cube", "attribute", {"make the cube plain", "the cube has no stripes"}),
        ("a big dog on grass", "a big cat on grass", "noun", {("replace the dog with a "
            "cat"), "a cat instead of the dog"}),
        ("a blue star", "three blue stars", "count", {"show three stars", "three stars instead of one"}),
        ("a cube", "a cube above a blue star", "addition", {("add a blue star below "
            "it"), ("with a blue star under "
            "it")}),
        ("a cube", "a blue star above a cube", "addition", {"add a blue star above it"}),
        (
            "a cube and a blue star",
            "a cube",
            "removal",
            {"remove the star", "without the star", "only the cube"},
        ),
        ("a cube above a star", "a cube to the left of a star", "relation", {("put the cube to the "
            "left of the "
            "star")}),
        ("a red cube above a star", "a star above a red cube", "swap", {"swap the cube and the star"}),
        ("a dress with short sleeves", ("a dress with long "
            "sleeves"), "attribute", {"has long sleeves", "has longer sleeves"}),
        (
            "a dress with short sleeves",
            "a dress with no sleeves",
            "attribute",
            {"has no sleeves", "is sleeveless"},
        ),
        ("a dress with a v neck", ("a dress with a round "
            "neck"), "attribute", {"has a round neck", "with a round neck"}),
        ("a man riding a horse", "a man feeding a horse", "relation", {"the man is feeding the horse"}),
    ],
)  # fmt: skip
def test_one_difference_becomes_one_edit(before: str, after: str, kind: str, texts: set[str]) -> None:
    found = edits(before, after)
    assert found is not None
    assert [edit.kind for edit in found] == [kind]
    assert texts <= set(phrasings(found[0]))


def test_a_lone_subject_is_spoken_of_without_its_noun() -> None:
    found = edits("a red dress with long sleeves", "a blue dress with long sleeves")
    assert found is not None
    assert {"is blue", "is blue instead of red", "is more blue"} <= set(phrasings(found[0], named=False))


def test_two_differences_are_joined() -> None:
    found = edits("a small red cube above a star", "a small blue cube above a moon")
    assert found is not None
    assert {edit.kind for edit in found} == {"attribute", "noun"}
    assert " and " in phrase_edits(found, Random(0))


def test_words_that_replace_each_other_are_paired() -> None:
    """ "red striped" -> "blue": the colour changed and the stripes went, which only usage can tell."""
    found = edits("a red striped cube", "a blue cube", ("red", "blue"))
    assert found is not None
    assert [(edit.old, edit.new) for edit in found] == [(("red",), ("blue",)), (("striped",), ())]


@pytest.mark.parametrize(
    ("before", "after"),
    [("a red cube", "a red cube"), ("a red cube above a star", ("two dogs chase three "
        "cats")), ("an orange cube", "a orange cube")],
)  # fmt: skip
def test_none_or_too_many_differences_give_no_edit(before: str, after: str) -> None:
    assert edits(before, after) is None


WORDS = st.sampled_from(
    ["a", "two", "red", "blue", "cube", "cubes", "with", "and", "above", "to", "the", "no", "riding"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=9), st.lists(WORDS, min_size=1, max_size=9))
@example(["a", "with", "red", "a"], ["red", "a"])
def test_any_two_captions_are_read_without_failing(before: list[str], after: list[str]) -> None:
    mine, theirs = Caption(tuple(before)), Caption(tuple(after))
    spans = find_spans(mine.core)
    assert [s.start for s in spans] == [0, *(s.end for s in spans[:-1])]
    assert spans[-1].end == len(before)
    found = find_edits(mine, theirs)
    if found is not None:
        assert 1 <= len(found) <= 2
        assert not is_contradicted(found, theirs), "the target must fulfil its own edits"
        for edit in found:
            for named in (True, False):
                assert all(text.strip() for text in phrasings(edit, named))


# --- pairs


def test_the_table_fits_its_schema_and_is_deterministic(images: pl.DataFrame, pairs: pl.DataFrame) -> None:
    assert pairs.schema == PAIRS
    assert pairs["pair_id"].is_unique().all()
    assert pairs["group"].n_unique() == 120
    assert pairs_digest(synthesise(images.sample(fraction=1, shuffle=True, seed=3))) == pairs_digest(pairs)
    assert pairs_digest(synthesise(images, seed=8)) != pairs_digest(pairs)


def test_no_held_out_image_is_ever_trained_on(pairs: pl.DataFrame) -> None:
    used = {
        split: set(pairs.filter(split=split)["reference_id"]) | set(pairs.filter(split=split)["candidate_id"])
        for split in ("train", "held_out")
    }
    assert not used["train"] & used["held_out"]
    groups = pairs.group_by("split").agg(pl.col("group").n_unique())
    assert dict(groups.iter_rows()) == {"train": 96, "held_out": 24}


def test_each_kind_is_what_it_says(images: pl.DataFrame, pairs: pl.DataFrame) -> None:
    told = dict(images.iter_rows())
    cores = {
        name: parsed.lemmas for name, parsed in zip(told, parse_captions(list(told.values())), strict=True)
    }
    assert set(pair_summary(pairs)["kind"]) == {"positive", *NEGATIVE_KINDS}
    for (_,), group in pairs.group_by("group"):
        positive = group.filter(kind="positive")
        assert positive.height == 1
        assert positive["label"].all()
        assert not group.filter(pl.col("kind") != "positive")["label"].any()
        target, reference, text = positive.select("candidate_id", "reference_id", "modification").row(0)
        assert group["reference_id"].unique().to_list() == [reference]
        for row in group.filter(pl.col("kind") != "positive").iter_rows(named=True):
            same_core = cores[row["candidate_id"]] == cores[target]
            if row["kind"] == "shuffled_text_negative":
                assert row["candidate_id"] == target
                assert row["modification"] != text
                continue
            assert row["modification"] == text
            assert (row["candidate_id"] == reference) == (row["kind"] == "reference_negative")
            # Only a text that names the place can make an image with the target's core wrong.
            assert not same_core or any(" ".join(place.split()) in text for place in PLACES)


def _certainly_fits(modification: str, image: str) -> bool:
    """Whether the image's caption shows all that "before => after" brings in, and nothing of what it takes
    away.
    """
    before, after = modification.split(" => ")
    asked = [place for place in PLACES if after.endswith(place)]
    mine, theirs, there = (
        set(re.sub("|".join(f" {place}$" for place in PLACES), "", text).split(" above "))
        for text in (before, after, image)
    )
    words = [{word for thing in things for word in thing.split()} for things in (mine, theirs, there)]
    lost = words[0] - words[1]
    return theirs - mine <= there and not lost & words[2] and (not asked or image.endswith(asked[0]))


@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_text_never_fits_its_image(seed: int) -> None:
    images = a_world(seed=seed)
    ids, told = images["image_id"].to_list(), images["caption"].to_list()
    found = synthesise_pairs(
        images,
        ids,
        word_vectors(told),
        PairSettings(groups=120, seed=seed, negatives_per_group={"shuffled_text_negative": 10}),
        writer=lambda captions: [" => ".join(pair) for pair in captions],
    )
    caption_of = dict(zip(ids, told, strict=True))
    fits = found.select(
        pl.struct("modification", "candidate_id").map_elements(
            lambda row: _certainly_fits(row["modification"], caption_of[row["candidate_id"]]), pl.Boolean
        )
    ).to_series()
    assert fits.filter(found["kind"] == "positive").all()
    assert (found["kind"] == "shuffled_text_negative").sum() > 500
    wrong = found.filter(fits & (found["kind"] == "shuffled_text_negative"))
    assert not wrong.height, wrong.row(0, named=True)


def test_most_targets_are_in_another_place_that_the_text_does_not_name(
    images: pl.DataFrame, pairs: pl.DataFrame
) -> None:
    told = dict(images.iter_rows())
    place = {name: next(p for p in PLACES if text.endswith(p)) for name, text in told.items()}
    rows = pairs.filter(kind="positive").select("reference_id", "candidate_id", "modification").rows()
    silent = [(r, c) for r, c, text in rows if not any(p in text for p in PLACES)]
    assert len(silent) > 0.8 * len(rows)
    assert sum(place[r] != place[c] for r, c in silent) > 0.6 * len(silent)


def test_near_duplicates_of_the_target_are_no_negatives(images: pl.DataFrame) -> None:
    found = synthesise(images, near_duplicate_cosine=0.9)
    vectors = dict(zip(images["image_id"], word_vectors(images["caption"].to_list()), strict=True))
    targets = dict(found.filter(kind="positive").select("group", "candidate_id").iter_rows())
    mined = found.filter(kind="coarse_negative")
    assert mined.height
    for group, candidate in mined.select("group", "candidate_id").iter_rows():
        assert vectors[candidate] @ vectors[targets[group]] < 0.9


def test_hard_negatives_are_mined_without_texts_too(images: pl.DataFrame) -> None:
    ids, texts = images["image_id"].to_list(), images["caption"].to_list()
    found = synthesise_pairs(images, ids, word_vectors(texts), PairSettings(groups=40))
    assert found.filter(kind="coarse_negative").height


def test_the_language_model_may_write_the_texts(images: pl.DataFrame) -> None:
    asked: list[tuple[str, str]] = []

    def write(captions):
        asked.extend(captions)
        return ["" if place % 2 else f"wanted: {target}" for place, (_, target) in enumerate(captions)]

    ids, texts = images["image_id"].to_list(), images["caption"].to_list()
    found = synthesise_pairs(images, ids, word_vectors(texts), PairSettings(groups=30), writer=write)
    written = found.filter(kind="positive")["modification"].str.starts_with("wanted: ").sum()
    assert written == found.filter(kind="positive").height // 2
    assert all(mine != theirs for mine, theirs in asked)


def test_triplets_give_pairs_of_the_same_kinds() -> None:
    rng = Random(2)
    names = [f"{row}.png" for row in range(120)]
    triplets = pl.DataFrame(
        [
            (a, f"make it number {a} {b}", b)
            for a, b in (rng.sample(names[start : start + 6], 2) for start in range(114))
        ],
        schema=["reference_id", "modification", "target_id"],
        orient="row",
    )  # fmt: skip
    images = pl.DataFrame({"image_id": names, "caption": [""] * len(names)})
    vectors = np.random.default_rng(0).normal(size=(len(names), 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode(texts):
        vectors = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=16) for text in texts]
        return np.stack(vectors).astype(np.float32)

    wanted: dict[NegativeKind, int] = {
        kind: 20 if kind == "shuffled_text_negative" else 1 for kind in NEGATIVE_KINDS
    }
    found = synthesise_pairs(
        images,
        names,
        vectors,
        PairSettings(groups=60, negatives_per_group=wanted),
        triplets=triplets,
        embed_texts=encode,
    )
    assert set(found["kind"]) == {"positive", *NEGATIVE_KINDS}
    assert found["source"].unique().to_list() == ["triplets"]
    answers = {tuple(row) for row in triplets.iter_rows()}
    for row in found.iter_rows(named=True):
        assert row["label"] == ((row["reference_id"], row["modification"], row["candidate_id"]) in answers)
        if row["kind"] == "shuffled_text_negative":
            asked = row["modification"].split()[-1]
            assert row["candidate_id"] != asked, "a text of another group with this very target"
    train, held_out = (found.filter(split=split) for split in ("train", "held_out"))
    assert not set(train["candidate_id"]) & set(held_out["candidate_id"])


def test_what_cannot_become_pairs_is_said() -> None:
    images = pl.DataFrame(
        {"image_id": ["a", "b", "c"], "caption": ["a cat", "nine tall ships at sea", "some bread"]}
    )
    with pytest.raises(PairError, match="too few of their captions differ"):
        synthesise_pairs(images, ["a", "b", "c"], np.eye(3, dtype=np.float32), PairSettings(groups=4))
    with pytest.raises(PairError, match="0 of them with a vector"):
        synthesise_pairs(images, [], np.zeros((0, 3), np.float32), PairSettings(groups=4))
