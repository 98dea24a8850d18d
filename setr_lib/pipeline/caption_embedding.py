"""The vectors of a gallery's captions, made where a configured method needs them and read where it ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.pipeline.storage import named
from setr_lib.progress import Progress, silent
from setr_lib.records import CaptionVectorsRecord, EmbeddingsRecord

if TYPE_CHECKING:
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.spaces.caption_store import CaptionIndex
    from setr_lib.spaces.caption_vectors import CaptionVectorReport, CaptionVectors


def embed_captions(
    context: PipelineContext, gallery_key: str, captions: CaptionIndex, progress: Progress = silent
) -> dict[str, CaptionVectorReport]:
    """Embed a gallery's captions in the spaces of the configured methods that need their vectors.

    Args:
        context: Settings and models.
        gallery_key: The key of the images' origin.
        captions: The captions.
        progress: Told how many captions are embedded.

    Returns:
        What was done, by the name of the space; nothing where no method needs vectors of captions.

    Raises:
        SpaceError: A space cannot be had, or has no text side.
    """
    store, texts = context.caption_vectors, [captions.captions(image_id) for image_id in captions.ids]
    found: dict[str, CaptionVectorReport] = {}
    for name in context.methods.caption_spaces:
        space = context.models.space(name)
        found[name] = store.synchronise(store.table_name(gallery_key, space), texts, space, progress)
    return found


def stated_vectors(context: PipelineContext, reports: Mapping[str, CaptionVectorReport]) -> dict[str, Any]:
    """What an ``EmbeddingsRecord`` says of the vectors of captions.

    Args:
        context: Models.
        reports: What :func:`embed_captions` gave.

    Returns:
        Fields of the record; none without any vectors.
    """
    made = {
        name: CaptionVectorsRecord(
            table=report.table,
            version=report.version,
            rows=report.rows,
            encoder=context.models.space(name).id,
        ).model_dump(mode="json")
        for name, report in reports.items()
    }
    return {"caption_vectors": made} if made else {}


def stored_vectors(
    context: PipelineContext, key: str, space: str, captions: CaptionIndex
) -> tuple[CaptionVectors, dict[str, Any]]:
    """The vectors of the captions of an evaluation set's images.

    Args:
        context: Tables and models.
        key: The evaluation set.
        space: The embedding space, by its name.
        captions: The captions.

    Returns:
        The vectors; and what a ``SourceRecord`` says of them.

    Raises:
        SetrError: The captions were not embedded in the space, or by another model.
    """
    stored = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, key)
    made, again = stored.caption_vectors.get(space), f"materialize {named('gallery_embeddings', key)} again"
    if made is None:
        raise SetrError(f"the captions of {key} were not embedded in the space {space!r}; {again}")
    model = context.models.space(space)
    if made.encoder != model.id:
        raise SetrError(
            f"the captions of {key} were embedded by {made.encoder}, settings now describe {model.id}; "
            f"{again}"
        )
    stated = {
        "space": space,
        "encoder": made.encoder,
        "caption_vectors_table": made.table,
        "caption_vectors_version": made.version,
    }
    return context.caption_vectors.read(made.table, made.version, captions), stated
