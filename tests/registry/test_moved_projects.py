"""A project's folder is moved or copied after a run: its artifacts are found where it is now, the other one
is left alone, and nothing is made in the current folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import mlflow.artifacts  # noqa: TID253
import mlflow.pyfunc  # noqa: TID253
import pandas as pd
import pytest

from setr_lib.files import sqlite_path
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.training_steps import train
from setr_lib.registry import registered_model
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.locations import artifact_folders, local_path, moved, present_path, relocate
from setr_lib.registry.round_trip import RoundTripReport
from setr_lib.registry.store import MlflowRegistry
from setr_lib.settings import RegistrySettings, Settings
from tests.tiny_system import LineSystem

MODEL = "setr-line"


def project(folder: Path) -> PipelineContext:
    return PipelineContext(Settings(base_dir=folder))


def add_version(context: PipelineContext, steps: int) -> str:
    """Train and register a line; the round trip is another test's."""
    system = LineSystem(context, steps=steps)
    uri = train(system).record.model_uri
    model = context.registry.model(MODEL)
    version = model.register(uri, RoundTripReport(uri), {}, system.measure, system.must_equal)
    model.promote(version, system.measure, system.must_equal)
    return version


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one registered version, the champion. Tests copy it, and leave it as it is."""
    folder = tmp_path_factory.mktemp("made") / "setr"
    folder.mkdir()
    add_version(project(folder), steps=5)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_made_here(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Tests run in an empty folder, and leave it empty; MLflow's global addresses are as they were."""
    empty = tmp_path_factory.mktemp("current")
    monkeypatch.chdir(empty)
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    assert list(empty.iterdir()) == []
    assert {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")} == before


@pytest.fixture
def gone(made: Path, tmp_path: Path) -> Path:
    """The project after a move: what its store names is not there any more."""
    earlier = made.with_name("earlier")
    shutil.copytree(made, earlier)
    relocate(earlier / "var/mlflow.db", earlier / "var/mlartifacts")
    return Path(shutil.move(earlier, tmp_path / "setr b #1 100%"))


def offset(folder: Path) -> float:
    return json.loads((folder / "line.json").read_text())["offset"]


def served(registry: MlflowRegistry) -> float:
    """What a person gets for x = 0 from ``load_model("models:/NAME@champion")``."""
    with registry.as_default():
        return float(
            mlflow.pyfunc.load_model(f"models:/{MODEL}@champion").predict(pd.DataFrame({"x": [0.0]}))["y"][0]
        )


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder: when it was changed, and what it is."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def test_a_moved_project_goes_on(made: Path, gone: Path) -> None:
    context = project(gone)
    model = context.registry.model(MODEL)
    assert model.champion() == "1"
    folder = model.artifacts("1", ["line"])["line"]
    assert folder.is_relative_to(gone) and offset(folder) == served(context.registry)
    assert add_version(context, steps=60) == "2"
    folder = model.artifacts("2", ["line"])["line"]
    assert folder.is_relative_to(gone) and offset(folder) == served(context.registry)
    assert not made.with_name("earlier").exists(), "nothing was written to where it was"


def test_mlflows_own_doors_are_put_right_by_one_command(gone: Path) -> None:
    from setr_lib.cli import main

    (gone / "setr.toml").write_text("")
    assert main(["--config", str(gone / "setr.toml"), "env", "--write", "--quiet"]) == 0
    address = Settings(base_dir=gone).tracking_uri
    assert sqlite_path(address) == gone / "var/mlflow.db"
    client = mlflow.MlflowClient(address, address)  # no registry of ours has opened it
    location = local_path(client.get_model_version_download_uri(MODEL, "1"))
    assert location is not None and location.is_dir() and location.is_relative_to(gone)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert (local_path(run.info.artifact_uri) or Path()).is_relative_to(gone)


def test_a_copy_and_its_original_are_both_in_use(made: Path, tmp_path: Path) -> None:
    original = Path(shutil.copytree(made, tmp_path / "setr"))
    relocate(original / "var/mlflow.db", original / "var/mlartifacts")
    copy = Path(shutil.copytree(original, tmp_path / "elsewhere" / "setr"))
    before = files(original)
    context = project(copy)
    assert context.registry.model(MODEL).artifacts("1", ["line"])["line"].is_relative_to(copy)
    assert add_version(context, steps=60) == "2"
    assert context.registry.model(MODEL).artifacts("2", ["line"])["line"].is_relative_to(copy)
    assert served(context.registry) == offset(context.registry.model(MODEL).artifacts("2", ["line"])["line"])
    assert files(original) == before

    own = project(original).registry
    assert [info.version for info in own.model(MODEL).versions()] == ["1"]
    folder = own.model(MODEL).artifacts("1", ["line"])["line"]
    assert folder.is_relative_to(original) and served(own) == offset(folder)
    assert add_version(project(original), steps=40) == "2"


def test_a_copy_without_artifacts_reads_the_original_and_never_writes_there(
    made: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    (copy / "var").mkdir(parents=True)
    shutil.copyfile(made / "var/mlflow.db", copy / "var/mlflow.db")
    before, context = files(made / "var/mlartifacts"), project(copy)
    assert context.registry.model(MODEL).artifacts("1", ["line"])["line"].is_relative_to(made)
    assert add_version(context, steps=60) == "2"
    assert context.registry.model(MODEL).artifacts("2", ["line"])["line"].is_relative_to(copy)
    assert files(made / "var/mlartifacts") == before


def test_a_store_that_may_only_be_read_is_read_where_it_is(
    gone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (gone / "var/mlflow.db").read_bytes()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    registry = project(gone).registry
    assert registry.model(MODEL).artifacts("1", ["line"])["line"].is_relative_to(gone)
    assert (gone / "var/mlflow.db").read_bytes() == before


def test_a_store_of_several_projects_stays_as_it_is(gone: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared.db"
    shutil.copyfile(gone / "var/mlflow.db", shared)
    before = shared.read_bytes()
    settings = Settings(base_dir=gone, registry=RegistrySettings(tracking_uri=f"sqlite:///{shared}"))
    folder = PipelineContext(settings).registry.model(MODEL).artifacts("1", ["line"])["line"]
    assert folder.is_relative_to(gone), "the artifact root of today comes first"
    assert shared.read_bytes() == before


def test_an_incomplete_copy_is_told(gone: Path) -> None:
    (folder,) = gone.glob("var/mlartifacts/setr/models/*/artifacts/artifacts/line")
    shutil.rmtree(folder)
    with pytest.raises(
        RegistryError, match=r"setr-line version 1 .* is incomplete, without .*/artifacts/line"
    ):
        project(gone).registry.model(MODEL).artifacts("1", ["line"])


def test_artifacts_that_are_nowhere_are_told(gone: Path) -> None:
    shutil.rmtree(gone / "var/mlartifacts")
    with pytest.raises(RegistryError) as told:
        project(gone).registry.model(MODEL).artifacts("1", ["line"])
    words = str(told.value)
    assert "setr-line version 1" in words and "its artifacts should be in file:///" in words
    assert len(words.splitlines()) == 1 and not list(gone.glob("var/mlartifacts/fetched/*/*"))


def test_a_fetch_that_lacks_a_file_is_told_and_not_kept(gone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, download = project(gone).registry.model(MODEL), mlflow.artifacts.download_artifacts

    def cut(artifact_uri: str, dst_path: str, **addresses: str) -> None:
        download(artifact_uri=artifact_uri, dst_path=dst_path, **addresses)
        (Path(dst_path) / "artifacts" / "line" / "line.json").write_text("{")

    monkeypatch.setattr(registered_model, "local_folder", lambda registry, info: None)  # a remote store
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", cut)
    with pytest.raises(RegistryError, match=r"1 of its files did not arrive.*artifacts/line/line\.json"):
        model.artifacts("1", ["line"])
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    assert offset(model.artifacts("1", ["line"])["line"])


def test_another_registry_address_of_the_shell_is_not_used(
    gone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    with monkeypatch.context() as shell:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            shell.setenv(name, other)
        registry = project(gone).registry
        assert add_version(project(gone), steps=40) == "2"
        shell.setattr(registered_model, "local_folder", lambda registry, info: None)
        assert registry.model(MODEL).artifacts("2", ["line"])["line"].is_dir()
        assert registry.round_trip(registry.model(MODEL).version("2").model_uri).ok
        assert os.environ["MLFLOW_REGISTRY_URI"] == os.environ["MLFLOW_TRACKING_URI"] == other
    assert not (tmp_path / "other.db").exists()


def test_a_relative_address_starts_from_the_settings_folder(tmp_path: Path) -> None:
    registry = RegistrySettings(tracking_uri="sqlite:///stores/mine.db")
    settings = Settings(base_dir=tmp_path, registry=registry)
    assert sqlite_path(settings.tracking_uri) == tmp_path / "stores/mine.db"
    # What is no SQLite file, and an absolute one, is as it was written.
    for address in ("http://127.0.0.1:5000", "sqlite:////data/mlflow.db", "databricks"):
        stated = RegistrySettings(tracking_uri=address)
        assert Settings(base_dir=tmp_path, registry=stated).tracking_uri == address


ROOT = Path("/new/var/mlartifacts")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("file:///old/var/mlartifacts/setr/models/m-1/artifacts", "setr/models/m-1/artifacts"),
        ("file:///old%20%231/var/mlartifacts/setr/7/artifacts", "setr/7/artifacts"),
        ("/old/mlartifacts/b/var/mlartifacts/setr", "setr"),
        ("file://localhost/old/var/mlartifacts/setr", "setr"),
        ("file:///old/var/mlartifacts", None),
        ("file:///old/var/other/setr", None),
        ("file:///old/mlartifacts/../../etc", None),
        ("file://elsewhere/var/mlartifacts/setr", None),
        ("mlflow-artifacts:/mlartifacts/setr", None),
        ("s3://bucket/mlartifacts/setr", None),
        (None, None),
    ],
)
def test_a_location_is_found_below_the_artifact_root_by_its_tail(
    location: str | None, expected: str | None
) -> None:
    assert present_path(location, ROOT) == (None if expected is None else ROOT / expected)


def test_the_artifact_root_of_today_comes_before_what_is_recorded(tmp_path: Path) -> None:
    old, new = tmp_path / "old/mlartifacts/setr/7", tmp_path / "new/mlartifacts/setr/7"
    root, location = tmp_path / "new/mlartifacts", old.as_uri()
    assert artifact_folders(location, root) == []
    old.mkdir(parents=True)
    assert artifact_folders(location, root) == [old]
    new.mkdir(parents=True)
    assert artifact_folders(location, root) == [new, old]


def test_experiments_of_a_persons_own_are_taken_along_unless_they_are_elsewhere(
    made: Path, tmp_path: Path
) -> None:
    store = tmp_path / "new/var/mlflow.db"
    store.parent.mkdir(parents=True)
    shutil.copyfile(made / "var/mlflow.db", store)
    bucket, elsewhere = "s3://bucket/mlartifacts/a", (tmp_path / "own/place").as_uri()
    locations = {"a": bucket, "b": elsewhere, "c": "file:///gone/var/mlartifacts/c", "d": "/gone/mlruns/9"}
    with sqlite3.connect(store) as connection:
        connection.executemany(
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES (?, ?, 'active')",
            list(locations.items()),
        )
    connection.close()
    root = store.parent / "mlartifacts"
    assert moved(store, root).before is not None
    relocate(store, root)
    assert not moved(store, root)
    with sqlite3.connect(store) as connection:
        now = dict(connection.execute("SELECT name, artifact_location FROM experiments"))
    connection.close()
    assert {name: now[name] for name in "abd"} == {name: locations[name] for name in "abd"}
    assert (now["c"], now["setr"]) == ((root / "c").as_uri(), (root / "setr").as_uri())


@pytest.mark.soak
@pytest.mark.parametrize("proxied", [True, False], ids=["the server's artifacts", "a folder of this machine"])
def test_a_project_is_served_by_mlflows_server_to_a_third_folder(
    gone: Path, tmp_path: Path, proxied: bool
) -> None:
    if not proxied:
        assert project(gone).registry.model(MODEL).champion() == "1"  # its locations are those of today
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = tmp_path / "server.db" if proxied else gone / "var/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{quote(str(store))}"]
    kept = ["--artifacts-destination", str(tmp_path / "served")] if proxied else ["--no-serve-artifacts"]
    third, address = tmp_path / "third", f"http://127.0.0.1:{port}"
    third.mkdir()
    context = PipelineContext(Settings(base_dir=third, registry=RegistrySettings(tracking_uri=address)))
    server = subprocess.Popen([*command, *kept], cwd=tmp_path, start_new_session=True)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urlopen(f"{address}/health", timeout=5):  # noqa: S310
                break
            time.sleep(0.5)
        if proxied:
            assert add_version(context, steps=5) == "1"
        folder = context.registry.model(MODEL).artifacts("1", ["line"])["line"]
        assert folder.is_relative_to(third if proxied else gone)
        assert served(context.registry) == offset(folder)
        code = (
            "import mlflow, pandas as pd\n"
            f"model = mlflow.pyfunc.load_model('models:/{MODEL}@champion')\n"
            "print('y', model.predict(pd.DataFrame({'x': [0.0]}))['y'][0])\n"
        )
        environment = {**os.environ, "MLFLOW_TRACKING_URI": address}
        other = tmp_path / "other"
        other.mkdir()
        told = subprocess.run(
            [sys.executable, "-c", code],
            cwd=other,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert float(told.stdout.split("y ")[1]) == offset(folder)
        assert list(other.iterdir()) == []
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
