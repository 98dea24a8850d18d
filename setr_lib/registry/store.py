"""The MLflow store: its client, made once, the experiment, and the locks that more than one process needs.

Everything goes through ``MlflowClient`` with explicit run ids. Trainings are in ``runs.py``, the versions of
a registered model in ``registered_model.py``.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.damage import as_told, damaged, guarded, no_space, no_space_error, of_database, told
from setr_lib.errors import SetrError
from setr_lib.faults import sqlite_start_fault
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.registered_model import RegisteredModel
from setr_lib.registry.round_trip import RoundTripReport, check_in_fresh_process
from setr_lib.registry.runs import TrainingRuns
from setr_lib.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_SQLITE = "sqlite:///"


class MlflowRegistry:
    """An MLflow store of trainings and registered models.

    Opening it costs nothing; the store is created on first use, once, under a lock (two processes that
    migrate a fresh SQLite file at the same time break it).

    Args:
        tracking_uri: MLflow's tracking and registry URI.
        artifact_root: The folder of a local store's artifacts, and of those fetched from a remote one.
        experiment: The experiment that trainings belong to.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path, experiment: str = "setr") -> None:
        self.tracking_uri, self.artifact_root, self.experiment = tracking_uri, artifact_root, experiment
        self._client: MlflowClient | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> MlflowRegistry:
        """The store that settings name.

        Args:
            settings: ``[registry]`` and the storage root are read.

        Returns:
            The store, not opened yet.
        """
        return cls(settings.tracking_uri, settings.artifact_root, settings.registry.experiment)

    @property
    def client(self) -> MlflowClient:
        """MLflow's client; creates the store where there is none.

        Raises:
            RegistryError: The store cannot be opened, or its database is damaged; so do the client's methods.
        """
        if self._client is None:
            self._refuse_damaged()
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            for noisy in ("mlflow.store.db.utils", "alembic"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            with self.locked():
                try:
                    client = self._guarded(MlflowClient(self.tracking_uri, self.tracking_uri))
                    if client.get_experiment_by_name(self.experiment) is None:
                        location = (self.artifact_root / self.experiment).resolve()
                        # A server keeps artifacts where it was told to; only a local store needs a folder.
                        client.create_experiment(
                            self.experiment, location.as_uri() if self._database is not None else None
                        )
                except MlflowException as error:
                    raise RegistryError(
                        f"registry.tracking_uri = {self.tracking_uri!r}: {error}; for a local store of an "
                        "older MLflow run `mlflow db upgrade` with this URI"
                    ) from error
                except Exception as error:
                    if (found := self._told(error)) is not None:
                        raise found from error
                    raise
            self._client = client
        return self._client

    def exists(self) -> bool:
        """Whether there is a store to look into; never creates one."""
        return self._database is None or self._database.is_file()

    @property
    def runs(self) -> TrainingRuns:
        """The trainings: MLflow runs and the models that they logged."""
        return TrainingRuns(self)

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
        return check_in_fresh_process(model_uri, self.tracking_uri)

    def found_experiment(self) -> Experiment:
        """MLflow's record of the experiment.

        Raises:
            RegistryError: It was deleted.
        """
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            raise RegistryError(f"{self.tracking_uri} has no experiment {self.experiment!r} any more")
        return found

    @contextmanager
    def locked(self, what: str = "") -> Iterator[None]:
        """Hold a lock of this store for the duration of the block; others of this machine wait.

        Args:
            what: What the lock is for; locks of different names do not wait for each other. By default it is
                that of the store's first creation. It must not be entered twice by one thread.
        """
        beside = self._database or self.artifact_root / "registry"
        name = ".".join(part for part in (beside.name, what, "lock") if part)
        with told("registry", beside.with_name(name), RegistryError):
            beside.parent.mkdir(parents=True, exist_ok=True)
            lock = beside.with_name(name).open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Some of MLflow goes through its global URI: it is this store's in the block, and put back
        afterwards.
        """
        import mlflow

        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.tracking_uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)

    def _guarded(self, client: MlflowClient) -> MlflowClient:
        return guarded(client, self._told, "mlflow.tracking")

    def _told(self, error: BaseException) -> SetrError | None:
        """What an exception says of the database, in words; None where it is about something else."""
        database = self._database
        if database is None:
            return None
        if no_space(error):
            return no_space_error(database)
        return as_told(error, "registry", database, RegistryError) if of_database(error) else None

    def _refuse_damaged(self) -> None:
        """MLflow tries for minutes to open what is no database.

        An empty file is a new store to SQLite: not where models of an earlier one lie beside it.
        """
        database = self._database
        if database is None or not database.exists():
            return
        fault = sqlite_start_fault(database)
        if fault == "is empty":
            has_models = any((self.artifact_root / self.experiment / "models").glob("m-*"))
            fault = f"is empty, although models of it lie in {self.artifact_root}" if has_models else None
        if fault is not None:
            raise damaged("registry", database, fault, RegistryError)

    @property
    def _database(self) -> Path | None:
        if not self.tracking_uri.startswith(_SQLITE):
            return None
        return Path(self.tracking_uri.removeprefix(_SQLITE))
