"""``Settings``: all sections in one object, and what of different sections does not go together."""

from __future__ import annotations

import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from setr_lib.near_names import misspelt
from setr_lib.settings.data import DatasetSettings, ImageSettings, StorageSettings, TrainingSettings
from setr_lib.settings.models import ModelSettings, SpaceSettings
from setr_lib.settings.names import (
    DEFAULT_SPACE,
    DELIMITER,
    METHOD_ENTRY_POINTS,
    NAMES_OF_KINDS,
    PREFIX,
    UNTRUSTED,
)
from setr_lib.settings.places import Places
from setr_lib.settings.sections import (
    CoarseSettings,
    EvaluationSettings,
    MiniatureSettings,
    RegistrySettings,
    RerankingSettings,
    installed_names,
    is_path,
    may_be_called,
)
from setr_lib.settings.values import nearest

_SET_KEY = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


class Settings(Places, BaseSettings):
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
        ranked, installed = (
            (*coarse.strategies, *coarse.caption_strategies),
            installed_names(*METHOD_ENTRY_POINTS),
        )
        if any(is_path(name) or name in installed for name in ranked):
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
            if not may_be_called(name, coarse.strategies):
                raise ValueError(
                    f"methods: {name!r} is not among [coarse] strategies{misspelt(name, coarse.strategies)}: "
                    f"add it there, or name some of {', '.join(coarse.strategies)}"
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
