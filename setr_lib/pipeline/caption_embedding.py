"""The vectors of a gallery's captions, made where a configured method needs them and read where it ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.pipeline.storage import named
from setr_lib.progress import Progress, silent
from setr_lib.records import CaptionVectorsRecord, EmbeddingsRecord

if TYPE_CHECKING:
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.trained_weights import OpenSpace
    from setr_lib.spaces.caption_store import CaptionIndex
    from setr_lib.spaces.caption_vectors import CaptionVectorReport, CaptionVectors


def embed_captions(
    context: PipelineContext,
    gallery_key: str,
    captions: CaptionIndex,
    spaces: Iterable[OpenSpace],
    progress: Progress = silent,
) -> tuple[dict[str, CaptionVectorReport], dict[str, Any]]:
    """Embed a gallery's captions, those that are new since last time.

    Args:
        context: The vector store.
        gallery_key: The key of the images' origin.
        captions: The captions.
        spaces: The embedding spaces.
        progress: Told how many captions are embedded.

    Returns:
        What was done, by the name of the space; and what an ``EmbeddingsRecord`` says of it, nothing without
        spaces.

    Raises:
        SpaceError: A space has no text side.
    """
    store, texts = context.caption_vectors, [captions.captions(image_id) for image_id in captions.ids]
    reports: dict[str, CaptionVectorReport] = {}
    made: dict[str, Any] = {}
    for space in spaces:
        with context.models.lock:
            table = store.table_name(gallery_key, space.model)
            report = store.synchronise(table, texts, space.model, progress)
        record = CaptionVectorsRecord(
            table=report.table, version=report.version, rows=report.rows, encoder=space.model.id
        )
        reports[space.name], made[space.name] = report, record.model_dump(mode="json")
    return reports, {"caption_vectors": made} if made else {}


def stored_caption_vectors(
    context: PipelineContext, key: str, space: OpenSpace, captions: CaptionIndex
) -> tuple[CaptionVectors, dict[str, Any]]:
    """The vectors of the captions of an evaluation set's images.

    Args:
        context: Tables.
        key: The evaluation set.
        space: The embedding space.
        captions: The captions.

    Returns:
        The vectors; and what a ``SourceRecord`` says of them.

    Raises:
        SetrError: The captions were not embedded in the space, or by another model or version of it.
    """
    stored = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, key)
    made, again = stored.caption_vectors.get(space.name), f"materialize {named('gallery_embeddings', key)}"
    if made is None:
        raise SetrError(f"the captions of {key} were not embedded in the space {space.name!r}; {again} again")
    if made.encoder != space.model.id:
        now = f"now {space.weights.words} is asked for" if space.weights else "settings now describe"
        raise SetrError(
            f"the captions of {key} were embedded by {made.encoder}, {now} {space.model.id}; {again} again"
        )
    stated = {
        "space": space.name,
        "encoder": made.encoder,
        "caption_vectors_table": made.table,
        "caption_vectors_version": made.version,
        **({"space_weights": space.weights} if space.weights else {}),
    }
    return context.caption_vectors.read(made.table, made.version, captions), stated
