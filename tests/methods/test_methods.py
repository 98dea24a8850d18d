"""What each method scores by, and how methods of one's own become known."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from setr_lib import catalogue
from setr_lib.methods import method as module
from setr_lib.methods.inputs import (
    CAPTIONS,
    COMPOSITIONS,
    EncodedQueries,
    MethodError,
    MethodInputs,
    SearchedGallery,
    encode_queries,
)
from setr_lib.methods.method import VectorMethod, as_method, get_method, method_names, register
from setr_lib.methods.similarity import min_max, similarity, unit
from tests.methods.worlds import (
    DIMENSION,
    TableEncoder,
    captions_of,
    compositions_of,
    methods_of_vectors,
    queries_of,
    random_unit,
)

GALLERY = random_unit(30, seed=1)
IDS = [f"i{i:02d}" for i in range(30)]


def inputs_of(
    encoder: TableEncoder | None = None, references: Sequence[str] = ("i03", "i07", "i11")
) -> MethodInputs:
    encoder = encoder or TableEncoder()
    queries = queries_of(references)
    encoded = encode_queries(
        queries,
        encoder,
        IDS,
        GALLERY,
        texts={CAPTIONS: captions_of(queries), COMPOSITIONS: compositions_of(queries)},
    )
    return MethodInputs(encoded, SearchedGallery(GALLERY), {"anchor_share": 0.25})


def expected_vectors(inputs: MethodInputs, name: str) -> np.ndarray:
    encoder, queries = TableEncoder(), inputs.queries.frame
    image = GALLERY[[IDS.index(r) for r in queries["reference_id"]]]
    text = encoder.embed_texts(queries["modification"].to_list())
    target = encoder.embed_texts([f"target of {q}" for q in queries["query_id"]])
    union = encoder.embed_texts(
        [f"picture {r}, {m}" for r, m in queries.select("reference_id", "modification").rows()]
    )
    return {
        "image": image,
        "text": text,
        "sum": image + text,
        "union_text": union,
        "intersection": target,
        "intersection_anchor": 0.75 * target + 0.25 * image,
    }[name]


@pytest.mark.parametrize(
    "name", ["image", "text", "sum", "union_text", "intersection", "intersection_anchor"]
)
def test_vector_methods_are_cosines_of_the_documented_vector(name: str) -> None:
    inputs = inputs_of()
    scores = get_method(name).scores(inputs)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, unit(expected_vectors(inputs, name)) @ GALLERY.T, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_product_is_the_rectified_product_of_centred_cosines(share: float) -> None:
    inputs, text_mean = inputs_of(), share * random_unit(1, seed=9)[0]
    inputs = replace(inputs, queries=replace(inputs.queries, text_center=text_mean))
    encoder, mean = TableEncoder(), GALLERY.mean(axis=0)
    gallery = unit(GALLERY - mean)
    by_image = unit(GALLERY[[3, 7, 11]] - mean) @ gallery.T
    texts = encoder.embed_texts(inputs.queries.frame["modification"].to_list())
    by_text = unit(texts - text_mean) @ gallery.T
    scores = get_method("product").scores(inputs)
    both = (by_image > 1e-6) & (by_text > 1e-6)
    assert both.any() and not both.all()
    np.testing.assert_allclose(scores[both], (by_image * by_text)[both], atol=1e-6)
    assert scores[both].min() > scores[~both].max()


def test_product_subtracts_the_mean_text_when_there_are_enough() -> None:
    encoder, queries = TableEncoder(), queries_of(["i03", "i07"])
    texts = [f"text {i}" for i in range(20)]

    def center(given: list[str] | None) -> np.ndarray:
        encoded = encode_queries(queries, encoder, IDS, GALLERY, center_texts=given)
        return encoded.text_center

    np.testing.assert_allclose(center(texts), encoder.embed_texts(texts).mean(axis=0), atol=1e-6)
    assert not center(texts[:15]).any() and not center(None).any()


def test_texts_are_encoded_once_for_all_methods() -> None:
    encoder = TableEncoder()
    inputs = inputs_of(encoder, references=["i03", "i03", "i07"])
    for name in methods_of_vectors():
        get_method(name).scores(inputs)
    assert max(encoder.encoded.values()) == 1


NEEDED: dict[str, set[str]] = {
    "image": set(),
    "text": set(),
    "sum": set(),
    "product": set(),
    "union_text": {"captions"},
    "intersection": {"compositions"},
    "intersection_anchor": {"compositions"},
    "captions_text": {"image_captions"},
    "captions_union": {"image_captions"},
    "captions_intersection": {"image_captions"},
}
"""What methods that come with the package need; another one has its test in a file of its own."""


@pytest.mark.parametrize("name", NEEDED)
def test_needs_are_declared(name: str) -> None:
    assert set(get_method(name).needs) == NEEDED[name]


BUILT_IN = """
from setr_lib.methods.method import Method, VectorMethod

class Slerp(Method):
    name = "slerp"

    def scores(self, inputs):
        return inputs.queries.modification_vectors @ inputs.gallery.vectors.T

"""


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes ``setr_lib/methods/slerp.py``, in a folder that the package is looked for in besides its own."""
    import setr_lib.methods as package

    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])

    def write(text: str) -> None:
        (tmp_path / "slerp.py").write_text(BUILT_IN + text, encoding="utf-8")

    yield write
    sys.modules.pop("setr_lib.methods.slerp", None)
    if hasattr(package, "slerp"):
        delattr(package, "slerp")


@pytest.mark.parametrize("listed", ["METHODS = (Slerp(),)", "METHODS = (Slerp,)"])
def test_a_built_in_method_is_one_module(built_in: Callable[[str], None], listed: str) -> None:
    built_in(listed)
    assert "slerp" in method_names()
    assert get_method("slerp").scores(inputs_of()).shape == (3, 30)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"setr_lib\.methods\.slerp holds Slerp and no METHODS"),
        ("SLERP = Slerp()", r"holds Slerp, SLERP and no METHODS.*write METHODS"),
        ("METHODS = (VectorMethod('sum', None),)", "two built-in retrieval methods are called 'sum'"),
    ],
)
def test_a_module_whose_methods_would_not_be_found_says_so(
    built_in: Callable[[str], None], text: str, words: str
) -> None:
    built_in(text)
    with pytest.raises(MethodError, match=words):
        method_names()


def test_what_is_missing_falls_back_to_the_modification_text() -> None:
    encoder, queries = TableEncoder(), queries_of(["i03", "absent"])
    captions = captions_of(queries).with_columns(pl.lit("failed").alias("status"))
    compositions = compositions_of(queries).with_columns(pl.lit(" ").alias("target_caption"))
    encoded = encode_queries(
        queries,
        encoder,
        IDS,
        GALLERY,
        texts={CAPTIONS: captions, COMPOSITIONS: compositions},
    )
    assert encoded.missing_references == (queries["query_id"][1],)
    text = encoder.embed_texts(queries["modification"].to_list())
    for vectors in (encoded.union_vectors, encoded.target_vectors):
        np.testing.assert_array_equal(vectors, text)
    inputs = MethodInputs(encoded, SearchedGallery(GALLERY))
    for name in ("sum", "product", "intersection_anchor"):
        best = get_method(name).scores(inputs)[1].argmax()
        against = unit(GALLERY - GALLERY.mean(axis=0)) if name == "product" else GALLERY
        assert best == (against @ text[1]).argmax()


def test_a_query_without_composition_is_named() -> None:
    queries = queries_of(["i03", "i07"])
    with pytest.raises(MethodError, match=queries["query_id"][0]):
        encode_queries(
            queries,
            TableEncoder(),
            IDS,
            GALLERY,
            texts={COMPOSITIONS: compositions_of(queries)[:1]},  # in reverse: that of the last query
        )


def test_references_may_come_from_outside_the_gallery() -> None:
    own = random_unit(1, seed=8)
    encoded = encode_queries(
        queries_of(["my picture"]),
        TableEncoder(),
        IDS,
        GALLERY,
        reference_vectors=own,
    )
    assert encoded.missing_references == ()
    np.testing.assert_array_equal(encoded.reference_vectors, own)


class ByName:
    """A method of one's own: the text decides, plus what the caller passed on."""

    name = "by_name"
    needs: frozenset[str] = frozenset()

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        texts = [f"a photo of {m}" for m in inputs.queries.frame["modification"]]
        return similarity(inputs.queries.encode(texts), inputs.gallery.vectors)


def test_a_method_of_ones_own_by_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.CATALOGUE, "_own", {})
    assert register(ByName) is ByName
    assert "by_name" in method_names()
    assert get_method("by_name").scores(inputs_of()).shape == (3, 30)
    assert register(ByName()).name == "by_name"
    assert get_method("by_name").space == "clip", "where it names none"
    register(type("Elsewhere", (ByName,), {"space": "elsewhere"}))
    assert get_method("by_name").space == "elsewhere"


def test_a_method_of_ones_own_by_entry_point_or_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for group in ("setr.methods", "setr.strategies"):  # the second is the earlier name of the first
        point = importlib.metadata.EntryPoint("by_name", f"{__name__}:ByName", group)
        monkeypatch.setattr(
            catalogue, "entry_points", lambda group, point=point: [point] if group == point.group else []
        )
        assert "by_name" in method_names()
        assert get_method("by_name").scores(inputs_of()).shape == (3, 30)
    assert get_method(f"{__name__}:ByName").scores(inputs_of()).shape == (3, 30)


def test_bad_methods_are_explained() -> None:
    with pytest.raises(MethodError, match=r"no retrieval method 'nonsense'; known: .*intersection"):
        get_method("nonsense")
    with pytest.raises(MethodError, match="cannot be loaded"):
        get_method("no.such.module:Method")
    with pytest.raises(MethodError, match="is not a retrieval method"):
        register(object())
    lacking = type("Lacking", (ByName,), {"__init__": lambda self: Path("no such weights").read_bytes()})
    with pytest.raises(MethodError, match=r"method at Lacking raised FileNotFoundError.*no such weights"):
        register(lacking)
    wishful = type("Wishful", (ByName,), {"needs": frozenset({"miracles"})})
    with pytest.raises(MethodError, match="miracles"):
        register(wishful)


def test_blocks_do_not_change_a_score() -> None:
    queries, gallery = random_unit(40, seed=2), random_unit(500, seed=3)
    whole = similarity(queries, gallery)
    np.testing.assert_array_equal(whole[7:8], similarity(queries[7:8], gallery))
    np.testing.assert_array_equal(whole[:, 99:132], similarity(queries, gallery[99:132]))


def test_scores_are_scaled_for_each_query_and_equal_ones_stay_equal() -> None:
    scores = np.array([[2.0, 4.0, 3.0], [-1.0, -1.0, -1.0], [0.0, -8.0, -2.0]], dtype=np.float32)
    np.testing.assert_array_equal(min_max(scores), [[0, 1, 0.5], [1, 1, 1], [1, 0, 0.75]])
    np.testing.assert_array_equal(min_max(scores[1:2], equal=0.0), [[0, 0, 0]])
    assert min_max(scores[:, :0]).shape == (3, 0)


def test_a_selection_of_queries_keeps_its_parts_together() -> None:
    queries: EncodedQueries = inputs_of().queries
    chosen = queries.rows(np.array([2, 0]))
    assert chosen.frame["query_id"].to_list() == [queries.frame["query_id"][2], queries.frame["query_id"][0]]
    assert chosen.union_texts[0] == queries.union_texts[2]
    np.testing.assert_array_equal(chosen.target_vectors, queries.target_vectors[[2, 0]])
    assert chosen.text(COMPOSITIONS)["query_id"].to_list() == chosen.frame["query_id"].to_list()
    np.testing.assert_array_equal(chosen.rows(np.array([1])).union_vectors, queries.union_vectors[:1])
    turned = chosen.with_vectors("target_caption", queries.target_vectors[:2])
    np.testing.assert_array_equal(turned.rows(np.array([1])).target_vectors, queries.target_vectors[1:2])
    np.testing.assert_array_equal(turned.modification_vectors, chosen.modification_vectors)
    assert chosen.encode is queries.encode
    assert chosen.reference_vectors.shape == (2, DIMENSION)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "x\n", "random", "file", "a--b"])
def test_a_name_that_cannot_be_a_rows_or_a_tables_is_refused(name: str) -> None:
    with pytest.raises(MethodError, match="cannot be called"):
        as_method(VectorMethod(name, lambda inputs: inputs.queries.reference_vectors), "here")
