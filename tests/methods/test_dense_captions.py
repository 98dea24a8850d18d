"""Caption methods by sentences, by words and sentences, and SoFT's filter over them: against plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from setr_lib.methods.caption_filter import Refused
from setr_lib.methods.caption_reading import INTERSECTION, TEXT, UNION, Reading
from setr_lib.methods.dense_captions import DenseCaptions
from setr_lib.methods.inputs import MethodError, MethodInputs, SearchedGallery
from setr_lib.methods.method import Method, caption_space, get_method, ranks_captions
from setr_lib.settings import Settings
from tests.methods.captioned import CAPTIONS, IDS, Bags, Counted, queries, ranked, vectors_of

READINGS = {"captions_text": TEXT, "captions_union": UNION, "captions_intersection": INTERSECTION}
FORMS = ("dense", "hybrid")
NAMES = [f"{name}_{form}" for name in (*READINGS, "captions_soft") for form in FORMS]
ASKED = (("a", "a sleeping cat instead of the dog"), ("b", "white, on grass"), ("f", "two dogs, no boats"))
HELD = [image for image in IDS if image in CAPTIONS]


def scores(
    name: str, asked: tuple[tuple[str, str], ...] = ASKED, options: Mapping[str, float] | None = None
) -> np.ndarray:
    """The scores of the captioned images, in the order of ``HELD``."""
    return scores_of(get_method(name), asked, options)


def scores_of(
    method: Method,
    asked: tuple[tuple[str, str], ...] = ASKED,
    options: Mapping[str, float] | None = None,
) -> np.ndarray:
    gallery = SearchedGallery(np.zeros((len(HELD), 0), np.float32), HELD, Counted(), vectors_of())
    found = method.scores(MethodInputs(queries(*asked, encoder=Bags()), gallery, options or {}))
    assert found.shape == (len(asked), len(HELD))
    return found


def cosines(sentences: list[list[tuple[str, float]]], how: str = "mean") -> np.ndarray:
    rows = []
    for texts in sentences:
        query = sum((w * Bags().embed_texts([text])[0] for text, w in texts), np.zeros(Bags.dimension))
        query = query / (np.linalg.norm(query) or 1)
        each = [[float(Bags().embed_texts([c])[0] @ query) for c in CAPTIONS[image]] for image in HELD]
        rows.append([np.mean(values) if how == "mean" else max(values) for values in each])
    return np.array(rows)


def scaled(values: np.ndarray) -> np.ndarray:
    return np.array([[(v - min(row)) / (max(row) - min(row) or 1) for v in row] for row in values])


def read(reading: Reading | Refused) -> list[list[tuple[str, float]]]:
    return [reading.sentences(text, CAPTIONS[image], Counted().term) for image, text in ASKED]


@pytest.mark.parametrize(
    ("reading", "sentences"),
    [
        (TEXT, {"a sleeping cat instead of the dog": 1.0}),
        (
            UNION,
            {
                "A white dog stands on grass, a sleeping cat instead of the dog": 0.5,
                "The dog is white, a sleeping cat instead of the dog": 0.5,
            },
        ),
        (
            INTERSECTION,
            {
                "white stands, sleeping cat": 0.35,
                "white stands grass, sleeping cat": 0.15,
                "white, sleeping cat": 0.5,  # no surroundings: both texts are the same
            },
        ),
        (Refused(), {"dog": 1.0}),
    ],
)
def test_the_sentences_of_a_reading(reading: Reading | Refused, sentences: dict[str, float]) -> None:
    found: dict[str, float] = {}
    for text, weight in read(reading)[0]:
        found[text] = found.get(text, 0.0) + weight
    assert found == pytest.approx(sentences)


def test_where_nothing_is_kept_the_text_stands_alone() -> None:
    def sentences(reading: Reading, text: str, captions: list[str]) -> list[tuple[str, float]]:
        return reading.sentences(text, captions, Counted().term)

    assert sentences(UNION, "a dog", []) == [("a dog", 1.0)]
    assert sentences(INTERSECTION, "show the same", ["In it."]) == [
        ("show the same", 0.7),
        ("show the same", 0.3),
    ]
    assert Refused().sentences("a dog", ["A cat."], Counted().term) == []
    assert Refused().sentences("no dogs but two dogs", ["A cat."], Counted().term) == []


@pytest.mark.parametrize("name", READINGS)
def test_dense_is_the_mean_cosine_of_an_images_captions(name: str) -> None:
    found = scores(f"{name}_dense")
    assert found == pytest.approx(cosines(read(READINGS[name])), abs=1e-6)
    best = replace(dense(name), best=True)
    assert scores_of(best) == pytest.approx(cosines(read(READINGS[name]), "best"), abs=1e-6)


def dense(name: str) -> DenseCaptions:
    method = get_method(f"{name}_dense")
    assert isinstance(method, DenseCaptions)
    return method


@pytest.mark.parametrize("name", READINGS)
def test_hybrid_is_the_mean_of_both_forms_scaled(name: str) -> None:
    expected = (scaled(scores(name)) + scaled(cosines(read(READINGS[name])))) / 2
    assert scores(f"{name}_hybrid") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("strength", [None, 0.3])
def test_the_filter_is_softs(strength: float | None) -> None:
    counts = Counted()

    def terms(weights: dict[str, float]) -> list[float]:
        return [
            sum(
                w * dict(zip(*counts.matches(t), strict=True)).get(counts.ids.index(image), 0)
                for t, w in weights.items()
            )
            for image in HELD
        ]

    def lexical(reading: Reading | Refused) -> np.ndarray:
        return np.array([terms(reading.weights(text, CAPTIONS[image], counts.term)) for image, text in ASKED])

    lam = 1.0 if strength is None else strength
    options = {} if strength is None else {"lambda": strength}
    parts = (UNION, INTERSECTION, Refused())
    by_words = [scaled(lexical(part)) for part in parts]
    by_vectors = [cosines(read(part)) for part in parts]
    both = [
        scaled((words + scaled(vectors)) / 2) for words, vectors in zip(by_words, by_vectors, strict=True)
    ]
    for form, (base, reward, penalty) in {"": by_words, "_dense": by_vectors, "_hybrid": both}.items():
        expected = (1 - lam) * base + lam * base * (reward + 1 - penalty) / 2
        assert scores(f"captions_soft{form}", options=options) == pytest.approx(expected, abs=1e-6), form


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(MethodError, match=r"lambda = 1.5: write a number from 0"):
        scores("captions_soft", options={"lambda": 1.5})


def test_what_is_refused_costs_and_nothing_refused_costs_nothing() -> None:
    texts = ("a cat", "a cat, no grass")
    plain, refused = (scores("captions_soft", (("f", text),))[0] for text in texts)
    cat = HELD.index("c")
    assert refused[cat] < plain[cat]
    assert (scores("captions_soft_dense", (("f", "a cat"),)) != 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_neither_order_nor_blocks_change_anything_and_the_uncaptioned_come_last(name: str) -> None:
    texts = [("a", "a black dog"), ("b", "not on a sofa"), ("e", "a cat on grass"), ("f", "x"), ("c", "sea")]
    asked = queries(*texts, encoder=Bags())
    whole = ranked(asked, name, caption_vectors=vectors_of())
    turned = ranked(
        asked.rows(np.array([3, 1, 4, 0, 2])),
        name,
        ids=IDS[::-1],
        block_scores=1,
        caption_vectors=vectors_of(),
    )
    assert turned.sort("query_id", "rank").rows() == whole.sort("query_id", "rank").rows()
    for _, one in whole.group_by("query_id"):
        images = one.sort("rank")["image_id"].to_list()
        assert "e" not in images or images[-1] == "e"
        twins = one.filter(pl.col("image_id").is_in(["c", "d"]))
        assert twins.height < 2 or twins["score"].n_unique() == 1
    few = ranked(asked, name, ids=["e", "c", "b"], caption_vectors=vectors_of())
    assert set(few["image_id"]) == {"b", "c", "e"}


def test_what_they_need_is_told() -> None:
    method = get_method("captions_union_dense")
    assert ranks_captions(method) and caption_space(method) == "sentences"
    with pytest.raises(MethodError, match=r"vectors of the captions.*'sentences'.*gallery_embeddings"):
        ranked(queries(("a", "x"), encoder=Bags()), "captions_union_dense")
    with pytest.raises(MethodError, match=r"\[spaces.sentences\] with kind.*sentence_transformers"):
        get_method("captions_soft_hybrid", Settings())
    assert get_method("captions_soft", Settings()).name == "captions_soft", "words alone need no model"
