"""What a strategy may read: the queries' vectors and texts, encoded once for all strategies, and the gallery's vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl

from setr_lib.coarse.similarity import mean_vector, unit
from setr_lib.errors import SetrError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ENOUGH_TEXTS = 16
"""Fewer texts than this have no mean worth subtracting: with one, nothing of the query would be left."""


class CoarseError(SetrError):
    """Stage 1 misses something it needs: a caption table, a composition, a gallery, a strategy."""


class TextEncoder(Protocol):
    """What stage 1 needs of an encoder; :class:`setr_lib.models.encoder.ImageTextEncoder` has it."""

    @property
    def dimension(self) -> int: ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def count_truncated(self, texts: Sequence[str]) -> int: ...


class CaptionSearch(Protocol):
    """What stage 1 needs of a gallery's captions; :class:`setr_lib.gallery.captions.CaptionIndex` has it."""

    @property
    def ids(self) -> Sequence[str]:
        """The images that have captions, sorted."""
        ...

    def captions(self, image_id: str) -> Sequence[str]:
        """An image's captions; none for an image without."""
        ...

    def term(self, word: str) -> str | None:
        """What ``word`` is searched as (its stem); None for what no caption can be searched for."""
        ...

    def matches(self, term: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The rows of ``ids`` whose captions have ``term``, and how well each fits (BM25)."""
        ...


class TextVectors:
    """Text -> vector, each distinct text encoded once, however many strategies ask for it."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self.truncated = 0
        """Distinct texts that were longer than the encoder's context and lost their end."""
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors ``float32[n, d]`` of ``texts``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self.truncated += self.encoder.count_truncated(new)
            self._known.update(zip(new, self.encoder.encode_texts(new), strict=True))
        if not texts:
            return np.zeros((0, self.encoder.dimension), dtype=np.float32)
        return np.stack([self._known[text] for text in texts])


@dataclass(frozen=True)
class EncodedQueries:
    """The queries of an evaluation set, encoded; row i of every part is query i. Made by :func:`encode_queries`.

    ``vectors`` are ``float32[q, d]``, norm 1. A reference image without a vector (missing or broken) has a zero row
    and is named in ``missing_references``: strategies then go by the text alone.
    """

    frame: pl.DataFrame
    """The QUERIES table."""
    reference_vectors: NDArray[np.float32]
    modification_vectors: NDArray[np.float32]
    text_center: NDArray[np.float32]
    """``float32[d]``: what all texts have in common; zeros when there were too few to tell."""
    encode: TextVectors
    reference_captions: list[str] | None = None
    """One per query, empty where describing failed; None when no captions were given."""
    union_texts: list[str] | None = None
    """``caption, modification``; None when no captions were given."""
    union_vectors: NDArray[np.float32] | None = None
    compositions: pl.DataFrame | None = None
    """The COMPOSITIONS rows in the order of the queries; None when none were given."""
    target_vectors: NDArray[np.float32] | None = None
    """Of the compositions' ``target_caption``."""
    missing_references: tuple[str, ...] = ()
    """Query ids."""

    @property
    def provides(self) -> frozenset[str]:
        """Which of ``captions`` and ``compositions`` are there."""
        have = {"captions": self.union_vectors is not None, "compositions": self.target_vectors is not None}
        return frozenset(name for name, there in have.items() if there)

    def rows(self, rows: NDArray[np.intp]) -> EncodedQueries:
        """The same for a selection of queries; text encodings stay shared."""

        def pick(vectors: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
            return None if vectors is None else vectors[rows]

        def pick_texts(texts: list[str] | None) -> list[str] | None:
            return None if texts is None else [texts[row] for row in rows]

        frame = self.frame[rows]
        chosen = set(frame["query_id"])
        return EncodedQueries(
            frame=frame,
            reference_vectors=self.reference_vectors[rows],
            modification_vectors=self.modification_vectors[rows],
            text_center=self.text_center,
            encode=self.encode,
            reference_captions=pick_texts(self.reference_captions),
            union_texts=pick_texts(self.union_texts),
            union_vectors=pick(self.union_vectors),
            compositions=None if self.compositions is None else self.compositions[rows],
            target_vectors=pick(self.target_vectors),
            missing_references=tuple(q for q in self.missing_references if q in chosen),
        )


class SearchedGallery:
    """The pictures that a group of queries searches (all, or one category); what is derived is computed once."""

    def __init__(self, vectors: NDArray[np.float32], ids: Sequence[str] = ()) -> None:
        self.vectors = vectors
        """``float32[g, d]``, norm 1; ``[g, 0]`` where captions are searched and not vectors."""
        self.ids = ids
        """The pictures, in the order of the rows."""

    @cached_property
    def center(self) -> NDArray[np.float32]:
        """The mean vector, ``float32[d]``."""
        return mean_vector(self.vectors)

    @cached_property
    def centered(self) -> NDArray[np.float32]:
        """The vectors less their mean, norm 1 again: ``float32[g, d]``."""
        return unit(self.vectors - self.center)


@dataclass(frozen=True)
class CoarseInputs:
    """What a strategy's ``scores`` gets: a block of queries, and the gallery (or category) they search."""

    queries: EncodedQueries
    gallery: SearchedGallery
    anchor_share: float = 0.1
    captions: CaptionSearch | None = None
    """The gallery's captions, for strategies that need ``image_captions``."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """For strategies of one's own: whatever the caller of ``rank`` passes on."""


def plain_queries(queries: pl.DataFrame) -> EncodedQueries:
    """``queries`` (a QUERIES table) without any encoding, for strategies that search captions and need no model."""
    nothing = np.zeros((len(queries), 0), dtype=np.float32)
    return EncodedQueries(
        frame=queries,
        reference_vectors=nothing,
        modification_vectors=nothing,
        text_center=np.zeros(0, dtype=np.float32),
        encode=TextVectors(_NoEncoder()),
    )


class _NoEncoder:
    """Stands where no text is encoded."""

    dimension = 0

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise CoarseError("these queries were made without an encoder: use encode_queries")

    def count_truncated(self, texts: Sequence[str]) -> int:
        return 0


def encode_queries(
    queries: pl.DataFrame,
    encoder: TextEncoder,
    ids: Sequence[str],
    vectors: NDArray[np.float32],
    *,
    captions: pl.DataFrame | None = None,
    compositions: pl.DataFrame | None = None,
    center_texts: Sequence[str] | None = None,
    reference_vectors: NDArray[np.float32] | None = None,
    encode: TextVectors | None = None,
) -> EncodedQueries:
    """Everything about ``queries`` (a QUERIES table) that strategies need, encoded once.

    References are looked up in ``ids``/``vectors`` (from ``GalleryStore.read``), unless ``reference_vectors``
    (``float32[q, d]``, norm 1) brings them from elsewhere. ``captions`` (CAPTIONS) serves strategies that need ``captions``: a reference without a good caption
    leaves the modification text alone. ``compositions`` (COMPOSITIONS) serves those that need ``compositions`` and
    has a row for every query; an empty ``target_caption`` falls back to the modification text.

    ``center_texts`` are the texts whose mean ``product`` subtracts from a text. By default these are the distinct
    modification texts of ``queries`` (so a query's score depends, a little, on its fellow queries; pass a fixed list
    to avoid that, or to rank a single query like those of its set); with fewer than 16, nothing is subtracted.

    Raises ``CoarseError`` naming queries without a composition.
    """
    texts = encode or TextVectors(encoder)
    modifications = queries["modification"].to_list()
    references, known = _references(queries, ids, vectors, encoder.dimension)
    if reference_vectors is not None:
        references, known = reference_vectors, np.ones(len(queries), dtype=bool)
    reference_captions = None if captions is None else _captions_of(queries, captions)
    union_texts = None
    if reference_captions is not None:
        union_texts = [union_text(c, m) for c, m in zip(reference_captions, modifications, strict=True)]
    aligned = None if compositions is None else _compositions_of(queries, compositions)
    centers = sorted(set(modifications if center_texts is None else center_texts))
    return EncodedQueries(
        frame=queries,
        reference_vectors=references,
        modification_vectors=texts(modifications),
        text_center=mean_vector(texts(centers if len(centers) >= _ENOUGH_TEXTS else [])),
        encode=texts,
        reference_captions=reference_captions,
        union_texts=union_texts,
        union_vectors=None if union_texts is None else texts(union_texts),
        compositions=aligned,
        target_vectors=None if aligned is None else texts(aligned["target_caption"].to_list()),
        missing_references=tuple(queries.filter(pl.Series(~known))["query_id"]),
    )


def _references(
    queries: pl.DataFrame, ids: Sequence[str], vectors: NDArray[np.float32], dimension: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Each query's reference vector, zero where there is none, and which there are."""
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    rows = np.array([row_of.get(reference, -1) for reference in queries["reference_id"]], dtype=np.intp)
    references = np.zeros((len(queries), dimension), dtype=np.float32)
    references[rows >= 0] = vectors[rows[rows >= 0]]
    return references, rows >= 0


def union_text(caption: str, modification: str) -> str:
    """The full caption and the text, as CIReVL-like union baselines join them."""
    described = caption.strip().rstrip(".")
    return f"{described}, {modification}" if described else modification


def _captions_of(queries: pl.DataFrame, captions: pl.DataFrame) -> list[str]:
    good = captions.filter((pl.col("status") == "ok") & pl.col("caption").is_not_null())
    by_image = dict(good.select("image_id", "caption").iter_rows())
    return [by_image.get(reference, "") for reference in queries["reference_id"]]


def _compositions_of(queries: pl.DataFrame, compositions: pl.DataFrame) -> pl.DataFrame:
    wanted = queries.select("query_id", "modification")
    lacking = wanted.join(compositions, on="query_id", how="anti")["query_id"]
    if len(lacking):
        raise CoarseError(
            f"{len(lacking)} of {len(queries)} queries have no composition, e.g. {', '.join(lacking[:5])}; "
            "materialise query_compositions for this evaluation set again"
        )
    target = pl.col("target_caption").fill_null("")
    return (
        wanted.join(
            compositions.unique("query_id", keep="last"), on="query_id", how="left", maintain_order="left"
        )
        .with_columns(
            pl.when(target.str.strip_chars() == "")
            .then(pl.col("modification"))
            .otherwise(target)
            .alias("target_caption")
        )
        .drop("modification")
    )
