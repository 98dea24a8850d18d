"""Where a person finds a run or version on MLflow's pages, and the Dagster run behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.settings import Settings


def mlflow_ui(settings: Settings) -> str:
    """The address of MLflow's UI: the store itself where it is a server, else what settings say.

    Args:
        settings: The settings.
    """
    from setr_lib.registry.server import address_of

    return (address_of(settings.tracking_uri) or settings.registry.mlflow_ui).rstrip("/")


def training_page(context: PipelineContext, model_uri: str) -> str:
    """The page of the training run that logged a model.

    Args:
        context: Settings and the registry.
        model_uri: The logged model's URI (``models:/m-...``).

    Returns:
        Its address.
    """
    logged = context.registry.client.get_logged_model(model_uri.rpartition("/")[2])
    return f"{mlflow_ui(context.settings)}/#/experiments/{logged.experiment_id}/runs/{logged.source_run_id}"


def version_page(settings: Settings, model: str, version: str) -> str:
    """The page of a registered version.

    Args:
        settings: They say where the UI is.
        model: The registered model.
        version: Its version.

    Returns:
        Its address.
    """
    return f"{mlflow_ui(settings)}/#/models/{model}/versions/{version}"


def dagster_tags(settings: Settings, run_id: str, asset: str, partition: str | None = None) -> dict[str, str]:
    """The tags of an MLflow run that name the Dagster run behind it.

    Args:
        settings: They say where Dagster's UI is.
        run_id: The Dagster run.
        asset: The asset that it materialises.
        partition: The partition, where it has one.

    Returns:
        The tags.
    """
    tags = {
        "dagster.run_id": run_id,
        "dagster.asset": asset,
        "dagster.url": f"{settings.registry.dagster_ui.rstrip('/')}/runs/{run_id}",
    }
    return tags if partition is None else {**tags, "dagster.partition": partition}
