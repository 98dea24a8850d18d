"""The one typed settings object, read from ``setr.toml`` and the environment (which always wins).

Environment names are ``SETR_`` + section + ``__`` + key, e.g. ``SETR_DATASETS__CIRR__ROOT`` or
``SETR_MINIATURE__SEED``. Relative paths are relative to the folder of ``setr.toml``; ``~``, ``$NAME`` and
``${NAME}`` are expanded in paths. Everything is checked
here, once: single values by the types below, what does not go together by the validators of a section or of
``Settings``. This module imports nothing heavy: the code location reads it on every start.
"""

from __future__ import annotations

import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

from setr_lib.decoding import decode
from setr_lib.errors import SetrError
from setr_lib.files import sqlite_address, sqlite_path
from setr_lib.paths import expanded
from setr_lib.pixel_rules import MAX_PIXELS, NO_BACKGROUND

SETTINGS_FILE = "setr.toml"
CONFIG_VARIABLE = "SETR_CONFIG"
OTHER_VARIABLES = (
    CONFIG_VARIABLE,
    "SETR_BASE_MODEL",
    "SETR_ENCODER",
    "SETR_IMAGE_ROOTS",
    "SETR_MAX_ROWS",
    "SETR_MAX_IMAGE_BYTES",
    "SETR_MAX_IMAGE_PIXELS",
    "SETR_MAX_CHARACTERS",
)
"""``SETR_...`` variables that are not settings: the settings file itself, and what served models read."""
NAMES_OF_KINDS = frozenset(
    module.stem for module in (Path(__file__).parent / "benchmarks" / "kinds").glob("[a-z]*.py")
)
"""A data set of such a name is of that kind unless it says otherwise, so that one variable with a root will
do."""
_MODEL_PATHS = ("name", "model", "pretrained")
"""Options of embedding spaces that may be paths."""
NegativeKind = Literal[
    "coarse_negative", "reference_negative", "text_only_negative", "shuffled_text_negative"
]
_SET_KEY = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")
LOCAL_FOLDER = "local-dir:"
"""What open_clip's name of a model in a folder begins with."""
DEFAULT_SPACE = "clip"
"""The embedding space that ``[models.encoder]`` describes: that of every method that names none."""
OPEN_CLIP, SENTENCE_TRANSFORMERS, BLIP2 = "open_clip", "sentence_transformers", "blip2"
BUILT_IN_SPACES = (OPEN_CLIP, SENTENCE_TRANSFORMERS, BLIP2)
"""The kinds of embedding space that come with the package; none of them is trained here."""
TRAINED_SPACES = {
    "retrieval_dpo_fused": "setr_lib.systems.trained_space:FusedSpace",
    "qformer": "setr_lib.systems.trained_space:QformerSpace",
}
"""The kinds of embedding space that come with the package and are trained, each by the trained system of its
name, and their classes. Their options name the encoder: those of its ``kind`` (``open_clip`` by default), and
the kind itself. Without them it is that of ``[systems.NAME] encoder``."""
BASE_JUDGE, ADAPTER = "base judge", "adapter"
"""The re-rankers that come with the package: the multimodal LLM as it is, and with the champion adapter."""
QWEN_RERANKER = "qwen3-vl-reranker"
"""The re-ranker that is a model of its own, ``[models.reranker]``, under its own prompt."""
RERANKERS = {BASE_JUDGE, ADAPTER, QWEN_RERANKER}
"""Names of re-rankers that this process knows; ``setr_lib.reranking.reranker.register`` adds to them. Those
of installed packages are looked up."""
RERANKER_ENTRY_POINTS = "setr.rerankers"
METHOD_ENTRY_POINTS = ("setr.methods", "setr.strategies")
"""The groups of installed retrieval methods; the second is the earlier name of the first."""
DEFAULT_ENCODER, DEFAULT_PRETRAINED = "ViT-L-14", "laion2b_s32b_b82k"
"""Architecture and weights of the encoder where settings name none."""
_PREFIX, _DELIMITER = "SETR_", "__"
_NOT_KEYS = ("base_dir", "trusted")
_FILE_STORES = ("sqlite:///", "file:///", "file:")
"""What comes before the path in the address of an MLflow store on this machine."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


UNTRUSTED = (
    "and the settings file was found by looking upwards from here, in a place where another person can "
    f"write: name it by --config or {CONFIG_VARIABLE} if you trust it, or let file and folder belong to you "
    "and be writable by you alone"
)
"""Why code is not run, as the end of a sentence."""


class SettingsError(SetrError):
    """``setr.toml`` or a ``SETR_...`` variable cannot be read; the message names the file and the key."""


def _local_path(value: object) -> object:
    """A path on this machine, ``~`` and environment variables expanded.

    Raises:
        ValueError: It is a URL, or a variable is not set.
    """
    if not isinstance(value, str | Path):
        return value
    if _URL.match(str(value)):
        raise ValueError("a folder or file of this machine is needed, not a URL: write its path")
    return Path(expanded(str(value)))


def _path_or_name(value: object) -> object:
    """A name, or a path on this machine with ``~`` and environment variables expanded.

    Raises:
        ValueError: A variable is not set.
    """
    if not isinstance(value, str) or value.startswith(("http://", "https://")):
        return value
    before = next((start for start in (LOCAL_FOLDER, *_FILE_STORES) if value.startswith(start)), "")
    return before + expanded(value.removeprefix(before))


PathOrName = Annotated[str, BeforeValidator(_path_or_name)]
LocalPath = Annotated[Path, BeforeValidator(_local_path)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""A seed that NumPy, PyTorch and Python all take."""


def _named(pattern: str, words: str) -> Any:
    """A text that matches ``pattern`` as a whole; ``words`` tell a person what it may be."""
    compiled = re.compile(pattern)

    def check(name: str) -> str:
        if not compiled.fullmatch(name):
            raise ValueError(f"{name!r} will not do: {words}")
        return name

    return AfterValidator(check)


_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
_PLAIN_WORDS = "letters, digits, '.', '-' and '_' only, a letter or digit first, 100 at most"
StoredName = Annotated[str, _named(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", f"use {_PLAIN_WORDS}")]
"""A name that becomes a folder, an MLflow name and part of an MLflow query."""
MethodName = Annotated[
    str,
    _named(
        rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,99}}|{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}",
        f"write a method's name ({_PLAIN_WORDS}) or package.module:NAME",
    ),
]
SpaceKind = Annotated[
    str,
    _named(
        rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,99}}|{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}",
        f"write 'open_clip', 'sentence_transformers', the name of an installed kind of embedding space "
        f"({_PLAIN_WORDS}) or package.module:NAME",
    ),
]
RerankerName = Annotated[
    str,
    _named(
        rf"[A-Za-z0-9][A-Za-z0-9_. -]{{0,99}}|{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}",
        f"write a re-ranker's name ({_PLAIN_WORDS}; spaces, too) or package.module:NAME",
    ),
]
ModuleName = Annotated[
    str, _named(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,99}", "write the name of a layer, e.g. 'q_proj'")
]
_DEVICES = "cpu|cuda|mps|xpu|hpu|npu|mlu|mtia|xla"
DeviceName = Annotated[
    str,
    _named(rf"auto|({_DEVICES})(:[0-9]{{1,4}})?", "write 'auto' or a torch device such as 'cpu' or 'cuda:1'"),
]
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "file", "databricks", "databricks-uc")


def _store_address(address: str) -> str:
    scheme = address.partition(":")[0].partition("+")[0]
    if ":" in address and scheme not in _STORES:
        raise ValueError(f"{address!r} is not a store that MLflow knows: begin with {', '.join(_STORES)}")
    if ":" not in address and any(character.isspace() for character in address):
        raise ValueError(
            f"{address!r} holds a blank and does not say which kind of store: begin with sqlite:///"
        )
    return address


StoreAddress = Annotated[str, BeforeValidator(_path_or_name), AfterValidator(_store_address)]
"""The address of an MLflow store."""


_COLOUR = "#[0-9A-Fa-f]{6}"
Background = Annotated[
    str,
    _named(
        f"{_COLOUR}|{NO_BACKGROUND}",
        f"write a colour as '#rrggbb', e.g. '#ffffff' for white, or '{NO_BACKGROUND}' to drop transparency",
    ),
]
"""What is behind transparent pixels."""


class Section(BaseModel):
    """A section of ``setr.toml``: unknown keys are refused, so a typing error never passes silently."""

    # Built on first use: importing the code location stays fast.
    model_config = ConfigDict(extra="forbid", validate_default=True, defer_build=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what no key can mean: empty texts, control characters, repetitions, a truth value for a
        number.
        """
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            return value  # looks at its own keys
        for text in _texts(value):
            if not text.strip():
                raise ValueError("an empty text means nothing: leave the key out, or name something")
            if _CONTROL.search(text):
                raise ValueError(f"{text!r} holds a control character: remove it")
            if not isinstance(value, Mapping) and _is_too_long(text):
                raise ValueError(f"{text[:40]!r}... is too long for a path or a name: shorten it")
        if isinstance(value, list):
            twice = sorted({str(item) for item in value if value.count(item) > 1})
            if twice:
                raise ValueError(f"named twice: {', '.join(twice)}")
        if isinstance(value, bool) and kind not in (bool, bool | None):
            raise ValueError("true and false are no answer here: write a number or a text")
        return value


def _is_too_long(text: str) -> bool:
    """Whether no file system takes ``text`` as a path."""
    return len(text) > 4096 or any(len(part.encode()) > 255 for part in text.split("/"))


def _texts(value: object) -> Iterator[str]:
    """``value``'s own text, or those in a list or a table."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(name)
            yield from _texts(item)


class StorageSettings(Section):
    """Where everything that SETR makes lives."""

    root: LocalPath = Path("var")
    removable_share: float = Field(default=0.2, ge=0, le=1)
    """The share of a gallery's stored vectors that a run may remove because their images are gone; where
    more would go, and 10 at least, it stops and asks for ``--accept-removals``. 1: nothing is asked."""


class DatasetSettings(Section):
    """One data set in its official layout, or a folder of one's own."""

    kind: str
    """``cirr``, ``fashioniq``, ``circo``, ``genecis``, ``icir``, ``lasco``, ``folder``, an installed
    benchmark, or ``package.module:NAME`` of one."""
    root: LocalPath
    image_root: LocalPath | None = None
    """Where the images are, when not in the official place under ``root``."""
    train_root: LocalPath | None = None
    """The folder of the train split's files and images, laid out as ``root``, when they are not there;
    ``image_root`` is then for the other splits."""
    splits: list[str] = Field(default_factory=list)
    gallery: str | None = None
    """The protocol that chooses the gallery, the benchmark's usual one by default. Of FashionIQ: the whole
    split (``original``, what zero-shot papers report) or references and targets only (``val``)."""
    queries: LocalPath | None = None
    """``folder``: CSV, JSON Lines or Parquet of reference, modification text and targets."""
    reference_root: LocalPath | None = None
    """``folder``: a folder of reference images that are no part of the gallery; queries name them by their
    paths from there."""
    outside_links: bool = False
    """Follow links to folders that end outside of ``root``, ``image_root`` and ``reference_root``, too."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What only a benchmark of one's own understands."""
    image_captions: LocalPath | None = None
    """Captions of the gallery's images, to be searched as text; ``image_captions.json`` under ``root`` by
    default."""
    rerank_top_k: Count | None = None
    """How many of stage 1's candidates the judge re-orders here; ``[reranking] top_k`` by default."""
    background: Background | None = None
    """The colour behind transparent pixels, as ``#rrggbb``; ``none`` drops transparency and keeps the colours
    that it hid. By default as the benchmark's own pipeline does (``none``), and white for ``folder``."""
    upright: bool | None = None
    """Whether a picture is turned as its EXIF data say. By default not for benchmarks, whose own pipelines do
    not, and for ``folder``."""


class ImageSettings(Section):
    """What holds for the image files of all data sets."""

    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=2**33)
    """Pixels of a picture, width times height; a larger one counts as broken. Decoding takes up to four bytes
    for each."""


class TrainingSettings(Section):
    """What the re-ranker's Yes/No pairs are made from: captioned images, ready triplets, or the train split
    of a data set.
    """

    captions: LocalPath | None = None
    """JSON Lines of ``{"image": "relative/name.png", "caption": "one sentence"}``."""
    image_root: LocalPath | None = None
    """The folder that image names are relative to; the captions file's (or triplet file's) own folder by
    default."""
    triplets: LocalPath | None = None
    """JSON Lines of ``{"reference": ..., "modification": ..., "target": ...}``, image names as above."""
    dataset: str | None = None
    """A data set of ``[datasets]`` whose train split is used, e.g. ``cirr``, in place of files of one's
    own; what it trains is labelled as supervised."""
    background: Background | None = None
    """The colour behind transparent pixels of one's own images, white by default; see ``[datasets.NAME]``. A
    data set's images are read as its section says."""
    upright: bool | None = None
    """Whether one's own images are turned as their EXIF data say; they are by default."""

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
    """An architecture of open_clip, ``hf-hub:...``, or ``local-dir:`` and a folder."""
    pretrained: PathOrName | None = None
    """The tag or file of an architecture's weights. By default those of the default ``name``; none with any
    other ``name``, which brings its own weights or gets random ones."""
    batch_size: Count | Literal["auto"] = 32
    """Images or texts per forward pass. ``auto``: some sizes are timed on the first pictures of a gallery,
    and the fastest is used and kept in the storage root for the next run."""

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
        if name.startswith(LOCAL_FOLDER) and (not folder.strip() or _URL.match(folder)):
            raise ValueError(f"after {LOCAL_FOLDER} comes the path of a folder on this machine")
        return name


class SpaceSettings(Section):
    """An embedding space besides that of ``[models.encoder]``; retrieval methods name it as their
    ``space``.
    """

    kind: SpaceKind
    """``open_clip``, ``sentence_transformers``, a trained system with galleries of its own
    (``retrieval_dpo_fused``, ``qformer``), an entry point of the group ``setr.spaces``, or
    ``package.module:NAME`` of a class (or function) that makes the space."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What the class is called with, besides the device of ``[models]``."""

    @field_validator("options")
    @classmethod
    def _device_is_that_of_all(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "device" in options:
            raise ValueError("the device is that of all models: leave it out here, and set [models] device")
        paths = {key: _path_or_name(options[key]) for key in _MODEL_PATHS if key in options}
        return {**options, **paths}


class EndpointSettings(Section):
    """An OpenAI-compatible server (vLLM's, say) whose model writes the generated texts in place of the local
    one; the judge stays local. Pictures are sent there.
    """

    url: str | None = None
    """Where it is, e.g. ``http://127.0.0.1:8000/v1``; left out: texts are written locally. ``https``, or
    ``http`` on this machine alone."""
    model: str | None = None
    """What the server calls its model; ``[models.judge] name`` by default. It is part of every cache key, the
    address is not."""
    key_variable: str | None = None
    """The name of the environment variable that holds the API key; none by default. The key itself never
    stands in a file."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests that are under way at once."""
    timeout: float = Field(default=120.0, gt=0, le=3600)
    """Seconds that a request may take, each try of it."""
    retries: int = Field(default=3, ge=0, le=10)
    """Tries after the first one, with growing pauses, where the server is busy or fails."""

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
        return None if url is None else _endpoint_address(url)

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
        return self.url is not None and _is_loopback(urlsplit(self.url).hostname or "")


def _endpoint_address(url: str) -> str:
    """The address of a server that pictures may be sent to.

    Raises:
        ValueError: It is none; the message does not repeat it, for it may hold a key.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("not an address: write e.g. http://127.0.0.1:8000/v1") from None
    if parts.scheme not in ("http", "https") or not host or any(character.isspace() for character in url):
        raise ValueError("not an address: write e.g. http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "write the address alone, without a name, password, query or fragment; a key is put into an "
            "environment variable that key_variable names"
        )
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(
            "plain http sends pictures and key readably: use https, or http on this machine alone "
            "(127.0.0.1, ::1 or localhost; a tunnel by ssh -L is there, too)"
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class JudgeSettings(Section):
    """The multimodal LLM that describes, composes and judges: an image-text-to-text model of transformers."""

    name: PathOrName = "Qwen/Qwen3-VL-2B-Instruct"
    """A local folder or a hub id."""
    revision: str | None = None
    prompts: PathOrName = "standard"
    """``standard``, ``miniature`` (for the miniature's model only), or a folder of your own prompt files."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False
    batch_size: Count = 64
    """Answers (describe, compose) that are generated side by side; their keys and values are in memory."""
    pair_batch_size: Count = 128
    """Candidates per forward pass of the judge at most; on a CPU fewer, as many as its caches hold. Scores
    are stored after so many; after up to eight times as many where a model is small."""
    features_mb: int = Field(default=0, ge=0, le=2**24)
    """Megabytes of vision features kept on disk, in the storage's folder ``features``, for the next run: 4 MB
    an image of Qwen3-VL-2B at 256 tokens in bfloat16. Those not used for the longest time give way. 0 keeps
    none. The folder can be deleted at any time."""
    max_new_tokens: Count = 256
    endpoint: EndpointSettings = Field(default_factory=EndpointSettings)
    """Who writes the generated texts in place of this model; the address alone may be given, too."""

    @field_validator("endpoint", mode="before")
    @classmethod
    def _address_alone(cls, endpoint: object) -> object:
        return {"url": endpoint} if isinstance(endpoint, str) else endpoint

    @field_validator("prompts")
    @classmethod
    def _set_or_folder(cls, prompts: str) -> str:
        _local_path(prompts)
        return prompts


class RerankerModelSettings(Section):
    """The model of the re-ranker ``qwen3-vl-reranker``; nothing else uses it, and it is loaded where
    ``[reranking] rerankers`` names that.
    """

    name: PathOrName = "Qwen/Qwen3-VL-Reranker-2B"
    """A local folder or a hub id."""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    instruction: str = "Retrieve the image that shows the reference image changed as the text says."
    """What its prompt says of the task. This one is ours: the model's own speaks of search queries."""
    pair_batch_size: Count = 128
    """Candidates per forward pass."""


class ModelSettings(Section):
    """The models: encoder, multimodal LLM, and the device that they run on."""

    device: DeviceName = "auto"
    """``auto`` (CUDA, then MPS, then CPU), or a torch device such as ``cuda:1``."""
    encoder: EncoderSettings = Field(default_factory=EncoderSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    reranker: RerankerModelSettings = Field(default_factory=RerankerModelSettings)


class CoarseSettings(Section):
    """Stage 1: the retrieval methods, and how many images each keeps for a query."""

    strategies: list[MethodName] = [
        "image",
        "text",
        "sum",
        "product",
        "union_text",
        "intersection",
        "intersection_anchor",
    ]
    default: MethodName = "intersection"
    """The method whose candidates are re-ranked, unless ``[reranking] methods`` names others."""
    top_k: Count = 50
    """How many are kept for each query. Metrics of a greater depth are left out, and said so."""
    memory_mb: int = Field(default=256, ge=16, le=2**24)
    """Megabytes that blocks of vectors and scores may take while a gallery is ranked by a method that is one
    vector of a query. A gallery of up to half of that is held in memory; a larger one is read from the store
    in blocks, once for each method. Any other method holds the whole gallery, whatever this says."""
    anchor_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the reference image's vector in ``intersection_anchor``."""
    caption_strategies: list[MethodName] = ["captions_text", "captions_union", "captions_intersection"]
    """Ranked besides ``strategies`` where a gallery has captions; alone where it has no image at all."""
    caption_default: MethodName = "captions_intersection"
    """What takes the place of ``default`` where a gallery has captions and no image at all."""

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
    """(reference, modification) groups to synthesise, held-out ones included."""
    held_out_share: float = Field(default=0.2, gt=0, lt=1)
    negatives_per_group: dict[NegativeKind, Annotated[int, Field(ge=0, le=30)]] = {
        "coarse_negative": 2,
        "reference_negative": 1,
        "text_only_negative": 1,
        "shuffled_text_negative": 1,
    }
    near_duplicate_cosine: float = Field(default=0.98, gt=0, le=1)
    """A mined negative closer to the target than this is taken for an unlabelled positive and left out."""
    writer: Literal["templates", "model"] = "templates"
    seed: Seed = 7

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
    alpha: int = Field(default=32, ge=1, le=65_536)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: list[ModuleName] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )
    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    """The highest rate, after the warm-up. The default is a usual one for LoRA, chosen by this project; no
    paper's."""
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    epochs: float = Field(default=2.0, gt=0, le=10_000)
    groups_per_batch: Count = 16
    """(reference, modification) groups per optimiser step; each brings its positive and its negatives."""
    checkpoint_every: Count = 50
    """Optimiser steps between two checkpoints: the most that a kill can cost."""
    held_out_points: int = Field(default=3, ge=1, le=1000)
    """How often all held-out pairs are judged, evenly spaced, the last time at the end: the points of the
    curve in MLflow, beside that before the first step. With the default ``held_out_share`` each costs about a
    twenty-fifth of the training. The trained weights do not depend on it."""
    seed: Seed = 11


class RerankingSettings(Section):
    """Stage 2: the re-rankers, whose candidates they re-order, and how scores are fused."""

    methods: Annotated[list[MethodName], Field(min_length=1)] | None = None
    """The methods whose candidates are re-ranked, each of ``[coarse] strategies``; the default method only
    where none is named."""
    rerankers: list[RerankerName] = [BASE_JUDGE, ADAPTER]
    """Who re-ranks, in this order: each one's rows are compared with those before it. ``adapter`` is left out
    until one is promoted; an empty list re-ranks nothing."""
    top_k: Count = 50
    """How many of stage 1's candidates a re-ranker re-orders: all of them, where ``[coarse] top_k`` keeps
    fewer."""
    fusion: Literal["auto", "judge", "cosine_judge", "reciprocal_rank"] = "auto"
    """``auto``: for each method and re-ranker, the one that orders held-out synthesised queries best (asset
    ``reranking_fusion``). ``judge`` is the re-ranker's score alone."""
    judge_weight: float = Field(default=1.0, ge=0, le=1000)
    """w of ``cosine + w * P(Yes)``; ``auto`` chooses it too."""
    pairs: PairSettings = Field(default_factory=PairSettings)
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)

    @field_validator("rerankers")
    @classmethod
    def _known_rerankers(cls, names: list[str]) -> list[str]:
        for name in names:
            if any(map(_is_path, (name, *names))) or name in RERANKERS:
                continue  # a path's object may have any name, which is judged where it is loaded
            if name not in (installed := _installed(RERANKER_ENTRY_POINTS)):
                known = ", ".join(sorted({*RERANKERS, *installed}))
                raise ValueError(
                    f"there is no re-ranker {name!r}; known: {known}. One in a file of yours is named by its "
                    f"path, package.module:NAME; an installed one is an entry point of "
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
    seed: Seed = 5
    contact_sheet_queries: int = Field(default=12, ge=0, le=10_000)
    """Best and worst cases shown in a report, each."""
    baselines: list[MethodName] = ["sum", "union_text"]
    """Methods over which the default method's margin is shown, where they are ranked."""
    caption_baselines: list[MethodName] = ["captions_union", "captions_text"]
    """The same where captions are ranked: margins of ``[coarse] caption_default``."""
    shown: list[MethodName] | None = None
    """The methods whose rows a report shows at once, the default one always; the others are folded. Left
    out: all."""
    limit: Count | None = None
    """Only the first N queries of each set (a trial run); such rows are marked not comparable."""


class RegistrySettings(Section):
    """The MLflow store of trainings and registered models."""

    tracking_uri: StoreAddress | None = None
    """MLflow's tracking and registry URI; a SQLite file under the storage root by default."""
    experiment: StoredName = "setr"
    """The experiment that trainings are runs of."""
    model: StoredName = "setr-reranker"
    """The registered model of the judge's adapter."""
    evaluations: StoredName = "setr-evaluations"
    """The experiment that evaluations are runs of: one for each evaluation set, and below it one for each
    row."""
    log_evaluations: bool = True
    """Whether evaluations are logged to MLflow, too; tables and reports are written in any case."""
    mlflow_ui: str = "http://127.0.0.1:5000"
    """Where MLflow's UI is opened, for links to it; of a store that is a server, its own address."""
    dagster_ui: str = "http://127.0.0.1:3000"
    """Where Dagster's UI is opened, for links to it."""


class MiniatureSettings(Section):
    """The drawn world. Its seed never touches the two models: they are trained once, and committed.

    Three dials say how hard its galleries are; the training images do not depend on them. A *distractor* is a
    gallery image that no query has for its reference or target; each is drawn against one query.
    """

    seed: Seed = 0
    size: float = Field(default=1.0, gt=0, le=1000)
    """Scales the numbers of images and queries; 1.0 is the documented size."""
    models_seed: Seed = 0
    training_images: int = Field(default=1600, ge=16, le=10_000_000)
    objects_per_scene: float = Field(default=1.6, ge=1, le=2)
    """CIRR and CIRCO: different objects in a query's reference, on average; a query's target may show one
    more or one less."""
    near_misses: float = Field(default=1.0, ge=0, le=4)
    """Scales the number of near misses per query (pictures one respect away from its target or reference);
    1.0 is the documented number. Below, random pictures take their place; above, they replace random ones,
    then are added."""
    background_correlation: float | None = Field(default=None, ge=0, le=1)
    """The chance that a distractor is put on its query's reference's background; else its background is
    random, while the target never shares the reference's. The documented world has no single value: 0.7 for
    CIRR and CIRCO; in FashionIQ a chance of 0.5 to share *some* query's reference's background. None keeps
    that."""


class Settings(BaseSettings):
    """All of SETR's settings. Build it with :func:`load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER, extra="forbid", validate_default=True
    )

    storage: StorageSettings = Field(default_factory=StorageSettings)
    datasets: dict[str, DatasetSettings] = Field(default_factory=dict)
    images: ImageSettings = Field(default_factory=ImageSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    models: ModelSettings = Field(default_factory=ModelSettings)
    spaces: dict[str, SpaceSettings] = Field(default_factory=dict)
    coarse: CoarseSettings = Field(default_factory=CoarseSettings)
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """``[methods.NAME]``: what the method that calls itself NAME finds as ``inputs.options``: texts, numbers,
    true or false, and lists of these; held against what the method declares (``Method.options``) when it is
    loaded. (``SETR_METHODS__NAME__OPTION`` gives a text; ``SETR_METHODS`` is JSON.)"""
    systems: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """``[systems.NAME]``: the settings of the trained retrieval system NAME (``setr_lib/systems``). The
    section makes its assets, even where it is empty."""
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
                raise ValueError(f"no configured method is called {name!r}{_nearest(name, list(ranked))}")
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


def find_settings_file(start: Path | None = None) -> Path | None:
    """Find the settings file: ``$SETR_CONFIG``, else the nearest ``setr.toml`` in a folder or above it.

    Args:
        start: The folder; by default the current one.

    Returns:
        The file, or None.

    Raises:
        SettingsError: ``$SETR_CONFIG`` names a variable that is not set.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        try:
            return Path(expanded(named))
        except ValueError as error:
            raise SettingsError(f"{CONFIG_VARIABLE}: {error}") from error
    here = (start or Path.cwd()).resolve()
    return next(
        (folder / SETTINGS_FILE for folder in (here, *here.parents) if (folder / SETTINGS_FILE).is_file()),
        None,
    )


def load_settings(path: Path | None = None, *, else_from: Path | None = None) -> Settings:
    """Read settings from a file and the environment, checked as a whole.

    A file that was named (``path``, ``$SETR_CONFIG``) may name code to run (a method
    ``package.module:NAME``, a model's own code); one that was found may only where it and its folder belong
    to this user or root and nobody else can write to them.

    Args:
        path: The file; by default the one that :func:`find_settings_file` finds from here.
        else_from: The folder to look from where none is found from here.

    Returns:
        The settings.

    Raises:
        SettingsError: They cannot be read or are at fault; the message names the file and each key.
    """
    source = path or find_settings_file() or (find_settings_file(else_from) if else_from else None)
    named = path is not None or bool(os.environ.get(CONFIG_VARIABLE))
    values: dict[str, Any] = {}
    base_dir, trusted = Path.cwd(), True
    if source is not None:
        values = _read(source)
        base_dir = source.resolve().parent
        trusted = named or _only_mine(source)
    where = f"{source} and {_PREFIX}... variables" if source else f"{_PREFIX}... variables"
    problems = [*_unknown_variables(), *(_unknown_key((name,)) for name in _NOT_KEYS if name in values)]
    if problems:
        raise SettingsError(_told(where, problems))
    try:
        return Settings(**{**values, "base_dir": base_dir, "trusted": trusted})
    except ValidationError as error:
        raise SettingsError(_told(where, [_in_words(fault) for fault in error.errors()])) from error
    except SourceError as error:
        raise SettingsError(
            f"{_PREFIX}... variables: {error}: give a section as JSON, or name its key"
        ) from error


def _read(source: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(decode(source.read_bytes()).text)
    except FileNotFoundError:
        raise SettingsError(f"{source}: there is no such settings file") from None
    except ValueError as error:  # tomllib's, too
        raise SettingsError(f"{source}: not valid TOML: {error}") from error
    except OSError as error:
        raise SettingsError(f"{source}: cannot be read ({error.strerror})") from error


def _only_mine(file: Path) -> bool:
    """Whether nobody but this user and root could have written ``file``, as far as it and its folder tell."""
    if not hasattr(os, "geteuid"):
        return True  # no such owners on this system
    others = stat.S_IWGRP | stat.S_IWOTH
    found = [path.stat() for path in (file, file.resolve(), file.parent, file.resolve().parent)]
    return all(status.st_uid in (0, os.geteuid()) and not status.st_mode & others for status in found)


# ------------------------------------------------------------------------------------------ what is wrong


def _told(where: str, problems: list[str]) -> str:
    return f"{where}: {len(problems)} setting(s) at fault:\n" + "\n".join(
        f"  {problem}" for problem in problems
    )


def _in_words(error: Any) -> str:
    """One of pydantic's errors as a line: the key, what is wrong, the value, and the variable that it
    came from.
    """
    path = tuple(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        return _unknown_key(path)
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    if error["type"] != "value_error" and isinstance(value, str | int | float):
        message += f" (it is {value!r})"
    variable = _PREFIX + _DELIMITER.join(path).upper()
    if path and variable in {name.upper() for name in os.environ}:
        message += f" [{variable}]"
    return f"{'.'.join(path)}: {message}" if path else message


def _unknown_key(path: tuple[str, ...]) -> str:
    section: Any = Settings
    for part in path[:-1]:
        if section in _TABLES_OF.values():  # the part is a table's name
            section = next(kind for kind, tables in _TABLES_OF.items() if tables == section)
        elif part in getattr(section, "model_fields", {}):
            section = section.model_fields[part].annotation
        else:
            section = None
        if section is None:
            return f"{'.'.join(path)}: there is no such key"
    if not hasattr(section, "model_fields"):
        return f"{'.'.join(path)}: there is no such key"
    known = [name for name in section.model_fields if name not in _NOT_KEYS]
    return f"{'.'.join(path)}: there is no such key{_nearest(path[-1], known)}"


_TABLES_OF: dict[Any, Any] = {
    DatasetSettings: dict[str, DatasetSettings],
    SpaceSettings: dict[str, SpaceSettings],
}
"""The sections of which there are several, each under a name of its own, and how their table is typed."""


def _nearest(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(known)}"


def _unknown_variables() -> Iterator[str]:
    """Variables that begin with ``SETR_`` and that nothing reads: pydantic passes them over in silence."""
    sections = [name.upper() for name in Settings.model_fields if name not in _NOT_KEYS]
    known = [*(_PREFIX + name for name in sections), *OTHER_VARIABLES]
    for name in sorted(os.environ):
        if name.upper().startswith(_PREFIX) and name.upper().split(_DELIMITER)[0] not in known:
            yield f"{name}: there is no such variable{_nearest_variable(name.upper(), known)}"


def _nearest_variable(name: str, known: list[str]) -> str:
    every = [*known, *(_PREFIX + _DELIMITER.join(path).upper() for path in _keys(Settings))]
    close = get_close_matches(name, every, n=1)
    return f"; did you mean {close[0]}?" if close else f"; settings are {_PREFIX}SECTION{_DELIMITER}KEY"


def _keys(section: Any) -> Iterator[tuple[str, ...]]:
    """The path of every key with a value: ``("models", "encoder", "name")``; those of data sets and of
    embedding spaces are left out.
    """
    for name, info in section.model_fields.items():
        if name in _NOT_KEYS or info.annotation in _TABLES_OF.values():
            continue
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from ((name, *rest) for rest in _keys(info.annotation))
        else:
            yield (name,)
