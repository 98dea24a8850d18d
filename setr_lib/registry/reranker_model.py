"""The judge's adapter as a logged model of MLflow: its bundle, tags, signature and final measures."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.models.multimodal import Picture
from setr_lib.registry.bundle import BaseReference, Bundle, write_bundle
from setr_lib.registry.cards import ModelCard, data_facts, licence_of
from setr_lib.registry.input_examples import input_example
from setr_lib.registry.registered_model import HELD_OUT_TAG
from setr_lib.registry.runs import RUN_TAG, PyfuncModel, TrainingRun, pinned_requirements
from setr_lib.registry.serving import COLUMNS, CONFIG_KEYS
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
    registered_model: str = "setr-reranker",
) -> str:
    """Log a trained adapter as a pyfunc model, with its final measures.

    Args:
        run: The open run of the training.
        result: The trained adapter.
        reference: The base model.
        template: The judge prompt of the training: it is stored with the adapter.
        pictures: The held-out pairs' images, by id.
        registered_model: The registered model that it will be a version of, for its card.

    Returns:
        The logged model's URI (``models:/m-...``).

    Raises:
        RegistryError: ``template`` is another prompt than that of the training.
    """
    run.log(0, result.before.as_metrics("held_out"))
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
            input_example=input_example(Bundle(**bundle).examples, COLUMNS),
            card=_card(run, result, reference, registered_model),
        )
        return run.log_model(model, result.steps)


def _card(run: TrainingRun, result: AdapterResult, reference: BaseReference, registered_model: str) -> str:
    before, after = result.before, result.after
    measures = [
        ("AUC", before.auc, after.auc),
        ("accuracy (0.5 is chance)", before.accuracy, after.accuracy),
        *(
            (f"AUC against {kind.replace('_', ' ')}s", before.auc_by_kind.get(kind, math.nan), auc)
            for kind, auc in after.auc_by_kind.items()
        ),
    ]
    card = ModelCard(
        summary="A LoRA adapter on the language model of a multimodal LLM, which judges whether a candidate "
        "image answers a composed query (a reference image and a modification text): logit(Yes) - "
        "logit(No). A reconstruction of stage 2 of SETR (arXiv 2509.26012), trained after LamRA-Rank "
        "(arXiv 2412.01720).",
        registered_model=registered_model,
        base={
            "model": reference.id,
            "where": reference.place.in_project or reference.place.relative or reference.name,
            "licence": licence_of(reference.place),
        },
        data=data_facts(
            run.trained_on,
            held_out=f"{after.positives:,} positive and {after.negatives:,} negative pairs, which share no "
            "image with those of the training",
            steps=f"{result.steps:,}, rank {result.settings.rank}",
        ),
        measures=measures,
        columns="`reference` and `candidate` are the bytes of an image (in JSON: their base64), "
        "`modification` is a text; the answer has `score`, `p_yes` and `error` for each row.",
        limits=[
            "The base model is not stored: it is looked for where it was in the project, or as "
            "`SETR_BASE_MODEL` or `model_config={'base_model': ...}` says; its digest must be the same.",
            "It answers one prompt, which is stored with it; under another it is another re-ranker.",
            "What the base model has seen in its own training is not known here.",
        ],
    )
    return card.text()


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
    from mlflow.types.schema import ColSpec, DataType, Schema

    # In a data frame, a column of objects passes as it is: a null or a wrong value is its own row's error.
    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(DataType.binary, "reference"),
                ColSpec(DataType.string, "modification"),
                ColSpec(DataType.binary, "candidate"),
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
