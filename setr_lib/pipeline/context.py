"""What the stages share while they run: the settings, the tables on disk, and the models, each opened once
per process.

Dagster's assets and the ``setr`` command both use it, so a table written by one is read by the
other. It holds no step of the pipeline. Nothing heavy is imported here, only inside the method that needs it.
"""

from __future__ import annotations

import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from setr_lib.errors import SetrError
from setr_lib.records import (
    EmbeddingsRecord,
    QueriesRecord,
    Record,
    SourceRecord,
    TextRecord,
    Vectors,
)
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl
    from pydantic import ValidationError

    from setr_lib.content_cache import ContentCache
    from setr_lib.methods.inputs import EncodedQueries, GalleryIndex
    from setr_lib.methods.method import Method
    from setr_lib.models.multimodal import MultimodalModel
    from setr_lib.registry.bundle import Bundle
    from setr_lib.registry.store import MlflowRegistry
    from setr_lib.reranking.fusion import Fusion
    from setr_lib.reranking.yes_no_judge import YesNoJudge
    from setr_lib.spaces.caption_store import CaptionStore
    from setr_lib.spaces.open_clip_space import OpenClipSpace
    from setr_lib.spaces.vector_store import GalleryStore
    from setr_lib.texts.prompts import PromptSet


RecordT = TypeVar("RecordT", bound=Record)
_NAME_THE_BASE = "[models.judge] name"


class NotMadeYetError(SetrError):
    """A table that a step reads has not been made; the message says by which asset."""


class PipelineContext:
    """Tables, caches and models of one set of settings. Get it from :func:`pipeline_context`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._encoder: OpenClipSpace | None = None
        self._judges: dict[str | None, MultimodalModel] = {}
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

    def encoder(self) -> OpenClipSpace:
        """The CLIP of stage 1, loaded on first use. Raises ``EncoderError`` where it cannot be had."""
        from setr_lib.spaces.open_clip_space import OpenClipSpace

        if self._encoder is None:
            self._encoder = OpenClipSpace.from_settings(self.settings)
        return self._encoder

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

    def judge(self, version: str | None = None) -> MultimodalModel:
        """The multimodal LLM, as it is or with the adapter of registry ``version``; each loaded on first use.

        It describes and composes; with its judge prompt it is the re-ranker (:meth:`reranker`).
        At most one adapted model is kept. Raises ``JudgeError`` where the model cannot be had.
        """
        if version not in self._judges:
            for other in [each for each in self._judges if each is not None and version is not None]:
                del self._judges[other]
            judge = self.fresh_judge() if version is None else self._adapted_judge(version)
            for other in self._judges.values():  # both judge the same images: the vision tower sees each once
                judge.share_vision(other)
            self._judges[version] = judge
        return self._judges[version]

    def reranker(self, version: str | None = None) -> YesNoJudge:
        """The Yes/No judge of stage 2: the base model, or with the adapter of registry ``version``.

        The base model's prompt is ``judge.jinja`` of the prompt set that the settings name; an adapter's
        prompt is the one that it was trained under, read from its registered bundle. Raises ``JudgeError``,
        ``PromptError`` or ``RegistryError``.
        """
        from setr_lib.reranking.yes_no_judge import YesNoJudge

        template = self.prompts().get("judge") if version is None else self.bundle(version).judge_prompt
        return YesNoJudge(self.judge(version), template)

    def _adapted_judge(self, version: str) -> MultimodalModel:
        from setr_lib.models.multimodal import JudgeError

        bundle, name = self.bundle(version), self.settings.judge_name
        try:
            judge = self.fresh_judge(bundle.adapter)
        except JudgeError:
            # An adapter of a base of another size does not load: say which one it is for, if that is why.
            bundle.reference.check(self.fresh_judge().base_id, name, _NAME_THE_BASE)
            raise
        bundle.reference.check(judge.base_id, name, _NAME_THE_BASE)
        return judge

    def fresh_judge(self, adapter: Path | None = None) -> MultimodalModel:
        """A multimodal LLM of the caller's own, outside of those that the context keeps."""
        from setr_lib.models.multimodal import MultimodalModel

        settings = self.settings
        return MultimodalModel.load(
            settings.models.judge, adapter=adapter, device=settings.models.device, name=settings.judge_name
        )

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

    def fusion(self, version: str | None) -> tuple[Fusion, float, str]:
        """(fusion, weight, how it was chosen) for the base judge (``version`` None) or an adapter of the
        registry.

        By ``auto``, what ``reranking_fusion`` chose for that judge. An adapter that it has not seen yet is
        treated like the adapter it has seen, a judge without any calibration like LamRA's: cosine plus P(Yes).
        """
        from setr_lib.tables import FUSIONS

        options = self.settings.reranking
        if options.fusion != "auto":
            return options.fusion, options.judge_weight, "by the settings"
        stage = "base judge" if version is None else "adapter"
        try:
            known = self.read_table("reranking_fusion", FUSIONS).filter(stage=stage, chosen=True)
        except NotMadeYetError:
            return "cosine_judge", options.judge_weight, "no calibration yet: materialize reranking_fusion"
        if known.is_empty():
            return "cosine_judge", options.judge_weight, "no calibration of an adapter yet"
        row = known.row(0, named=True)
        how = f"best on {row['queries']} held-out synthesised queries"
        if row["adapter_version"] != version:
            how += f" for version {row['adapter_version']}"
        return row["fusion"], row["weight"] or 1.0, how

    def cache(self, kind: str) -> ContentCache:
        """The durable store of results that cost a model call, of one kind (``captions``, ``scores``, ...)."""
        from setr_lib.content_cache import ContentCache

        return ContentCache(self.settings.cache_path, kind)

    def imported_captions(self, dataset: str) -> pl.DataFrame:
        """Captions that a person has carried here for data set ``dataset``: an ``IMPORTED_CAPTIONS`` frame."""
        from setr_lib.tables import IMPORTED_CAPTIONS

        return self._imported("imported_captions", IMPORTED_CAPTIONS, dataset)

    def imported_compositions(self, key: str) -> pl.DataFrame:
        """Compositions carried here for evaluation set ``key``: an ``IMPORTED_COMPOSITIONS`` frame."""
        from setr_lib.tables import IMPORTED_COMPOSITIONS

        return self._imported("imported_compositions", IMPORTED_COMPOSITIONS, key)

    def _imported(self, asset: str, schema: pl.Schema, name: str) -> pl.DataFrame:
        try:
            return self.read_table(asset, schema, name)
        except NotMadeYetError:
            return schema.to_frame()

    @staticmethod
    def coarse_table(key: str, strategy: str) -> str:
        """The table of one strategy's rankings of an evaluation set (there are several per set)."""
        return f"coarse_rankings/{key}/{re.sub(r'[^A-Za-z0-9_.-]+', '-', strategy)}"

    @staticmethod
    def reranked_table(key: str, stage: str) -> str:
        """The table of one stage's (``base judge``, ``adapter``) rankings of an evaluation set."""
        return f"reranked_rankings/{key}/{stage.replace(' ', '-')}"

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
        return self.read_table("gallery_images", GALLERY, key).filter(status="ok").is_empty()

    @cached_property
    def _named_methods(self) -> dict[str, Method]:
        """The configured methods by what settings call them: loaded once, carried as objects from here on."""
        from setr_lib.methods.method import get_method

        options = self.settings.coarse
        names = (*options.strategies, *options.caption_strategies, options.default, options.caption_default)
        return {name: get_method(name, self.settings) for name in names}

    @property
    def configured_methods(self) -> dict[str, Method]:
        """The retrieval methods that settings name, by their own names.

        Raises ``MethodError`` where one cannot be had.
        """
        options = self.settings.coarse
        every = [self._named_methods[name] for name in (*options.strategies, *options.caption_strategies)]
        return {method.name: method for method in every}

    def method(self, name: str) -> Method:
        """The retrieval method called ``name``, as it calls itself or as settings do, else any that is known.

        Raises ``MethodError`` where there is none.
        """
        from setr_lib.methods.method import get_method

        found = self.configured_methods.get(name) or self._named_methods.get(name)
        return found or get_method(name, self.settings)

    def methods(self, key: str) -> list[Method]:
        """The configured methods that ``key`` has material for: vectors, captions of its images, or both."""
        from setr_lib.methods.method import ranks_captions

        proxy = self.is_caption_proxy(key)
        captioned = self.read_record("gallery_embeddings", EmbeddingsRecord, key).has_captions
        every = self.configured_methods.values()
        return [each for each in every if (captioned if ranks_captions(each) else not proxy)]

    def default_method(self, key: str) -> Method:
        """The method whose candidates stage 2 re-ranks for ``key``, where there are images."""
        options = self.settings.coarse
        return self.method(options.caption_default if self.is_caption_proxy(key) else options.default)

    def method_options(self, method: Method) -> dict[str, Any]:
        """What settings say to ``method``: its ``inputs.options``."""
        from setr_lib.methods.intersection import ANCHOR_SHARE

        return (
            {ANCHOR_SHARE: self.settings.coarse.anchor_share} if method.name == "intersection_anchor" else {}
        )

    def captioned_queries(self, key: str) -> tuple[EncodedQueries, GalleryIndex, SourceRecord]:
        """Everything that stage 1 reads of ``key`` to search its images' captions; no model is needed.

        The queries; every image of the gallery, readable or not, with vectors of no dimension, and its
        captions; and a record of what these were made by. Raises ``NotMadeYetError`` naming what is to be
        materialized first.
        """
        import numpy as np

        from setr_lib.methods.inputs import GalleryIndex, plain_queries
        from setr_lib.tables import GALLERY, QUERIES

        stored = self.read_record("gallery_embeddings", EmbeddingsRecord, key)
        ids = self.read_table("gallery_images", GALLERY, key)["image_id"].to_list()
        if stored.captions_table is None:
            raise SetrError(f"the images of {key} have no captions: they cannot be ranked by captions")
        captions = self.caption_store.open(stored.captions_table, stored.captions_version)
        record = SourceRecord(
            captions_table=stored.captions_table,
            captions_version=stored.captions_version,
            images_without_captions=stored.images_without_captions,
            queries_digest=self.read_record("queries", QueriesRecord, key).digest,
        )
        queries = plain_queries(self.read_table("queries", QUERIES, key))
        return queries, GalleryIndex(ids, np.zeros((len(ids), 0), dtype=np.float32), captions), record

    def built_in_texts(self, key: str) -> dict[str, pl.DataFrame]:
        """The captions of the references and the compositions of the queries of ``key``, by kind of text.

        Raises ``NotMadeYetError`` where they are not made.
        """
        from setr_lib.methods.inputs import CAPTIONS as CAPTION_TEXTS
        from setr_lib.methods.inputs import COMPOSITIONS as COMPOSITION_TEXTS
        from setr_lib.tables import CAPTIONS, COMPOSITIONS

        return {
            CAPTION_TEXTS: self.read_table("reference_captions", CAPTIONS, key),
            COMPOSITION_TEXTS: self.read_table("query_compositions", COMPOSITIONS, key),
        }

    def method_texts(self, key: str) -> dict[str, pl.DataFrame]:
        """The texts that configured methods bring themselves for ``key``, by kind.

        Raises ``NotMadeYetError`` where they are not made.
        """
        kinds = {kind.name: kind for method in self.methods(key) for kind in method.texts}
        return {
            name: self.read_table(self.method_texts_table(key, name), kind.schema)
            for name, kind in kinds.items()
        }

    @staticmethod
    def method_texts_table(key: str, kind: str) -> str:
        """The table of one kind of text that a method brings, for an evaluation set."""
        return f"method_texts/{key}/{re.sub(r'[^A-Za-z0-9_.-]+', '-', kind)}"

    def encoded_queries(self, key: str) -> tuple[EncodedQueries, GalleryIndex, SourceRecord]:
        """Everything that stage 1 reads of an evaluation set.

        The queries, encoded; the gallery's ids and vectors; and a record of what these were made by. Raises
        ``NotMadeYetError`` naming what is to be materialized first.
        """
        from setr_lib.methods.inputs import GalleryIndex, encode_queries
        from setr_lib.tables import QUERIES

        stored = self.vectors_of("gallery_embeddings", f"the gallery of {key}", key)
        ids, vectors = self.gallery_store.read(stored.table, stored.version)
        encoded = encode_queries(
            self.read_table("queries", QUERIES, key),
            self.encoder(),
            ids,
            vectors,
            texts={**self.built_in_texts(key), **self.method_texts(key)},
        )
        composed = self.read_record("query_compositions", TextRecord, key)
        record = SourceRecord(
            **stored._asdict(),
            queries_digest=self.read_record("queries", QueriesRecord, key).digest,
            composition_prompt=composed.prompt_hash,
            composition_model=composed.model,
        )
        return encoded, GalleryIndex(ids, vectors), record

    def vectors_of(self, asset: str, what: str, key: str | None = None) -> Vectors:
        """Where ``asset`` (``gallery_embeddings`` of ``key``, ``training_embeddings``) has stored its
        vectors.

        Raises ``NotMadeYetError``, or ``SetrError`` where ``what`` has no vectors, or another encoder's than
        the configured one's.
        """
        stored = self.read_record(asset, EmbeddingsRecord, key).vectors(key or what)
        if stored.encoder != self.encoder().id:
            raise SetrError(
                f"{what} was embedded by {stored.encoder}, settings now name {self.encoder().id}: "
                f"materialize {_named(asset, key)} again"
            )
        return stored

    def write_table(
        self,
        asset: str,
        frame: pl.DataFrame,
        schema: pl.Schema,
        partition: str | None = None,
        made_by: Record | None = None,
    ) -> Path:
        """Store ``frame`` as the table of ``asset`` (and ``partition``), with a record beside it of what made
        it.

        Raises ``SetrError`` naming the column where the frame does not fit ``schema``.
        """
        from setr_lib.tables import conform, write_parquet_atomically

        path = self.settings.table_path(asset, partition)
        write_parquet_atomically(conform(frame, schema, _named(asset, partition)), path)
        if made_by is not None:
            self.write_record(asset, made_by, partition)
        return path

    def read_table(self, asset: str, schema: pl.Schema, partition: str | None = None) -> pl.DataFrame:
        """The table of ``asset`` (and ``partition``). Raises ``NotMadeYetError`` where there is none."""
        import polars as pl

        from setr_lib.tables import conform

        path = self.settings.table_path(asset, partition)
        try:
            frame = pl.read_parquet(path, use_statistics=False)
        except FileNotFoundError:
            raise NotMadeYetError(_not_made(asset, partition, path)) from None
        except pl.exceptions.PolarsError as error:
            raise SetrError(f"{path}: not a readable table ({error}): materialize {asset!r} again") from error
        return conform(frame, schema, _named(asset, partition))

    def write_record(self, asset: str, record: Record, partition: str | None = None) -> Path:
        """Store what made a result (digests, versions, settings) as JSON beside its table."""
        path = self.settings.table_path(asset, partition).with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_text(json.dumps(record.stated(), indent=1, ensure_ascii=False), encoding="utf-8")
        partial.replace(path)
        return path

    def read_record(self, asset: str, kind: type[RecordT], partition: str | None = None) -> RecordT:
        """The record beside a table, of class ``kind``.

        Raises ``NotMadeYetError`` where there is none, ``SetrError`` naming the asset to materialise again
        where it is damaged or lacks what ``kind`` requires.
        """
        from pydantic import ValidationError

        path = self.settings.table_path(asset, partition).with_suffix(".json")
        try:
            return kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise NotMadeYetError(_not_made(asset, partition, path)) from None
        except ValidationError as error:
            raise SetrError(f"{path}: {_faults(error)}: materialize {_step(asset)!r} again") from error


def _faults(error: ValidationError) -> str:
    """What is wrong with a record, in words."""
    faults = error.errors(include_url=False)
    if faults[0]["type"] == "json_invalid":
        return f"not valid JSON ({faults[0]['msg']})"
    missing = [".".join(map(str, each["loc"])) for each in faults if each["type"] == "missing"]
    if len(missing) == len(faults):
        return f"written by another version of SETR, without {', '.join(missing)}"
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in faults)


def _step(asset: str) -> str:
    """The asset that writes the table ``asset`` (which may be one of several of it)."""
    return asset.split("/")[0]


def _named(asset: str, partition: str | None) -> str:
    return asset if partition is None else f"{asset} of {partition}"


def _not_made(asset: str, partition: str | None, path: Path) -> str:
    return (
        f"{_named(asset, partition)} not made yet ({path} is missing): materialize {_step(asset)!r} first, "
        "or run `make demo`"
    )


_benches: dict[str, PipelineContext] = {}


def pipeline_context(settings: Settings) -> PipelineContext:
    """The context of ``settings``: the same object for equal settings, so that models load once per process."""
    key = f"{settings.base_dir} {settings.trusted} {settings.model_dump_json()}"
    return _benches.setdefault(key, PipelineContext(settings))
