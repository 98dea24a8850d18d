"""The sections of ``setr.toml`` about models: encoder, embedding spaces, multimodal LLM, device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from setr_lib.settings.names import DEFAULT_ENCODER, DEFAULT_PRETRAINED, LOCAL_FOLDER
from setr_lib.settings.values import (
    URL,
    Count,
    DeviceName,
    PathOrName,
    Section,
    SpaceKind,
    endpoint_address,
    is_loopback,
    local_path,
    path_or_name,
)

_MODEL_PATHS = ("name", "model", "pretrained")
"""Options of embedding spaces that may be paths."""


class EncoderSettings(Section):
    """The frozen CLIP of stage 1: any name that open_clip knows, by default the ViT-L/14 that most papers
    report.
    """

    name: PathOrName = DEFAULT_ENCODER
    """The model: the name of an architecture of open_clip, ``hf-hub:`` and a hub id, or ``local-dir:`` and a
    folder on this machine."""
    pretrained: PathOrName | None = None
    """The weights of an architecture of open_clip: one of its tags, or a file. Name it beside ``name``:
    left out, the default ``name`` has ``laion2b_s32b_b82k``, and any other architecture has random weights.
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
    """The prompts that it is given: ``standard``, ``miniature`` (for the miniature's model only), or a folder
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
    vision_memory_mb: int | None = Field(default=None, ge=0, le=2**24)
    """How many megabytes of vision features may be kept in the device's memory during a run, for the next
    query that shows the same picture. Left out: a third of what is free there once the model is loaded,
    6,144 at most. Where a batch does not fit in memory, half of them are given up. 0: only those of the batch
    at work."""
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
