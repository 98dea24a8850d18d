"""The generated texts of an evaluation set: a caption for each reference image, a composition for each query,
and the texts that retrieval methods bring themselves.

Imported texts come first, then those that are kept, then what the multimodal LLM writes. Where captions stand
in for the images, and where no configured method reads a text, no model is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.progress import CallCounter, Progress, silent
from setr_lib.records import TextRecord, content_digest

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.texts.imported import Filled
    from setr_lib.texts.kind import TextKind


@dataclass(frozen=True)
class MadeTexts:
    """The captions or compositions of an evaluation set, and how they were made.

    Attributes:
        frame: A CAPTIONS or COMPOSITIONS table.
        data_version: Digest of what later steps read of it.
        words: How they were made, in a sentence.
        calls: How many the multimodal LLM wrote; None where it was not to be asked.
        imported: Rows that were imported.
        unfit: Imported rows that were left aside, as their image or query has changed.
    """

    frame: pl.DataFrame
    data_version: str
    words: str
    calls: CallCounter | None = None
    imported: int = 0
    unfit: int = 0

    @property
    def record(self) -> TextRecord:
        """The models and prompts that made them."""
        return text_record(self.frame)

    @property
    def failed(self) -> pl.DataFrame:
        """The rows without a good text."""
        return self.frame.filter(self.frame["status"] != "ok")

    @property
    def is_worrying(self) -> bool:
        """Whether the model was asked and rows failed, or imported rows do not fit."""
        return self.calls is not None and bool(self.failed.height or self.unfit)


def text_record(frame: pl.DataFrame) -> TextRecord:
    """The record of a table of generated texts.

    Args:
        frame: A table with ``model`` and ``prompt_hash``.

    Returns:
        The models and prompts: one each, or more where rows were imported.
    """
    models, prompts = (
        ", ".join(frame[name].unique(maintain_order=True)) for name in ("model", "prompt_hash")
    )
    return TextRecord(model=models, prompt_hash=prompts)


def captions_of_references(context: PipelineContext, key: str, progress: Progress = silent) -> MadeTexts:
    """A caption for each reference image of an evaluation set.

    Args:
        context: Settings, tables, model, prompts and cache.
        key: The evaluation set.
        progress: Told how many images are described.

    Returns:
        The captions; those of the data set where captions stand in for the images.

    Raises:
        NotMadeYetError: A table is missing; the message names the asset to materialise.
        PromptError: A prompt is missing.
    """
    from setr_lib.datasets import evaluation_set, load_image_captions
    from setr_lib.tables import CAPTIONS, GALLERY, QUERIES
    from setr_lib.texts.from_image_captions import caption_rows
    from setr_lib.texts.generation import CACHE_KIND, describe_images
    from setr_lib.texts.imported import describe_with

    def version(frame: pl.DataFrame) -> str:  # records of rankings name no caption's prompt
        return content_digest(frame.drop("model", "prompt_hash"))

    asset, references = "reference_captions", _queries(context, key, QUERIES)["reference_id"]
    if context.is_caption_proxy(key):
        captions = load_image_captions(context.settings, key)
        return _from_words(asset, caption_rows(references.unique(maintain_order=True), captions), version)
    if "captions" not in context.methods.texts_needed:
        return _none_needed(asset, CAPTIONS, version)
    calls, evaluated = CallCounter(progress), evaluation_set(context.settings, key)
    images = context.tables.read("gallery_images", GALLERY, key)
    images = images.filter(images["image_id"].is_in(references.unique().implode()))

    def describe(rest: pl.DataFrame) -> pl.DataFrame:
        model, cache = context.models.writer(), context.cache(CACHE_KIND)
        return describe_images(model, context.prompts(), rest, cache, calls, evaluated.kind)

    filled = describe_with(context.imported_captions(evaluated.dataset), images, describe)
    return _asked(filled, calls, "images described", version)


def compositions_of_queries(context: PipelineContext, key: str, progress: Progress = silent) -> MadeTexts:
    """A composition for each query of an evaluation set.

    Args:
        context: Settings, tables, model, prompts and cache.
        key: The evaluation set.
        progress: Told how many queries are composed.

    Returns:
        The compositions; made of the data set's captions where these stand in for the images.

    Raises:
        NotMadeYetError: A table is missing; the message names the asset to materialise.
        PromptError: A prompt is missing.
    """
    from setr_lib.datasets import evaluation_set, load_image_captions
    from setr_lib.tables import COMPOSITIONS, GALLERY, QUERIES
    from setr_lib.texts.from_image_captions import composition_rows
    from setr_lib.texts.generation import CACHE_KIND, compose_queries
    from setr_lib.texts.imported import compose_with

    def version(frame: pl.DataFrame) -> str:
        return content_digest(frame, text_record(frame))

    asset, queries = "query_compositions", _queries(context, key, QUERIES)
    if context.is_caption_proxy(key):
        captions = load_image_captions(context.settings, key)
        return _from_words(asset, composition_rows(queries, captions), version)
    if "compositions" not in context.methods.texts_needed:
        return _none_needed(asset, COMPOSITIONS, version)
    calls, kind = CallCounter(progress), evaluation_set(context.settings, key).kind
    gallery = context.tables.read("gallery_images", GALLERY, key)

    def compose(rest: pl.DataFrame) -> pl.DataFrame:
        model, cache = context.models.writer(), context.cache(CACHE_KIND)
        return compose_queries(model, context.prompts(), rest, gallery, cache, kind, calls)

    filled = compose_with(context.imported_compositions(key), queries, gallery, compose)
    return _asked(filled, calls, "queries composed", version)


def texts_of_methods(
    context: PipelineContext, key: str, progress: Progress = silent
) -> list[tuple[TextKind, Filled]]:
    """The texts that configured methods bring themselves, for an evaluation set.

    Args:
        context: Settings, tables, model, prompts and cache.
        key: The evaluation set.
        progress: Told how many texts are made.

    Returns:
        Each kind with its table; none where captions stand in for the images.

    Raises:
        NotMadeYetError: A table is missing; the message names the asset to materialise.
        TextKindError: A kind has no prompt and cannot be derived, or lacks what it is made from.
    """
    from setr_lib.datasets import evaluation_set
    from setr_lib.pipeline.retrieval import built_in_texts
    from setr_lib.pipeline.texts import make_texts, text_kinds
    from setr_lib.tables import GALLERY, QUERIES

    kinds = [] if context.is_caption_proxy(key) else text_kinds(context.methods.of(key))
    if not kinds:
        return []
    evaluated = evaluation_set(context.settings, key)
    made = make_texts(
        context,
        kinds,
        _queries(context, key, QUERIES),
        context.tables.read("gallery_images", GALLERY, key),
        built_in_texts(context, key),
        evaluated.kind,
        progress,
        {kind.name: context.imported_texts(kind, evaluated.dataset, key) for kind in kinds},
    )
    return [(kind, made[kind.name]) for kind in kinds]


def _queries(context: PipelineContext, key: str, schema: pl.Schema) -> pl.DataFrame:
    return context.tables.read("queries", schema, key)


def _asked(
    filled: Filled, calls: CallCounter, what: str, version: Callable[[pl.DataFrame], str]
) -> MadeTexts:
    failed = filled.frame.filter(filled.frame["status"] != "ok").height
    words = f"{calls.total:,} {what}: {calls.new:,} now, {calls.kept or 0:,} kept"
    words += f", {filled.imported:,} imported" if filled.imported else ""
    words += f", {filled.unfit:,} imported for what has changed since" if filled.unfit else ""
    words += f", {failed:,} failed" if failed else ""
    return MadeTexts(filled.frame, version(filled.frame), words, calls, filled.imported, filled.unfit)


def _from_words(asset: str, frame: pl.DataFrame, version: Callable[[pl.DataFrame], str]) -> MadeTexts:
    failed = frame.filter(frame["status"] != "ok").height
    words = f"{frame.height:,} rows of {asset} from captions alone, {failed:,} without any"
    return MadeTexts(frame, version(frame), words)


def _none_needed(asset: str, schema: pl.Schema, version: Callable[[pl.DataFrame], str]) -> MadeTexts:
    why = "because no configured method reads any: the multimodal LLM is not asked"
    frame = schema.to_frame()
    return MadeTexts(frame, version(frame), f"no {asset}, {why}")
