"""Where a project's things are, by its settings, and how its models are named, paths made absolute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.files import sqlite_address, sqlite_path
from setr_lib.paths import expanded, kind_of
from setr_lib.settings.names import (
    BLIP2,
    BUILT_IN_SPACES,
    DEFAULT_SPACE,
    LOCAL_FOLDER,
    OPEN_CLIP,
    SENTENCE_TRANSFORMERS,
    TRAINED_SPACES,
)
from setr_lib.settings.values import SettingsError

if TYPE_CHECKING:
    from setr_lib.settings.data import DatasetSettings, StorageSettings
    from setr_lib.settings.models import ModelSettings, SpaceSettings
    from setr_lib.settings.sections import CoarseSettings, RegistrySettings, RerankingSettings


class Places:
    """What follows from settings: folders, addresses, depths, and the names of models."""

    if TYPE_CHECKING:
        base_dir: Path
        storage: StorageSettings
        datasets: dict[str, DatasetSettings]
        models: ModelSettings
        spaces: dict[str, SpaceSettings]
        coarse: CoarseSettings
        systems: dict[str, dict[str, Any]]
        reranking: RerankingSettings
        registry: RegistrySettings

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


def _open_clip_name(settings: Places, name: str) -> str:
    folder = name.removeprefix(LOCAL_FOLDER)
    return name if folder == name else LOCAL_FOLDER + str(settings.resolve(Path(folder)))


def _folder_or_hub_id(settings: Places, name: str) -> str:
    folder = settings.resolve(Path(name))
    return str(folder) if kind_of(folder) in ("folder", "hidden") else name
