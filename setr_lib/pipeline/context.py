"""What the stages share while they run: the settings, the tables on disk, the stores and the models, each
opened once per process.

Dagster's assets, the ``setr`` command and :class:`setr_lib.Retriever` all use it, so a table written by one is
read by the others. It holds no step of the pipeline. Nothing heavy is imported here, only inside the method
that needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.pipeline.method_weights import MethodWeights
from setr_lib.pipeline.methods import ConfiguredMethods
from setr_lib.pipeline.models import Models
from setr_lib.pipeline.reranking import ConfiguredRerankers
from setr_lib.pipeline.storage import NotMadeYetError, Tables
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.content_cache import ContentCache
    from setr_lib.registry.bundle import Bundle
    from setr_lib.registry.store import MlflowRegistry
    from setr_lib.spaces.caption_store import CaptionStore
    from setr_lib.spaces.vector_store import GalleryStore
    from setr_lib.texts.kind import TextKind
    from setr_lib.texts.prompts import PromptSet

__all__ = ["NotMadeYetError", "PipelineContext", "pipeline_context"]


class PipelineContext:
    """Tables, caches and models of one set of settings. Get it from :func:`pipeline_context`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tables = Tables(settings)
        self.models = Models(settings, self.bundle)
        self.methods = ConfiguredMethods(self)
        self.weights = MethodWeights(self)
        self.rerankers = ConfiguredRerankers(self)
        self._registry: MlflowRegistry | None = None

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
    def registry(self) -> MlflowRegistry:
        """The MLflow store of trainings and registered adapters; opened on first use."""
        from setr_lib.registry.store import MlflowRegistry

        if self._registry is None:
            self._registry = MlflowRegistry.from_settings(self.settings)
        return self._registry

    def adapter_label(self, version: str | None) -> str | None:
        """What a score of registry ``version`` must say about its training; None without a version."""
        if version is None:
            return None
        return self.registry.model(self.settings.registry.model).version(version).tags.get("setr.label", "")

    def bundle(self, version: str) -> Bundle:
        """The stored re-ranker of a registry version: adapter, judge prompt, and which base it is for.

        Raises ``RegistryError`` where there is no such version.
        """
        from setr_lib.registry.bundle import PARTS, Bundle

        return Bundle(**self.registry.model(self.settings.registry.model).artifacts(version, PARTS))

    def prompts(self) -> PromptSet:
        """The prompt files that the settings name. Raises ``PromptError`` where there are none."""
        from setr_lib.texts.prompts import load_prompts

        return load_prompts(self.settings.models.judge.prompts, self.settings.base_dir)

    def champion_version(self, model: str | None = None) -> str | None:
        """The version that holds the champion alias now; None where nothing was promoted yet.

        ``model`` is the registered model, by default the re-ranker's.
        """
        database = self.settings.tracking_uri.removeprefix("sqlite:///")
        if database != self.settings.tracking_uri and not Path(database).is_file():
            return None  # without importing MLflow, which takes seconds
        return self.registry.model(model or self.settings.registry.model).champion()

    def cache(self, kind: str) -> ContentCache:
        """The durable store of results that cost a model call, of one kind (``captions``, ``scores``, ...)."""
        from setr_lib.content_cache import ContentCache

        return ContentCache(self.settings.cache_path, kind)

    def imported_captions(self, dataset: str) -> pl.DataFrame:
        """Imported captions for data set ``dataset``: an ``IMPORTED_CAPTIONS`` frame."""
        from setr_lib.tables import IMPORTED_CAPTIONS

        return self._imported("imported_captions", IMPORTED_CAPTIONS, dataset)

    def imported_compositions(self, key: str) -> pl.DataFrame:
        """Imported compositions for evaluation set ``key``: an ``IMPORTED_COMPOSITIONS`` frame."""
        from setr_lib.tables import IMPORTED_COMPOSITIONS

        return self._imported("imported_compositions", IMPORTED_COMPOSITIONS, key)

    def imported_texts(self, kind: TextKind, dataset: str, key: str) -> pl.DataFrame:
        """Imported texts of a kind: of images for the data set, of queries for evaluation set ``key``; columns
        as ``imported_schema`` says.
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
        """Whether captions stand in for the images of evaluation set ``key``: it has captions, and no
        readable image.

        Raises ``NotMadeYetError`` where the gallery's images were not inspected yet.
        """
        from setr_lib.benchmarks.image_captions import captions_file
        from setr_lib.datasets import evaluation_set
        from setr_lib.tables import GALLERY

        if captions_file(evaluation_set(self.settings, key)) is None:
            return False
        return self.tables.read("gallery_images", GALLERY, key).filter(status="ok").is_empty()


_contexts: dict[str, PipelineContext] = {}


def pipeline_context(settings: Settings) -> PipelineContext:
    """The context of ``settings``: the same object for equal settings, so that models load once per process."""
    key = f"{settings.base_dir} {settings.trusted} {settings.model_dump_json()}"
    return _contexts.setdefault(key, PipelineContext(settings))
