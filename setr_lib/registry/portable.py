"""Models as MLflow writes them, without the places of the machine that wrote them.

MLflow's ``MLmodel`` names the folders from which a model was logged. Nothing reads them again, and they say
where a person's files are.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.models import Model

    from setr_lib.registry.runs import PyfuncModel

_FILE = "MLmodel"
_PYFUNC = "python_function"


def save_model(path: str, mlflow_model: Model, *, model: PyfuncModel, **_: object) -> None:
    """Write a model as MLflow's pyfunc flavour does, without absolute paths: ``Model.log`` calls this as it
    calls a flavour's.

    Args:
        path: The folder.
        mlflow_model: MLflow's record of the model.
        model: What is logged.
    """
    import mlflow.pyfunc

    mlflow.pyfunc.save_model(
        path=path,
        mlflow_model=mlflow_model,
        python_model=str(model.code),
        artifacts={name: str(found) for name, found in model.artifacts.items()},
        signature=model.signature,
        input_example=model.input_example,  # pyright: ignore[reportArgumentType] - None for none
        pip_requirements=list(model.requirements),
        model_config=dict.fromkeys(model.config_keys) or None,
    )
    _without_places(Path(path))


def tidy(code: str) -> None:
    """Remove the bytecode that Python has written beside the code of a stored model that was just loaded.

    Args:
        code: The file of the code, ``__file__`` of the module that MLflow runs.
    """
    folder = Path(code).parent
    if (folder / _FILE).is_file():
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)


def _without_places(folder: Path) -> None:
    """Take the places out of ``MLmodel``: those of the artifacts, of the code and of the store."""
    import yaml

    file = folder / _FILE
    told: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    if told.get("model_id"):
        told["artifact_path"] = f"models:/{told['model_id']}"
    flavour = told["flavors"][_PYFUNC]
    for artifact in flavour.get("artifacts", {}).values():
        artifact["uri"] = artifact["path"]
    if code := flavour.get("model_code_path"):
        flavour["model_code_path"] = Path(code).name
    file.write_text(yaml.safe_dump(told, sort_keys=True), encoding="utf-8")
