"""The MLflow store: its client, made once, the experiment, and the locks that more than one process needs.

Everything goes through ``MlflowClient`` with explicit run ids. Trainings are in ``runs.py``, the versions of
a registered model in ``registered_model.py``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.damage import as_told, damaged, guarded, no_space, no_space_error, of_database
from setr_lib.errors import SetrError
from setr_lib.faults import sqlite_start_fault
from setr_lib.files import shown_address, sqlite_path
from setr_lib.registry import database
from setr_lib.registry.errors import RegistryError, first_line
from setr_lib.registry.evaluation_runs import EvaluationRuns
from setr_lib.registry.locations import relocate_own
from setr_lib.registry.lookup import Lookup, lookup_of
from setr_lib.registry.registered_model import RegisteredModel
from setr_lib.registry.round_trip import RoundTripReport, check_in_fresh_process
from setr_lib.registry.runs import TrainingRuns
from setr_lib.registry.server import check_answers
from setr_lib.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_SERVERS = ("http", "https", "databricks", "databricks-uc", "uc", "file", "")
"""Kinds of stores that know themselves where artifacts go; a database does not."""
_NOISY = ("mlflow.store.db.utils", "mlflow.store.artifact.artifact_repo", "mlflow.pyfunc", "alembic")
_GLOBALS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_globals = threading.RLock()
_logger = logging.getLogger(__name__)


class MlflowRegistry:
    """An MLflow store of trainings and registered models.

    Opening it costs nothing; the store is created on first use, once, under a lock (two processes that
    migrate a fresh SQLite file at the same time break it).

    Args:
        tracking_uri: MLflow's tracking and registry URI.
        artifact_root: The folder of a local store's artifacts, and of those fetched from a remote one.
        experiment: The experiment that trainings belong to.
        project: The project's folder, below which models may lie; None for none.
    """

    def __init__(
        self, tracking_uri: str, artifact_root: Path, experiment: str = "setr", project: Path | None = None
    ) -> None:
        self.tracking_uri, self.artifact_root, self.experiment = tracking_uri, artifact_root, experiment
        self.project = project
        self._client: MlflowClient | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> MlflowRegistry:
        """The store that settings name.

        Args:
            settings: ``[registry]`` and the storage root are read.

        Returns:
            The store, not opened yet.
        """
        return cls(
            settings.tracking_uri, settings.artifact_root, settings.registry.experiment, settings.base_dir
        )

    @property
    def client(self) -> MlflowClient:
        """MLflow's client; creates the store where there is none.

        Raises:
            RegistryError: The store cannot be opened, or its database is damaged; so do the client's methods.
        """
        if self._client is None:
            self._refuse_damaged()
            check_answers(self.tracking_uri)
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            for noisy in _NOISY:
                logging.getLogger(noisy).setLevel(logging.WARNING)
            self._settle()
            # Nothing is left to be made in a file that is settled: who may only read it can look it up.
            only_one = self.locked() if self.database is None else nullcontext()
            try:
                with only_one:
                    client = guarded(
                        MlflowClient(self.tracking_uri, self.tracking_uri), self._told, "mlflow.tracking"
                    )
                if client.get_experiment_by_name(self.experiment) is None:
                    with self.locked():
                        self._create_experiment(client)
            except MlflowException as error:
                raise RegistryError(
                    f"registry.tracking_uri = {shown_address(self.tracking_uri)!r}: {first_line(error)}"
                ) from error
            except Exception as error:
                if not isinstance(error, SetrError) and (found := self._told(error)) is not None:
                    raise found from error
                raise
            self._client = client
        return self._client

    def quick(self) -> Lookup | None:
        """Look-ups that need no MLflow; None where the client must be asked, which was opened, say.

        Raises:
            RegistryError: The store's database is damaged.
        """
        if self._client is not None or self.database is None:
            return None
        self._refuse_damaged()
        if (found := lookup_of(self.database)) is not None:
            self._settle()
        return found

    def exists(self) -> bool:
        """Whether there is a store to look into; never creates one."""
        return self.database is None or self.database.is_file()

    @property
    def runs(self) -> TrainingRuns:
        """The trainings: MLflow runs and the models that they logged."""
        return TrainingRuns(self)

    def evaluations(self, experiment: str) -> EvaluationRuns:
        """The evaluations: MLflow runs of an experiment of their own.

        Args:
            experiment: The experiment; it need not exist yet.

        Returns:
            Its evaluations.
        """
        return EvaluationRuns(self, experiment)

    def model(self, name: str) -> RegisteredModel:
        """The versions of one registered model, e.g. ``registry.model("setr-reranker").champion()``.

        Args:
            name: The registered model's name; it need not exist yet.

        Returns:
            Its versions.
        """
        return RegisteredModel(self, name)

    def round_trip(self, model_uri: str) -> RoundTripReport:
        """What a fresh process makes of a logged model: it loads, and gives what it gave in training.

        Args:
            model_uri: The logged model's URI.

        Returns:
            The report; without problems, the model may be registered.
        """
        _ = self.client  # a moved store is put right before another process reads it
        return check_in_fresh_process(model_uri, self.tracking_uri, project=self.project)

    def found_experiment(self, name: str | None = None) -> Experiment:
        """MLflow's record of an experiment.

        Args:
            name: The experiment, made where there is none; that of the trainings by default.

        Raises:
            RegistryError: It was deleted.
        """
        wanted = name or self.experiment
        found = self.client.get_experiment_by_name(wanted)
        if found is None and name is not None:
            with self.locked():
                self._create_experiment(self.client, name)
            found = self.client.get_experiment_by_name(name)
        address = shown_address(self.tracking_uri)
        if found is None:
            raise RegistryError(f"{address} has no experiment {wanted!r} any more")
        if found.lifecycle_stage == "deleted":
            raise RegistryError(
                f"{address}: the experiment {wanted!r} was deleted; it comes back by `mlflow "
                f"experiments restore --experiment-id {found.experiment_id}`"
            )
        return found

    @contextmanager
    def locked(self, what: str = "") -> Iterator[None]:
        """Hold a lock of this store for the duration of the block; others of this machine wait.

        Args:
            what: What the lock is for; locks of different names do not wait for each other. By default it is
                that of the store's first creation. It must not be entered twice by one thread.

        Raises:
            RegistryError: The folder of the lock cannot be written to.
        """
        beside = self.database or self.artifact_root / "registry"
        name = ".".join(part for part in (beside.name, what, "lock") if part)
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            lock = beside.with_name(name).open("w")
        except PermissionError as error:
            raise RegistryError(
                f"{error.filename}: cannot be written ({error.strerror}): MLflow's store needs a folder that "
                "you may write to; name another in [storage] root"
            ) from error
        except OSError as error:
            raise as_told(error, "registry", beside.with_name(name), RegistryError) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Some of MLflow goes through its global addresses: both are this store's in the block, one thread at
        a time, and are put back afterwards.
        """
        import mlflow
        import mlflow.tracking._model_registry.utils as registry
        import mlflow.tracking._tracking_service.utils as tracking

        with _globals:
            # Not what MLflow would fall back to: to set that would name a store in the current folder.
            stated = tracking._tracking_uri, registry._registry_uri
            variables = {name: os.environ.get(name) for name in _GLOBALS}
            mlflow.set_tracking_uri(self.tracking_uri)
            mlflow.set_registry_uri(self.tracking_uri)
            try:
                yield
            finally:
                mlflow.set_tracking_uri(stated[0])  # pyright: ignore[reportArgumentType] - None unsets it
                mlflow.set_registry_uri(stated[1])  # pyright: ignore[reportArgumentType]
                for name, value in variables.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value

    def _told(self, error: BaseException) -> SetrError | None:
        """What an exception says of the database, in words; None where it is about something else."""
        file = self.database
        if file is None:
            return None
        if no_space(error):
            return no_space_error(file)
        return as_told(error, "registry", file, RegistryError) if of_database(error) else None

    def _refuse_damaged(self) -> None:
        """MLflow tries for minutes to open what is no database.

        An empty file is a new store to SQLite: not where models of an earlier one lie beside it.
        """
        file = self.database
        if file is None or not file.exists():
            return
        fault = sqlite_start_fault(file)
        if fault == "is empty":
            has_models = any((self.artifact_root / self.experiment / "models").glob("m-*"))
            fault = f"is empty, although models of it lie in {self.artifact_root}" if has_models else None
        if fault is not None:
            raise damaged("registry", file, fault, RegistryError)

    @property
    def database(self) -> Path | None:
        """The SQLite file of a local store; None for another."""
        return sqlite_path(self.tracking_uri)

    def _settle(self) -> None:
        """Make a local store where there is none, and have it say where artifacts are today.

        Only a store beside its artifacts is changed: one that several projects use is none of theirs.
        """
        file = self.database
        if file is None:
            return
        if database.look(file).state != "whole":
            with self.locked():
                database.prepare(file, self.artifact_root, self.experiment)
        done = relocate_own(file, self.artifact_root)
        if done.before is not None:
            _logger.info("%s: %d locations were below %s", file, done.changed, done.before)

    def _create_experiment(self, client: MlflowClient, name: str | None = None) -> None:
        wanted = name or self.experiment
        if client.get_experiment_by_name(wanted) is not None:
            return  # another process has made it meanwhile
        # A server keeps artifacts where it was told to; a database would take the current folder.
        scheme = self.tracking_uri.partition(":")[0] if ":" in self.tracking_uri else ""
        location = (self.artifact_root / wanted).resolve().as_uri()
        client.create_experiment(wanted, None if scheme in _SERVERS else location)
