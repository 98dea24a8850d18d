"""What is stored of a registered version, looked through for the places of this machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from setr_lib.registry.registered_model import RegisteredModel
from setr_lib.registry.store import MlflowRegistry

REPOSITORY = Path(__file__).parents[2]


def stored_folder(registry: MlflowRegistry, model: RegisteredModel, version: str) -> Path:
    """The folder of the logged model of a version of a local store."""
    name = model.version(version).model_uri.rpartition("/")[2]
    return registry.artifact_root / registry.experiment / "models" / name


def named_places(
    registry: MlflowRegistry, model: RegisteredModel, version: str, places: Iterable[Path]
) -> list[str]:
    """What names one of the places, the repository or the system's folder of temporary files: artifacts,
    tags, parameters and descriptions of the version, of its logged model and of its run.
    """
    client, info = registry.client, model.version(version)
    logged = client.get_logged_model(info.model_uri.rpartition("/")[2])
    run = client.get_run(info.run_id or "")
    described = [client.get_model_version(model.name, version).description]
    told = {
        "version": [info.tags, described, client.get_registered_model(model.name).description],
        "logged model": [logged.tags, logged.params],
        "run": [run.data.tags, run.data.params],
    }
    folder = stored_folder(registry, model, version)
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    stored = {
        **{what: json.dumps(texts).encode() for what, texts in told.items()},
        **{name: file.read_bytes() for name, file in files.items()},
    }
    wanted = [f"{place}/".encode() for place in (*places, REPOSITORY, Path(tempfile.gettempdir()))]
    return [what for what, content in stored.items() if any(place in content for place in wanted)]
