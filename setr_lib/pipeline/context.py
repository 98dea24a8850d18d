"""What the stages share while they run: the settings, the tables on disk, the stores and the models, each
opened once per process.

Dagster's assets, the ``setr`` command and :class:`setr_lib.Retriever` all use it, so a table written by one
is read by the others. It holds no step of the pipeline. Nothing heavy is imported here, only inside the
method that needs it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from setr_lib.files import sqlite_path
from setr_lib.pipeline.methods import ConfiguredMethods
from setr_lib.pipeline.models import Models
from setr_lib.pipeline.reranking import ConfiguredRerankers
from setr_lib.pipeline.storage import TABLES, NotMadeYetError, Tables
from setr_lib.pipeline.storage_format import use_format
from setr_lib.pipeline.trained_weights import TrainedWeights
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.content_cache import ContentCache
    from setr_lib.registry.bundle import Bundle
    from setr_lib.registry.store import MlflowRegistry
    from setr_lib.spaces.caption_store import CaptionStore
    from setr_lib.spaces.caption_vectors import CaptionVectorStore
    from setr_lib.spaces.vector_store import GalleryStore
    from setr_lib.texts.kind import TextKind
    from setr_lib.texts.prompts import PromptSet

__all__ = ["NotMadeYetError", "PipelineContext", "pipeline_context"]


class PipelineContext:
    """Tables, caches and models of one set of settings. Get it from :func:`pipeline_context`.

    Args:
        settings: The settings.
        models: The models of another context whose settings name the same ones, to load them once; this
            context's own by default.
        tables: The folder of its tables, below the storage root.
        only: Names of the retrieval methods that it knows of those that settings configure; all by default.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models | None = None,
        tables: str = TABLES,
        only: Iterable[str] | None = None,
    ) -> None:
        self.settings = settings
        self.tables = Tables(settings, tables)
        self.models = models or Models(settings, self.bundle)
        self.methods = ConfiguredMethods(self, None if only is None else frozenset(only))
        self.weights = TrainedWeights(self)
        self.rerankers = ConfiguredRerankers(self)
        self._registry: MlflowRegistry | None = None

    def narrowed(self, methods: Iterable[str]) -> PipelineContext:
        """A context of some of the configured retrieval methods alone, with the same tables and models.

        Args:
            methods: Their own names.

        Returns:
            The context.
        """
        return PipelineContext(self.settings, self.models, self.tables.folder, methods)

    @property
    def gallery_store(self) -> GalleryStore:
        """The LanceDB store."""
        from setr_lib.spaces.vector_store import GalleryStore

        return GalleryStore(self.settings.lancedb_uri)

    @property
    def caption_store(self) -> CaptionStore:
        """The caption tables of the LanceDB store."""
        from setr_lib.spaces.caption_store import CaptionStore

        return CaptionStore(self.gallery_store)

    @property
    def caption_vectors(self) -> CaptionVectorStore:
        """The tables of the captions' vectors of the LanceDB store."""
        from setr_lib.spaces.caption_vectors import CaptionVectorStore

        return CaptionVectorStore(self.gallery_store)

    @property
    def registry(self) -> MlflowRegistry:
        """The MLflow store of trainings and registered adapters; opened on first use."""
        from setr_lib.registry.store import MlflowRegistry

        if self._registry is None:
            self._registry = MlflowRegistry.from_settings(self.settings)
        return self._registry

    def adapter_label(self, version: str | None) -> str | None:
        """What a score of a registered adapter must say about its training.

        Args:
            version: The registry version.

        Returns:
            The label, e.g. ``zero-shot``; None without a version.

        Raises:
            RegistryError: There is no such version.
        """
        if version is None:
            return None
        return self.registry.model(self.settings.registry.model).version(version).tags.get("setr.label", "")

    def bundle(self, version: str) -> Bundle:
        """The stored re-ranker of a registry version: adapter, judge prompt, and which base it is for.

        Args:
            version: The registry version.

        Returns:
            The bundle.

        Raises:
            RegistryError: There is no such version, or a file of it is damaged.
        """
        from setr_lib.registry.bundle import PARTS, Bundle

        bundle = Bundle(**self.registry.model(self.settings.registry.model).artifacts(version, PARTS))
        bundle.check()
        return bundle

    def prompts(self) -> PromptSet:
        """The prompt files that the settings name.

        Returns:
            The prompt set.

        Raises:
            PromptError: There are none.
        """
        from setr_lib.texts.prompts import load_prompts

        return load_prompts(self.settings.models.judge.prompts, self.settings.base_dir)

    def champion_version(self, model: str | None = None) -> str | None:
        """The version that holds the champion alias now.

        Args:
            model: The registered model, by default the re-ranker's.

        Returns:
            The version; None where nothing was promoted yet.
        """
        database = sqlite_path(self.settings.tracking_uri)
        if database is not None and not database.is_file():
            return None  # without importing MLflow, which takes seconds
        return self.registry.model(model or self.settings.registry.model).champion()

    def cache(self, kind: str) -> ContentCache:
        """The durable store of results that cost a model call.

        Args:
            kind: Their kind, e.g. ``judge_scores``.

        Returns:
            The store of this kind.
        """
        from setr_lib.content_cache import ContentCache

        return ContentCache(self.settings.cache_path, kind)

    def imported_captions(self, dataset: str) -> pl.DataFrame:
        """The captions that were imported for a data set.

        Args:
            dataset: The data set's name.

        Returns:
            An ``IMPORTED_CAPTIONS`` frame, empty where there are none.
        """
        from setr_lib.tables import IMPORTED_CAPTIONS

        return self._imported("imported_captions", IMPORTED_CAPTIONS, dataset)

    def imported_compositions(self, key: str) -> pl.DataFrame:
        """The compositions that were imported for an evaluation set.

        Args:
            key: The evaluation set.

        Returns:
            An ``IMPORTED_COMPOSITIONS`` frame, empty where there are none.
        """
        from setr_lib.tables import IMPORTED_COMPOSITIONS

        return self._imported("imported_compositions", IMPORTED_COMPOSITIONS, key)

    def imported_texts(self, kind: TextKind, dataset: str, key: str) -> pl.DataFrame:
        """The texts of a kind that a method brings, imported for a data set or an evaluation set.

        Args:
            kind: The kind of text.
            dataset: The data set's name, for a kind per image.
            key: The evaluation set, for a kind per query.

        Returns:
            A frame with the columns of ``imported_schema``, empty where there are none.
        """
        from setr_lib.texts.kind import imported_schema

        name = dataset if kind.per == "image" else key
        return self._imported(self.tables.imported_texts(kind.name), imported_schema(kind), name)

    def _imported(self, asset: str, schema: pl.Schema, name: str) -> pl.DataFrame:
        try:
            return self.tables.read(asset, schema, name)
        except NotMadeYetError:
            return schema.to_frame()

    def is_caption_proxy(self, key: str) -> bool:
        """Whether captions stand in for the images of an evaluation set: it has captions, and no readable
        image.

        Args:
            key: The evaluation set.

        Returns:
            True where captions are ranked instead of images.

        Raises:
            NotMadeYetError: The gallery's images were not inspected yet.
        """
        from setr_lib.benchmarks.image_captions import captions_file
        from setr_lib.datasets import evaluation_set
        from setr_lib.tables import GALLERY

        if captions_file(evaluation_set(self.settings, key)) is None:
            return False
        return self.tables.read("gallery_images", GALLERY, key).filter(status="ok").is_empty()


_contexts: dict[str, PipelineContext] = {}


def pipeline_context(settings: Settings) -> PipelineContext:
    """The context of a settings object: the same one for equal settings, so that models load once per
    process.

    Args:
        settings: The settings.

    Returns:
        The context.

    Raises:
        FormatError: The storage is of another SETR's format, and cannot be used.
    """
    key = f"{settings.base_dir} {settings.trusted} {settings.model_dump_json()}"
    if key not in _contexts:
        use_format(settings)
    return _contexts.setdefault(key, PipelineContext(settings))
