"""Where the bundle of a version is on this machine; from a remote store it is fetched once,
whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from setr_lib.registry.errors import RegistryError

if TYPE_CHECKING:
    from setr_lib.registry.registered_model import VersionInfo
    from setr_lib.registry.store import MlflowRegistry

_LOGGED_MODEL = "models:/m-"
"""What the URI of a logged model begins with."""


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
                    f"{', '.join(names)} in its store: log and register it again"
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

    Args:
        registry: The store.
        info: The version.

    Returns:
        The folder, or None.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path

    if not info.model_uri.startswith(_LOGGED_MODEL):
        return None
    logged = registry.client.get_logged_model(info.model_uri.rpartition("/")[2])
    location = logged.artifact_location
    if not location.startswith(("file:", "/")):
        return None
    folder = Path(local_file_uri_to_path(location))
    return folder if folder.is_dir() else None


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

    by_number = f"models:/{name}/{info.version}"
    uri = info.model_uri if info.model_uri.startswith(_LOGGED_MODEL) else by_number
    folder.mkdir()
    with registry.as_default():  # the model is looked up through MLflow's global URI
        download_artifacts(artifact_uri=uri, dst_path=str(folder))


def _is_whole(folder: Path, names: Sequence[str]) -> bool:
    return all(path.is_dir() for path in parts(folder, names).values())
