"""Stage 1 of an evaluation set, wired from its tables: what retrieval methods read, and their rankings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.pipeline.faults import ranking_faults
from setr_lib.pipeline.query_set import QuerySet, encode
from setr_lib.pipeline.storage import NotMadeYetError, named
from setr_lib.pipeline.trained_weights import CHAMPIONS, NoWeightsError, OpenMethod, OpenSpace, Versions
from setr_lib.progress import Progress, silent
from setr_lib.records import (
    CoarseRecord,
    EmbeddingsRecord,
    QueriesRecord,
    SourceRecord,
    TextRecord,
    Vectors,
    content_digest,
)
from setr_lib.settings import DEFAULT_SPACE

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.methods.inputs import GalleryIndex
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext


def captioned_queries(
    context: PipelineContext, key: str, space: str | None = None, versions: Versions = CHAMPIONS
) -> tuple[QuerySet, SourceRecord]:
    """Everything that stage 1 reads of an evaluation set to search its images' captions; no model is needed
    unless it is their vectors that are searched.

    Args:
        context: Settings, tables and models.
        key: The evaluation set.
        space: The embedding space whose vectors of the captions are searched, if any.
        versions: As of :func:`encoded_queries`.

    Returns:
        The queries, with every image of the gallery, readable or not, its vectors ``float32[n, 0]`` and its
        captions; and a record of what these were made by.

    Raises:
        NotMadeYetError: A table is missing; the message names the asset to materialise.
        SetrError: The images have no captions, or these were not embedded in the space.
    """
    import numpy as np

    from setr_lib.datasets import evaluation_set
    from setr_lib.methods.inputs import GalleryIndex, plain_queries
    from setr_lib.pipeline.caption_embedding import stored_caption_vectors
    from setr_lib.tables import GALLERY, QUERIES

    stored = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, key)
    images = context.tables.read("gallery_images", GALLERY, key)
    if stored.captions_table is None:
        raise SetrError(f"the images of {key} have no captions: they cannot be ranked by captions")
    captions = context.caption_store.open(stored.captions_table, stored.captions_version)
    record = SourceRecord(
        captions_table=stored.captions_table,
        captions_version=stored.captions_version,
        images_without_captions=stored.images_without_captions,
        queries_digest=context.tables.read_record("queries", QueriesRecord, key).digest,
    )
    searched, vectors = None if space is None else context.weights.space(space, versions), None
    if searched is not None:
        vectors, stated = stored_caption_vectors(context, key, searched, captions)
        record = SourceRecord(**{**record.stated(), **stated})
    frame = context.tables.read("queries", QUERIES, key)
    queries = plain_queries(frame, searched.model if searched else None)
    no_vectors = np.zeros((images.height, 0), dtype=np.float32)
    index = GalleryIndex(images["image_id"].to_list(), no_vectors, captions, vectors)
    removes_reference = evaluation_set(context.settings, key).benchmark.removes_reference
    return QuerySet(context, queries, images, index, removes_reference), record


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
    context: PipelineContext, key: str, space: str = DEFAULT_SPACE, versions: Versions = CHAMPIONS
) -> tuple[QuerySet, SourceRecord]:
    """Everything that stage 1 reads of an evaluation set to search one embedding space.

    Args:
        context: Settings, tables and models.
        key: The evaluation set.
        space: The embedding space.
        versions: Version by registered model, for a space that is trained; the champion of the moment for one
            that is not named.

    Returns:
        The queries, encoded, with the gallery; and a record of what these were made by.

    Raises:
        NotMadeYetError: A table is missing; the message names the asset to materialise.
    """
    from setr_lib.datasets import evaluation_set
    from setr_lib.tables import GALLERY, QUERIES

    searched, of_gallery = context.weights.space(space, versions), f"the gallery of {key}"
    stored, index = stored_vectors(context, "gallery_embeddings", of_gallery, key, searched)
    queries = encode(
        context,
        context.tables.read("queries", QUERIES, key),
        context.tables.read("gallery_images", GALLERY, key),
        index,
        space=searched.model,
        texts={**built_in_texts(context, key), **method_texts(context, key)},
        benchmark=evaluation_set(context.settings, key).benchmark,
    )
    composed = context.tables.read_record("query_compositions", TextRecord, key)
    stated: dict[str, Any] = stored._asdict() | ({} if space == DEFAULT_SPACE else {"space": space})
    stated |= {"space_weights": searched.weights} if searched.weights else {}
    record = SourceRecord(
        **stated,
        queries_digest=context.tables.read_record("queries", QueriesRecord, key).digest,
        composition_prompt=composed.prompt_hash,
        composition_model=composed.model,
    )
    return queries, record


def training_vectors(
    context: PipelineContext, space: OpenSpace | None = None
) -> tuple[Vectors, GalleryIndex]:
    """The vectors of the training images.

    Args:
        context: Tables and models.
        space: The embedding space; ``clip`` by default.

    Returns:
        As of :func:`stored_vectors`.

    Raises:
        NotMadeYetError: They are not embedded; the message names the asset.
        SetrError: They are of another model than settings name now.
    """
    opened = space or context.weights.space(DEFAULT_SPACE)
    return stored_vectors(context, "training_embeddings", "the training images' table", None, opened)


def stored_vectors(
    context: PipelineContext, asset: str, what: str, key: str | None, space: OpenSpace
) -> tuple[Vectors, GalleryIndex]:
    """The vectors of a gallery, or of the training images.

    Args:
        context: Tables and models.
        asset: ``gallery_embeddings`` or ``training_embeddings``.
        what: What was embedded, for messages: ``"the gallery of cirr-val"``.
        key: The evaluation set, of ``gallery_embeddings``.
        space: The embedding space.

    Returns:
        The table, its version, and what made it; and its ids and vectors, which are read when they are asked
        for.

    Raises:
        NotMadeYetError: As of :func:`vectors_of`.
        SetrError: As of :func:`vectors_of`.
    """
    from setr_lib.methods.inputs import GalleryIndex

    stored = vectors_of(context, asset, what, key, space.name, space.versions)
    vectors = context.gallery_store.vectors(stored.table, stored.version)
    return stored, GalleryIndex(vectors.names, vectors)


def vectors_of(
    context: PipelineContext,
    asset: str,
    what: str,
    key: str | None = None,
    space: str = DEFAULT_SPACE,
    versions: Versions = CHAMPIONS,
) -> Vectors:
    """Where the vectors of a gallery, or of the training images, are stored.

    Args:
        context: Tables and models.
        asset: ``gallery_embeddings`` or ``training_embeddings``.
        what: What was embedded, for messages: ``"the gallery of cirr-val"``.
        key: The evaluation set, of ``gallery_embeddings``.
        space: The name of the embedding space.
        versions: As of :func:`encoded_queries`.

    Returns:
        The table, its version, and what made it.

    Raises:
        NotMadeYetError: It was not embedded, or not in this space; the message names the asset.
        NoWeightsError: The space is trained, and no version is promoted.
        SetrError: It has no vectors at all, or those of another model than settings name now, or of another
            version of the space.
    """
    record = context.tables.read_record(asset, EmbeddingsRecord, key)
    if record.has_vectors and not record.is_embedded_in(space):
        raise NotMadeYetError(
            f"{what} was not embedded in the space {space!r}: materialize {named(asset, key)}, with "
            "settings that name a method of this space"
        )
    stored, opened = record.vectors(key or what, space), context.weights.space(space, versions)
    model = opened.model
    if stored.encoder != model.id or stored.preprocessing not in ("", model.preprocessing_id):
        now = f"now {opened.weights.words} is asked for" if opened.weights else "settings now name"
        raise SetrError(
            f"{what} was embedded by {stored.encoder}, {now} {model.id}: "
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
    context: PipelineContext,
    key: str,
    progress: Progress = silent,
    versions: Versions = CHAMPIONS,
    *,
    leave_out_failing: bool = False,
) -> RankedSet:
    """Rank an evaluation set by every configured method that it has vectors or captions for.

    The queries are encoded once for each embedding space that methods search. Where a gallery has captions,
    methods that search them rank every image, those without a caption last. A method is left
    out where its trained system, or that of the space it searches, has no version to use.

    Args:
        context: Tables and models.
        key: The evaluation set.
        progress: Told how many queries are ranked.
        versions: Version by registered model of trained systems; the champion of the moment for one that is
            not named.
        leave_out_failing: Whether a method that cannot rank this set is left out with the reason, and the
            others go on; else it ends the ranking.

    Returns:
        The rankings of each method: over vectors first, one embedding space after the other.

    Raises:
        NotMadeYetError: Something is missing; the message names the asset to materialise.
        MethodError: A method cannot rank this set.
        NoWeightsError: The default method would be left out.
    """
    from setr_lib.methods.method import caption_space, ranks_captions
    from setr_lib.pipeline.methods import spaces_of

    faults = _Faults(leave_out_failing)
    methods = _opened(context, key, versions, faults)
    versions = {**versions, **{model: used for made in methods for model, used in made.versions.items()}}
    found = RankedSet(left_out=faults.left_out)
    by_vectors = [opened for opened in methods if not ranks_captions(opened.method)]
    for space in spaces_of(opened.method for opened in by_vectors):
        chosen = [opened for opened in by_vectors if opened.method.space == space]
        with faults.of(chosen):
            queries, source = encoded_queries(context, key, space, versions)
            found.rankings += _rank_by(key, chosen, queries, source, progress, faults)
            of_space = "" if space == DEFAULT_SPACE else f"{space}: "
            found.facts |= {f"{of_space}{name}": value for name, value in _facts(queries, source).items()}
            found.faults.append(ranking_faults(queries))
    by_captions = [opened for opened in methods if ranks_captions(opened.method)]
    for space in dict.fromkeys(caption_space(opened.method) for opened in by_captions):
        chosen = [opened for opened in by_captions if caption_space(opened.method) == space]
        with faults.of(chosen):
            queries, source = captioned_queries(context, key, space, versions)
            found.rankings += _rank_by(key, chosen, queries, source, progress, faults)
            of_space = "" if space is None else f"captions in {space}: "
            found.facts |= {f"{of_space}{name}": str(value) for name, value in source.stated().items()}
    found.facts |= {f"{name}: left out": why for name, why in found.left_out.items()}
    found.facts |= {f"{opened.method.name}: weights": opened.words for opened in methods if opened.words}
    return found


class _Faults:
    """Why methods are left out of a ranking, by name; and whether one that fails is."""

    def __init__(self, leave_out_failing: bool) -> None:
        self.leave_out_failing = leave_out_failing
        self.left_out: dict[str, str] = {}

    @contextmanager
    def of(self, methods: Sequence[OpenMethod]) -> Iterator[None]:
        """What is done for these methods: where it fails, they are left out, or the ranking ends."""
        try:
            yield
        except SetrError as error:
            if not self.leave_out_failing:
                raise
            self.left_out |= {opened.method.name: str(error) for opened in methods}


def _facts(queries: QuerySet, source: SourceRecord) -> dict[str, Any]:
    """What a person may want to know of the queries that one embedding space is searched for."""
    encoded = queries.queries
    facts = {
        "queries without a reference vector": len(encoded.missing_references),
        "texts cut at the encoder's context": encoded.encode.truncated,
        **{name: str(value) for name, value in source.stated().items()},
    }
    if unreadable := encoded.unreadable_references:
        facts["queries whose reference picture cannot be read"] = ", ".join(unreadable[:20])
    return facts


def _opened(context: PipelineContext, key: str, versions: Versions, faults: _Faults) -> list[OpenMethod]:
    """The methods that rank ``key``, ready to score; ``faults`` is told why the others are left out."""
    ready: list[OpenMethod] = []
    methods, left_out = context.methods.of(key), faults.left_out
    systems = [name for method in methods for name in context.weights.systems_of(method)]
    versions = {**versions, **context.weights.in_use(systems, versions)}  # one look-up for all of them
    for method in methods:
        try:
            ready.append(context.weights.open(method, versions))
        except NoWeightsError as error:
            left_out[method.name] = str(error)
        except SetrError as error:
            if not faults.leave_out_failing:
                raise
            left_out[method.name] = str(error)
    if faults.leave_out_failing:
        return ready
    if left_out and (why := left_out.get(context.methods.default(key).name)):
        raise NoWeightsError(f"{why}. It is the default method, which cannot be left out")
    return ready


@dataclass
class RankedSet:
    """What :func:`rank_set` made: rankings, and what a person may want to know of how."""

    rankings: list[Ranked] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Why methods are left out, by name."""
    faults: list[pl.DataFrame] = field(default_factory=list)
    """What went wrong with single queries and texts, a ``tables.FAULTS`` frame for each embedding space."""

    @property
    def by_method(self) -> dict[str, pl.DataFrame]:
        """The rankings by method's name."""
        return {made.method.name: made.rankings for made in self.rankings}

    @property
    def data_version(self) -> str:
        """Digest of the rankings and of what made them, whatever the order of methods."""
        made_by = {made.method.name: made for made in self.rankings}
        parts = ((name, made_by[name].rankings, made_by[name].record) for name in sorted(made_by))
        return content_digest(*(part for parts_of_one in parts for part in parts_of_one))


def store_rankings(context: PipelineContext, key: str, found: RankedSet) -> None:
    """Store the rankings of an evaluation set; tables of methods that are left out are removed.

    Args:
        context: Tables.
        key: The evaluation set.
        found: Its rankings.
    """
    import polars as pl

    from setr_lib.pipeline.faults import RANKING
    from setr_lib.tables import FAULTS, RANKINGS

    tables = context.tables
    left_out = [("methods left out", name, why) for name, why in found.left_out.items()]
    faults = pl.concat([pl.DataFrame(left_out, schema=FAULTS, orient="row"), *found.faults])
    tables.write(RANKING, faults.unique(maintain_order=True), FAULTS, key)
    for name in found.left_out:
        tables.remove(tables.coarse(key, name))
    for made in found.rankings:
        tables.write(tables.coarse(key, made.method.name), made.rankings, RANKINGS, made_by=made.record)


def _rank_by(
    key: str,
    methods: Sequence[OpenMethod],
    queries: QuerySet,
    source: SourceRecord,
    progress: Progress,
    faults: _Faults,
) -> list[Ranked]:
    from setr_lib.datasets import evaluation_set

    context = queries.context
    kind, top_k = evaluation_set(context.settings, key).kind, context.settings.coarse.top_k
    found: list[Ranked] = []
    for opened in methods:
        method = opened.method
        with faults.of([opened]):
            rankings = queries.ranked(method, top_k, progress)
            made_by = {
                "method": method.name,
                "top_k": top_k,
                "dataset_kind": kind,
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
