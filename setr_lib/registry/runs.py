"""Trainings in MLflow: an MLflow run each, with curves, and the model that it logged."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from setr_lib.escaping import visible
from setr_lib.registry.code_version import SOURCE_TAGS, code_tags

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import DatasetInput
    from mlflow.models import ModelSignature

    from setr_lib.registry.store import MlflowRegistry
    from setr_lib.training.trained_on import TrainedOn

RUN_TAG = "setr.run"
"""The tag with the digest of all that determines a training; on runs, logged models and versions."""
DESCRIPTION_TAG = "mlflow.note.content"
"""MLflow's tag with the description of a run or logged model, which its pages show as Markdown."""
_FLUSH_AFTER = 50
_NAME_LENGTH = 400
"""Characters of a data set's name; MLflow's stores take 500."""


@dataclass(frozen=True)
class PyfuncModel:
    """A trained system as MLflow stores and runs it.

    Attributes:
        name: The logged model's name in its run.
        code: The Python file that MLflow runs ("models from code"). What ``unwrap_python_model()`` gives has
            an attribute ``scorer`` with ``round_trip(predict)``: see ``round_trip.Scorer``.
        artifacts: The bundle: folders or files by name.
        signature: Columns in and out.
        requirements: Distributions without which it does not load, pinned.
        tags: ``setr.run``, the held-out measure, and what makes versions comparable; versions get them too.
        params: Shown by MLflow beside the model.
        config_keys: What ``load_model(..., model_config={...})`` may set; MLflow ignores other keys.
        input_example: A small request, which the loaded model has as ``input_example``; None for none.
        card: What a person should know of it, as Markdown (``cards.model_card``): its description, and that
            of a version made of it.
    """

    name: str
    code: Path
    artifacts: Mapping[str, Path]
    signature: ModelSignature
    requirements: Sequence[str]
    tags: Mapping[str, str]
    params: Mapping[str, str]
    config_keys: Sequence[str] = ()
    input_example: pd.DataFrame | None = None
    card: str = ""


class TrainingRun:
    """An open MLflow run; metrics are sent in batches. Get it from :meth:`TrainingRuns.start`."""

    def __init__(
        self,
        registry: MlflowRegistry,
        experiment_id: str,
        run_id: str,
        trained_on: TrainedOn | None = None,
    ) -> None:
        self._registry, self._experiment_id = registry, experiment_id
        self.run_id, self.trained_on = run_id, trained_on
        self._waiting: list[Any] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of one step: the ``on_metrics`` of a training loop.

        Args:
            step: The optimiser step.
            values: Metrics by name.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, float(value), now, step) for name, value in values.items()]
        if len(self._waiting) >= _FLUSH_AFTER:
            self.flush()

    def flush(self) -> None:
        """Send the metrics that wait."""
        if self._waiting:
            self._registry.client.log_batch(self.run_id, metrics=self._waiting)
            self._waiting = []

    def log_model(self, model: PyfuncModel, step: int) -> str:
        """Log what was trained; what it was trained on is put into its bundle, and among its tags.

        Args:
            model: What MLflow stores.
            step: The last optimiser step.

        Returns:
            The logged model's URI (``models:/m-...``).
        """
        from setr_lib.training.trained_on import TRAINED_ON

        if self.trained_on is None:
            return self._logged(model, model.artifacts, model.tags, step)
        with TemporaryDirectory(prefix="setr-trained-on-") as folder:
            artifacts = {**model.artifacts, TRAINED_ON: self.trained_on.write(Path(folder) / TRAINED_ON)}
            return self._logged(model, artifacts, {**model.tags, **self.trained_on.tags}, step)

    def _logged(
        self, model: PyfuncModel, artifacts: Mapping[str, Path], tags: Mapping[str, str], step: int
    ) -> str:
        from mlflow.models import Model

        from setr_lib.registry import portable

        self.flush()
        told = {key: visible(value) for key, value in {**tags, **code_tags()}.items()}
        # Made by hand: Model.log on its own would put it into MLflow's current experiment, not the run's.
        created = self._registry.client.create_logged_model(
            self._experiment_id,
            name=model.name,
            source_run_id=self.run_id,
            tags={**told, DESCRIPTION_TAG: model.card} if model.card else told,
            params=dict(model.params),
        )
        with self._registry.as_default(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a system without an input example
            logged = Model.log(
                None,
                portable,
                run_id=self.run_id,
                model_id=created.model_id,
                step=step,
                model=replace(model, artifacts=artifacts),
                validate_serving_input=False,  # the round trip does, in a fresh process
            )
        return str(logged.model_uri)


class TrainingRuns:
    """The trainings of a store. Get it from ``MlflowRegistry.runs``."""

    def __init__(self, registry: MlflowRegistry) -> None:
        self._registry = registry

    @contextmanager
    def start(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object] | None = None,
        trained_on: TrainedOn | None = None,
    ) -> Iterator[TrainingRun]:
        """An MLflow run for the duration of the block: FINISHED at its end, FAILED when an error leaves it.

        A run of the same training (tag ``setr.run``) that still says RUNNING was killed, since no training
        runs twice at a time: it is marked KILLED.

        Args:
            name: The run's name in MLflow.
            params: Its parameters.
            tags: Its tags.
            trained_on: The images and triplets of the training, which the model's bundle keeps.

        Yields:
            The run.
        """
        client, experiment_id = self._registry.client, self._registry.found_experiment().experiment_id
        self._end_killed(experiment_id, (tags or {}).get(RUN_TAG))
        told = {**SOURCE_TAGS, **code_tags(), **(tags or {})}
        created = client.create_run(
            experiment_id,
            run_name=name,
            tags={key: visible(str(value)) for key, value in told.items()},
        )
        run = TrainingRun(self._registry, experiment_id, created.info.run_id, trained_on)
        status = "FAILED"
        try:
            if trained_on is not None:
                client.log_inputs(run.run_id, datasets=_data_inputs(trained_on))
            for key, value in params.items():
                client.log_param(run.run_id, key, visible(value) if isinstance(value, str) else value)
            yield run
            status = "FINISHED"
        finally:
            run.flush()
            client.set_terminated(run.run_id, status)

    def find_logged(self, digest: str) -> str | None:
        """The newest logged model of a training.

        Args:
            digest: Of all that determines the training (tag ``setr.run``).

        Returns:
            The model's URI, or ``None``.
        """
        if not self._registry.exists():
            return None
        from mlflow.entities import LoggedModelStatus

        found = self._registry.client.search_logged_models(
            [self._registry.found_experiment().experiment_id],
            filter_string=f"tags.`{RUN_TAG}` = '{digest}'",
        )
        ready = [model for model in found if model.status == LoggedModelStatus.READY]
        return max(ready, key=lambda model: model.creation_timestamp).model_uri if ready else None

    def find_finished(self, digest: str) -> str | None:
        """The newest finished run of a training, whether or not it has logged a model.

        Args:
            digest: Of all that determines the training (tag ``setr.run``).

        Returns:
            The run's id, or ``None``.
        """
        if not self._registry.exists():
            return None
        found = self._registry.client.search_runs(
            [self._registry.found_experiment().experiment_id],
            filter_string=f"tags.`{RUN_TAG}` = '{digest}' and attributes.status = 'FINISHED'",
            max_results=1,
        )
        return found[0].info.run_id if found else None

    def _end_killed(self, experiment_id: str, digest: object) -> None:
        if digest is None:
            return
        client = self._registry.client
        running = f"tags.`{RUN_TAG}` = '{digest}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([experiment_id], filter_string=running):
            client.set_terminated(run.info.run_id, "KILLED")


def pinned_requirements(names: Sequence[str]) -> list[str]:
    """The installed versions of distributions, as pip requirements.

    Args:
        names: Distributions.

    Returns:
        ``name==version`` of each.
    """
    from importlib.metadata import version

    # Without local build tags: "2.15.0+cpu" is on no package index.
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def _data_inputs(trained_on: TrainedOn) -> list[DatasetInput]:
    """What a training reads, as MLflow shows the data of a run: images and triplets, each with its digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    from setr_lib.tables import digest_table

    tables = {"images": trained_on.images, "triplets": trained_on.triplets}
    return [
        DatasetInput(
            Dataset(
                name=f"{what} of {trained_on.source}"[:_NAME_LENGTH],
                digest=digest_table(table),
                source_type="setr",
                source=json.dumps({"source": trained_on.source, "rows": table.height}),
            ),
            tags=[InputTag("mlflow.data.context", "training")],
        )
        for what, table in tables.items()
        if table.height
    ]
