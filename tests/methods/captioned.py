"""A gallery of five captioned images and one without, searched by counting words, and an encoder of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from setr_lib.methods.inputs import EncodedQueries, GalleryIndex, TextEncoder, plain_queries
from setr_lib.methods.method import get_method
from setr_lib.methods.ranking import rank
from setr_lib.spaces.caption_vectors import CaptionVectors
from setr_lib.texts.lexical import words_of
from tests.methods.worlds import queries_of

CAPTIONS = {
    "a": ["A white dog stands on grass.", "The dog is white."],
    "b": ["A black dog on a red sofa.", "A dog."],
    "c": ["A cat on grass.", "A white cat."],
    "d": ["A cat on grass.", "A white cat."],  # ties with c
    "f": ["Boats at sea."],
}
IDS = ["f", "e", "d", "c", "b", "a"]
"""``e`` has no caption."""


class Counted:
    """A search over ``CAPTIONS`` whose fit is how often a word occurs; keeps what it was asked for."""

    def __init__(self, captions: dict[str, list[str]] | None = None) -> None:
        self._captions = CAPTIONS if captions is None else captions
        self.ids = sorted(self._captions)
        self.asked: list[str] = []

    def captions(self, image_id: str) -> Sequence[str]:
        return self._captions.get(image_id, ())

    def term(self, word: str) -> str | None:
        return None if word.isdigit() else word

    def matches(self, term: str) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(term)
        counts = np.array([words_of(" ".join(self._captions[each])).count(term) for each in self.ids])
        rows = np.flatnonzero(counts)
        return rows, counts[rows].astype(np.float64)


class Bags:
    """A text's vector is the sum of its words' fixed random vectors, norm 1."""

    dimension = 16

    def __init__(self) -> None:
        self.seen: list[str] = []

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.seen += texts
        return np.array([self._of(text) for text in texts], dtype=np.float32).reshape(-1, self.dimension)

    def count_truncated(self, texts: Sequence[str]) -> int:
        return 0

    def _of(self, text: str) -> np.ndarray:
        summed = np.zeros(self.dimension)
        for word in words_of(text):
            seed = int(hashlib.sha256(word.encode()).hexdigest()[:8], 16)
            summed += np.random.default_rng(seed).normal(size=self.dimension)
        return summed / np.linalg.norm(summed)


def vectors_of(captions: dict[str, list[str]] | None = None) -> CaptionVectors:
    """The captions' vectors by :class:`Bags`."""
    chosen = CAPTIONS if captions is None else captions
    texts = [text for image in sorted(chosen) for text in chosen[image]]
    rows = [row for row, image in enumerate(sorted(chosen)) for _ in chosen[image]]
    return CaptionVectors(Bags().embed_texts(texts), np.array(rows, dtype=np.intp))


def queries(
    *texts: tuple[str, str],
    subsets: Sequence[Sequence[str]] | None = None,
    encoder: TextEncoder | None = None,
) -> EncodedQueries:
    """Queries of (reference, modification text)."""
    frame = queries_of([reference for reference, _ in texts], subsets=subsets)
    return plain_queries(frame.with_columns(modification=pl.Series([text for _, text in texts])), encoder)


def ranked(asked: EncodedQueries, name: str, k: int = 10, **options: Any) -> pl.DataFrame:
    """Rankings of the gallery by a method, without its references."""
    chosen: dict[str, Any] = {"remove_reference": True, **options}
    ids: list[str] = chosen.pop("ids", IDS)
    gallery = pl.DataFrame({"image_id": ids, "galleries": [["all"]] * len(ids)})
    captions = chosen.pop("captions", None) or Counted()
    nothing = np.zeros((len(ids), 0), np.float32)
    index = GalleryIndex(ids, nothing, captions, chosen.pop("caption_vectors", None))
    return rank(get_method(name), asked, gallery, index, k, **chosen)
