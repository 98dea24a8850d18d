"""BASIC: every step against a plain computation, its corpora, and what it says where they are lacking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setr_lib.methods.basic import ALPHA, COMPONENTS, EXPANSION, HARRIS
from setr_lib.methods.contrastive import contrastive_directions
from setr_lib.methods.inputs import GalleryIndex, MethodError, MethodInputs, SearchedGallery
from setr_lib.methods.method import get_method, lacking_files
from setr_lib.methods.ranking import rank
from setr_lib.texts.phrases import PhrasesError, read_phrases
from tests.methods.worlds import (
    DIMENSION,
    GALLERY,
    IDS,
    TableEncoder,
    embedded,
    method_inputs,
    queries_of,
    random_unit,
    vectors_of_references,
)

SUBJECTS = [f"subject {i}" for i in range(12)]
STYLES = [f"style {i}" for i in range(9)]
IMAGE_MEAN, TEXT_MEAN = GALLERY.mean(axis=0), embedded(SUBJECTS).mean(axis=0)


@pytest.fixture
def corpora(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "subjects.txt").write_text("\n".join(["", *SUBJECTS, " subject 1 "]), encoding="utf-8")
    (tmp_path / "styles.csv").write_text("\n".join(f'"{style}",x' for style in STYLES), encoding="utf-8")
    return {"subjects": str(tmp_path / "subjects.txt"), "styles": str(tmp_path / "styles.csv")}


def directions(subjects: np.ndarray, styles: np.ndarray, components: int, alpha: float) -> np.ndarray:
    contrast = np.zeros((subjects.shape[1], subjects.shape[1]))
    for row in subjects:
        contrast += (1 - alpha) * np.outer(row, row) / (len(subjects) - 1)
    for row in styles:
        contrast -= alpha * np.outer(row, row) / (len(styles) - 1)
    values, vectors = np.linalg.eigh(contrast)
    order = [column for column in np.argsort(values)[::-1] if values[column] > 1e-12]
    return vectors[:, order[:components]].T


def expected(
    inputs: MethodInputs,
    *,
    components: int = 250,
    alpha: float = 0.2,
    harris: float = 0.1,
    expansion: int = 0,
    image_mean: np.ndarray = IMAGE_MEAN,
    text_mean: np.ndarray = TEXT_MEAN,
) -> np.ndarray:
    subjects, styles, texts = embedded(SUBJECTS), embedded(STYLES), inputs.queries.frame["modification"]
    gallery = GALLERY.astype(np.float64)
    basis = directions(subjects - text_mean, styles - text_mean, components, alpha)
    projection, centred = basis.T @ basis, gallery - image_mean
    least = (centred @ centred.T).min(), ((subjects - text_mean) @ centred.T).min()
    rows = []
    for reference, text in zip(vectors_of_references(inputs), embedded(texts.to_list()), strict=True):
        by_text = np.maximum(((text - text_mean) @ centred.T - least[1]) / abs(least[0]), 0)
        if not reference.any():
            rows.append(by_text)
            continue
        image = reference - image_mean
        if expansion:
            found = projection @ image @ centred.T
            nearest = np.argsort(-found)[:expansion]
            weights = np.exp(0.1 * np.array([*found[nearest], 1.0]))
            image = np.average([*centred[nearest], image], axis=0, weights=weights)
        by_image = np.maximum((projection @ image @ centred.T - least[0]) / abs(least[0]), 0)
        rows.append(by_text * by_image - harris * (by_text + by_image) ** 2)
    return np.array(rows)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"components": 3},
        {"alpha": 0.7},
        {"harris": 0.3},
        {"expansion": 4},
        {"components": 2, "expansion": 50},
    ],
)
def test_the_scores_are_the_published_steps(corpora: dict[str, Any], changed: dict[str, Any]) -> None:
    inputs = method_inputs(options=corpora | changed)
    found = get_method("basic").scores(inputs)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    np.testing.assert_allclose(found, expected(inputs, **changed), atol=1e-5)


def test_means_come_from_files_where_they_are_named(corpora: dict[str, Any], tmp_path: Path) -> None:
    means = dict(zip(("image_mean", "text_mean"), 0.3 * random_unit(2, seed=5), strict=True))
    for name, mean in means.items():
        np.save(tmp_path / f"{name}.npy", mean)
    inputs = method_inputs(options=corpora | {name: str(tmp_path / f"{name}.npy") for name in means})
    found = get_method("basic").scores(inputs)
    np.testing.assert_allclose(found, expected(inputs, **means), atol=1e-5)
    np.save(tmp_path / "short.npy", np.zeros(3))
    with pytest.raises(MethodError, match=r"short\.npy has the shape \(3,\)"):
        get_method("basic").scores(
            method_inputs(options=corpora | {"image_mean": str(tmp_path / "short.npy")})
        )


def ranked(inputs: MethodInputs, **more: Any) -> list[tuple[Any, ...]]:
    import polars as pl

    gallery = pl.DataFrame({"image_id": IDS, "galleries": [["all"]] * len(IDS)})
    table = rank(
        get_method("basic"),
        inputs.queries,
        gallery,
        GalleryIndex(IDS, GALLERY),
        10,
        remove_reference=False,
        options=inputs.options,
        **more,
    )
    return table.rows()


def test_blocks_change_nothing_and_a_corpus_is_encoded_once(corpora: dict[str, Any]) -> None:
    encoder = TableEncoder()
    whole = ranked(method_inputs(options=corpora, encoder=encoder))
    assert ranked(method_inputs(options=corpora, encoder=encoder), block_scores=1) == whole
    assert {encoder.encoded[phrase] for phrase in SUBJECTS + STYLES} == {1}, "for two evaluation sets"


def test_without_corpora_it_says_what_to_write() -> None:
    method = get_method("basic")
    assert [file.option for file in lacking_files(method, {})] == ["subjects", "styles"]
    assert not method.is_cosine and "reconstruction" in method.source
    words = r'\'basic\' needs subjects = "FILE" \(generic subjects.*styles = "FILE".*\[methods\.basic\]'
    with pytest.raises(MethodError, match=words):
        ranked(method_inputs())


def test_a_corpus_that_is_not_there_or_too_small_is_named(corpora: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"\[methods\.basic\] styles = .*nowhere.*there is no such file"):
        ranked(method_inputs(options=corpora | {"styles": str(tmp_path / "nowhere.txt")}))
    small = tmp_path / "small.txt"
    small.write_text("one\none\n", encoding="utf-8")
    with pytest.raises(PhrasesError, match=r"small\.txt has 1 different phrases"):
        ranked(method_inputs(options=corpora | {"styles": str(small)}))


def test_phrases_are_lines_or_a_first_column(corpora: dict[str, Any], tmp_path: Path) -> None:
    assert read_phrases(Path(corpora["subjects"])) == SUBJECTS
    assert read_phrases(Path(corpora["styles"])) == STYLES
    lines = tmp_path / "lines.txt"
    lines.write_text("a cat, a dog\nb\n", encoding="utf-8")
    assert read_phrases(lines) == ["a cat, a dog", "b"], "a comma is part of a line"
    lines.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PhrasesError, match=r"lines\.txt cannot be read"):
        read_phrases(lines)


@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0, 0.9))
def test_directions_are_orthonormal_and_prefer_what_subjects_vary_in(
    seed: int, components: int, alpha: float
) -> None:
    random = np.random.default_rng(seed)
    subjects, styles = random.normal(size=(20, 8)), random.normal(size=(15, 8))
    found = contrastive_directions(subjects, styles, components, alpha)
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-8)
    contrast = (1 - alpha) * subjects.T @ subjects / 19 - alpha * styles.T @ styles / 14
    gains = np.einsum("nd,de,ne->n", found, contrast, found)
    assert (gains > 0).all() and (np.diff(gains) <= 1e-9).all()
    assert len(found) == min(components, int((np.linalg.eigvalsh(contrast) > 1e-9).sum()))


def test_a_style_direction_is_left_out() -> None:
    """Where subjects vary little and styles much, a direction has a negative eigenvalue."""
    axes = np.eye(4)
    subjects = np.vstack([3 * axes[0], -3 * axes[0], 0.1 * axes[1], -0.1 * axes[1]])
    found = contrastive_directions(subjects, np.vstack([5 * axes[1], -5 * axes[1]]), 4, 0.2)
    np.testing.assert_allclose(np.abs(found), axes[:1], atol=1e-8)


def test_an_unknown_reference_leaves_the_text_alone(corpora: dict[str, Any]) -> None:
    inputs = method_inputs(["absent"], options=corpora)
    text = embedded(queries_of(["absent"])["modification"].to_list()) - embedded(SUBJECTS).mean(axis=0)
    by_text = text @ (GALLERY - GALLERY.mean(axis=0)).T
    found = get_method("basic").scores(inputs)
    assert found[0].argmax() == by_text[0].argmax() and (found >= 0).all()


def test_its_constants_are_the_papers() -> None:
    assert [option.of({}) for option in (COMPONENTS, ALPHA, HARRIS, EXPANSION)] == [250, 0.2, 0.1, 0]


@pytest.mark.parametrize(("changed", "counts"), [(2, True), (3, False)])
def test_a_large_gallery_is_normalised_by_a_thousand_of_its_images(
    corpora: dict[str, Any], tmp_path: Path, changed: int, counts: bool
) -> None:
    """Of 2,000 images every second is one of them: another least similarity changes every score."""
    np.save(tmp_path / "mean.npy", np.zeros(DIMENSION))
    inputs = method_inputs(["i03"], options=corpora | {"image_mean": str(tmp_path / "mean.npy")})
    gallery = np.tile(GALLERY[:1], (2000, 1))
    other = gallery.copy()
    other[changed] = -gallery[changed]
    one, two = (
        get_method("basic").scores(replace(inputs, gallery=SearchedGallery(vectors)))
        for vectors in (gallery, other)
    )
    assert (one[0, 0] != two[0, 0]) == counts
