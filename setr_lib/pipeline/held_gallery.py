"""The gallery of a retriever: its images, and their vectors, held in memory or left in the vector store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.near_names import did_you_mean
from setr_lib.pixels import picture_files
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.datasets import EvaluationSet
    from setr_lib.methods.inputs import GalleryIndex
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.trained_weights import OpenSpace
    from setr_lib.spaces.removals import RemovalRule
    from setr_lib.spaces.stored_vectors import StoredVectors

_NAMED = 20
"""Galleries that a message names at most: some data sets have one for each query."""


class HeldGallery:
    """A gallery as a retriever holds it: its images, and its vectors once they are first asked for.

    Args:
        context: The vector store and the embedding spaces.
        evaluation_set: Names the gallery.
        images: Its GALLERY table.
        is_folder: Whether it is a folder that no data set of the settings names; it is then embedded here.
        hold_vectors: Whether vectors that were read stay in memory; else each reading is for one search.
        removals: How much of a folder's stored vectors may be removed; by default a fifth without consent.
    """

    def __init__(
        self,
        context: PipelineContext,
        evaluation_set: EvaluationSet,
        images: pl.DataFrame,
        *,
        is_folder: bool = False,
        hold_vectors: bool = True,
        removals: RemovalRule | None = None,
    ) -> None:
        self.removals = removals
        self.context, self.evaluation_set, self.images = context, evaluation_set, images
        self.is_folder, self.hold_vectors = is_folder, hold_vectors
        self.files = picture_files(images)
        """The file of each image, by id."""
        self.paths: dict[str, str] = {image: file.path for image, file in self.files.items()}
        """Its path, by id."""
        self._embedded_by: dict[str, str] = {}
        self._tables: dict[str, tuple[str, int]] = {}
        self._stored: dict[str, StoredVectors] = {}
        self._indexes: dict[str, GalleryIndex] = {}

    def require(self, space: OpenSpace) -> None:
        """Find the vectors in one embedding space, without reading them; of a folder, embed what is new.

        Args:
            space: The space.

        Raises:
            NotMadeYetError: The gallery is not embedded; the message names the asset to materialise.
        """
        from setr_lib.pipeline.retrieval import vectors_of

        if self._embedded_by.get(space.name) == space.model.id:
            return
        if self.is_folder:
            self.embed(space)
        else:
            key = self.evaluation_set.key
            what, asset = f"the gallery of {key}", "gallery_embeddings"
            stored = vectors_of(self.context, asset, what, key, space.name, space.versions)
            self._found(space, stored.table, stored.version)

    def index(self, space: OpenSpace) -> GalleryIndex:
        """The ids and vectors in one embedding space; vectors are read here, and once, where they are held,
        else when they are asked for.

        Args:
            space: The space.

        Returns:
            The vectors as the asset ``gallery_embeddings`` has stored them; of a gallery that no evaluation
            set of the settings names, embedded now where they are new.

        Raises:
            NotMadeYetError: As of :meth:`require`.
        """
        from setr_lib.methods.inputs import GalleryIndex

        self.require(space)
        if space.name in self._indexes:
            return self._indexes[space.name]
        if space.name not in self._stored:
            self._stored[space.name] = self.context.gallery_store.vectors(*self._tables[space.name])
        stored = self._stored[space.name]
        index = GalleryIndex(stored.names, stored)
        if self.hold_vectors:
            _ = index.vectors
            self._indexes[space.name] = index
        return index

    def stale(self, space: OpenSpace, images: Sequence[str]) -> dict[str, str]:
        """The images that are not any more what the gallery was made of; files are read, not decoded.

        Args:
            space: The embedding space that is searched.
            images: Image ids.

        Returns:
            Why, by id, in their order: a file has changed or is gone, or the vector is of another picture
            than the table of images names.
        """
        from setr_lib.datasets.images import changed_images
        from setr_lib.pixels import picture_identity

        table, version = self._tables[space.name]
        embedded = self.context.gallery_store.identities(table, images, version)
        changed, found = dict(changed_images([self.files[image] for image in images])), dict[str, str]()
        for image in images:
            file = self.files[image]
            if file in changed:
                found[image] = changed[file]
            elif embedded.get(image) != picture_identity(file.fingerprint or "", file.pixels):
                found[image] = "gallery_images was made again, and gallery_embeddings was not"
        return found

    def embed(self, space: OpenSpace, progress: Progress = silent) -> None:
        """Embed what is new or changed since last time in one embedding space.

        Args:
            space: The embedding space.
            progress: Told how many images are embedded.
        """
        from setr_lib.pipeline.embedding import embed

        key, removals = self.evaluation_set.gallery_key, self.removals
        report = embed(self.context, key, self.images, space.model, progress, removals)
        self._found(space, report.table, report.version)

    def _found(self, space: OpenSpace, table: str, version: int) -> None:
        """Remember where vectors are; what was read of another version of the space is forgotten."""
        self._stored.pop(space.name, None)
        self._indexes.pop(space.name, None)
        self._tables[space.name] = table, version
        self._embedded_by[space.name] = space.model.id

    def searched(self, name: str | None) -> pl.DataFrame:
        """The images of gallery ``name``, or all, as one gallery called ``all``.

        Args:
            name: A gallery, e.g. a category; all images by default.

        Returns:
            GALLERY rows.

        Raises:
            SetrError: There is no such gallery.
        """
        import polars as pl

        images = self.images.filter(pl.col("galleries").list.len() > 0)
        if name is not None:
            chosen = images.filter(pl.col("galleries").list.contains(name))
            if chosen.is_empty():
                known = sorted(images["galleries"].explode(empty_as_null=True, keep_nulls=True).unique())
                near = did_you_mean(name, known)
                more = f" and {len(known) - _NAMED:,} more" if len(known) > _NAMED else ""
                named = f"{', '.join(known[:_NAMED])}{more}{near}"
                raise SetrError(f"there is no gallery {name!r}: use one of {named}")
            images = chosen
        return images.with_columns(galleries=pl.lit(["all"]))
