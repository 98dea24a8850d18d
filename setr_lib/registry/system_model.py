"""A trained retrieval system as a logged model of MLflow: its bundle, tags, signature and final measures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.escaping import markdown
from setr_lib.registry.cards import ModelCard, data_facts, licence_of
from setr_lib.registry.input_examples import input_example
from setr_lib.registry.measure import Measure
from setr_lib.registry.registered_model import HELD_OUT_TAG
from setr_lib.registry.runs import RUN_TAG, PyfuncModel, TrainingRun, pinned_requirements

if TYPE_CHECKING:
    import polars as pl
    from mlflow.models import ModelSignature

    from setr_lib.registry.system_bundle import EncoderReference
    from setr_lib.systems.bundle import SystemRecord
    from setr_lib.systems.training import SystemResult

RECALL = Measure("R@10", "setr.held_out_recall_at_10")
"""What versions of a retrieval system are compared by."""
ENCODER_TAG, PREPROCESSING_TAG = "setr.encoder_id", "setr.preprocessing_id"
_REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchvision",
    "open_clip_torch",
    "transformers",
    "peft",
    "safetensors",
    "polars",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class LoggedSystem:
    """What is logged of a trained retrieval system.

    Attributes:
        record: What it is.
        result: The training.
        reference: The encoder.
        examples: An ``EXAMPLES`` frame, for the round trip.
        held_out: The held-out triplets, in the order of the result's ranks.
        held_out_digest: Digest of the held-out triplets and the images that they search.
        tags: Further tags, e.g. the digest of the training data.
        registered_model: The registered model that it will be a version of, for its card.
    """

    record: SystemRecord
    result: SystemResult
    reference: EncoderReference
    examples: pl.DataFrame
    held_out: pl.DataFrame
    held_out_digest: str
    tags: Mapping[str, str]
    registered_model: str = ""


def log_system(run: TrainingRun, system: LoggedSystem) -> str:
    """Log a trained retrieval system as a pyfunc model, with its final measures.

    Args:
        run: The open run of the training.
        system: What is logged.

    Returns:
        The logged model's URI (``models:/m-...``).
    """
    from setr_lib.registry.system_bundle import write_system_bundle
    from setr_lib.registry.system_serving import COLUMNS, CONFIG_KEYS
    from setr_lib.systems.training import RECALL_METRIC

    result = system.result
    run.log(0, {RECALL_METRIC: result.recall_before})
    final = {
        "held_out_before_recall_at_10": result.recall_before,
        RECALL_METRIC: result.recall,
        "training_seconds": result.seconds,
        "trained_parameters": float(result.parameters),
    }
    run.log(result.steps, final)
    with tempfile.TemporaryDirectory(prefix="setr-bundle-") as folder:
        bundle = write_system_bundle(
            Path(folder), system.record, result, system.reference, system.examples, system.held_out
        )
        model = PyfuncModel(
            name=system.record.system,
            code=Path(__file__).with_name("pyfunc_system.py"),
            artifacts=bundle,
            signature=signature(),
            requirements=pinned_requirements(_REQUIREMENTS),
            tags={
                RUN_TAG: result.run,
                ENCODER_TAG: system.record.encoder_id,
                PREPROCESSING_TAG: system.record.preprocessing_id,
                HELD_OUT_TAG: system.held_out_digest,
                RECALL.tag: repr(result.recall),
                "setr.base_held_out_recall_at_10": repr(result.recall_before),
                **system.tags,
            },
            params={"encoder": system.record.encoder_id, "system": system.record.system},
            config_keys=CONFIG_KEYS,
            input_example=input_example(system.examples, COLUMNS),
            card=_card(run, system),
        )
        return run.log_model(model, result.steps)


def _card(run: TrainingRun, system: LoggedSystem) -> str:
    from setr_lib.systems.recipe import RECIPES

    recipe, reference, result = RECIPES[system.record.system], system.reference, system.result
    place = reference.place
    card = ModelCard(
        summary=f"The query side of a retrieval system for composed queries (a reference image and a "
        f"modification text), on top of a frozen encoder: {markdown(recipe.summary)}. Source: "
        f"{markdown(recipe.source)}.",
        registered_model=system.registered_model or f"setr-{recipe.name.replace('_', '-')}",
        base={
            "encoder": reference.id,
            "where": place.in_project or place.relative or place.name,
            "licence": licence_of(place),
        },
        data=data_facts(
            run.trained_on,
            held_out=f"{system.held_out.height:,} triplets, which share no image with those of the training, "
            f"searched in {result.gallery:,} images",
            steps=f"{result.steps:,}, {result.parameters:,} trained numbers",
        ),
        measures=[("R@10, in percent", result.recall_before, result.recall)],
        columns="`reference` is the bytes of an image (in JSON: their base64), `modification` a text, which "
        "may be empty; the answer has `vector` (norm 1, in the space of the gallery's vectors) and `error` "
        "for each row.",
        limits=[
            "The encoder is not stored: it is looked for where it was in the project, or as `SETR_ENCODER` "
            "or `model_config={'encoder': ...}` says, and must be the same by its digest.",
            "Its vectors are to be compared with those of images that the same version (or, where it does "
            "not train the image side, the same encoder) has embedded.",
            "What the encoder has seen in its own training is not known here.",
        ],
    )
    return card.text()


def signature() -> ModelSignature:
    """What MLflow says of the model's columns.

    Returns:
        The columns of a request and of an answer; those of an answer may be null.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    return ModelSignature(
        # In a data frame, a column of objects passes as it is: a wrong value is its own row's error.
        inputs=Schema([ColSpec(DataType.binary, "reference"), ColSpec(DataType.string, "modification")]),
        outputs=Schema(
            [
                ColSpec(Array(DataType.double), "vector", required=False),
                ColSpec(DataType.string, "error", required=False),
            ]
        ),
    )
