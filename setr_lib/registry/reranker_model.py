"""The judge's adapter as a logged model of MLflow: its bundle, tags, signature and final measures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.models.multimodal import Picture
from setr_lib.registry.bundle import BaseReference, write_bundle
from setr_lib.registry.registered_model import HELD_OUT_TAG
from setr_lib.registry.runs import RUN_TAG, PyfuncModel, TrainingRun, pinned_requirements
from setr_lib.registry.serving import CONFIG_KEYS
from setr_lib.reranking.training_result import AdapterResult
from setr_lib.texts.prompts import PromptTemplate

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

BASE_TAG, PROMPT_TAG, AUC_TAG = "setr.base_id", "setr.prompt_hash", "setr.held_out_auc"
_REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "safetensors",
    "polars",
    "numpy",
    "pillow",
)


def log_adapter(
    run: TrainingRun,
    result: AdapterResult,
    reference: BaseReference,
    template: PromptTemplate,
    pictures: Mapping[str, Picture],
) -> str:
    """Log a trained adapter as a pyfunc model, with its final measures.

    Args:
        run: The open run of the training.
        result: The trained adapter.
        reference: The base model.
        template: The judge prompt of the training: it is stored with the adapter.
        pictures: The held-out pairs' images, by id.

    Returns:
        The logged model's URI (``models:/m-...``).

    Raises:
        RegistryError: ``template`` is another prompt than that of the training.
    """
    final = {
        **result.before.as_metrics("held_out_before"),
        **result.after.as_metrics("held_out"),
        "training_seconds": result.seconds,
    }
    run.log(result.steps, final)
    with tempfile.TemporaryDirectory(prefix="setr-bundle-") as folder:
        bundle = write_bundle(Path(folder), result, reference, template, pictures)
        model = PyfuncModel(
            name="reranker",
            code=Path(__file__).with_name("pyfunc_reranker.py"),
            artifacts=bundle,
            signature=signature(),
            requirements=pinned_requirements(_REQUIREMENTS),
            tags=_tags(result, reference),
            params={"base_model": reference.id},
            config_keys=CONFIG_KEYS,
        )
        return run.log_model(model, result.steps)


def _tags(result: AdapterResult, reference: BaseReference) -> dict[str, str]:
    return {
        RUN_TAG: result.run,
        BASE_TAG: reference.id,
        PROMPT_TAG: result.prompt_hash,
        "setr.pairs_digest": result.pairs_digest,
        HELD_OUT_TAG: result.held_out_digest,
        AUC_TAG: repr(result.after.auc),
        "setr.held_out_accuracy": repr(result.after.accuracy),
        "setr.base_held_out_auc": repr(result.before.auc),
        **{f"setr.version.{name}": number for name, number in result.versions.items()},
    }


def signature() -> ModelSignature:
    """What MLflow says of the model's columns.

    Returns:
        The columns of a request and of an answer; those of an answer may be null.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

    # Images are bytes, their base64, or paths under the configured roots: the one type that lets all of them
    # through is "any". It also lets nulls and wrong values through, which are their own row's errors then.
    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(AnyType(), "reference"),
                ColSpec(AnyType(), "modification"),
                ColSpec(AnyType(), "candidate"),
            ]
        ),
        outputs=Schema(
            [
                ColSpec(DataType.double, "score", required=False),
                ColSpec(DataType.double, "p_yes", required=False),
                ColSpec(DataType.string, "error", required=False),
            ]
        ),
    )
