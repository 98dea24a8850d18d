"""What a retrieval method may read: the queries (their vectors and generated texts) and the gallery that they
search (``searched_gallery.py``; its names are importable from here, too).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from setr_lib.methods.needs import (
    CAPTION_VECTORS,
    CAPTIONS,
    COMPOSITIONS,
    IMAGE_CAPTIONS,
    QUERY_VECTORS,
    REFERENCE_PATCHES,
    REFERENCE_PIXELS,
    MethodError,
    made_by,
)
from setr_lib.methods.ranked_rows import rows_of
from setr_lib.methods.searched_gallery import (
    CaptionSearch,
    GalleryIndex,
    SearchedGallery,
    UnheldGallery,
    VectorsNotHeldError,
    VectorSource,
)
from setr_lib.methods.similarity import mean_vector
from setr_lib.models.refusals import CONTROL_TEXT, run_without_refused

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from setr_lib.methods.references import ReferencePictures

_LOG = logging.getLogger(__name__)

__all__ = [
    "CAPTIONS",
    "CAPTION_VECTORS",
    "COMPOSITIONS",
    "IMAGE_CAPTIONS",
    "MODIFICATION",
    "QUERY_VECTORS",
    "REFERENCE_PATCHES",
    "REFERENCE_PIXELS",
    "TARGET",
    "UNION",
    "CaptionSearch",
    "EncodedQueries",
    "GalleryIndex",
    "MethodError",
    "MethodInputs",
    "SearchedGallery",
    "TextEncoder",
    "TextVectors",
    "TextsOf",
    "UnheldGallery",
    "VectorSource",
    "VectorsNotHeldError",
    "encode_queries",
    "made_by",
    "plain_queries",
    "union_text",
]

MODIFICATION, UNION, TARGET = "modification", "union", "target_caption"
"""The texts of a query that are encoded for all methods together."""

_ENOUGH_TEXTS = 16
"""Fewer texts than this have no mean worth subtracting: with one, nothing of the query would be left."""


class TextEncoder(Protocol):
    """The text side of an embedding space, as stage 1 uses it.

    A space whose ``embeds_texts`` is False is asked for no text up front.
    """

    @property
    def dimension(self) -> int: ...

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: The texts.

        Returns:
            ``float32[texts, d]``, norm 1.
        """
        ...

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Count the texts that are longer than the model reads.

        Args:
            texts: The texts.

        Returns:
            How many lose their end.
        """
        ...


class TextVectors:
    """The vectors of texts, each distinct text encoded once, however many methods ask for it.

    Args:
        encoder: The text side of an embedding space.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self.truncated = 0
        """Distinct texts that were longer than the encoder's context and lost their end."""
        self.cut: list[str] = []
        """These texts."""
        self.refused: dict[str, str] = {}
        """Texts that the encoder's tokenizer refuses, and why; their vectors are zero rows."""
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts that were not embedded before, and look up the others.

        Args:
            texts: The texts.

        Returns:
            ``float32[texts, d]``, norm 1; a zero row for a text that the tokenizer refuses, which is named in
            :attr:`refused` and logged.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            ran = run_without_refused(new, self.encoder.embed_texts, lambda: CONTROL_TEXT)
            taken = [new[place] for place in ran.results]
            count = self.encoder.count_truncated(taken)
            self.truncated += count
            self.cut += _cut(self.encoder, taken, count)
            self._known.update((new[place], row) for place, row in ran.results.items())
            self._refuse({new[place]: reason for place, reason in ran.refused.items()})
        if not texts:
            return np.zeros((0, self.encoder.dimension), dtype=np.float32)
        return np.stack([self._known[text] for text in texts])

    def _refuse(self, refused: Mapping[str, str]) -> None:
        if not refused:
            return
        self.refused |= refused
        self._known |= dict.fromkeys(refused, np.zeros(self.encoder.dimension, dtype=np.float32))
        text, reason = next(iter(refused.items()))
        _LOG.warning(
            "%d texts are refused by the encoder, and count as no text; the first is %r: %s",
            len(refused),
            text[:80],
            reason,
        )


def _cut(encoder: TextEncoder, texts: Sequence[str], count: int) -> list[str]:
    """Which texts lose their end, of some of which ``count`` do: halves are counted until all are known."""
    if not count or len(texts) <= 1 or count >= len(texts):
        return list(texts) if count else []
    half = len(texts) // 2
    first = encoder.count_truncated(texts[:half])
    return [*_cut(encoder, texts[:half], first), *_cut(encoder, texts[half:], count - first)]


TextsOf = Callable[["EncodedQueries"], Sequence[str]]
"""Gives one text for each query."""
PhrasesOf = Callable[["EncodedQueries"], Sequence[Sequence[str]]]
"""Gives any number of phrases for each query."""


@dataclass(frozen=True)
class EncodedQueries:
    """The queries of an evaluation set, or a block of them, as methods read them. Made by
    :func:`encode_queries`.

    Row i of every part is query i. Vectors are ``float32[q, d]``, norm 1. A reference image without a vector
    (missing or broken) has a zero row and is named in ``missing_references``: methods then go by the text
    alone.
    """

    frame: pl.DataFrame
    """The QUERIES table."""
    reference_vectors: NDArray[np.float32]
    text_center: NDArray[np.float32]
    """``float32[d]``: what all texts have in common; zeros when there were too few to tell."""
    encode: TextVectors
    texts: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """Generated texts by kind (``captions``, ``compositions``, ...): a row for each query, nulls where one
    has none."""
    missing_references: tuple[str, ...] = ()
    """Query ids."""
    references: ReferencePictures | None = None
    """Opens and embeds the reference pictures, where they are at hand."""
    dataset_kind: str = ""
    """The kind of data set that the queries are of, e.g. ``cirr``; empty for queries of none, such as
    synthesised ones. A method whose published constants vary by benchmark chooses them by it."""
    _vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    _whole: EncodedQueries | None = field(default=None, repr=False)
    _numbers: NDArray[np.intp] | None = field(default=None, repr=False)

    def text(self, kind: str) -> pl.DataFrame:
        """The generated texts of one kind, a row for each query.

        Args:
            kind: ``captions``, ``compositions``, or a kind that a method has added.

        Returns:
            The table of that kind in the order of the queries; a query without a text has nulls.

        Raises:
            MethodError: There are none; the message names the asset that makes them.
        """
        if kind not in self.texts:
            raise MethodError(f"this method needs {kind}, which are not there: materialise {made_by(kind)!r}")
        return self.texts[kind]

    def vectors_of(self, name: str, texts_of: TextsOf) -> NDArray[np.float32]:
        """The vectors of a text that each query has, encoded once for the whole evaluation set and kept by
        name.

        Args:
            name: What the text is called, e.g. ``"target_caption"``.
            texts_of: Gives one text for each query of what it is called with: the whole evaluation set.

        Returns:
            ``float32[q, d]``, norm 1.
        """
        return self.kept(name, lambda whole: self.encode(texts_of(whole)))

    def mean_vectors_of(self, name: str, phrases_of: PhrasesOf) -> NDArray[np.float32]:
        """The mean of the vectors of several phrases that each query has, encoded once for the whole
        evaluation set and kept by name.

        The inner product of an image's vector with it is the mean of the phrases' cosines.

        Args:
            name: What the phrases are called, another name than that of any text.
            phrases_of: Gives the phrases of each query of what it is called with: the whole evaluation set.

        Returns:
            ``float32[q, d]``, norm 1 at most; a zero row where a query has no phrase.
        """

        def means(whole: EncodedQueries) -> NDArray[np.float32]:
            phrases = phrases_of(whole)
            self.encode([phrase for each in phrases for phrase in each])
            found = np.zeros((len(phrases), self.encode.encoder.dimension), dtype=np.float32)
            for row, each in zip(found, phrases, strict=True):
                row[:] = mean_vector(self.encode(each))
            return found

        return self.kept(name, means)

    def kept(self, name: str, make: Callable[[EncodedQueries], NDArray[np.float32]]) -> NDArray[np.float32]:
        """These queries' rows of vectors that are made once for the whole evaluation set, and kept by name.

        Args:
            name: What the vectors are called; methods that share them use the same name.
            make: Makes one vector of each query of what it is called with: the whole evaluation set. It must
                not depend on the gallery or on options.

        Returns:
            ``float32[q, d]``.
        """
        whole = self._whole or self
        if name not in whole._vectors:
            whole._vectors[name] = make(whole)
        vectors = whole._vectors[name]
        return vectors if self._numbers is None else vectors[self._numbers]

    def with_vectors(self, name: str, vectors: NDArray[np.float32]) -> EncodedQueries:
        """The same queries with other vectors of one text.

        Args:
            name: What the text is called, as in :meth:`vectors_of`.
            vectors: ``float32[q, d]``, norm 1.

        Returns:
            A copy.
        """
        known = (self._whole or self)._vectors
        own = known if self._numbers is None else {key: value[self._numbers] for key, value in known.items()}
        return replace(self, _vectors={**own, name: vectors}, _whole=None, _numbers=None)

    @property
    def space_id(self) -> str:
        """Who the embedding space is, e.g. ``ViT-L-14@0123456789abcdef`` for a model of open_clip; empty for
        an encoder that does not say."""
        return str(getattr(self.encode.encoder, "id", ""))

    @property
    def modification_vectors(self) -> NDArray[np.float32]:
        """The modification texts' vectors, ``float32[q, d]``."""
        return self.vectors_of(MODIFICATION, lambda whole: whole.frame["modification"].to_list())

    @property
    def query_vectors(self) -> NDArray[np.float32]:
        """The space's own vector of each reference picture with its modification text, ``float32[q, d]``,
        norm 1; made once for the whole evaluation set. Where the picture cannot be read, that of the text
        alone, or a zero row where the space has none.
        """
        return self.kept(
            QUERY_VECTORS,
            lambda whole: whole._pictures.query_vectors(
                whole.frame["reference_id"].to_list(), whole.frame["modification"].to_list()
            ),
        )

    @cached_property
    def reference_pixels(self) -> list[Image.Image | None]:
        """The reference pictures, opened (RGB); None for one that cannot be read."""
        return self._pictures.pixels(self.frame["reference_id"].to_list())

    @cached_property
    def reference_patches(self) -> NDArray[np.float32]:
        """The patch tokens of the reference pictures, ``float32[q, patches, width]``; zeros for a picture
        that cannot be read.
        """
        return self._pictures.patches(self.frame["reference_id"].to_list())

    @property
    def unreadable_references(self) -> tuple[str, ...]:
        """Query ids whose reference picture was asked for and could not be read."""
        failed = {} if self.references is None else self.references.failed
        return tuple(self.frame.filter(pl.col("reference_id").is_in(list(failed)))["query_id"])

    @property
    def _pictures(self) -> ReferencePictures:
        if self.references is None:
            raise MethodError(
                "these queries were made without their reference pictures: give encode_queries its references"
            )
        return self.references

    @property
    def reference_captions(self) -> list[str]:
        """The caption of each query's reference; empty where describing failed."""
        frame = self.text(CAPTIONS)
        good = pl.when(pl.col("status") == "ok").then(pl.col("caption")).fill_null("")
        return frame.select(good.alias("caption"))["caption"].to_list()

    @property
    def union_texts(self) -> list[str]:
        """The reference's caption and the modification text in one sentence, for each query."""
        pairs = zip(self.reference_captions, self.frame["modification"], strict=True)
        return [union_text(caption, text) for caption, text in pairs]

    @property
    def union_vectors(self) -> NDArray[np.float32]:
        """The vectors of :attr:`union_texts`, ``float32[q, d]``."""
        return self.vectors_of(UNION, lambda whole: whole.union_texts)

    @property
    def target_captions(self) -> list[str]:
        """The ``target_caption`` of each query's composition; the modification text where that is empty."""
        target = pl.col("target_caption").fill_null("")
        chosen = pl.when(target.str.strip_chars() == "").then(self.frame["modification"]).otherwise(target)
        return self.text(COMPOSITIONS).select(chosen.alias("text"))["text"].to_list()

    @property
    def target_vectors(self) -> NDArray[np.float32]:
        """The vectors of :attr:`target_captions`, ``float32[q, d]``."""
        return self.vectors_of(TARGET, lambda whole: whole.target_captions)

    def rows(self, rows: NDArray[np.intp]) -> EncodedQueries:
        """A selection of the queries; encoded texts stay shared.

        Args:
            rows: Row numbers, in the order wanted.

        Returns:
            The selection.
        """
        frame = self.frame[rows]
        chosen = set(frame["query_id"])
        return EncodedQueries(
            frame=frame,
            reference_vectors=self.reference_vectors[rows],
            text_center=self.text_center,
            encode=self.encode,
            texts={kind: table[rows] for kind, table in self.texts.items()},
            missing_references=tuple(q for q in self.missing_references if q in chosen),
            references=self.references,
            dataset_kind=self.dataset_kind,
            _whole=self._whole or self,
            _numbers=rows if self._numbers is None else self._numbers[rows],
        )


@dataclass(frozen=True)
class MethodInputs:
    """What a method's ``scores`` gets: a block of queries, and the gallery (or category) that they search."""

    queries: EncodedQueries
    gallery: SearchedGallery
    options: Mapping[str, Any] = field(default_factory=dict)
    """The settings of this method."""
    statistics: Any = None
    """What the method's ``statistics`` made of the gallery."""


def plain_queries(queries: pl.DataFrame, encoder: TextEncoder | None = None) -> EncodedQueries:
    """Queries without vectors, for methods that search captions.

    Args:
        queries: A QUERIES table.
        encoder: The embedding space of the captions' vectors, for methods that need these.

    Returns:
        The queries; without an encoder, encoding a text raises ``MethodError``.
    """
    return EncodedQueries(
        frame=queries,
        reference_vectors=np.zeros((len(queries), 0), dtype=np.float32),
        text_center=np.zeros(0, dtype=np.float32),
        encode=TextVectors(encoder or _NoEncoder()),
    )


class _NoEncoder:
    """The encoder of queries that were made without one: it refuses every text."""

    dimension = 0

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise MethodError("these queries were made without an encoder: use encode_queries")

    def count_truncated(self, texts: Sequence[str]) -> int:
        return 0


def encode_queries(
    queries: pl.DataFrame,
    encoder: TextEncoder,
    ids: Sequence[str] | pl.Series,
    vectors: NDArray[np.float32] | VectorSource,
    *,
    texts: Mapping[str, pl.DataFrame] | None = None,
    center_texts: Sequence[str] | None = None,
    reference_vectors: NDArray[np.float32] | None = None,
    encode: TextVectors | None = None,
    references: ReferencePictures | None = None,
    dataset_kind: str = "",
) -> EncodedQueries:
    """The queries of an evaluation set with everything that methods read of them.

    Args:
        queries: A QUERIES table.
        encoder: The embedding space that the gallery lies in. One without a text side
            (``embeds_texts`` is False) is asked for no text.
        ids: The gallery's images, as ``GalleryStore.read`` gives them.
        vectors: Their vectors, ``float32[n, d]``, norm 1, or what reads them from a store; references are
            looked up here.
        texts: Generated texts by kind: tables with a ``query_id``, or with an ``image_id`` for texts of
            references. A reference without a good caption leaves the modification text alone; compositions
            have a row for every query, and an empty ``target_caption`` falls back to the modification text.
        center_texts: The texts whose mean ``product`` subtracts from a text. By default the distinct
            modification texts of ``queries`` (so a query's score depends, a little, on its fellow queries;
            pass a fixed list to avoid that, or to rank a single query like those of its set); with fewer than
            16, nothing is subtracted.
        reference_vectors: The references' vectors, ``float32[q, d]``, norm 1, where they are not in the
            gallery.
        encode: Encoded texts to share with other evaluation sets.
        references: Opens and embeds the reference pictures, for methods that need more of them than their
            vectors.
        dataset_kind: The kind of data set that the queries are of; empty for queries of none.

    Returns:
        The encoded queries.

    Raises:
        MethodError: Queries have no composition, though compositions are given; the message names them.
    """
    encoded = encode or TextVectors(encoder)
    modifications = queries["modification"].to_list()
    of_references, known = _references(queries, ids, vectors, encoder.dimension)
    if reference_vectors is not None:
        of_references, known = reference_vectors, np.ones(len(queries), dtype=bool)
    has_text_side = getattr(encoder, "embeds_texts", True)
    known_vectors = {MODIFICATION: encoded(modifications)} if has_text_side else {}
    centers = sorted(set(modifications if center_texts is None else center_texts)) if has_text_side else []
    found = EncodedQueries(
        frame=queries,
        reference_vectors=of_references,
        text_center=mean_vector(encoded(centers if len(centers) >= _ENOUGH_TEXTS else [])),
        encode=encoded,
        texts={kind: _aligned(queries, kind, table) for kind, table in (texts or {}).items()},
        missing_references=tuple(queries.filter(pl.Series(~known))["query_id"]),
        references=references,
        dataset_kind=dataset_kind,
        _vectors=known_vectors,
    )
    if not has_text_side:
        return found
    # In one order whatever methods ask for: a text's last digits depend on what it is encoded with.
    for kind, vectors_of in ((CAPTIONS, "union_vectors"), (COMPOSITIONS, "target_vectors")):
        if kind in found.texts:
            getattr(found, vectors_of)
    return found


def union_text(caption: str, modification: str) -> str:
    """A reference's whole caption and a modification text in one sentence.

    Args:
        caption: The caption; may be empty.
        modification: The modification text.

    Returns:
        ``caption, modification``, or the modification text alone.
    """
    described = caption.strip().rstrip(".")
    return f"{described}, {modification}" if described else modification


def _references(
    queries: pl.DataFrame,
    ids: Sequence[str] | pl.Series,
    vectors: NDArray[np.float32] | VectorSource,
    dimension: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Each query's reference vector, zero where there is none, and which there are."""
    index = GalleryIndex(ids, vectors)
    rows = rows_of(queries["reference_id"], index.names)
    references = np.zeros((len(queries), dimension), dtype=np.float32)
    if (rows >= 0).any():
        references[rows >= 0] = index.take(rows[rows >= 0])
    return references, rows >= 0


def _aligned(queries: pl.DataFrame, kind: str, table: pl.DataFrame) -> pl.DataFrame:
    """``table`` with a row for each query, in their order."""
    if "query_id" not in table.columns:
        by_image = table.rename({"image_id": "reference_id"}).unique("reference_id", keep="last")
        wanted = queries.select("query_id", "reference_id")
        return wanted.join(by_image, on="reference_id", how="left", maintain_order="left")
    lacking = queries.join(table, on="query_id", how="anti")["query_id"]
    if len(lacking):
        raise MethodError(
            f"{len(lacking)} of {len(queries)} queries have no {kind.removesuffix('s')}, e.g. "
            f"{', '.join(lacking[:5])}; materialise {made_by(kind)} for this evaluation set again"
        )
    latest = table.unique("query_id", keep="last")
    return queries.select("query_id").join(latest, on="query_id", how="left", maintain_order="left")
