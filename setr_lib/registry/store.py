"""Runs, logged models, versions and aliases in MLflow, through ``MlflowClient`` with explicit run ids.

An MLflow run is one training. A logged model becomes a version only after its round trip; aliases say which
version serves: ``champion``, and ``challenger`` for the newest that did not beat it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.models.multimodal import Picture
from setr_lib.registry.bundle import ADAPTER, JUDGE, BaseReference, Bundle, write_bundle
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.round_trip import RoundTripReport, check_in_fresh_process
from setr_lib.reranking.held_out import HeldOutReport
from setr_lib.reranking.training_result import AdapterResult
from setr_lib.settings import Settings
from setr_lib.texts.prompts import PromptTemplate

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
_SQLITE = "sqlite:///"
_RUN_TAG = "setr.run"
_FLUSH_AFTER = 50
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


@dataclass(frozen=True)
class Promotion:
    """What :meth:`MlflowRegistry.promote` decided. ``champion`` is the version that holds the alias now."""

    version: str
    champion: str
    previous: str | None
    reason: str

    @property
    def promoted(self) -> bool:
        return self.version == self.champion


@dataclass(frozen=True)
class VersionInfo:
    """One registered version: what it is and how it did on its held-out pairs."""

    version: str
    run_id: str | None
    aliases: tuple[str, ...]
    model_uri: str
    tags: Mapping[str, str]

    @property
    def held_out_auc(self) -> float:
        return float(self.tags["setr.held_out_auc"])


class TrainingRun:
    """An open MLflow run; metrics are sent in batches. Get it from :meth:`MlflowRegistry.training_run`."""

    def __init__(self, client: MlflowClient, run_id: str, url: str) -> None:
        self._client, self.run_id, self.url = client, run_id, url
        self._waiting: list[Any] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of one step: an ``on_metrics`` for ``train_adapter``."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, float(value), now, step) for name, value in values.items()]
        if len(self._waiting) >= _FLUSH_AFTER:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._client.log_batch(self.run_id, metrics=self._waiting)
            self._waiting = []

    def tag(self, tags: Mapping[str, object]) -> None:
        for name, value in tags.items():
            self._client.set_tag(self.run_id, name, str(value))


class MlflowRegistry:
    """The registered model ``model`` and the experiment that its trainings belong to.

    Opening it costs nothing; the store is created on first use, once, under a lock (two processes that
    migrate a fresh SQLite file at the same time break it).
    """

    def __init__(
        self, tracking_uri: str, artifact_root: Path, experiment: str = "setr", model: str = "setr-reranker"
    ) -> None:
        self.tracking_uri, self.artifact_root = tracking_uri, artifact_root
        self.experiment, self.model = experiment, model
        self._client: MlflowClient | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> MlflowRegistry:
        return cls(
            settings.tracking_uri,
            settings.artifact_root,
            settings.registry.experiment,
            settings.registry.model,
        )

    @property
    def client(self) -> MlflowClient:
        """MLflow's client; creates the store where there is none. Raises ``RegistryError`` when it cannot be
        opened.
        """
        if self._client is None:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            for noisy in ("mlflow.store.db.utils", "alembic"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            with self._only_one():
                try:
                    client = MlflowClient(self.tracking_uri, self.tracking_uri)
                    if client.get_experiment_by_name(self.experiment) is None:
                        location = (self.artifact_root / self.experiment).resolve()
                        # A server keeps artifacts where it was told to; only a local store needs a place.
                        client.create_experiment(
                            self.experiment, location.as_uri() if self._database is not None else None
                        )
                except MlflowException as error:
                    raise RegistryError(
                        f"registry.tracking_uri = {self.tracking_uri!r}: {error}; for a local store of an older "
                        "MLflow run `mlflow db upgrade` with this URI"
                    ) from error
            self._client = client
        return self._client

    def exists(self) -> bool:
        """Whether there is a store to look into; never creates one."""
        return self._database is None or self._database.is_file()

    # --------------------------------------------------------------------------------------------------------- runs

    @contextmanager
    def training_run(
        self, name: str, params: Mapping[str, object], tags: Mapping[str, object] | None = None
    ) -> Iterator[TrainingRun]:
        """An MLflow run for the duration of the block: FINISHED at its end, FAILED when it is left by an
        error.

        A run of the same training (tag ``setr.run``) that still says RUNNING was killed, since no training
        runs twice at a time: it is marked KILLED.
        """
        experiment = self._experiment()
        self._end_killed(experiment, (tags or {}).get(_RUN_TAG))
        created = self.client.create_run(
            experiment.experiment_id,
            run_name=name,
            tags={key: str(value) for key, value in (tags or {}).items()},
        )
        run_id = created.info.run_id
        run = TrainingRun(self.client, run_id, self._run_url(experiment.experiment_id, run_id))
        status = "FAILED"
        try:
            for key, value in params.items():
                self.client.log_param(run_id, key, value)
            yield run
            status = "FINISHED"
        finally:
            run.flush()
            self.client.set_terminated(run_id, status)

    def _end_killed(self, experiment: Experiment, run_digest: object) -> None:
        if run_digest is None:
            return
        lost = self.client.search_runs(
            [experiment.experiment_id],
            filter_string=f"tags.`{_RUN_TAG}` = '{run_digest}' and attributes.status = 'RUNNING'",
        )
        for run in lost:
            self.client.set_terminated(run.info.run_id, "KILLED")

    def log_adapter(
        self,
        run: TrainingRun,
        result: AdapterResult,
        reference: BaseReference,
        template: PromptTemplate,
        pictures: Mapping[str, Picture],
    ) -> str:
        """Log ``result`` as a pyfunc model of ``run``; its URI (``models:/m-...``). Final measures go with
        it.

        ``template`` is the judge prompt of the training: it is stored with the adapter.
        """
        import mlflow.pyfunc
        from mlflow.models import Model

        final = {
            **result.before.as_metrics("held_out_before"),
            **result.after.as_metrics("held_out"),
            "training_seconds": result.seconds,
        }
        run.log(result.steps, final)
        run.flush()
        # Made by hand: Model.log on its own would put it into MLflow's current experiment, not the run's.
        model = self.client.create_logged_model(
            self._experiment().experiment_id,
            name="reranker",
            source_run_id=run.run_id,
            tags=self._tags(result, reference),
            params={"base_model": reference.id},
        )
        with (
            tempfile.TemporaryDirectory(prefix="setr-bundle-") as folder,
            self._as_default(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter(
                "ignore", UserWarning
            )  # it asks for an input example; there are examples inside
            bundle = write_bundle(Path(folder), result, reference, template, pictures)
            logged = Model.log(
                None,
                mlflow.pyfunc,
                run_id=run.run_id,
                model_id=model.model_id,
                step=result.steps,
                python_model=str(Path(__file__).with_name("pyfunc_reranker.py")),
                artifacts={name: str(path) for name, path in bundle.items()},
                signature=_signature(),
                pip_requirements=_requirements(),
            )
        return str(logged.model_uri)

    def find_logged(self, run_digest: str) -> str | None:
        """The URI of the newest logged model of the training ``run_digest`` (``AdapterResult.run``), or
        ``None``.
        """
        if not self.exists():
            return None
        from mlflow.entities import LoggedModelStatus

        found = self.client.search_logged_models(
            [self._experiment().experiment_id], filter_string=f"tags.`{_RUN_TAG}` = '{run_digest}'"
        )
        ready = [model for model in found if model.status == LoggedModelStatus.READY]
        return max(ready, key=lambda model: model.creation_timestamp).model_uri if ready else None

    # ----------------------------------------------------------------------------------------------------- versions

    def round_trip(self, model_uri: str) -> RoundTripReport:
        """What a fresh process makes of ``model_uri``: no key missing, the same scores, and not those of the
        base.
        """
        return check_in_fresh_process(model_uri, self.tracking_uri)

    def register(self, model_uri: str, report: RoundTripReport) -> str:
        """The version of ``model_uri``, made now or earlier (registering twice makes no second one).

        Raises ``RegistryError`` when ``report`` is of another model or lists problems.
        """
        from mlflow.exceptions import MlflowException

        if report.model_uri != model_uri or not report.ok:
            reasons = "; ".join(report.problems) or f"the round trip was that of {report.model_uri}"
            raise RegistryError(f"{model_uri} is not registered: {reasons}")
        model_id = model_uri.rpartition("/")[2]
        logged = self.client.get_logged_model(model_id)
        for info in self.versions():
            if info.tags.get(_RUN_TAG) == logged.tags.get(_RUN_TAG):
                return info.version
        try:
            self.client.create_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with self._as_default():  # the store looks the model up through MLflow's global URI
            created = self.client.create_model_version(
                self.model,
                source=model_uri,
                run_id=logged.source_run_id,
                model_id=model_id,
                tags={
                    **{name: value for name, value in logged.tags.items() if name.startswith("setr.")},
                    "setr.round_trip": f"passed in {report.seconds:.0f} s",
                },
            )
        return str(created.version)

    def promote(
        self, version: str, score_champion: Callable[[Bundle], HeldOutReport] | None = None
    ) -> Promotion:
        """Give ``version`` the champion alias if it is the first, or better than the champion on held-out
        pairs.

        Better means a higher AUC on the new version's held-out pairs. Where the champion was measured on
        others, ``score_champion(bundle)`` measures it on these, under the prompt of its bundle; without it,
        its own figure is compared. A version that stays behind becomes ``challenger`` and is tagged
        ``setr.not_promoted_because``.

        Only versions of the same re-ranker are compared: same base, same judge prompt. Where the champion has
        another one, settings were changed on purpose, and the new version takes its place.
        """
        mine = self.version(version)
        previous = self.champion()
        if previous == mine.version:
            return Promotion(version, version, previous, "it is the champion already")
        if previous is None:
            return self._crown(mine, None, "the first sound version")
        champion = self.version(previous)
        if champion.tags.get("setr.base_id") != mine.tags.get("setr.base_id"):
            return self._crown(
                mine, champion, f"version {previous} adapts another base, {champion.tags.get('setr.base_id')}"
            )
        if champion.tags.get("setr.prompt_hash") != mine.tags.get("setr.prompt_hash"):
            return self._crown(
                mine,
                champion,
                f"version {previous} answers another prompt, {champion.tags.get('setr.prompt_hash')}",
            )
        rival, how = self._rival_auc(champion, mine, score_champion)
        better = mine.held_out_auc > rival
        relation = "above" if better else "not above"
        reason = f"held-out AUC {mine.held_out_auc:.4f}, {relation} version {previous}'s {rival:.4f}{how}"
        if better:
            return self._crown(mine, champion, reason)
        self.client.set_registered_model_alias(self.model, CHALLENGER, version)
        self.client.set_model_version_tag(self.model, version, "setr.not_promoted_because", reason)
        return Promotion(version, previous, previous, reason)

    def champion(self) -> str | None:
        """The version that holds the champion alias now; ``None`` where nothing was promoted yet."""
        return self._aliased(CHAMPION)

    def challenger(self) -> str | None:
        """The version that holds the challenger alias now, or ``None``."""
        return self._aliased(CHALLENGER)

    def versions(self) -> list[VersionInfo]:
        """All versions, newest first."""
        if not self.exists():
            return []
        from mlflow.exceptions import MlflowException

        try:
            aliases = self.client.get_registered_model(self.model).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise
        infos: list[VersionInfo] = []
        for found in self.client.search_model_versions(f"name='{self.model}'"):
            # A search does not tell aliases; the model as a whole does.
            names = tuple(name for name, version in aliases.items() if str(version) == str(found.version))
            infos.append(replace(_info(found), aliases=names))
        return sorted(infos, key=lambda info: int(info.version), reverse=True)

    def version(self, version: str) -> VersionInfo:
        """One version. Raises ``RegistryError`` naming those that there are."""
        from mlflow.exceptions import MlflowException

        try:
            # Unlike a search, this one knows the aliases.
            return _info(self.client.get_model_version(self.model, version))
        except MlflowException as error:
            known = ", ".join(info.version for info in self.versions()) or "none"
            raise RegistryError(f"{self.model} has no version {version} (there are: {known})") from error

    def bundle(self, version: str) -> Bundle:
        """The stored re-ranker of ``version`` (adapter and judge prompt), on this machine.

        It is fetched from a remote store where needed. Raises ``RegistryError`` where there is no such
        version.
        """
        from mlflow.artifacts import download_artifacts

        folder = self.artifact_root / "fetched" / self.model / version
        if not all((folder / "artifacts" / part).is_dir() for part in (ADAPTER, JUDGE)):
            location = self._local_folder(self.version(version))
            if location is not None:
                return _bundle_in(location)
            folder.mkdir(parents=True, exist_ok=True)
            with self._as_default():  # the version is looked up through MLflow's global URI
                download_artifacts(artifact_uri=f"models:/{self.model}/{version}", dst_path=str(folder))
        return _bundle_in(folder)

    # ------------------------------------------------------------------------------------------------------ helpers

    def _experiment(self) -> Experiment:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            raise RegistryError(f"{self.tracking_uri} has no experiment {self.experiment!r} any more")
        return found

    @property
    def _database(self) -> Path | None:
        return (
            Path(self.tracking_uri.removeprefix(_SQLITE)) if self.tracking_uri.startswith(_SQLITE) else None
        )

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        if self._database is None:
            yield
            return
        self._database.parent.mkdir(parents=True, exist_ok=True)
        with self._database.with_name(self._database.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _as_default(self) -> Iterator[None]:
        """Logging a model goes through MLflow's global URI; it is put back afterwards."""
        import mlflow

        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.tracking_uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)

    def _run_url(self, experiment_id: str, run_id: str) -> str:
        path = f"#/experiments/{experiment_id}/runs/{run_id}"
        return f"{self.tracking_uri.rstrip('/')}/{path}" if self.tracking_uri.startswith("http") else path

    def _aliased(self, alias: str) -> str | None:
        if not self.exists():
            return None
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_model_version_by_alias(self.model, alias).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _crown(self, mine: VersionInfo, champion: VersionInfo | None, reason: str) -> Promotion:
        self.client.set_registered_model_alias(self.model, CHAMPION, mine.version)
        self.client.set_model_version_tag(self.model, mine.version, "setr.promoted_because", reason)
        if CHALLENGER in mine.aliases:
            self.client.delete_registered_model_alias(self.model, CHALLENGER)
        if champion is not None:
            self.client.set_model_version_tag(
                self.model, champion.version, "setr.superseded_by", mine.version
            )
        return Promotion(mine.version, mine.version, champion.version if champion else None, reason)

    def _rival_auc(
        self,
        champion: VersionInfo,
        mine: VersionInfo,
        score_champion: Callable[[Bundle], HeldOutReport] | None,
    ) -> tuple[float, str]:
        if champion.tags.get("setr.held_out_digest") == mine.tags.get("setr.held_out_digest"):
            return champion.held_out_auc, ""
        if score_champion is not None:
            return score_champion(self.bundle(champion.version)).auc, " on the same pairs"
        return champion.held_out_auc, ", which was measured on other pairs"

    def _local_folder(self, info: VersionInfo) -> Path | None:
        """Where the version's model lies, if that is a folder of this machine."""
        from mlflow.utils.file_utils import local_file_uri_to_path

        if not info.model_uri.startswith("models:/m-"):
            return None
        location = self.client.get_logged_model(info.model_uri.rpartition("/")[2]).artifact_location
        if not location.startswith(("file:", "/")):
            return None
        folder = Path(local_file_uri_to_path(location))
        return folder if folder.is_dir() else None

    def _tags(self, result: AdapterResult, reference: BaseReference) -> dict[str, str]:
        return {
            _RUN_TAG: result.run,
            "setr.base_id": reference.id,
            "setr.prompt_hash": result.prompt_hash,
            "setr.pairs_digest": result.pairs_digest,
            "setr.held_out_digest": result.held_out_digest,
            "setr.held_out_auc": repr(result.after.auc),
            "setr.held_out_accuracy": repr(result.after.accuracy),
            "setr.base_held_out_auc": repr(result.before.auc),
            **{f"setr.version.{name}": number for name, number in result.versions.items()},
        }


def _bundle_in(folder: Path) -> Bundle:
    """The bundle inside the folder of a logged model."""
    return Bundle(folder / "artifacts" / ADAPTER, folder / "artifacts" / JUDGE)


def _info(version: ModelVersion) -> VersionInfo:
    return VersionInfo(
        str(version.version),
        version.run_id,
        tuple(version.aliases),
        str(version.source),
        dict(version.tags),
    )


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

    # Images are bytes, or paths under the configured roots: the one type that lets both through is "any".
    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(AnyType(), "reference"),
                ColSpec(DataType.string, "modification"),
                ColSpec(AnyType(), "candidate"),
            ]
        ),
        outputs=Schema([ColSpec(DataType.double, "score"), ColSpec(DataType.double, "p_yes")]),
    )


def _requirements() -> list[str]:
    from importlib.metadata import version

    # Without local build tags: "2.15.0+cpu" is on no package index.
    return [f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS]
