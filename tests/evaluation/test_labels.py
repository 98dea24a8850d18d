"""What rows say that they have learned from, case by case."""

from __future__ import annotations

import polars as pl
import pytest

from setr_lib.evaluation.labels import (
    Claim,
    Strength,
    claim_of_own_words,
    claim_of_version,
    label_of_row,
    label_of_version,
)
from setr_lib.evaluation.overlap import Overlap
from setr_lib.methods.method import SUPERVISED, TRAINED_ELSEWHERE, TRAINING_FREE, ZERO_SHOT_TRAINED
from setr_lib.training.trained_on import TRAINED_IMAGES, TRAINED_TRIPLETS, TrainedOn, TripletKind

NONE_SEEN = Overlap(0, 2297, 0, 0, 4181)
SOME_SEEN = Overlap(12, 2297, 30, 0, 4181)
IMAGES = TRAINED_IMAGES.to_frame()
ONE = pl.DataFrame([("cirr", "a", "red", "b")], schema=TRAINED_TRIPLETS, orient="row")


def trained_on(source: str, kind: TripletKind = "none", *benchmarks: str) -> TrainedOn:
    return TrainedOn(source, IMAGES, ONE.clear() if kind == "none" else ONE, kind, benchmarks)


PICTURES = trained_on("pictures")
SYNTHESISED = trained_on("triplets synthesised from captions", "synthesised")
OF_CIRR = trained_on("cirr's train triplets", "benchmark", "cirr")
OF_ITS_IMAGES = trained_on("triplets synthesised from cirr's train images", "synthesised", "cirr")
OF_FASHIONIQ = trained_on("fashioniq's triplets", "benchmark", "fashioniq")
A_FILE = trained_on("a file of triplets", "file")


@pytest.mark.parametrize(
    ("learned", "overlap", "label"),
    [
        (PICTURES, NONE_SEEN, "zero-shot"),
        (SYNTHESISED, NONE_SEEN, "zero-shot"),
        (OF_ITS_IMAGES, NONE_SEEN, "trained on triplets synthesised from cirr's train images"),
        (OF_CIRR, NONE_SEEN, "supervised by cirr's train triplets"),
        (OF_FASHIONIQ, NONE_SEEN, "trained on fashioniq's triplets"),
        (A_FILE, NONE_SEEN, "supervised by a file of triplets"),
        (OF_CIRR.joined(PICTURES), NONE_SEEN, "supervised by cirr's train triplets and pictures"),
        (PICTURES.joined(OF_CIRR), NONE_SEEN, "supervised by pictures and cirr's train triplets"),
        (SYNTHESISED, SOME_SEEN, "trained on 12 of the gallery's 2,297 images (30 of 4,181 queries)"),
        (PICTURES, Overlap(1, 5, 0, 0, 9), "trained on 1 of the gallery's 5 images"),
        (PICTURES, Overlap(0, 5, 3, 0, 9), "trained on images of 3 of 9 queries"),
        (
            SYNTHESISED,
            Overlap(2, 5, 3, 1, 9),
            "trained on 2 of the gallery's 5 images (3 of 9 queries) and triplets of 1 of 9 queries",
        ),
        (
            OF_CIRR,
            SOME_SEEN,
            "supervised by cirr's train triplets, trained on 12 of the gallery's 2,297 images "
            "(30 of 4,181 queries)",
        ),
        (None, None, "overlap unknown, registered as fitted"),
    ],
)
def test_the_label_of_a_version_on_an_evaluation_set(
    learned: TrainedOn | None, overlap: Overlap | None, label: str
) -> None:
    claim = claim_of_version("m v1", learned, overlap, "cirr", "fitted")
    assert claim.words == label_of_row([claim]) == label
    assert (claim.strength == Strength.ZERO_SHOT) == (label == "zero-shot")


SUPERVISED_CLAIM = claim_of_version("setr-qformer v2", OF_CIRR, NONE_SEEN, "cirr")
SEEN_CLAIM = claim_of_version("setr-pic2word v1", PICTURES, SOME_SEEN, "cirr")
CLEAN_CLAIM = claim_of_version("setr-reranker v3", SYNTHESISED, NONE_SEEN, "cirr")
SEEN_WORDS = "trained on 12 of the gallery's 2,297 images (30 of 4,181 queries)"


@pytest.mark.parametrize(
    ("claims", "label"),
    [
        ([], "zero-shot"),
        ([CLEAN_CLAIM], "zero-shot"),
        ([CLEAN_CLAIM, SUPERVISED_CLAIM], "supervised by cirr's train triplets (setr-qformer v2)"),
        ([SUPERVISED_CLAIM, SUPERVISED_CLAIM], "supervised by cirr's train triplets"),
        (
            [SEEN_CLAIM, SUPERVISED_CLAIM],
            f"supervised by cirr's train triplets (setr-qformer v2), {SEEN_WORDS} (setr-pic2word v1)",
        ),
        (
            [claim_of_own_words("embedder", TRAINED_ELSEWHERE), SEEN_CLAIM],
            f"{SEEN_WORDS} (setr-pic2word v1), {TRAINED_ELSEWHERE} (embedder)",
        ),
        (
            [claim_of_version("setr-line v1", None, registered_as="zero-shot"), SEEN_CLAIM],
            f"{SEEN_WORDS} (setr-pic2word v1), overlap unknown, registered as zero-shot (setr-line v1)",
        ),
    ],
)
def test_in_a_row_of_several_parts_the_strongest_claim_comes_first(claims: list[Claim], label: str) -> None:
    assert label_of_row(claims) == label


def test_what_parts_say_of_themselves() -> None:
    for words in (TRAINING_FREE, "zero-shot", ""):
        assert claim_of_own_words("sum", words) == Claim("zero-shot", Strength.ZERO_SHOT, "sum")
    assert claim_of_own_words("mine", SUPERVISED) == Claim(SUPERVISED, Strength.SUPERVISED, "mine")
    unproved = Claim(ZERO_SHOT_TRAINED, Strength.UNKNOWN, "mine")
    assert claim_of_own_words("mine", ZERO_SHOT_TRAINED) == unproved, "nobody has counted its overlap"


def test_without_an_evaluation_set_in_question() -> None:
    assert label_of_version(None) == "not recorded what it was trained on"
    assert label_of_version(SYNTHESISED) == "zero-shot"
    assert label_of_version(OF_CIRR) == "supervised by cirr's train triplets"
    seen = "trained on images or queries of circo-val, cirr-val"
    assert label_of_version(SYNTHESISED, ["circo-val", "cirr-val"]) == seen
    assert label_of_version(OF_CIRR, ["cirr-val"]) == (
        "supervised by cirr's train triplets, trained on images or queries of cirr-val"
    )
