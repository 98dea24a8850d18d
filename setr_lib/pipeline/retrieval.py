"""Stage 1 of an evaluation set, wired from its tables: what retrieval methods read, and their rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.pipeline.storage import named
from setr_lib.progress import Progress, silent
from setr_lib.records import (
    CoarseRecord,
    EmbeddingsRecord,
    QueriesRecord,
    SourceRecord,
    TextRecord,
    Vectors,
)

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.methods.inputs import EncodedQueries, GalleryIndex
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext


def captioned_queries(
    context: PipelineContext, key: str
) -> tuple[EncodedQueries, GalleryIndex, SourceRecord]:
    """Everything that stage 1 reads of ``key`` to search its images' captions; no model is needed.

    The queries; every image of the gallery, readable or not, with vectors of no dimension, and its
    captions; and a record of what these were made by. Raises ``NotMadeYetError`` naming what is to be
    materialized first.
    """
    import numpy as np

    from setr_lib.methods.inputs import GalleryIndex, plain_queries
    from setr_lib.tables import GALLERY, QUERIES

    stored = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, key)
    ids = context.tables.read("gallery_images", GALLERY, key)["image_id"].to_list()
    if stored.captions_table is None:
        raise SetrError(f"the images of {key} have no captions: they cannot be ranked by captions")
    captions = context.caption_store.open(stored.captions_table, stored.captions_version)
    record = SourceRecord(
        captions_table=stored.captions_table,
        captions_version=stored.captions_version,
        images_without_captions=stored.images_without_captions,
        queries_digest=context.tables.read_record("queries", QueriesRecord, key).digest,
    )
    queries = plain_queries(context.tables.read("queries", QUERIES, key))
    return queries, GalleryIndex(ids, np.zeros((len(ids), 0), dtype=np.float32), captions), record


def built_in_texts(context: PipelineContext, key: str) -> dict[str, pl.DataFrame]:
    """The captions of the references and the compositions of the queries of ``key``, by kind of text.

    Raises ``NotMadeYetError`` where they are not made.
    """
    from setr_lib.methods.inputs import CAPTIONS as CAPTION_TEXTS
    from setr_lib.methods.inputs import COMPOSITIONS as COMPOSITION_TEXTS
    from setr_lib.tables import CAPTIONS, COMPOSITIONS

    return {
        CAPTION_TEXTS: context.tables.read("reference_captions", CAPTIONS, key),
        COMPOSITION_TEXTS: context.tables.read("query_compositions", COMPOSITIONS, key),
    }


def method_texts(context: PipelineContext, key: str) -> dict[str, pl.DataFrame]:
    """The texts that configured methods bring themselves for ``key``, by kind.

    Raises ``NotMadeYetError`` where they are not made.
    """
    kinds = {kind.name: kind for method in context.methods.of(key) for kind in method.texts}
    return {
        name: context.tables.read(context.tables.method_texts(key, name), kind.schema)
        for name, kind in kinds.items()
    }


def encoded_queries(context: PipelineContext, key: str) -> tuple[EncodedQueries, GalleryIndex, SourceRecord]:
    """Everything that stage 1 reads of an evaluation set.

    The queries, encoded; the gallery's ids and vectors; and a record of what these were made by. Raises
    ``NotMadeYetError`` naming what is to be materialized first.
    """
    from setr_lib.methods.inputs import GalleryIndex, encode_queries
    from setr_lib.tables import QUERIES

    stored = vectors_of(context, "gallery_embeddings", f"the gallery of {key}", key)
    ids, vectors = context.gallery_store.read(stored.table, stored.version)
    encoded = encode_queries(
        context.tables.read("queries", QUERIES, key),
        context.models.space(),
        ids,
        vectors,
        texts={**built_in_texts(context, key), **method_texts(context, key)},
    )
    composed = context.tables.read_record("query_compositions", TextRecord, key)
    record = SourceRecord(
        **stored._asdict(),
        queries_digest=context.tables.read_record("queries", QueriesRecord, key).digest,
        composition_prompt=composed.prompt_hash,
        composition_model=composed.model,
    )
    return encoded, GalleryIndex(ids, vectors), record


def vectors_of(context: PipelineContext, asset: str, what: str, key: str | None = None) -> Vectors:
    """Where ``asset`` (``gallery_embeddings`` of ``key``, ``training_embeddings``) has stored its
    vectors.

    Raises ``NotMadeYetError``, or ``SetrError`` where ``what`` has no vectors, or another encoder's than
    the configured one's.
    """
    stored = context.tables.read_record(asset, EmbeddingsRecord, key).vectors(key or what)
    if stored.encoder != context.models.space().id:
        raise SetrError(
            f"{what} was embedded by {stored.encoder}, settings now name {context.models.space().id}: "
            f"materialize {named(asset, key)} again"
        )
    return stored


@dataclass(frozen=True)
class Ranked:
    """An evaluation set ranked by one retrieval method: a RANKINGS table, and what made it."""

    method: Method
    rankings: pl.DataFrame
    record: CoarseRecord


def rank_set(context: PipelineContext, key: str, progress: Progress = silent) -> RankedSet:
    """Rank an evaluation set by every configured method that it has vectors or captions for.

    Where a gallery has captions, methods that search them rank every image, those without a caption last.

    Args:
        context: Tables and models.
        key: The evaluation set.
        progress: Told how many queries are ranked.

    Returns:
        The rankings of each method, over vectors first.

    Raises:
        NotMadeYetError: Something is missing; the message names the asset to materialise.
        MethodError: A method cannot rank this set.
    """
    from setr_lib.methods.method import ranks_captions

    methods = context.methods.of(key)
    found = RankedSet()
    if by_vectors := [method for method in methods if not ranks_captions(method)]:
        encoded, index, source = encoded_queries(context, key)
        found.rankings += _rank_by(context, key, by_vectors, (encoded, index, source), progress)
        found.facts |= {
            "queries without a reference vector": len(encoded.missing_references),
            "texts cut at the encoder's context": encoded.encode.truncated,
            **{name: str(value) for name, value in source.stated().items()},
        }
    if by_captions := [method for method in methods if ranks_captions(method)]:
        queries, index, source = captioned_queries(context, key)
        found.rankings += _rank_by(context, key, by_captions, (queries, index, source), progress)
        found.facts |= {name: str(value) for name, value in source.stated().items()}
    return found


@dataclass
class RankedSet:
    """What :func:`rank_set` made: rankings, and what a person may want to know of how."""

    rankings: list[Ranked] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def _rank_by(
    context: PipelineContext,
    key: str,
    methods: Sequence[Method],
    material: tuple[EncodedQueries, GalleryIndex, SourceRecord],
    progress: Progress,
) -> list[Ranked]:
    from setr_lib.datasets import evaluation_set
    from setr_lib.methods.ranking import rank
    from setr_lib.tables import GALLERY

    benchmark, top_k = evaluation_set(context.settings, key).benchmark, context.settings.coarse.top_k
    gallery = context.tables.read("gallery_images", GALLERY, key)
    queries, index, source = material
    found: list[Ranked] = []
    for method in methods:
        options = context.methods.options(method)
        rankings = rank(
            method,
            queries,
            gallery,
            index,
            top_k,
            remove_reference=benchmark.removes_reference,
            options=options,
            progress=progress,
        )
        made_by = {
            "strategy": method.name,
            "top_k": top_k,
            "dataset_kind": benchmark.kind,
            **options,
        }
        found.append(Ranked(method, rankings, CoarseRecord(**{**source.stated(), **made_by})))
    return found
