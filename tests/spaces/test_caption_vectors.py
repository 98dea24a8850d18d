"""Vectors of captions in the store: embedded once, kept by model, read image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from setr_lib.spaces.caption_store import CaptionIndex, CaptionStore
from setr_lib.spaces.caption_vectors import CaptionVectorStore
from setr_lib.spaces.space import EmbeddingSpace, SpaceError
from setr_lib.spaces.vector_store import GalleryError, GalleryStore
from tests.methods.captioned import Bags

TEXTS = {"b": ["A dog.", "A cat."], "a": ["Boats at sea."], "c": ["A dog."], "d": []}


class Words(EmbeddingSpace):
    """A text model that keeps what it is asked for."""

    preprocessing_id, dimension, batch_size = "none", Bags.dimension, 2

    def __init__(self, name: str = "words@1") -> None:
        self.id, self.bags = name, Bags()

    def embed_images(self, images: Sequence[object]) -> np.ndarray:
        raise NotImplementedError

    def embed_captions(self, captions: Sequence[str]) -> np.ndarray:
        return self.bags.embed_texts(captions)


@pytest.fixture
def store(tmp_path: Path) -> GalleryStore:
    return GalleryStore(tmp_path / "lancedb")


def index_of(store: GalleryStore, texts: dict[str, list[str]]) -> CaptionIndex:
    schema = {"image_id": pl.String(), "captions": pl.List(pl.String())}
    frame = pl.DataFrame({"image_id": list(texts), "captions": list(texts.values())}, schema=schema)
    captions = CaptionStore(store)
    return captions.open("captions", captions.write("captions", frame).version)


def test_each_distinct_caption_is_embedded_once_and_read_image_by_image(store: GalleryStore) -> None:
    space, vectors = Words(), CaptionVectorStore(store)
    report = vectors.synchronise("t", TEXTS.values(), space)
    assert (report.rows, report.embedded, report.removed) == (3, 3, 0)
    assert sorted(space.bags.seen) == ["A cat.", "A dog.", "Boats at sea."]
    found = vectors.read("t", report.version, index_of(store, TEXTS))
    assert found.images.tolist() == [0, 1, 1, 2], "a, b twice, c; d has none"
    assert np.array_equal(found.vectors, Bags().embed_texts(["Boats at sea.", "A dog.", "A cat.", "A dog."]))


def test_only_new_captions_are_embedded_and_gone_ones_removed(store: GalleryStore) -> None:
    vectors = CaptionVectorStore(store)
    first = vectors.synchronise("t", TEXTS.values(), Words())
    again, space = vectors.synchronise("t", TEXTS.values(), Words()), Words()
    assert (again.embedded, again.version) == (0, first.version)
    changed = {**TEXTS, "a": ["A ship."], "b": ["A dog."]}
    report = vectors.synchronise("t", changed.values(), space)
    assert (report.rows, report.embedded, report.removed) == (2, 1, 2)
    assert space.bags.seen == ["A ship."]
    assert len(vectors.read("t", report.version, index_of(store, changed)).images) == 3
    assert len(vectors.read("t", first.version, index_of(store, TEXTS)).images) == 4, "the old version stays"


def test_a_kill_costs_no_more_than_a_batch(store: GalleryStore) -> None:
    texts = [[f"caption {number}"] for number in range(40)]

    class Killed(Words):
        def embed_captions(self, captions: Sequence[str]) -> np.ndarray:
            if len(self.bags.seen) >= 16:
                raise KeyboardInterrupt
            return super().embed_captions(captions)

    vectors, killed, second = CaptionVectorStore(store), Killed(), Words()
    with pytest.raises(KeyboardInterrupt):
        vectors.synchronise("t", texts, killed)
    report = vectors.synchronise("t", texts, second)
    assert report.rows == 40
    assert len(killed.bags.seen) + len(second.bags.seen) == 40, "none is embedded twice"


def test_names_are_apart_by_gallery_and_model() -> None:
    name = CaptionVectorStore.table_name
    spaces = Words("words@1"), Words("words@2")
    assert len({name(gallery, space) for gallery in ("cirr-val", "cirr/val") for space in spaces}) == 4


def test_a_lacking_caption_and_a_space_without_texts_are_told(store: GalleryStore) -> None:
    class Pictures(Words):
        embed_captions = EmbeddingSpace.embed_captions

    vectors = CaptionVectorStore(store)
    vectors.synchronise("t", [["A dog."]], Words())
    with pytest.raises(GalleryError, match=r"lacks the vector of a caption of image 'a' \('Boats"):
        vectors.read("t", None, index_of(store, TEXTS))
    with pytest.raises(SpaceError, match="no text side"):
        vectors.synchronise("u", [["A dog."]], Pictures())
