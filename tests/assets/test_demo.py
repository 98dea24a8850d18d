"""The demo's own parts: runs lost to a SIGKILL are ended, progress is told in plain lines where there is no
terminal.
"""

from __future__ import annotations

import io
from pathlib import Path

import dagster as dg
import pytest

from setr_assets import definitions, demo
from setr_assets.progress import listening, step
from setr_assets.watching import LineWatcher
from setr_lib import sources
from setr_lib.benchmarks.source import DataSource
from setr_lib.catalogue import Catalogue
from setr_lib.errors import SetrError
from setr_lib.progress import Progress
from setr_lib.settings import DatasetSettings, Settings


def status_after(process: str, run_by: str = "make demo") -> dg.DagsterRunStatus:
    with dg.DagsterInstance.ephemeral() as instance:
        tags = {demo.RUN_BY: run_by, demo.PROCESS: process}
        run = instance.add_run(
            dg.DagsterRun(job_name="full_pipeline", status=dg.DagsterRunStatus.STARTED, tags=tags)
        )
        demo.end_lost_runs(instance)
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.status


@pytest.mark.parametrize(
    "process",
    ["4194303@1", f"{demo.process_tag().partition('@')[0]}@1", "", "nonsense"],
    ids=["gone", "another of this number", "none", "nonsense"],
)
def test_run_of_a_process_that_is_gone_is_ended(process: str) -> None:
    assert status_after(process) == dg.DagsterRunStatus.FAILURE


def test_run_of_a_living_process_is_left_alone() -> None:
    assert status_after(demo.process_tag()) == dg.DagsterRunStatus.STARTED


def test_runs_that_are_not_the_demos_are_left_alone() -> None:
    assert status_after("4194303@1", run_by="someone else") == dg.DagsterRunStatus.STARTED


def test_demo_without_a_scored_set_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.setenv(name, str(tmp_path / "unused"))
    monkeypatch.setattr(definitions, "settings_of_this_checkout", lambda: Settings(base_dir=tmp_path))
    assert demo.main([]) == 1
    assert "[datasets]" in capsys.readouterr().err


class Scratch(DataSource):
    """A source that writes one file, and tells of it."""

    name = "scratch"
    advice = "`scratch --write` writes it"

    def owns(self, path: Path) -> bool:
        return path.is_relative_to(self.settings.storage_root / "scratch")

    def prepare(self, progress: Progress) -> None:
        folder = self.settings.storage_root / "scratch"
        folder.mkdir(parents=True)
        (folder / self.stamp).write_text("{}")
        progress(1, 1, "files written")


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Catalogue[type[DataSource]]:
    """The catalogue of data sources, as it was again after the test."""
    monkeypatch.setattr(sources.CATALOGUE, "_own", {})
    return sources.CATALOGUE


@pytest.mark.parametrize(("root", "written"), [("var/scratch/cirr", True), ("/data/cirr", False)])
def test_a_source_is_prepared_only_where_a_data_set_is_of_it(
    tmp_path: Path,
    catalogue: Catalogue[type[DataSource]],
    monkeypatch: pytest.MonkeyPatch,
    root: str,
    written: bool,
) -> None:
    catalogue.register("scratch", Scratch)
    (tmp_path / "file").write_text("no folder")
    for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.setenv(
            name, str(tmp_path / "file")
        )  # the run of the graph, which comes next, must not begin
    datasets = {"cirr": DatasetSettings(kind="cirr", root=Path(root))}
    with pytest.raises(SetrError, match="DAGSTER_HOME"):
        demo.run(Settings(base_dir=tmp_path, datasets=datasets))
    assert (tmp_path / "var" / "scratch" / "scratch.json").is_file() == written
    assert not (tmp_path / "var" / "miniature").exists()


def test_lines_tell_start_progress_and_end_of_a_step() -> None:
    out = io.StringIO()
    with listening(LineWatcher(out)), pytest.raises(ValueError, match="broken"), step("queries"):
        raise ValueError("broken")
    assert out.getvalue().splitlines()[0] == "queries ..."
    assert "FAILED queries" in out.getvalue()
