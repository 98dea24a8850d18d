"""The one typed settings object, read from ``setr.toml`` and the environment (which always wins).

Environment names are ``SETR_`` + section + ``__`` + key, e.g. ``SETR_DATASETS__CIRR__ROOT`` or
``SETR_MINIATURE__SEED``. Relative paths are relative to the folder of ``setr.toml``. This module imports nothing
heavy: the code location reads it on every start.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

from setr_lib.errors import SetrError

SETTINGS_FILE = "setr.toml"
NAMES_OF_KINDS = ("cirr", "fashioniq", "circo")
"""A data set of such a name is of that kind unless it says otherwise, so that one variable with a root will do."""
_SET_KEY = re.compile(r"[a-z0-9_-]+")


class SettingsError(SetrError):
    """``setr.toml`` or a ``SETR_...`` variable cannot be read; the message names the file and the key."""


class Section(BaseModel):
    """A section of ``setr.toml``: unknown keys are refused, so a typing error never passes silently."""

    # Built on first use: importing the code location stays fast.
    model_config = ConfigDict(extra="forbid", validate_default=True, defer_build=True)


class StorageSettings(Section):
    """Where everything that SETR makes lives."""

    root: Path = Path("var")


class DatasetSettings(Section):
    """One data set in its official layout, or a folder of one's own."""

    kind: str
    """``cirr``, ``fashioniq``, ``circo``, ``folder``, an installed benchmark, or ``package.module:NAME`` of one."""
    root: Path
    image_root: Path | None = None
    """Where the images are, when not in the official place under ``root``."""
    splits: list[str] = Field(default_factory=list)
    gallery: str | None = None
    """The protocol that chooses the gallery, the benchmark's usual one by default. Of FashionIQ: the whole split
    (``original``, what zero-shot papers report) or references and targets only (``val``)."""
    queries: Path | None = None
    """``folder``: CSV, JSON Lines or Parquet of reference, modification text and targets."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What only a benchmark of one's own understands."""
    image_captions: Path | None = None
    """Captions of the gallery's images, to be searched as text; ``image_captions.json`` under ``root`` by default."""
    rerank_top_k: int | None = Field(default=None, ge=1)
    """How many of stage 1's candidates the judge re-orders here; ``[reranking] top_k`` by default."""


class TrainingSettings(Section):
    """What the re-ranker's Yes/No pairs are made from: captioned images or ready triplets, never a benchmark's."""

    captions: Path | None = Path("var/miniature/training/captions.jsonl")
    """JSON Lines of ``{"image": "relative/name.png", "caption": "one sentence"}``."""
    image_root: Path | None = None
    """The folder that image names are relative to; the captions file's (or triplet file's) own folder by default."""
    triplets: Path | None = None
    """JSON Lines of ``{"reference": ..., "modification": ..., "target": ...}``, image names as above."""


class EncoderSettings(Section):
    """The frozen CLIP of stage 1: any name that open_clip knows."""

    name: str = "local-dir:setr_lib/miniature/weights/clip"
    pretrained: str | None = None
    batch_size: int = Field(default=64, ge=1)


class JudgeSettings(Section):
    """The multimodal LLM that describes, composes and judges: any image-text-to-text model of transformers."""

    name: str = "setr_lib/miniature/weights/mllm"
    """A local folder or a hub id, e.g. ``Qwen/Qwen3-VL-2B-Instruct``."""
    revision: str | None = None
    prompts: str = "miniature"
    """``standard``, ``miniature``, or a folder of your own prompt files."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False
    batch_size: int = Field(default=64, ge=1)
    """Generations (describe, compose) per batch."""
    pair_batch_size: int = Field(default=128, ge=1)
    """Candidates per forward pass of the judge."""
    max_new_tokens: int = Field(default=256, ge=1)


class ModelSettings(Section):
    device: str = "auto"
    """``auto`` (CUDA, then MPS, then CPU), or a torch device such as ``cuda:1``."""
    encoder: EncoderSettings = Field(default_factory=EncoderSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)


class CoarseSettings(Section):
    strategies: list[str] = [
        "image",
        "text",
        "sum",
        "product",
        "union_text",
        "intersection",
        "intersection_anchor",
    ]
    default: str = "intersection"
    """The strategy whose candidates stage 2 re-ranks."""
    top_k: int = Field(default=50, ge=1)
    anchor_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the reference image's vector in ``intersection_anchor``."""
    caption_strategies: list[str] = ["captions_text", "captions_union", "captions_intersection"]
    """Ranked besides ``strategies`` where a gallery has captions; alone where it has no image at all."""
    caption_default: str = "captions_intersection"
    """What takes the place of ``default`` where a gallery has captions and no image at all."""


class PairSettings(Section):
    groups: int = Field(default=1500, ge=2)
    """(reference, modification) groups to synthesise, held-out ones included."""
    held_out_share: float = Field(default=0.2, gt=0, lt=1)
    negatives_per_group: dict[str, int] = {
        "coarse_negative": 2,
        "reference_negative": 1,
        "text_only_negative": 1,
        "shuffled_text_negative": 1,
    }
    near_duplicate_cosine: float = Field(default=0.98, gt=0, le=1)
    """A mined negative closer to the target than this is taken for an unlabelled positive and left out."""
    writer: Literal["templates", "model"] = "templates"
    seed: int = 7


class AdapterSettings(Section):
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    epochs: float = Field(default=2.0, gt=0)
    groups_per_batch: int = Field(default=16, ge=1)
    """(reference, modification) groups per optimiser step; each brings its positive and its negatives."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Optimiser steps between two checkpoints: the most that a kill can cost."""
    seed: int = 11


class RerankingSettings(Section):
    top_k: int = Field(default=50, ge=1)
    fusion: Literal["auto", "judge", "cosine_judge", "reciprocal_rank"] = "auto"
    """``auto``: for each judge, the one that orders held-out synthesised queries best (asset ``reranking_fusion``)."""
    judge_weight: float = Field(default=1.0, ge=0)
    """w of ``cosine + w * P(Yes)``; ``auto`` chooses it too."""
    pairs: PairSettings = Field(default_factory=PairSettings)
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)


class EvaluationSettings(Section):
    bootstrap_samples: int = Field(default=2000, ge=100)
    seed: int = 5
    contact_sheet_queries: int = Field(default=12, ge=0)
    """Best and worst cases shown in a report, each."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first N queries of each set (a trial run); such rows are marked not comparable."""


class RegistrySettings(Section):
    tracking_uri: str | None = None
    """MLflow's tracking and registry URI; a SQLite file under the storage root by default."""
    experiment: str = "setr"
    model: str = "setr-reranker"


class MiniatureSettings(Section):
    """The drawn world. Its seed never touches the two models: they are trained once, and committed.

    Three dials say how hard its galleries are; the training images do not depend on them. A *distractor* is a gallery
    image that no query has for its reference or target; each is drawn against one query.
    """

    seed: int = 0
    size: float = Field(default=1.0, gt=0)
    """Scales the numbers of images and queries; 1.0 is the documented size."""
    models_seed: int = 0
    training_images: int = Field(default=1600, ge=16)
    objects_per_scene: float = Field(default=1.6, ge=1, le=2)
    """CIRR and CIRCO: different objects in a query's reference, on average; a query's target may show one more or one less."""
    near_misses: float = Field(default=1.0, ge=0, le=4)
    """Scales the number of near misses per query (pictures one respect away from its target or reference); 1.0 is the
    documented number. Below, random pictures take their place; above, they replace random ones, then are added."""
    background_correlation: float | None = Field(default=None, ge=0, le=1)
    """The chance that a distractor is put on its query's reference's background; else its background is random, while
    the target never shares the reference's. The documented world has no single value: 0.7 for CIRR and CIRCO; in
    FashionIQ a chance of 0.5 to share *some* query's reference's background. None keeps that."""


class Settings(BaseSettings):
    """All of SETR's settings. Build it with :func:`load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="SETR_", env_nested_delimiter="__", extra="forbid", validate_default=True
    )

    storage: StorageSettings = Field(default_factory=StorageSettings)
    datasets: dict[str, DatasetSettings] = Field(default_factory=dict)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    models: ModelSettings = Field(default_factory=ModelSettings)
    coarse: CoarseSettings = Field(default_factory=CoarseSettings)
    reranking: RerankingSettings = Field(default_factory=RerankingSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    miniature: MiniatureSettings = Field(default_factory=MiniatureSettings)
    base_dir: Path = Field(default_factory=Path.cwd, exclude=True)
    """The folder that relative paths start from (that of ``setr.toml``); not a key of the file."""

    @field_validator("datasets", mode="before")
    @classmethod
    def _kind_from_name(cls, datasets: object) -> object:
        if not isinstance(datasets, dict):
            return datasets
        return {
            name: {"kind": name, **each} if name in NAMES_OF_KINDS and isinstance(each, dict) else each
            for name, each in datasets.items()
        }

    @field_validator("datasets")
    @classmethod
    def _plain_names(cls, datasets: dict[str, DatasetSettings]) -> dict[str, DatasetSettings]:
        for name in datasets:
            if not _SET_KEY.fullmatch(name):
                raise ValueError(f"data set name {name!r}: use lower-case letters, digits, '-' and '_' only")
        return datasets

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The file's values arrive as init arguments; the environment must win over them.
        return env_settings, init_settings

    def resolve(self, path: Path) -> Path:
        """``path``, made absolute from the folder of ``setr.toml``."""
        return path if path.is_absolute() else self.base_dir / path

    @property
    def storage_root(self) -> Path:
        return self.resolve(self.storage.root)

    @property
    def lancedb_uri(self) -> str:
        return str(self.storage_root / "lancedb")

    @property
    def cache_path(self) -> Path:
        return self.storage_root / "cache" / "model_calls.sqlite"

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
        return self.registry.tracking_uri or f"sqlite:///{self.storage_root / 'mlflow.db'}"

    @property
    def artifact_root(self) -> Path:
        return self.storage_root / "mlartifacts"

    def rerank_depth(self, dataset: str) -> int:
        """How many of stage 1's candidates the judge re-orders for the data set of this name."""
        return self.datasets[dataset].rerank_top_k or self.reranking.top_k

    def table_path(self, asset: str, partition: str | None = None) -> Path:
        """Where the Parquet table of an asset (and partition) lives."""
        folder = self.storage_root / "tables"
        return folder / f"{asset}.parquet" if partition is None else folder / asset / f"{partition}.parquet"

    @property
    def encoder_name(self) -> str:
        """open_clip's model name, a ``local-dir:`` path made absolute."""
        prefix, name = "local-dir:", self.models.encoder.name
        return (
            prefix + str(self.resolve(Path(name.removeprefix(prefix)))) if name.startswith(prefix) else name
        )

    @property
    def judge_name(self) -> str:
        """The judge's local folder made absolute, or its hub id as given."""
        folder = self.resolve(Path(self.models.judge.name))
        return str(folder) if folder.is_dir() else self.models.judge.name


def find_settings_file(start: Path | None = None) -> Path | None:
    """``$SETR_CONFIG``, else ``setr.toml`` in ``start`` (or here) or the nearest folder above it."""
    if named := os.environ.get("SETR_CONFIG"):
        return Path(named)
    here = (start or Path.cwd()).resolve()
    return next(
        (folder / SETTINGS_FILE for folder in (here, *here.parents) if (folder / SETTINGS_FILE).is_file()),
        None,
    )


def load_settings(path: Path | None = None) -> Settings:
    """Settings from ``path`` (or the file that :func:`find_settings_file` finds) and the environment.

    Raises ``SettingsError`` naming the file and each key at fault.
    """
    source = path or find_settings_file()
    values: dict[str, Any] = {}
    base_dir = Path.cwd()
    if source is not None:
        try:
            values = tomllib.loads(source.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SettingsError(f"{source}: there is no such settings file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{source}: not valid TOML: {error}") from error
        except OSError as error:
            raise SettingsError(f"{source}: cannot be read ({error.strerror})") from error
        base_dir = source.resolve().parent
    try:
        return Settings(**{**values, "base_dir": base_dir})
    except ValidationError as error:
        where = f"{source} and SETR_... variables" if source else "SETR_... variables"
        problems = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"{where}: {error.error_count()} setting(s) at fault:\n{problems}") from error
    except SourceError as error:
        raise SettingsError(
            f"SETR_... variables: {error}: give a section as JSON, or name its key"
        ) from error
