"""Evaluations in MLflow: a run for each evaluation of a set, and below it a run for each row.

Every row's run has the same metrics under the same names, so that MLflow's pages compare rows, and one row
with two versions. The run above has those of the row that a search would show. An evaluation that gives what
an earlier one gave is that one's run: it counts how often.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from setr_lib.escaping import visible
from setr_lib.registry.code_version import SOURCE_TAGS, code_tags
from setr_lib.registry.runs import DESCRIPTION_TAG
from setr_lib.registry.server import check_answers

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModelInput, Metric, Run

    from setr_lib.registry.store import MlflowRegistry

DIGEST_TAG = "setr.evaluation"
"""The tag of an evaluation's run with the digest of its scores and of what made them."""
SET_TAG = "setr.set"
"""The tag with the evaluation set, on the runs of evaluations and of rows."""
VERSION_TAG = "setr.evaluation."
"""What the tag of a registered version is called, before the evaluation set's key, that names the run of the
newest evaluation."""
AGAIN_TAG, LAST_TAG = "setr.evaluated_again", "setr.last_evaluated"
"""The tags that say how often an evaluation gave the same again, and when it did so last."""
LOW, HIGH = ".ci_low", ".ci_high"
"""What the names of the metrics end in that are the ends of a 95 % interval: ``R_at_10.ci_low``, beside
``R_at_10`` on MLflow's pages."""
TRIAL_TAG = "setr.trial"
"""The tag, on the runs of a trial, that says how many queries were evaluated: ``20 of 4,181 queries``."""
_PARENT = "mlflow.parentRunId"
_NOT_IN_NAMES = re.compile(r"[^\w. /-]")
_LONGEST = 500
_AT_WORK = 3600.0
"""Seconds for which a run on a server may still be written by another machine."""


@dataclass(frozen=True)
class Figure:
    """A score: its value and the ends of its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class EvaluatedRow:
    """A row of an evaluation.

    Attributes:
        title: What the run is called, after the evaluation set.
        params: What made it: method, re-ranker, version, fusion, ...
        figures: Scores by SETR's names of the metrics, e.g. ``R@10``.
        versions: The registered versions behind it: model and version.
    """

    title: str
    params: Mapping[str, str]
    figures: Mapping[str, Figure]
    versions: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class EvaluatedData:
    """What was evaluated on, as MLflow shows the data of a run.

    Attributes:
        name: The evaluation set.
        digest: Of queries and gallery.
        source: Where it comes from: data set, kind, folder.
        profile: How large it is.
        split: Its split.
    """

    name: str
    digest: str
    source: Mapping[str, object]
    profile: Mapping[str, object]
    split: str


@dataclass(frozen=True)
class EvaluatedSet:
    """An evaluation of a set.

    Attributes:
        key: The evaluation set.
        digest: Of the scores and of all that made them.
        params: What all rows have in common.
        data: What was evaluated on.
        rows: The rows.
        main: The title of the row whose scores the run of the whole evaluation has.
        description: What its page says, as Markdown.
        tags: Further tags of all its runs.
        trial: Of a trial how many of the set's queries were evaluated, in words; empty for the whole set.
    """

    key: str
    digest: str
    params: Mapping[str, str]
    data: EvaluatedData
    rows: Sequence[EvaluatedRow]
    main: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    trial: str = ""

    @property
    def name(self) -> str:
        """What its run is called, before the versions in it."""
        return f"{self.key} · trial, {self.trial}" if self.trial else self.key


@dataclass(frozen=True)
class LoggedEvaluation:
    """An evaluation's run in MLflow.

    Attributes:
        run_id: The run.
        experiment_id: Its experiment.
        is_new: Whether it was made now; else an earlier evaluation gave the same.
    """

    run_id: str
    experiment_id: str
    is_new: bool

    @property
    def path(self) -> str:
        """The run's page, after the address of MLflow's UI."""
        return f"/#/experiments/{self.experiment_id}/runs/{self.run_id}"


def metric_name(name: str) -> str:
    """A metric's name as MLflow takes it.

    Args:
        name: SETR's name, e.g. ``R@10`` or ``R@10/dress``.

    Returns:
        ``R_at_10``, ``R_at_10/dress``.
    """
    return _NOT_IN_NAMES.sub("_", name.replace("@", "_at_")).strip("/ ")


class EvaluationRuns:
    """The evaluations of a store. Get it from ``MlflowRegistry.evaluations``.

    Args:
        registry: The store.
        experiment: The experiment that they are runs of; made where there is none.
    """

    def __init__(self, registry: MlflowRegistry, experiment: str) -> None:
        self._registry, self._experiment = registry, experiment

    def log(self, evaluated: EvaluatedSet, ui: str = "") -> LoggedEvaluation:
        """Log an evaluation, or find the run of an earlier one that gave the same.

        The registered versions of its rows get a tag that names the run, and their logged models the row's
        metrics; those of a trial do not. What a kill has left of logging this very evaluation is deleted.

        Args:
            evaluated: The evaluation.
            ui: The address of MLflow's UI, for the versions' tags.

        Returns:
            The run.

        Raises:
            RegistryError: The server does not answer, or the experiment was deleted.
            MlflowException: The store refuses something.
        """
        check_answers(self._registry.tracking_uri)
        experiment = self._registry.found_experiment(self._experiment).experiment_id
        with self._registry.locked("evaluations"):
            known, unfinished = self._known(experiment, evaluated.digest)
            for run in unfinished:
                self._delete(experiment, run)
            if known is None:
                logged = LoggedEvaluation(self._write(experiment, evaluated), experiment, is_new=True)
            else:
                logged = LoggedEvaluation(known.info.run_id, experiment, is_new=False)
                self._count(known, evaluated)
            if not evaluated.trial:
                self._tag_versions(evaluated, f"{ui.rstrip('/')}{logged.path}")
        return logged

    def _known(self, experiment: str, digest: str) -> tuple[Run | None, list[Run]]:
        """The finished run of an evaluation, and those that were cut off: on a server, another machine may be
        at work on one.
        """
        found = self._registry.client.search_runs(
            [experiment], filter_string=f"tags.`{DIGEST_TAG}` = '{digest}'"
        )
        finished = [run for run in found if run.info.status == "FINISHED"]
        patience = 0 if self._registry.database else _AT_WORK
        latest = (time.time() - patience) * 1000
        ended = ("FAILED", "KILLED")
        cut = [run for run in found if run not in finished]
        lost = [run for run in cut if run.info.status in ended or run.info.start_time <= latest]
        return next(iter(finished), None), lost

    def _delete(self, experiment: str, run: Run) -> None:
        client = self._registry.client
        below = f"tags.`{_PARENT}` = '{run.info.run_id}'"
        for each in (*client.search_runs([experiment], filter_string=below), run):
            client.delete_run(each.info.run_id)

    def _count(self, run: Run, evaluated: EvaluatedSet) -> None:
        again = int(run.data.tags.get(AGAIN_TAG, "0")) + 1
        told = {**evaluated.tags, AGAIN_TAG: str(again), LAST_TAG: _now()}
        for name, value in told.items():
            self._registry.client.set_tag(run.info.run_id, name, visible(value))

    def _write(self, experiment: str, evaluated: EvaluatedSet) -> str:
        """Write the run of an evaluation and those of its rows; it is finished last."""
        client, began = self._registry.client, int(time.time() * 1000)
        common = {**SOURCE_TAGS, **code_tags(), **evaluated.tags, SET_TAG: evaluated.key}
        common |= {TRIAL_TAG: evaluated.trial} if evaluated.trial else {}
        more = {DIGEST_TAG: evaluated.digest, DESCRIPTION_TAG: evaluated.description}
        used = dict.fromkeys(
            f"{model} {version}" for row in evaluated.rows for model, version in row.versions
        )
        parent = self._start(experiment, " · ".join([evaluated.name, *used]), {**common, **more})
        rows = {row.title: row for row in evaluated.rows}
        try:
            for row in rows.values():
                title = f"{evaluated.name} · {row.title}"
                run = self._start(experiment, title, {**common, _PARENT: parent})
                self._fill(run, evaluated, row, began)
                client.set_terminated(run, "FINISHED")
            main = rows.get(evaluated.main)
            shown = EvaluatedRow(evaluated.key, {"row": evaluated.main}, main.figures if main else {})
            self._fill(parent, evaluated, shown, began)
        except BaseException:
            client.set_terminated(parent, "FAILED")
            raise
        client.set_terminated(parent, "FINISHED")
        return parent

    def _start(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        run = self._registry.client.create_run(
            experiment,
            run_name=visible(name)[:_LONGEST],
            # The description is Markdown that was escaped where it was made.
            tags={key: value if key == DESCRIPTION_TAG else visible(value) for key, value in tags.items()},
        )
        return run.info.run_id

    def _fill(self, run_id: str, evaluated: EvaluatedSet, row: EvaluatedRow, now: int) -> None:
        """Write parameters, metrics and data of a run."""
        from mlflow.entities import Param

        client, models = self._registry.client, [] if evaluated.trial else self._models(row)
        params = [Param(key, visible(value)) for key, value in {**evaluated.params, **row.params}.items()]
        model = models[-1].model_id if models else None
        client.log_batch(run_id, metrics=_metrics(row, evaluated.data, model, now), params=params)
        client.log_inputs(run_id, datasets=[_dataset(evaluated.data)], models=models or None)

    def _models(self, row: EvaluatedRow) -> list[LoggedModelInput]:
        """The logged models behind a row; the re-ranker's last."""
        from mlflow.entities import LoggedModelInput

        uris = [self._registry.model(model).version(version).model_uri for model, version in row.versions]
        begin = "models:/m-"
        return [LoggedModelInput(uri.rpartition("/")[2]) for uri in uris if uri.startswith(begin)]

    def _tag_versions(self, evaluated: EvaluatedSet, address: str) -> None:
        name = f"{VERSION_TAG}{evaluated.key}"
        for model, version in dict.fromkeys(used for row in evaluated.rows for used in row.versions):
            if self._registry.model(model).version(version).tags.get(name) != address:
                self._registry.client.set_model_version_tag(model, version, name, address)


def _metrics(row: EvaluatedRow, data: EvaluatedData, model: str | None, now: int) -> list[Metric]:
    from mlflow.entities import Metric

    values: dict[str, float] = {}
    for metric, figure in row.figures.items():
        name = metric_name(metric)
        ends = {f"{name}{LOW}": figure.low, f"{name}{HIGH}": figure.high}
        values |= {name: figure.value, **{end: value for end, value in ends.items() if value is not None}}
    return [
        Metric(name, value, now, 0, model_id=model, dataset_name=data.name, dataset_digest=data.digest)
        for name, value in values.items()
    ]


def _dataset(data: EvaluatedData) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=data.name,
        digest=data.digest,
        source_type="setr",
        source=json.dumps(data.source, ensure_ascii=False),
        profile=json.dumps(data.profile),
    )
    tags = {"mlflow.data.context": "evaluation", "split": data.split}
    return DatasetInput(dataset, tags=[InputTag(name, value) for name, value in tags.items()])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
