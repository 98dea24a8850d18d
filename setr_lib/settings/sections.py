"""The sections of ``setr.toml``, and ``Settings``, the one object that holds them all.

Single values are checked by their types, what does not go together by the validators of a section or of
``Settings``. A key's docstring is what ``docs/settings.md`` says about it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from setr_lib.files import sqlite_address, sqlite_path
from setr_lib.near_names import did_you_mean
from setr_lib.paths import expanded
from setr_lib.pixel_rules import MAX_PIXELS
from setr_lib.settings.names import (
    ADAPTER,
    BASE_JUDGE,
    BLIP2,
    BUILT_IN_SPACES,
    DEFAULT_ENCODER,
    DEFAULT_PRETRAINED,
    DEFAULT_SPACE,
    DELIMITER,
    LOCAL_FOLDER,
    METHOD_ENTRY_POINTS,
    NAMES_OF_KINDS,
    OPEN_CLIP,
    PREFIX,
    RERANKER_ENTRY_POINTS,
    RERANKERS,
    SENTENCE_TRANSFORMERS,
    TRAINED_SPACES,
    UNTRUSTED,
)
from setr_lib.settings.values import (
    URL,
    Background,
    Count,
    DeviceName,
    LocalPath,
    MethodName,
    ModuleName,
    PathOrName,
    RerankerName,
    Section,
    Seed,
    SettingsError,
    SpaceKind,
    StoreAddress,
    StoredName,
    endpoint_address,
    is_loopback,
    local_path,
    nearest,
    path_or_name,
)

_MODEL_PATHS = ("name", "model", "pretrained")
"""Options of embedding spaces that may be paths."""
_SET_KEY = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")
NegativeKind = Literal[
    "coarse_negative", "reference_negative", "text_only_negative", "shuffled_text_negative"
]


class StorageSettings(Section):
    """The folder of everything that SETR makes."""

    root: LocalPath = Path("var")
    """The folder of everything that runs make: tables, vectors, generated texts, MLflow's store, checkpoints
    and reports."""
    removable_share: float = Field(default=0.2, ge=0, le=1)
    """The share of a gallery's stored vectors that a run may remove because their images are gone. Where more
    would go, and 10 at least, the run stops and asks for ``--accept-removals``. 1: it never asks."""


class DatasetSettings(Section):
    """A data set, by a name that you choose: a benchmark in its official layout, or a folder of your own."""

    kind: str
    """What the data set is: ``cirr``, ``fashioniq``, ``circo``, ``genecis``, ``icir``, ``lasco`` (a benchmark
    in its official layout), ``folder`` (pictures of your own), the name of an installed benchmark, or
    ``package.module:NAME`` of one. A section with the name of a kind may leave it out."""
    root: LocalPath
    """The folder of the data set: its annotation files and, where ``image_root`` names no other, its
    images."""
    image_root: LocalPath | None = None
    """The folder of the images, where they are not in the official place under ``root``."""
    train_root: LocalPath | None = None
    """The folder of the train split's files and images, laid out as ``root``, when they are not there;
    ``image_root`` is then for the other splits."""
    splits: list[str] = Field(default_factory=list)
    """Which splits are evaluated; each is an evaluation set, ``NAME-SPLIT``. Left out: ``val``; of a
    benchmark of your own, every split whose targets are known. A split without targets (``test1`` of CIRR)
    may be named: it is ranked for ``setr submit`` and not scored."""
    gallery: str | None = None
    """How the gallery is chosen, by default as the benchmark usually does. Of FashionIQ: ``original``, all
    images of the split (what zero-shot papers report), or ``val``, references and targets only."""
    queries: LocalPath | None = None
    """Of ``kind = "folder"``: the file of queries (CSV, TSV, JSON, JSON Lines or Parquet), where it is not
    ``queries.csv`` (``.tsv``, ``.jsonl``, ``.json``, ``.parquet``) under ``root``."""
    reference_root: LocalPath | None = None
    """Of ``kind = "folder"``: a folder of reference images that are not in the gallery. Queries name them by
    their paths from there."""
    outside_links: bool = False
    """Whether links to folders are followed that end outside of ``root``, ``image_root`` and
    ``reference_root``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of a benchmark of your own; what they mean is up to it. Built-in kinds have none."""
    image_captions: LocalPath | None = None
    """A file with captions of the gallery's images, which are then searched as text, too. Left out:
    ``image_captions.json`` under ``root``, where there is one."""
    rerank_top_k: Count | None = None
    """How many of stage 1's candidates per query a re-ranker re-orders in this data set. Left out:
    ``[reranking] top_k``."""
    background: Background | None = None
    """The colour behind transparent pixels, as ``#rrggbb``; ``none`` drops transparency and shows the colours
    that it hid. Left out: ``none`` for benchmarks, as their own pipelines do; white for ``folder``."""
    upright: bool | None = None
    """Whether a picture is turned as its EXIF data say. Left out: no for benchmarks, as their own pipelines
    do; yes for ``folder``."""


class ImageSettings(Section):
    """What holds for the image files of all data sets."""

    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=2**33)
    """The largest picture that is read, in pixels (width times height). A larger one counts as broken.
    Decoding takes up to four bytes for each pixel."""


class TrainingSettings(Section):
    """What the re-ranker's Yes/No pairs are made from: captioned images, ready triplets, or the train split
    of a data set.
    """

    captions: LocalPath | None = None
    """A file of captioned images: JSON Lines of ``{"image": "folder/name.png", "caption": "one sentence"}``.
    Not read where ``triplets`` is named. Without ``captions``, ``triplets`` and ``dataset`` no adapter is
    trained."""
    image_root: LocalPath | None = None
    """The folder that image names in ``captions`` or ``triplets`` start from. Left out: that file's own
    folder."""
    triplets: LocalPath | None = None
    """A file of triplets: JSON Lines of ``{"reference": ..., "modification": ..., "target": ...}``, images by
    name as above."""
    dataset: str | None = None
    """A data set of ``[datasets]`` whose train split is trained on (``cirr``, ``fashioniq``, ``lasco``), in
    place of files of your own. What learns from it is labelled *supervised*, not zero-shot."""
    background: Background | None = None
    """The colour behind transparent pixels of your own training images, as ``#rrggbb``, or ``none``. Left
    out: white. A data set's images are read as its own section says."""
    upright: bool | None = None
    """Whether your own training images are turned as their EXIF data say. Left out: yes."""

    @property
    def is_named(self) -> bool:
        """Whether there is anything to train on; the base re-ranker needs nothing."""
        return self.captions is not None or self.triplets is not None or self.dataset is not None

    @model_validator(mode="after")
    def _files_or_a_data_set(self) -> TrainingSettings:
        keys = ("captions", "triplets", "image_root", "background", "upright")
        files = [key for key in keys if self.dataset and getattr(self, key) is not None]
        if files:
            raise ValueError(
                f"dataset = {self.dataset!r} is a data set's train split, and {' and '.join(files)} "
                "would be files of your own: keep one of the two"
            )
        return self


class EncoderSettings(Section):
    """The frozen CLIP of stage 1: any name that open_clip knows, by default the ViT-L/14 that most papers
    report.
    """

    name: PathOrName = DEFAULT_ENCODER
    """The model: the name of an architecture of open_clip, ``hf-hub:`` and a hub id, or ``local-dir:`` and a
    folder on this machine."""
    pretrained: PathOrName | None = None
    """Which weights an architecture gets: one of open_clip's tags, or a file. Left out:
    ``laion2b_s32b_b82k`` with the default ``name``. With any other architecture its weights are then random;
    ``hf-hub:`` and ``local-dir:`` bring their own."""
    batch_size: Count | Literal["auto"] = 32
    """Images or texts per forward pass. ``auto``: some sizes are timed on the first pictures of a gallery;
    the smallest that is within 3 % of the fastest is used, and kept in the storage root for the next run."""

    @model_validator(mode="before")
    @classmethod
    def _default_weights(cls, values: object) -> object:
        """The default model's weights, where settings name neither them nor another model."""
        if isinstance(values, dict) and values.get("name", DEFAULT_ENCODER) == DEFAULT_ENCODER:
            return {"pretrained": DEFAULT_PRETRAINED, **values}
        return values

    @field_validator("name")
    @classmethod
    def _local_folder(cls, name: str) -> str:
        folder = name.removeprefix(LOCAL_FOLDER)
        if name.startswith(LOCAL_FOLDER) and (not folder.strip() or URL.match(folder)):
            raise ValueError(f"after {LOCAL_FOLDER} comes the path of a folder on this machine")
        return name


class SpaceSettings(Section):
    """An embedding space besides that of ``[models.encoder]``; retrieval methods name it as their
    ``space``.
    """

    kind: SpaceKind
    """What makes the vectors: ``open_clip``, ``sentence_transformers``, ``blip2``, a trained system with
    galleries of its own (``retrieval_dpo_fused``, ``qformer``), the name of an installed kind (entry points
    ``setr.spaces``), or ``package.module:NAME`` of a class or function of your own."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The options of that kind, in ``[spaces.NAME.options]``. The device is not among them: it is that of
    ``[models]``."""

    @field_validator("options")
    @classmethod
    def _device_is_that_of_all(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "device" in options:
            raise ValueError("the device is that of all models: leave it out here, and set [models] device")
        paths = {key: path_or_name(options[key]) for key in _MODEL_PATHS if key in options}
        return {**options, **paths}


class EndpointSettings(Section):
    """An OpenAI-compatible server (vLLM's, say) whose model writes the generated texts in place of the local
    one; the judge stays local. Pictures are sent there.
    """

    url: str | None = None
    """The server's address: ``https``, or ``http`` on this machine alone. Left out: texts are written by
    ``[models.judge]`` here."""
    model: str | None = None
    """What the server calls its model. Left out: ``[models.judge] name``. Kept texts are found again by this
    name, not by the address."""
    key_variable: str | None = None
    """The name of the environment variable that holds the API key. The key itself never stands in a file.
    Left out: no key is sent."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """How many requests are under way at once."""
    timeout: float = Field(default=120.0, gt=0, le=3600)
    """How long one try of a request may take, in seconds."""
    retries: int = Field(default=3, ge=0, le=10)
    """How many more tries a request gets, with growing pauses, where the server is busy or fails."""

    @model_validator(mode="before")
    @classmethod
    def _no_key_in_a_file(cls, values: object) -> object:
        names = {"key", "api_key", "apikey", "token", "secret", "password"}
        if isinstance(values, Mapping) and (found := sorted(names.intersection(map(str, values)))):
            raise ValueError(
                f"{found[0]}: a key does not belong into settings: put it into an environment variable, and "
                "name that variable in key_variable"
            )
        return values

    @field_validator("url")
    @classmethod
    def _safe_address(cls, url: str | None) -> str | None:
        return None if url is None else endpoint_address(url)

    @field_validator("key_variable")
    @classmethod
    def _name_of_a_variable(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
            raise ValueError(  # what stands there may be a key: it is not repeated
                "write the name of an environment variable (capitals, digits and '_'), not the key itself"
            )
        return name

    @property
    def is_local(self) -> bool:
        """Whether the server runs on this machine."""
        return self.url is not None and is_loopback(urlsplit(self.url).hostname or "")


class JudgeSettings(Section):
    """The multimodal LLM that describes, composes and judges: an image-text-to-text model of transformers."""

    name: PathOrName = "Qwen/Qwen3-VL-2B-Instruct"
    """The model: a folder on this machine, or a hub id. ``docs/judges.md`` says which can be named."""
    revision: str | None = None
    """A commit, branch or tag of the hub's model. Left out: its main branch, as it is in the cache or on the
    hub at the time."""
    prompts: PathOrName = "standard"
    """Which prompts it is asked by: ``standard``, ``miniature`` (for the miniature's model only), or a folder
    of your own prompt files."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The number format of its weights. ``auto``: as the checkpoint stores them (bfloat16 for Qwen3-VL), and
    float32 on a CPU. Four bytes a parameter in float32, two in the others."""
    trust_remote_code: bool = False
    """Whether code that comes with the model's files may be run: only for a model whose code you know."""
    batch_size: Count = 64
    """How many answers (captions, compositions) are generated side by side, and how many pictures are decoded
    at a time. Lower it where memory is short: the answers' keys and values are in the device's memory."""
    pair_batch_size: Count = 128
    """How many candidates the judge sees per forward pass, at most; on a CPU as many as its caches hold.
    Lower it where memory is short. Scores are stored after so many pairs (up to eight times as many where
    the model has fewer than 10^8 parameters in its layers)."""
    features_mb: int = Field(default=0, ge=0, le=2**24)
    """How many megabytes of vision features may be kept on disk for the next run, in the storage's folder
    ``features``; about 4 MB an image for Qwen3-VL-2B at 256 tokens in bfloat16. Those not used for the
    longest time give way. 0: none are kept. The folder can be deleted at any time."""
    max_new_tokens: Count = 256
    """The longest answer that is generated, in tokens."""
    endpoint: EndpointSettings = Field(default_factory=EndpointSettings)
    """A server that writes the generated texts in place of this model. ``endpoint = "ADDRESS"`` is short for
    a section with the address alone."""

    @field_validator("endpoint", mode="before")
    @classmethod
    def _address_alone(cls, endpoint: object) -> object:
        return {"url": endpoint} if isinstance(endpoint, str) else endpoint

    @field_validator("prompts")
    @classmethod
    def _set_or_folder(cls, prompts: str) -> str:
        local_path(prompts)
        return prompts


class RerankerModelSettings(Section):
    """The model of the re-ranker ``qwen3-vl-reranker``; nothing else uses it, and it is loaded where
    ``[reranking] rerankers`` names that.
    """

    name: PathOrName = "Qwen/Qwen3-VL-Reranker-2B"
    """The model: a folder on this machine, or a hub id."""
    revision: str | None = None
    """A commit, branch or tag of the hub's model. Left out: its main branch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The number format of its weights; ``auto``: as the checkpoint stores them, and float32 on a CPU."""
    instruction: str = "Retrieve the image that shows the reference image changed as the text says."
    """What its prompt says of the task. The default is this project's: the model's own speaks of search
    queries."""
    pair_batch_size: Count = 128
    """How many candidates it sees per forward pass. Lower it where memory is short."""


class ModelSettings(Section):
    """The models: encoder, multimodal LLM, and the device that they run on."""

    device: DeviceName = "auto"
    """Where the models run: ``auto`` (CUDA, else MPS, else CPU), or a torch device such as ``cuda:1``."""
    encoder: EncoderSettings = Field(default_factory=EncoderSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    reranker: RerankerModelSettings = Field(default_factory=RerankerModelSettings)


class CoarseSettings(Section):
    """Stage 1: the retrieval methods, and how many images each keeps for a query."""

    strategies: list[MethodName] = Field(
        default=["image", "text", "sum", "product", "union_text", "intersection", "intersection_anchor"]
    )
    """The retrieval methods that are ranked, by name (``setr list methods``), or ``package.module:NAME`` of
    one of your own. (The key kept its earlier name.)"""
    default: MethodName = "intersection"
    """The method that ``setr search`` uses, and whose candidates are re-ranked unless ``[reranking] methods``
    names others. One of ``strategies``."""
    top_k: Count = 50
    """How many images each method keeps for a query. Metrics of a greater depth (R@100, say) are left out,
    and a run says so."""
    memory_mb: int = Field(default=256, ge=16, le=2**24)
    """How many megabytes blocks of vectors and scores may take while a gallery is ranked. A gallery of up to
    half of that is held in memory; a larger one is read from the store in blocks, once for each method. It
    holds for methods that search with one vector for each query; any other holds the whole gallery."""
    anchor_share: float = Field(default=0.1, ge=0, le=1)
    """The share of the reference image's vector in the query of ``intersection_anchor``."""
    caption_strategies: list[MethodName] = Field(
        default=["captions_text", "captions_union", "captions_intersection"]
    )
    """The methods that are ranked besides ``strategies`` where a gallery's images have captions
    (``image_captions``), and alone where none of its images is here."""
    caption_default: MethodName = "captions_intersection"
    """What takes the place of ``default`` where a gallery has captions and no image. One of
    ``caption_strategies``."""

    @model_validator(mode="after")
    def _defaults_are_ranked(self) -> CoarseSettings:
        if not self.strategies:
            raise ValueError("strategies is empty: name at least one, e.g. strategies = ['intersection']")
        for key, default, names in (
            ("default", self.default, self.strategies),
            ("caption_default", self.caption_default, self.caption_strategies or [self.caption_default]),
        ):
            if not _may_be_called(default, names):
                among = key.replace("default", "strategies")
                raise ValueError(
                    f"{key}, {default!r}, is not among {among}: add it there, or set {key} to one of "
                    f"{', '.join(names)}"
                )
        return self


class PairSettings(Section):
    """The Yes/No pairs that the judge's adapter learns from."""

    groups: int = Field(default=1500, ge=2, le=10_000_000)
    """How many (reference, modification) groups are made, held-out ones included. Each brings one positive
    pair and its negatives."""
    held_out_share: float = Field(default=0.2, gt=0, lt=1)
    """The share of the groups that training never sees, by which an adapter is measured and a fusion is
    chosen."""
    negatives_per_group: dict[NegativeKind, Annotated[int, Field(ge=0, le=30)]] = Field(
        default={
            "coarse_negative": 2,
            "reference_negative": 1,
            "text_only_negative": 1,
            "shuffled_text_negative": 1,
        }
    )
    """How many No pairs of each kind a group gets: images that stage 1 ranks high (``coarse_negative``), the
    reference itself (``reference_negative``, 0 or 1), an image that satisfies the text alone
    (``text_only_negative``), the pair under another group's text (``shuffled_text_negative``)."""
    near_duplicate_cosine: float = Field(default=0.98, gt=0, le=1)
    """A mined negative whose cosine with the target is above this is taken for a right answer that nobody
    has labelled, and left out."""
    writer: Literal["templates", "model"] = "templates"
    """Who writes the modification texts between two captioned images: sentences with blanks to fill
    (``templates``), or the local multimodal LLM (``model``)."""
    seed: Seed = 7
    """Of every draw in the making of pairs."""

    @field_validator("negatives_per_group")
    @classmethod
    def _some_negatives(cls, wanted: dict[NegativeKind, int]) -> dict[NegativeKind, int]:
        if not any(wanted.values()):
            raise ValueError(
                f"a judge needs pairs to say No to: ask for one of {', '.join(get_args(NegativeKind))}"
            )
        if wanted.get("reference_negative", 0) > 1:
            raise ValueError("reference_negative is 0 or 1: a group has one reference")
        return wanted


class AdapterSettings(Section):
    """The training of the judge's LoRA adapter."""

    rank: int = Field(default=16, ge=1, le=4096)
    """The rank of LoRA's matrices."""
    alpha: int = Field(default=32, ge=1, le=65_536)
    """LoRA's update is multiplied by ``alpha / rank``."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """The share of LoRA's inputs that are dropped in training."""
    target_modules: list[ModuleName] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )
    """The linear layers of the language model that are adapted, by the last part of their names."""
    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    """The highest learning rate, after the warm-up. The default is a usual one for LoRA, chosen by this
    project, not a paper's."""
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    """The share of the steps in which the learning rate rises from 0; afterwards it falls along a cosine."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """The weight decay of AdamW."""
    epochs: float = Field(default=2.0, gt=0, le=10_000)
    """How often every training group is seen."""
    groups_per_batch: Count = 16
    """(reference, modification) groups per optimiser step; each brings its positive and its negatives. Lower
    it where memory is short."""
    checkpoint_every: Count = 50
    """Optimiser steps between two checkpoints: the most that a kill can cost."""
    held_out_points: int = Field(default=3, ge=1, le=1000)
    """How often all held-out pairs are judged, evenly spaced, the last time at the end: the points of the
    curve in MLflow, beside that before the first step. On the miniature each takes about 5 % of the
    training's time. The trained weights do not depend on it."""
    seed: Seed = 11
    """Of LoRA's first weights, the order of the groups, and dropout."""


class RerankingSettings(Section):
    """Stage 2: the re-rankers, whose candidates they re-order, and how scores are fused."""

    methods: Annotated[list[MethodName], Field(min_length=1)] | None = None
    """The methods whose candidates are re-ranked, each one of ``[coarse] strategies``. Left out: ``[coarse]
    default`` alone."""
    rerankers: list[RerankerName] = Field(default=[BASE_JUDGE, ADAPTER])
    """Who re-ranks, in this order: each one's rows are compared with those before it. ``adapter`` is left out
    until a version is promoted. An empty list re-ranks nothing."""
    top_k: Count = 50
    """How many of stage 1's candidates per query a re-ranker re-orders; all of them, where ``[coarse] top_k``
    keeps fewer. ``rerank_top_k`` of a data set wins."""
    fusion: Literal["auto", "judge", "cosine_judge", "reciprocal_rank"] = "auto"
    """How stage 1's score and the re-ranker's become one order: the re-ranker's alone (``judge``),
    ``cosine + judge_weight * P(Yes)`` (``cosine_judge``), or 1 / (60 + rank) added up (``reciprocal_rank``).
    ``auto``: for each method and re-ranker, whichever orders held-out synthesised queries best (asset
    ``reranking_fusion``); without ``[training]`` ``cosine_judge``, or ``reciprocal_rank`` where there is no
    cosine or no P(Yes)."""
    judge_weight: float = Field(default=1.0, ge=0, le=1000)
    """The weight of P(Yes) in ``cosine_judge``. Under ``auto`` it is chosen, too."""
    pairs: PairSettings = Field(default_factory=PairSettings)
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)

    @field_validator("rerankers")
    @classmethod
    def _known_rerankers(cls, names: list[str]) -> list[str]:
        for name in names:
            if any(map(_is_path, (name, *names))) or name in RERANKERS:
                continue  # a path's object may have any name, which is judged where it is loaded
            if name not in (installed := _installed(RERANKER_ENTRY_POINTS)):
                known = sorted({*RERANKERS, *installed})
                near = did_you_mean(name, known) or "."
                raise ValueError(
                    f"there is no re-ranker {name!r}; known: {', '.join(known)}{near} One in a file of yours "
                    f"is named by its path, package.module:NAME; an installed one is an entry point of "
                    f"{RERANKER_ENTRY_POINTS!r}"
                )
        return names


def _installed(*groups: str) -> set[str]:
    """Names of the entry points of installed packages."""
    from importlib.metadata import entry_points

    return {point.name for group in groups for point in entry_points(group=group)}


def _is_path(name: str) -> bool:
    """Whether a name is ``package.module:NAME``: its object's own name is known once it is loaded."""
    return ":" in name


def _may_be_called(name: str, listed: list[str]) -> bool:
    """Whether ``name`` is in a list of methods, or may be what one of them, given as a path, calls itself."""
    return name in listed or (not _is_path(name) and any(map(_is_path, listed)))


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


class EvaluationSettings(Section):
    """Metrics, intervals, comparisons and reports."""

    bootstrap_samples: int = Field(default=2000, ge=100, le=1_000_000)
    """How many bootstrap samples of the queries a 95 % interval is made of."""
    seed: Seed = 5
    """Of the bootstrap samples."""
    contact_sheet_queries: int = Field(default=12, ge=0, le=10_000)
    """How many best cases a report shows with their pictures, and how many worst."""
    baselines: list[MethodName] = Field(default=["sum", "union_text"])
    """The methods over which the default method's margin is shown, where they are ranked."""
    caption_baselines: list[MethodName] = Field(default=["captions_union", "captions_text"])
    """The same where captions are ranked: margins of ``[coarse] caption_default``."""
    shown: list[MethodName] | None = None
    """The methods whose rows a report shows at once, the default one always; the others are folded. Left
    out: all."""
    limit: Count | None = None
    """Only the first so many queries of each set are evaluated (a trial); such rows are marked not
    comparable. Left out: all."""


class RegistrySettings(Section):
    """The MLflow store of trainings and registered models."""

    tracking_uri: StoreAddress | None = None
    """The address of MLflow's store (tracking and registry): ``sqlite:///FILE``, another database's, or a
    server's. Left out: ``mlflow.db`` under the storage root."""
    experiment: StoredName = "setr"
    """The MLflow experiment that trainings belong to."""
    model: StoredName = "setr-reranker"
    """The name of the registered model whose versions are the judge's adapters."""
    evaluations: StoredName = "setr-evaluations"
    """The MLflow experiment that evaluations belong to: a run for each evaluation of a set, and below it one
    for each row."""
    log_evaluations: bool = True
    """Whether evaluations are logged to MLflow, too; tables and reports are written in any case."""
    mlflow_ui: str = "http://127.0.0.1:5000"
    """Where MLflow's UI is opened, for links to it; a store that is a server is linked by its own address."""
    dagster_ui: str = "http://127.0.0.1:3000"
    """Where Dagster's UI is opened, for links to it."""


class MiniatureSettings(Section):
    """The drawn world. Its seed never touches the two models: they are trained once, and committed.

    Three dials say how hard its galleries are; the training images do not depend on them. A *distractor* is a
    gallery image that no query has for its reference or target; each is drawn against one query.
    """

    seed: Seed = 0
    """Of everything that is drawn: another seed is another world of the same kind."""
    size: float = Field(default=1.0, gt=0, le=1000)
    """Scales the numbers of images and queries; 1.0 is the documented size."""
    models_seed: Seed = 0
    """Of the training of the two small models, by ``setr miniature train``; the committed ones are of 0."""
    training_images: int = Field(default=1600, ge=16, le=10_000_000)
    """How many captioned training images are drawn."""
    objects_per_scene: float = Field(default=1.6, ge=1, le=2)
    """How many different objects a query's reference shows in CIRR and CIRCO, on average; its target may show
    one more or one less."""
    near_misses: float = Field(default=1.0, ge=0, le=4)
    """Scales the number of near misses per query (pictures one respect away from its target or reference);
    1.0 is the documented number. Below, random pictures take their place; above, they replace random ones,
    then are added."""
    background_correlation: float | None = Field(default=None, ge=0, le=1)
    """The chance that a distractor is put on the background of its query's reference; else its background is
    random, while the target never shares the reference's. Left out: the documented world, which has no single
    value: 0.7 in CIRR and CIRCO; in FashionIQ a chance of 0.5 to share *some* query's reference's
    background."""


class Settings(BaseSettings):
    """All of SETR's settings. Build it with :func:`load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid", validate_default=True
    )

    storage: StorageSettings = Field(default_factory=StorageSettings)
    datasets: dict[str, DatasetSettings] = Field(default_factory=dict)
    images: ImageSettings = Field(default_factory=ImageSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    models: ModelSettings = Field(default_factory=ModelSettings)
    spaces: dict[str, SpaceSettings] = Field(default_factory=dict)
    coarse: CoarseSettings = Field(default_factory=CoarseSettings)
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The options of the retrieval method NAME (``inputs.options`` in its code): texts, numbers, true or
    false, and lists of these. One that the method does not have (``Method.options``) is refused when it is
    loaded. ``SETR_METHODS__NAME__OPTION`` gives a text; for numbers write all of ``SETR_METHODS`` as JSON."""
    systems: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The options of the trained retrieval system NAME (``setr list systems``). A system is trained only
    where its section is there, be it empty."""
    reranking: RerankingSettings = Field(default_factory=RerankingSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    miniature: MiniatureSettings = Field(default_factory=MiniatureSettings)
    base_dir: Path = Field(default_factory=Path.cwd, exclude=True)
    """The folder that relative paths start from (that of ``setr.toml``); not a key of the file."""
    trusted: bool = Field(default=True, exclude=True)
    """Whether these settings may name code to run; not a key of the file. See :func:`load_settings`."""

    @field_validator("datasets", mode="before")
    @classmethod
    def _kind_from_name(cls, datasets: object) -> object:
        if not isinstance(datasets, dict):
            return datasets
        return {
            name: {"kind": name, **keys} if name in NAMES_OF_KINDS and isinstance(keys, dict) else keys
            for name, keys in datasets.items()
        }

    @field_validator("datasets")
    @classmethod
    def _plain_names(cls, datasets: dict[str, DatasetSettings]) -> dict[str, DatasetSettings]:
        for name in datasets:
            if not _SET_KEY.fullmatch(name):
                raise ValueError(
                    f"data set name {name!r}: use lower-case letters, digits, '-' and '_' only, 64 at most"
                )
        return datasets

    @field_validator("spaces")
    @classmethod
    def _names_of_spaces(cls, spaces: dict[str, SpaceSettings]) -> dict[str, SpaceSettings]:
        if DEFAULT_SPACE in spaces:
            raise ValueError(
                f"{DEFAULT_SPACE!r} is the embedding space of [models.encoder]: describe it there, or choose "
                "another name here"
            )
        for name in spaces:
            if not _SET_KEY.fullmatch(name):
                raise ValueError(
                    f"embedding space {name!r}: use lower-case letters, digits, '-' and '_' only, 64 at most"
                )
        return spaces

    @field_validator("methods")
    @classmethod
    def _options_of_methods(
        cls, methods: dict[str, dict[str, Any]], info: ValidationInfo
    ) -> dict[str, dict[str, Any]]:
        for name, options in methods.items():
            for option, value in options.items():
                if not all(map(_is_plain, value if isinstance(value, list) else [value])):
                    raise ValueError(
                        f"{name}.{option}: write a text, a finite number, true or false, or a list of these"
                    )
        coarse: CoarseSettings | None = info.data.get("coarse")  # absent where it is at fault itself
        if coarse is None or not methods:
            return methods
        ranked, installed = (*coarse.strategies, *coarse.caption_strategies), _installed(*METHOD_ENTRY_POINTS)
        if any(_is_path(name) or name in installed for name in ranked):
            return methods  # judged where methods are loaded: only then is known what they call themselves
        wrapped = [value for options in methods.values() for value in options.values()]  # soft's base, say
        for name in methods:
            if name not in ranked and name not in wrapped:
                raise ValueError(f"no configured method is called {name!r}{nearest(name, list(ranked))}")
        return methods

    @field_validator("systems")
    @classmethod
    def _systems_take_their_sections(
        cls, systems: dict[str, dict[str, Any]], info: ValidationInfo
    ) -> dict[str, dict[str, Any]]:
        if not systems:
            return systems
        spaces: dict[str, SpaceSettings] | None = info.data.get("spaces")  # absent where at fault themselves
        kinds = None if spaces is None else {name: space.kind for name, space in spaces.items()}
        # By its path: trained systems lie above settings, which do not import them.
        sections = import_module("setr_lib.systems.sections")
        if faults := sections.faults_of(systems, kinds, info.data.get("datasets")):
            raise ValueError("; ".join(faults))
        return systems

    @field_validator("reranking")
    @classmethod
    def _reranked_methods_are_ranked(
        cls, reranking: RerankingSettings, info: ValidationInfo
    ) -> RerankingSettings:
        coarse: CoarseSettings | None = info.data.get("coarse")  # absent where it is at fault itself
        if coarse is None:
            return reranking
        for name in reranking.methods or ():
            if not _may_be_called(name, coarse.strategies):
                raise ValueError(
                    f"methods: {name!r} is not among [coarse] strategies: add it there, or name some of "
                    f"{', '.join(coarse.strategies)}"
                )
        return reranking

    @model_validator(mode="after")
    def _no_foreign_code(self) -> Settings:
        """Code is named by files that were chosen, or that nobody else could have written."""
        if not self.trusted:
            coarse = self.coarse
            plugins = [name for name in (*coarse.strategies, *coarse.caption_strategies) if ":" in name]
            named = [f"[coarse] method {name!r}" for name in plugins]
            named += [
                f"[spaces.{name}] kind = {space.kind!r}"
                for name, space in self.spaces.items()
                if ":" in space.kind
            ]
            named += [f"[reranking] re-ranker {name!r}" for name in self.reranking.rerankers if ":" in name]
            if self.models.judge.trust_remote_code:
                named.append("[models.judge] trust_remote_code = true")
            if named:
                raise ValueError(f"{' and '.join(named)} would run code, {UNTRUSTED}")
            endpoint = self.models.judge.endpoint
            if endpoint.url is not None and not endpoint.is_local:
                raise ValueError(
                    f"[models.judge.endpoint] url = {endpoint.url!r} would send pictures there, {UNTRUSTED}"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose values arrive as init arguments."""
        return env_settings, init_settings

    def resolve(self, path: Path) -> Path:
        """A path made absolute from the folder of ``setr.toml``.

        Args:
            path: The path.

        Returns:
            The absolute path.
        """
        return path if path.is_absolute() else self.base_dir / path

    def resolve_text(self, path: str) -> Path:
        """A path of an option, ``~`` and variables expanded, made absolute from the folder of ``setr.toml``.

        Args:
            path: The path as settings have it.

        Returns:
            The absolute path.

        Raises:
            SettingsError: A variable is not set.
        """
        try:
            return self.resolve(Path(expanded(path)))
        except ValueError as error:
            raise SettingsError(str(error)) from error

    @property
    def storage_root(self) -> Path:
        return self.resolve(self.storage.root)

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """Folders of SETR's own, of which no image is ever part of a gallery: storage and Dagster's home."""
        home = os.environ.get("DAGSTER_HOME")
        return (self.storage_root, self.base_dir / "dagster_home", *([Path(home)] if home else ()))

    @property
    def lancedb_uri(self) -> str:
        return str(self.storage_root / "lancedb")

    @property
    def batch_sizes(self) -> Path:
        """Where batch sizes that were found by trying are kept."""
        return self.storage_root / "batch_sizes.json"

    @property
    def cache_path(self) -> Path:
        return self.storage_root / "cache" / "model_calls.sqlite"

    @property
    def features_root(self) -> Path:
        """Vision features of the judge's images."""
        return self.storage_root / "features"

    @property
    def checkpoint_root(self) -> Path:
        return self.storage_root / "checkpoints"

    @property
    def report_root(self) -> Path:
        return self.storage_root / "reports"

    @property
    def miniature_root(self) -> Path:
        return self.storage_root / "miniature"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address; a relative path of a SQLite file starts from the settings' folder, too."""
        stated = self.registry.tracking_uri
        if stated is None:
            return sqlite_address(self.storage_root / "mlflow.db")
        path = sqlite_path(stated)
        return stated if path is None or path.is_absolute() else sqlite_address(self.resolve(path))

    @property
    def artifact_root(self) -> Path:
        return self.storage_root / "mlartifacts"

    @property
    def reranked_methods(self) -> list[str]:
        """The methods whose candidates are re-ranked, as settings call them."""
        return self.reranking.methods or [self.coarse.default]

    def rerank_depth(self, dataset: str | None = None) -> int:
        """How many of stage 1's candidates a re-ranker re-orders: no more than stage 1 keeps.

        Args:
            dataset: The data set's name, or None for the general number.

        Returns:
            Candidates per query.
        """
        return min(self.rerank_asked(dataset), self.coarse.top_k)

    def rerank_asked(self, dataset: str | None = None) -> int:
        """How many candidates the settings ask to be re-ordered; ``rerank_depth`` says how many there are.

        Args:
            dataset: The data set's name, or None for the general number.

        Returns:
            Candidates per query.
        """
        asked = None if dataset is None else self.datasets[dataset].rerank_top_k
        return asked or self.reranking.top_k

    def table_path(self, asset: str, partition: str | None = None, below: str = "tables") -> Path:
        """The Parquet file of an asset's table.

        Args:
            asset: The asset's name.
            partition: Its partition, where it has any.
            below: The folder of the tables.

        Returns:
            The path below the storage root.
        """
        folder = self.storage_root / below
        return folder / f"{asset}.parquet" if partition is None else folder / asset / f"{partition}.parquet"

    @property
    def encoder_name(self) -> str:
        """open_clip's model name, a ``local-dir:`` path made absolute."""
        return _open_clip_name(self, self.models.encoder.name)

    def space_options(self, name: str) -> dict[str, Any]:
        """The options of ``[spaces.NAME]``; a local folder of a model made absolute. Those of a trained kind
        name its encoder.

        Args:
            name: The space's name.

        Returns:
            Option by name.
        """
        space, options = self.spaces[name], dict(self.spaces[name].options)
        kind = space.kind
        if kind in TRAINED_SPACES:
            if not options.keys() - {"batch_size"}:
                return self._encoder_options(kind) | options
            kind = options.get("kind", OPEN_CLIP)
        if kind == OPEN_CLIP and isinstance(model := options.get("name"), str):
            options["name"] = _open_clip_name(self, model)
        if kind == SENTENCE_TRANSFORMERS and isinstance(model := options.get("model"), str):
            options["model"] = _folder_or_hub_id(self, model)
        if kind == BLIP2 and isinstance(model := options.get("name"), str):
            options["name"] = _folder_or_hub_id(self, model)
        return options

    def _encoder_options(self, system: str) -> dict[str, Any]:
        """The options of a trained system's space where its section names no encoder."""
        encoder = self.systems.get(system, {}).get("encoder", DEFAULT_SPACE)
        if encoder in self.spaces and (kind := self.spaces[encoder].kind) in BUILT_IN_SPACES:
            return {"kind": kind, **self.space_options(encoder)}
        settings = self.models.encoder
        return {
            "kind": OPEN_CLIP,
            "name": self.encoder_name,
            "pretrained": settings.pretrained,
            "batch_size": settings.batch_size,
        }

    @property
    def judge_name(self) -> str:
        """The judge's local folder made absolute, or its hub id as given."""
        return _folder_or_hub_id(self, self.models.judge.name)

    @property
    def reranker_name(self) -> str:
        """The local folder of ``[models.reranker]`` made absolute, or its hub id as given."""
        return _folder_or_hub_id(self, self.models.reranker.name)


def _open_clip_name(settings: Settings, name: str) -> str:
    folder = name.removeprefix(LOCAL_FOLDER)
    return name if folder == name else LOCAL_FOLDER + str(settings.resolve(Path(folder)))


def _folder_or_hub_id(settings: Settings, name: str) -> str:
    folder = settings.resolve(Path(name))
    return str(folder) if folder.is_dir() else name
