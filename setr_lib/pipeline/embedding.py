"""The vectors of images in the vector store, one table for each gallery and embedding space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from setr_lib.hashing import digest_strings, fingerprint_bytes
from setr_lib.pipeline.caption_embedding import embed_captions
from setr_lib.pipeline.removals import (
    captions_rule,
    check_gallery,
    consent_of,
    gallery_rule,
    stored_tables,
    training_rule,
)
from setr_lib.pipeline.trained_weights import CHAMPIONS, NoWeightsError, Versions
from setr_lib.progress import Progress, silent
from setr_lib.records import EmbeddingsRecord, SpaceRecord, content_digest
from setr_lib.settings import DEFAULT_SPACE

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.datasets import EvaluationSet
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.trained_weights import OpenSpace, OpenSpaces
    from setr_lib.spaces.removals import RemovalRule
    from setr_lib.spaces.space import EmbeddingSpace
    from setr_lib.spaces.vector_store import SyncReport

TRAINING = "training"
"""The key of the training images' tables, in place of a gallery's."""

OnSpace = Callable[[str, "SyncReport"], None]
"""Told of an embedding space once the images are embedded in it."""


def embed(
    context: PipelineContext,
    gallery_key: str,
    images: pl.DataFrame,
    space: EmbeddingSpace,
    progress: Progress = silent,
    removals: RemovalRule | None = None,
) -> SyncReport:
    """Embed what is new or changed since last time.

    Args:
        context: The vector store.
        gallery_key: What images of the same origin are stored under.
        images: All images of that origin: ``image_id``, ``path``, ``fingerprint``, ``status``.
        space: The embedding space.
        progress: Told how many images are embedded.
        removals: How much of what is stored may be removed; by default a fifth without consent.

    Returns:
        What was done, and the table's name and version.

    Raises:
        RemovalRefusedError: More would be removed than may be.
    """
    store = context.gallery_store
    with context.models.lock:
        table = store.table_name(gallery_key, space)
        return store.synchronise(table, images, space, progress=progress, removals=removals)


@dataclass(frozen=True)
class StoredCaptions:
    """The captions of a gallery's images, as they lie in the store; empty where it has none.

    Attributes:
        stated: What the record of the gallery says of them.
        digest: Digest of their content.
        words: What was done, in a sentence.
    """

    stated: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    words: str = ""


class EmbeddedImages:
    """The same images embedded in one embedding space after the other.

    Args:
        context: The vector store and the embedding spaces.
        images: All images of a gallery, a GALLERY table, or the training images.
        captions: The captions that are stored beside a gallery's vectors; None for training images.
        removals: How much of what is stored may be removed; by default a fifth without consent.
    """

    def __init__(
        self,
        context: PipelineContext,
        images: pl.DataFrame,
        captions: StoredCaptions | None = None,
        removals: RemovalRule | None = None,
    ) -> None:
        self.context, self.images, self.captions, self.removals = context, images, captions, removals
        self.reports: dict[str, SyncReport] = {}
        """What was done, by embedding space."""
        self.spaces: dict[str, EmbeddingSpace] = {}
        """The embedding spaces by name."""
        self.left_out: dict[str, str] = {}
        """Why embedding spaces are left out, by name."""

    @property
    def embedded(self) -> int:
        """Images embedded now, in all spaces."""
        return sum(report.embedded for report in self.reports.values())

    @property
    def record(self) -> EmbeddingsRecord:
        """The record of the vectors, and of the captions beside them."""
        stated: dict[str, Any] = self.stated(DEFAULT_SPACE) if DEFAULT_SPACE in self.reports else {}
        if others := [space for space in self.reports if space != DEFAULT_SPACE]:
            stated["spaces"] = {
                space: SpaceRecord(**self.stated(space), content=self._content(space)) for space in others
            }
        content = self._content(DEFAULT_SPACE) if DEFAULT_SPACE in self.reports else ""
        if self.captions is None:
            return EmbeddingsRecord(**stated, content=content)
        content = content_digest(content, self.captions.digest) if self.reports else self.captions.digest
        return EmbeddingsRecord(**stated, **self.captions.stated, content=content)

    def embed(self, gallery_key: str, space: OpenSpace, progress: Progress = silent) -> SyncReport:
        """Embed what is new or changed in one embedding space.

        Args:
            gallery_key: What images of the same origin are stored under.
            space: The space.
            progress: Told how many images are embedded.

        Returns:
            What was done.
        """
        report = embed(self.context, gallery_key, self.images, space.model, progress, self.removals)
        self.reports[space.name], self.spaces[space.name] = report, space.model
        return report

    def stated(self, space: str) -> dict[str, Any]:
        """What the record says of an embedding space.

        Args:
            space: The space's name.

        Returns:
            Table, version, rows, and what made the vectors.
        """
        report, model = self.reports[space], self.spaces[space]
        return {
            "table": report.table,
            "version": report.version,
            "rows": report.rows,
            "encoder": model.id,
            "preprocessing": model.preprocessing_id,
        }

    def _content(self, space: str) -> str:
        """Digest of the ids and vectors, wherever they lie."""
        report = self.reports[space]
        ids, vectors = self.context.gallery_store.read(report.table, report.version)
        return digest_strings([*ids, fingerprint_bytes(vectors.tobytes())])


def embed_gallery(
    context: PipelineContext,
    key: str,
    progress: Progress = silent,
    on_space: OnSpace = lambda space, report: None,
    on_captions: Callable[[str], None] = lambda words: None,
    versions: Versions = CHAMPIONS,
    *,
    accept_removals: bool = False,
) -> EmbeddedImages:
    """Embed the gallery of an evaluation set in every embedding space that a configured method searches.

    Captions of its images are stored first, and embedded where a configured method needs their vectors.
    Captions without any image are stored alone, and no model of images is loaded.

    Args:
        context: Settings, tables, stores and models.
        key: The evaluation set.
        progress: Told how many captions and images are embedded.
        on_space: Told of each space when it is done.
        on_captions: Told in a sentence what was done with captions.
        versions: Version by registered model of trained spaces; the champion for one that is not named. A
            space without a version is left out.
        accept_removals: Whether any number of images that are gone may be removed from the vector store.

    Returns:
        What was embedded.

    Raises:
        NotMadeYetError: The gallery's images were not inspected yet.
        MethodError: A space cannot give what a method needs; told before anything is embedded in it.
        NoWeightsError: The default method's space would be left out.
        RemovalRefusedError: So much of the gallery is gone that consent is needed.
    """
    from setr_lib.datasets import evaluation_set
    from setr_lib.methods.references import check_space_gives
    from setr_lib.pipeline.faults import EMBEDDING, embedding_faults
    from setr_lib.tables import FAULTS, GALLERY

    images = context.tables.read("gallery_images", GALLERY, key)
    evaluated = evaluation_set(context.settings, key)
    rule = gallery_rule(context, evaluated, "gallery_embeddings", accepted=accept_removals)
    gallery_key = evaluated.gallery_key
    check_gallery(context, gallery_key, images, rule)
    captions = _store_captions(context, key, evaluated, images.height, rule)
    if captions.words:
        on_captions(captions.words)
    of_captions = context.weights.spaces(context.methods.caption_spaces if captions.words else (), versions)
    _check_default(context, key, of_captions)
    made = EmbeddedImages(
        context,
        images,
        _embed_captions(context, gallery_key, captions, of_captions, progress, on_captions),
        rule,
    )
    made.left_out = of_captions.left_out
    if context.is_caption_proxy(key):
        _clear_vectors(context, gallery_key)
        return made
    searched = context.weights.spaces(context.methods.spaces, versions)
    _check_default(context, key, searched)
    made.left_out = of_captions.left_out | searched.left_out
    for name, space in searched.spaces.items():
        for method in context.methods.ranked_in(name):  # told before hours of embedding, not after
            check_space_gives(method, space.model)
        on_space(name, made.embed(gallery_key, space, progress))
    context.tables.write(EMBEDDING, embedding_faults(made.reports), FAULTS, key)
    return made


def _check_default(context: PipelineContext, key: str, searched: OpenSpaces) -> None:
    """Raise ``NoWeightsError`` where the default method's space is left out: nothing could be ranked."""
    if not searched.left_out:
        return
    method = context.methods.default(key)
    if why := searched.left_out.get(method.space):
        raise NoWeightsError(f"{why}. The default method, {method.name}, searches it")


def embed_training_images(
    context: PipelineContext,
    progress: Progress = silent,
    on_space: OnSpace = lambda space, report: None,
    versions: Versions = CHAMPIONS,
    *,
    accept_removals: bool = False,
) -> EmbeddedImages:
    """Embed the training images: by CLIP, where hard negatives are mined, and in the spaces of the methods
    whose candidates are re-ranked.

    Args:
        context: Settings, tables, stores and models.
        progress: Told how many images are embedded.
        on_space: Told of each space when it is done.
        versions: As of :func:`embed_gallery`.
        accept_removals: As of :func:`embed_gallery`.

    Returns:
        What was embedded.

    Raises:
        NotMadeYetError: The training images were not inspected yet.
        RemovalRefusedError: So many of the images are gone that consent is needed.
    """
    from setr_lib.tables import TRAINING_IMAGES

    images = context.tables.read("training_images", TRAINING_IMAGES)
    rule = training_rule(context, consent_of("training_embeddings"), accepted=accept_removals)
    made = EmbeddedImages(context, images, removals=rule)
    searched = context.weights.spaces(context.methods.training_spaces, versions)
    made.left_out = searched.left_out
    for name, space in searched.spaces.items():
        on_space(name, made.embed(TRAINING, space, progress))
    return made


def _embed_captions(
    context: PipelineContext,
    gallery_key: str,
    captions: StoredCaptions,
    spaces: OpenSpaces,
    progress: Progress,
    on_captions: Callable[[str], None],
) -> StoredCaptions:
    """The same captions, with what the record says of their vectors in these spaces."""
    if not spaces.spaces:
        return captions
    stated = captions.stated
    index = context.caption_store.open(stated["captions_table"], stated["captions_version"])
    reports, made = embed_captions(context, gallery_key, index, spaces.spaces.values(), progress)
    for space, report in reports.items():
        on_captions(f"captions in {space}: {report.embedded:,} embedded now, {report.removed:,} removed")
    return replace(captions, stated=stated | made)


def _clear_vectors(context: PipelineContext, gallery_key: str) -> None:
    """Remove the vectors of a gallery that has no image any more; whoever calls this has consent, or there
    are none.
    """
    if not stored_tables(context, gallery_key):
        return
    from setr_lib.spaces.stored_galleries import clear, tables_of

    for table in tables_of(context.gallery_store, gallery_key):
        clear(context.gallery_store, table)


def _store_captions(
    context: PipelineContext, key: str, evaluated: EvaluationSet, images: int, rule: RemovalRule
) -> StoredCaptions:
    """Index the captions of a gallery's images, where there are any."""
    from setr_lib.benchmarks.image_captions import captions_file
    from setr_lib.datasets import load_image_captions

    captions = load_image_captions(context.settings, key)
    if captions is None:
        return StoredCaptions()
    store, of_file = context.caption_store, captions_rule(rule, captions_file(evaluated))
    report = store.write(store.table_name(evaluated.gallery_key), captions, of_file)
    without = images - report.rows
    done = "indexed now" if report.written else "kept"
    stated = {
        "captions_table": report.table,
        "captions_version": report.version,
        "images_with_captions": report.rows,
        "images_without_captions": without,
    }
    rest = f"{without:,} {'image' if without == 1 else 'images'} without"
    words = f"captions of {report.rows:,} images {done}, {rest}"
    return StoredCaptions(stated, content_digest(captions), words)
