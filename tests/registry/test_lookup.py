"""Look-ups in MLflow's file give what MLflow's client gives, or nothing at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from setr_lib.registry.lookup import lookup_of
from setr_lib.registry.store import MlflowRegistry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    """A store with three versions of a model, the second of them deleted, and a logged model."""
    root = tmp_path_factory.mktemp("lookup")
    registry = MlflowRegistry(f"sqlite:///{root / 'mlflow.db'}", root / "mlartifacts")
    client = registry.client
    client.create_registered_model("mine")
    for number in (1, 2, 3):
        tags = {"setr.label": f"it's {number}", "other": "x"}
        source = (root / "mlartifacts" / str(number)).as_uri()
        client.create_model_version("mine", source=source, tags=tags)
    client.set_registered_model_alias("mine", "champion", "1")
    client.set_registered_model_alias("mine", "best", "1")
    client.set_registered_model_alias("mine", "challenger", "3")
    client.delete_model_version("mine", "2")
    client.create_logged_model(registry.found_experiment().experiment_id, name="model")
    return registry


def again(registry: MlflowRegistry) -> MlflowRegistry:
    """The same store, its client not opened yet."""
    return MlflowRegistry(registry.tracking_uri, registry.artifact_root)


def test_versions_and_aliases_are_those_of_mlflows_client(registry: MlflowRegistry) -> None:
    assert registry.quick() is None, "a client that is open answers itself"
    fresh = again(registry)
    assert fresh.quick() is not None
    for name in ("mine", "no such model"):
        by_client, by_file = registry.model(name), fresh.model(name)
        assert by_file.champion() == by_client.champion() == ("1" if name == "mine" else None)
        assert by_file.challenger() == by_client.challenger()
    for version in ("1", "3"):
        found, expected = fresh.model("mine").version(version), registry.model("mine").version(version)
        assert set(found.aliases) == set(expected.aliases)
        assert (found.version, found.run_id or "", found.model_uri, found.tags) == (
            expected.version,
            expected.run_id or "",
            expected.model_uri,
            expected.tags,
        )
    lookup = fresh.quick()
    assert lookup is not None and fresh._client is None
    assert lookup.version("mine", "2") is None
    (logged,) = registry.client.search_logged_models([registry.found_experiment().experiment_id])
    assert lookup.location(logged.model_id) == logged.artifact_location
    assert lookup.location("m-none") is None


def test_mlflows_client_is_asked_where_the_file_is_another_mlflows_or_has_workspaces(
    registry: MlflowRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = registry.database
    assert file is not None and lookup_of(file) is not None
    assert lookup_of(None) is None and lookup_of(tmp_path / "none.db") is None
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        with closing(sqlite3.connect(file)) as whole:
            whole.backup(other)
        other.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        other.commit()
    assert lookup_of(tmp_path / "other.db") is None
    monkeypatch.setenv("MLFLOW_WORKSPACE", "mine")
    assert lookup_of(file) is None
