"""The demo's own parts: runs lost to a SIGKILL are ended, progress is told in plain lines where there is no terminal."""

from __future__ import annotations

import io
from pathlib import Path

import dagster as dg
import pytest

from setr_assets import definitions, demo
from setr_assets.progress import listening, step
from setr_assets.watching import LineWatcher
from setr_lib.settings import DatasetSettings, Settings, TrainingSettings


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


def test_miniature_is_drawn_only_where_a_data_set_is_of_it(tmp_path: Path) -> None:
    def settings(root: str, captions: str) -> Settings:
        return Settings(
            base_dir=tmp_path,
            datasets={"cirr": DatasetSettings(kind="cirr", root=Path(root))},
            training=TrainingSettings(captions=Path(captions)),
        )

    drawn, given = "var/miniature/training/captions.jsonl", "/data/captions.jsonl"
    assert demo.settings_use_miniature(settings("var/miniature/cirr", given))
    assert demo.settings_use_miniature(settings("/data/cirr", drawn)), "the training set is one of it too"
    assert not demo.settings_use_miniature(settings("/data/cirr", given))


def test_lines_tell_start_progress_and_end_of_a_step() -> None:
    out = io.StringIO()
    with listening(LineWatcher(out)), pytest.raises(ValueError, match="broken"), step("queries"):
        raise ValueError("broken")
    assert out.getvalue().splitlines()[0] == "queries ..."
    assert "FAILED queries" in out.getvalue()
