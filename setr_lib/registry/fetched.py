"""Where the bundle of a version is on this machine: below the artifact root, else where MLflow says; from a
remote store it is fetched once, whole or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from setr_lib.files import shown_address
from setr_lib.registry.errors import RegistryError, first_line
from setr_lib.registry.locations import artifact_folders

if TYPE_CHECKING:
    from setr_lib.registry.registered_model import VersionInfo
    from setr_lib.registry.store import MlflowRegistry

_LOGGED_MODEL = "models:/m-"
"""What the URI of a logged model begins with."""
_META = "registered_model_meta"
"""A note of MLflow's about the version by which a model was loaded last, written anew each time."""


def fetched(registry: MlflowRegistry, name: str, info: VersionInfo, names: Sequence[str]) -> dict[str, Path]:
    """The bundle of a version, downloaded where it was not before.

    Args:
        registry: The store.
        name: The registered model's name.
        info: The version.
        names: The folders that the bundle has.

    Returns:
        The folders by name.

    Raises:
        RegistryError: The store lacks one of the folders.
    """
    folder = _folder(registry, name, info)
    if not _is_whole(folder, names):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as beside:
            download = Path(beside) / "model"
            _download(registry, name, info, download)
            if not _is_whole(download, names):
                raise RegistryError(
                    f"{name} version {info.version} ({info.model_uri}) lacks one of the folders "
                    f"{', '.join(names)} in its store: its artifacts should be in {_where(registry, info)}; "
                    "put them there, or log and register it again"
                )
            if folder.exists() and not _is_whole(folder, names):
                folder.rename(Path(beside) / "damaged")
            try:
                download.rename(folder)
            except OSError:
                # Another process fetched the same bundle in the meantime.
                if not _is_whole(folder, names):
                    raise
    return parts(folder, names)


def local_folder(registry: MlflowRegistry, info: VersionInfo) -> Path | None:
    """Where the model of a version lies, if that is a folder of this machine.

    The present artifact root comes first: a project's folder may have been moved, or copied from one that is
    still there.

    Args:
        registry: The store.
        info: The version.

    Returns:
        The folder, or None.
    """
    if not info.model_uri.startswith(_LOGGED_MODEL):
        return None
    location = _location(registry, info.model_uri.rpartition("/")[2])
    return next(iter(artifact_folders(location, registry.artifact_root)), None)


def _location(registry: MlflowRegistry, model_id: str) -> str | None:
    """Where MLflow says that the artifacts of a logged model are."""
    try:
        found = None if (quick := registry.quick()) is None else quick.location(model_id)
    except sqlite3.Error:  # the client tries longer, and tells what is wrong
        found = None
    return found or registry.client.get_logged_model(model_id).artifact_location


def whole(folder: Path, name: str, info: VersionInfo, names: Sequence[str]) -> dict[str, Path]:
    """The bundle inside the folder of a logged model, which must have all of it.

    Args:
        folder: The folder.
        name: The registered model's name.
        info: The version.
        names: The folders that the bundle has.

    Returns:
        The folders by name.

    Raises:
        RegistryError: One is not there.
    """
    found = parts(folder, names)
    if missing := [str(path) for path in found.values() if not path.is_dir()]:
        raise RegistryError(
            f"{name} version {info.version} ({info.model_uri}) is incomplete, without {', '.join(missing)}: "
            "copy the whole artifact root again, or train and register the model anew"
        )
    return found


def parts(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The bundle inside the folder of a logged model.

    Args:
        folder: The folder.
        names: The folders that the bundle has.

    Returns:
        The folders by name.
    """
    return {name: folder / "artifacts" / name for name in names}


def _folder(registry: MlflowRegistry, name: str, info: VersionInfo) -> Path:
    """Another store or another logged model is another folder, whatever the version's number."""
    from setr_lib.hashing import digest_json

    key = digest_json([registry.tracking_uri, info.model_uri, info.run_id])[:16]
    return registry.artifact_root / "fetched" / name / f"{info.version}-{key}"


def _download(registry: MlflowRegistry, name: str, info: VersionInfo, folder: Path) -> None:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    by_number = f"models:/{name}/{info.version}"
    uri = info.model_uri if info.model_uri.startswith(_LOGGED_MODEL) else by_number
    folder.mkdir()
    address = shown_address(registry.tracking_uri)
    told = f"{name} version {info.version} ({info.model_uri}) cannot be fetched from {address}"
    where = ""
    try:
        where = f" ({_where(registry, info)})"
        with registry.as_default():  # the model is looked up through MLflow's global addresses
            download_artifacts(
                artifact_uri=uri,
                dst_path=str(folder),
                tracking_uri=registry.tracking_uri,
                registry_uri=registry.tracking_uri,
            )
        missing = _missing(registry, info, folder)
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"{told}: {first_line(error)}: its artifacts must be where the store says{where}, and be reached "
            "from here"
        ) from error
    if missing:
        raise RegistryError(
            f"{told} as a whole: {len(missing)} of its files did not arrive, or not to their end, the first "
            f"being {missing[0]}; nothing was kept: try again"
        )


def _missing(registry: MlflowRegistry, info: VersionInfo, folder: Path) -> list[str]:
    """The files of a logged model, by its store's list, that ``folder`` lacks or has in another size."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if not info.model_uri.startswith(_LOGGED_MODEL):
        return []
    # The client's own list would do, if it did not keep where it found a model of that id in another store.
    address = registry.tracking_uri
    stored = get_artifact_repository(_where(registry, info), tracking_uri=address, registry_uri=address)
    folders, missing = [""], list[str]()
    while folders:
        for entry in stored.list_artifacts(folders.pop()):
            file = folder / entry.path
            if entry.is_dir:
                folders.append(entry.path)
            elif entry.path == _META:
                continue
            elif not file.is_file() or entry.file_size not in (None, file.stat().st_size):
                missing.append(entry.path)
    return sorted(missing)


def _where(registry: MlflowRegistry, info: VersionInfo) -> str:
    """Where MLflow says that the artifacts of a version are."""
    if not info.model_uri.startswith(_LOGGED_MODEL):
        return info.model_uri
    return str(registry.client.get_logged_model(info.model_uri.rpartition("/")[2]).artifact_location)


def _is_whole(folder: Path, names: Sequence[str]) -> bool:
    return all(path.is_dir() for path in parts(folder, names).values())
