"""Stage 1 of an evaluation set, wired from its tables: what retrieval methods read, and their rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.pipeline.method_weights import CHAMPIONS, NoWeightsError, OpenMethod, Versions
from setr_lib.pipeline.storage import NotMadeYetError, named
from setr_lib.progress import Progress, silent
from setr_lib.records import (
    CoarseRecord,
    EmbeddingsRecord,
    QueriesRecord,
    SourceRecord,
    TextRecord,
    Vectors,
)
from setr_lib.settings import DEFAULT_SPACE

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.methods.inputs import EncodedQueries, GalleryIndex
    from setr_lib.methods.method import Method
    from setr_lib.methods.references import ReferencePictures
    from setr_lib.pipeline.context import PipelineContext


def captioned_queries(
    context: PipelineContext, key: str, space: str | None = None
) -> tuple[EncodedQueries, GalleryIndex, SourceRecord]:
    """Everything that stage 1 reads of an evaluation set to search its images' captions; no model is needed
    unless it is their vectors that are searched.

    Args:
        context: Settings, tables and models.
        key: The evaluation set.
        space: The embedding space whose vectors of the captions are searched, if any.

    Returns:
        The queries; every image of the gallery, readable or not, with vectors ``float32[n, 0]`` and its
        captions; and a record of what these were made by.

    Raises:
        NotMadeYetError: A table is missing; the message names the asset to materialise.
        SetrError: The images have no captions, or these were not embedded in the space.
    """
    import numpy as np

    from setr_lib.methods.inputs import GalleryIndex, plain_queries
    from setr_lib.pipeline.caption_embedding import stored_vectors
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
    queries, nothing = context.tables.read("queries", QUERIES, key), np.zeros((len(ids), 0), dtype=np.float32)
    if space is None:
        return plain_queries(queries), GalleryIndex(ids, nothing, captions), record
    vectors, stated = stored_vectors(context, key, space, captions)
    index = GalleryIndex(ids, nothing, captions, vectors)
    return (
        plain_queries(queries, context.models.space(space)),
        index,
        SourceRecord(**{**record.stated(), **stated}),
    )


def built_in_texts(context: PipelineContext, key: str) -> dict[str, pl.DataFrame]:
    """The captions of the references and the compositions of the queries of an evaluation set.

    Args:
        context: Settings and tables.
        key: The evaluation set.

    Returns:
        Table by kind of text; none of a kind that no method needed when its table was made.

    Raises:
        NotMadeYetError: They are not made yet.
    """
    from setr_lib.methods.inputs import CAPTIONS as CAPTION_TEXTS
    from setr_lib.methods.inputs import COMPOSITIONS as COMPOSITION_TEXTS
    from setr_lib.tables import CAPTIONS, COMPOSITIONS

    texts = {
        CAPTION_TEXTS: context.tables.read("reference_captions", CAPTIONS, key),
        COMPOSITION_TEXTS: context.tables.read("query_compositions", COMPOSITIONS, key),
    }
    return {kind: table for kind, table in texts.items() if not table.is_empty()}


def method_texts(context: PipelineContext, key: str) -> dict[str, pl.DataFrame]:
    """The texts that configured methods bring themselves for an evaluation set.

    Args:
        context: Settings and tables.
        key: The evaluation set.

    Returns:
        Table by kind of text.

    Raises:
        NotMadeYetError: They are not made yet.
    """
    kinds = {kind.name: kind for method in context.methods.of(key) for kind in method.texts}
    return {
        name: context.tables.read(context.tables.method_texts(key, name), kind.schema)
        for name, kind in kinds.items()
    }


def encoded_queries(
    context: PipelineContext, key: str, space: str = DEFAULT_SPACE
) -> tuple[EncodedQueries, GalleryIndex, SourceRecord]:
    """Everything that stage 1 reads of an evaluation set to search one embedding space.

    Args:
        context: Settings, tables and models.
        key: The evaluation set.
        space: The embedding space.

    Returns:
        The queries, encoded; the gallery's ids and vectors; and a record of what these were made by.

    Raises:
        NotMadeYetError: A table is missing; the message names the asset to materialise.
    """
    from setr_lib.methods.inputs import GalleryIndex, encode_queries
    from setr_lib.tables import GALLERY, QUERIES

    stored = vectors_of(context, "gallery_embeddings", f"the gallery of {key}", key, space)
    ids, vectors = context.gallery_store.read(stored.table, stored.version)
    encoded = encode_queries(
        context.tables.read("queries", QUERIES, key),
        context.models.space(space),
        ids,
        vectors,
        texts={**built_in_texts(context, key), **method_texts(context, key)},
        references=reference_pictures(context, context.tables.read("gallery_images", GALLERY, key), space),
    )
    composed = context.tables.read_record("query_compositions", TextRecord, key)
    stated = stored._asdict() if space == DEFAULT_SPACE else {**stored._asdict(), "space": space}
    record = SourceRecord(
        **stated,
        queries_digest=context.tables.read_record("queries", QueriesRecord, key).digest,
        composition_prompt=composed.prompt_hash,
        composition_model=composed.model,
    )
    return encoded, GalleryIndex(ids, vectors), record


def reference_pictures(
    context: PipelineContext, images: pl.DataFrame, space: str = DEFAULT_SPACE
) -> ReferencePictures:
    """What opens and embeds the reference pictures of queries, for methods that ask for them.

    Args:
        context: The models.
        images: GALLERY rows, or any frame of ``image_id`` and ``path``, the references among them.
        space: The name of the embedding space that is searched.

    Returns:
        It opens nothing before it is asked to.
    """
    from setr_lib.methods.references import ReferencePictures

    return ReferencePictures(context.models.space(space), dict(images.select("image_id", "path").iter_rows()))


def vectors_of(
    context: PipelineContext, asset: str, what: str, key: str | None = None, space: str = DEFAULT_SPACE
) -> Vectors:
    """Where the vectors of a gallery, or of the training images, are stored.

    Args:
        context: Tables and models.
        asset: ``gallery_embeddings`` or ``training_embeddings``.
        what: What was embedded, for messages: ``"the gallery of cirr-val"``.
        key: The evaluation set, of ``gallery_embeddings``.
        space: The name of the embedding space.

    Returns:
        The table, its version, and what made it.

    Raises:
        NotMadeYetError: It was not embedded, or not in this space; the message names the asset.
        SetrError: It has no vectors at all, or those of another model than settings name now.
    """
    record = context.tables.read_record(asset, EmbeddingsRecord, key)
    if record.has_vectors and not record.is_embedded_in(space):
        raise NotMadeYetError(
            f"{what} was not embedded in the space {space!r}: materialize {named(asset, key)}, with "
            "settings that name a method of this space"
        )
    stored, model = record.vectors(key or what, space), context.models.space(space)
    if stored.encoder != model.id or stored.preprocessing not in ("", model.preprocessing_id):
        raise SetrError(
            f"{what} was embedded by {stored.encoder}, settings now name {model.id}: "
            f"materialize {named(asset, key)} again"
        )
    return stored


@dataclass(frozen=True)
class Ranked:
    """An evaluation set ranked by one retrieval method: a RANKINGS table, and what made it."""

    method: Method
    rankings: pl.DataFrame
    record: CoarseRecord


def rank_set(
    context: PipelineContext, key: str, progress: Progress = silent, versions: Versions = CHAMPIONS
) -> RankedSet:
    """Rank an evaluation set by every configured method that it has vectors or captions for.

    The queries are encoded once for each embedding space that methods search. Where a gallery has captions,
    methods that search them rank every image, those without a caption last. A method whose trained system has
    no version to use is left out.

    Args:
        context: Tables and models.
        key: The evaluation set.
        progress: Told how many queries are ranked.
        versions: Version by registered model of trained systems; the champion of the moment for one that is
            not named.

    Returns:
        The rankings of each method: over vectors first, one embedding space after the other.

    Raises:
        NotMadeYetError: Something is missing; the message names the asset to materialise.
        MethodError: A method cannot rank this set.
        NoWeightsError: The default method would be left out.
    """
    from setr_lib.methods.method import caption_space, ranks_captions
    from setr_lib.pipeline.methods import spaces_of

    methods, left_out = _opened(context, key, versions)
    found = RankedSet(left_out=left_out)
    by_vectors = [opened for opened in methods if not ranks_captions(opened.method)]
    for space in spaces_of(opened.method for opened in by_vectors):
        chosen = [opened for opened in by_vectors if opened.method.space == space]
        encoded, index, source = encoded_queries(context, key, space)
        found.rankings += _rank_by(context, key, chosen, (encoded, index, source), progress)
        facts = {
            "queries without a reference vector": len(encoded.missing_references),
            "texts cut at the encoder's context": encoded.encode.truncated,
            **{name: str(value) for name, value in source.stated().items()},
        }
        if unreadable := encoded.unreadable_references:
            facts["queries whose reference picture cannot be read"] = ", ".join(unreadable[:20])
        of_space = "" if space == DEFAULT_SPACE else f"{space}: "
        found.facts |= {f"{of_space}{name}": value for name, value in facts.items()}
    by_captions = [opened for opened in methods if ranks_captions(opened.method)]
    for space in dict.fromkeys(caption_space(opened.method) for opened in by_captions):
        chosen = [opened for opened in by_captions if caption_space(opened.method) == space]
        queries, index, source = captioned_queries(context, key, space)
        found.rankings += _rank_by(context, key, chosen, (queries, index, source), progress)
        of_space = "" if space is None else f"captions in {space}: "
        found.facts |= {f"{of_space}{name}": str(value) for name, value in source.stated().items()}
    found.facts |= {f"{name}: left out": why for name, why in left_out.items()}
    found.facts |= {
        f"{opened.method.name}: weights": opened.weights.words for opened in methods if opened.weights
    }
    return found


def _opened(
    context: PipelineContext, key: str, versions: Versions
) -> tuple[list[OpenMethod], dict[str, str]]:
    """The methods that rank ``key``, ready to score; and why the others are left out, by name."""
    ready: list[OpenMethod] = []
    left_out: dict[str, str] = {}
    for method in context.methods.of(key):
        try:
            ready.append(context.weights.open(method, versions))
        except NoWeightsError as error:
            left_out[method.name] = str(error)
    if left_out and (why := left_out.get(context.methods.default(key).name)):
        raise NoWeightsError(f"{why}. It is the default method, which cannot be left out")
    return ready, left_out


@dataclass
class RankedSet:
    """What :func:`rank_set` made: rankings, and what a person may want to know of how."""

    rankings: list[Ranked] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Why methods are left out, by name."""


def _rank_by(
    context: PipelineContext,
    key: str,
    methods: Sequence[OpenMethod],
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
    for opened in methods:
        method = opened.method
        rankings = rank(
            method,
            queries,
            gallery,
            index,
            top_k,
            remove_reference=benchmark.removes_reference,
            options=context.methods.options(method),
            progress=progress,
        )
        made_by = {
            "method": method.name,
            "top_k": top_k,
            "dataset_kind": benchmark.kind,
            **context.methods.recorded_options(method),
            **({"weights": opened.weights} if opened.weights else {}),
            **({"derived_texts": derived} if (derived := _derived_texts(context, key, method)) else {}),
        }
        found.append(Ranked(method, rankings, CoarseRecord(**{**source.stated(), **made_by})))
    return found


def _derived_texts(context: PipelineContext, key: str, method: Method) -> list[str]:
    """The kinds of text that ``method`` brings and of which some rows were derived from other texts."""
    from setr_lib.texts.kind import DERIVED

    tables = context.tables
    return [
        kind.name
        for kind in method.texts
        if tables.exists(table := tables.method_texts(key, kind.name))
        and DERIVED in tables.read(table, kind.schema)["status"]
    ]
