"""The parts of ``setr run``: which steps in which order, runs lost to a SIGKILL, sources that are prepared,
and what is shown.
"""

from __future__ import annotations

import io
import signal
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pytest

from setr_assets import instance as dagster_instance
from setr_assets.course import Course
from setr_assets.graph import blueprints
from setr_assets.interrupts import keep_from_helpers
from setr_assets.progress import listening, step
from setr_assets.running import notes_before, run
from setr_assets.selection import deps_of, named_evaluation_sets, ranges, selected
from setr_assets.watching import LineWatcher, tell_failures
from setr_lib import sources
from setr_lib.benchmarks.source import DataSource
from setr_lib.catalogue import Catalogue
from setr_lib.cli import main
from setr_lib.errors import SetrError
from setr_lib.progress import Progress
from setr_lib.runners import RunRequest, runner
from setr_lib.settings import DatasetSettings, Settings, TrainingSettings, load_settings

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def miniature() -> Settings:
    return load_settings(REPOSITORY / "setr.toml")


def untrained(settings: Settings) -> Settings:
    return settings.model_copy(update={"training": TrainingSettings()})


# Runs whose process is gone.


def status_after(process: str, run_by: str = dagster_instance.OURS) -> dg.DagsterRunStatus:
    with dg.DagsterInstance.ephemeral() as instance:
        tags = {dagster_instance.RUN_BY: run_by, dagster_instance.PROCESS: process}
        made = instance.add_run(
            dg.DagsterRun(job_name="full_pipeline", status=dg.DagsterRunStatus.STARTED, tags=tags)
        )
        dagster_instance.end_lost_runs(instance)
        found = instance.get_run_by_id(made.run_id)
        assert found is not None
        return found.status


@pytest.mark.parametrize(
    "process",
    ["4194303@1", f"{dagster_instance.process_tag().partition('@')[0]}@1", "", "nonsense"],
    ids=["gone", "another of this number", "none", "nonsense"],
)
def test_run_of_a_process_that_is_gone_is_ended(process: str) -> None:
    assert status_after(process) == dg.DagsterRunStatus.FAILURE
    assert status_after(process, run_by="make demo") == dg.DagsterRunStatus.FAILURE  # by the earlier name


def test_run_of_a_living_process_is_left_alone() -> None:
    assert status_after(dagster_instance.process_tag()) == dg.DagsterRunStatus.STARTED


def test_runs_of_others_are_left_alone() -> None:
    assert status_after("4194303@1", run_by="someone else") == dg.DagsterRunStatus.STARTED


# What a person stops.


def test_ctrl_c_does_not_reach_the_processes_that_copy_a_steps_output(tmp_path: Path) -> None:
    """On a terminal they are in the foreground with the run, and print tracebacks of their own."""
    import psutil

    others = psutil.Process().children()  # of earlier tests in this process
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        keep_from_helpers(instance)
        with instance.compute_log_manager.capture_logs(["a", "run", "step"]):
            helpers = [child for child in psutil.Process().children() if child not in others]
            for helper in helpers:
                helper.send_signal(signal.SIGINT)
            assert helpers and psutil.wait_procs(helpers, timeout=2)[0] == []
        assert psutil.wait_procs(helpers, timeout=10)[1] == [], "they end with the step"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


# Which steps.


def test_the_runner_is_found_by_its_entry_point() -> None:
    assert runner() is run


def test_steps_come_after_what_they_are_made_from(miniature: Settings) -> None:
    declared = {each.name: each for each in blueprints(miniature)}
    names = selected(miniature).names
    assert sorted(names) == sorted(declared)
    for position, name in enumerate(names):
        assert set(deps_of(declared[name], miniature)) & set(declared) <= set(names[:position]), name


def test_without_training_its_steps_are_left_out_and_named(miniature: Settings) -> None:
    selection = selected(untrained(miniature))
    assert "reranker_adapter" in selected(miniature).names
    assert set(selection.left_out) == {
        "training_images",
        "training_embeddings",
        "reranker_pairs",
        "reranker_adapter",
        "registered_reranker",
        "promoted_reranker",
        "reranking_fusion",
    }
    assert not set(selection.names) & set(selection.left_out)
    assert selection.names[-2:] == ["evaluation_report", "leaderboard"]


def test_until_a_step_is_that_step_and_what_it_depends_on(miniature: Settings) -> None:
    assert selected(miniature, "gallery_embeddings").names == ["gallery_images", "gallery_embeddings"]
    assert selected(miniature, "reranker_pairs").names == [
        "training_images",
        "training_embeddings",
        "reranker_pairs",
    ]
    with pytest.raises(
        SetrError, match=r"(?s)'coarse_ranking': did you mean coarse_rankings\?.* leaderboard"
    ):
        selected(miniature, "coarse_ranking")
    with pytest.raises(SetrError, match=r"there is no step 'xyzzy'\. The steps are queries"):
        selected(miniature, "xyzzy")
    with pytest.raises(SetrError, match=r"reranker_adapter needs .*\[training\]"):
        selected(untrained(miniature), "reranker_adapter")


def test_sets_are_named_by_key_and_by_data_set(miniature: Settings) -> None:
    def keys(*names: str) -> list[str]:
        return [each.key for each in named_evaluation_sets(miniature, names)]

    assert keys() == ["cirr-val", "fashioniq-val", "circo-val"]
    assert keys("circo", "cirr-val") == ["cirr-val", "circo-val", "circo-test"]
    assert keys("cirr-test1") == ["cirr-test1"]
    with pytest.raises(SetrError, match=r"'cirr-vla': did you mean cirr-val\?"):
        keys("cirr-vla")
    with pytest.raises(SetrError, match=r'splits = \["val", "test"\] in \[datasets\.fashioniq\]'):
        keys("fashioniq-test")


def test_sets_that_are_no_range_of_the_partitions_take_several_runs(miniature: Settings) -> None:
    assert ranges(miniature, ["cirr-val", "circo-val", "cirr-test1"]) == [
        ["cirr-val"],
        ["circo-val", "cirr-test1"],
    ]
    assert ranges(miniature, ["cirr-val", "fashioniq-val", "circo-val"]) == [
        ["cirr-val", "fashioniq-val", "circo-val"]
    ]


def test_steps_are_printed_and_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(REPOSITORY / "setr.toml"), "run", "--steps"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["1", "queries"] and "one row each" in lines[0]
    assert [line.split()[1] for line in lines[:-1]] == selected(load_settings(REPOSITORY / "setr.toml")).names


def test_a_project_without_a_scored_set_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "setr.toml").write_text("", encoding="utf-8")
    assert main(["--config", str(tmp_path / "setr.toml"), "run"]) == 1
    error = capsys.readouterr().err
    assert "[datasets]" in error and "init PHOTOS" in error
    text = '[datasets.cirr]\nkind = "cirr"\nroot = "x"\nsplits = ["test1"]\n'
    (tmp_path / "setr.toml").write_text(text, encoding="utf-8")
    assert main(["--config", str(tmp_path / "setr.toml"), "run"]) == 1
    assert "run cirr-test1`" in capsys.readouterr().err


def test_the_miniatures_models_on_other_pictures_are_warned_of(miniature: Settings, tmp_path: Path) -> None:
    pictures = {"mine": DatasetSettings(kind="folder", root=tmp_path)}
    settings = untrained(miniature).model_copy(update={"datasets": pictures})
    (mine,) = named_evaluation_sets(settings, [])
    notes = list(notes_before(settings, [mine], selected(settings)))
    assert "toys" in notes[0] and "mine" in notes[0]
    assert notes[1].startswith("mine has no queries") and notes[2].startswith("left out, ")
    assert list(notes_before(miniature, named_evaluation_sets(miniature, []), selected(miniature))) == []


# Data sources.


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
        # the run of the graph, which comes next, must not begin
        monkeypatch.setenv(name, str(tmp_path / "file"))
    datasets = {"cirr": DatasetSettings(kind="cirr", root=Path(root))}
    with pytest.raises(SetrError, match="DAGSTER_HOME"):
        run(RunRequest(Settings(base_dir=tmp_path, datasets=datasets)))
    assert (tmp_path / "var" / "scratch" / "scratch.json").is_file() == written
    assert not (tmp_path / "var" / "miniature").exists()


# What is shown.


def test_lines_tell_start_number_reason_and_end_of_a_step() -> None:
    out, course = io.StringIO(), Course([["queries", "leaderboard"]])
    course.enter(["queries", "leaderboard"], {})
    with listening(LineWatcher(out, course)):
        with pytest.raises(ValueError, match="broken"), step("queries"):
            raise ValueError("it is broken")
        with step("leaderboard"):
            pass
    lines = out.getvalue().splitlines()
    assert lines[0] == "step 1 of 2: queries ..."
    assert lines[1] == "    WARNING it is broken"
    assert lines[2].startswith("  FAILED queries (")
    assert lines[3] == "step 2 of 2: leaderboard ..."


def test_steps_that_failed_for_one_reason_are_told_in_one_line() -> None:
    out = io.StringIO()
    reasons = {"captions": "no model", "gallery": "no image", "compositions": "no model"}
    tell_failures(LineWatcher(out, Course([])), reasons)
    assert out.getvalue().splitlines() == [
        "FAILED captions, compositions: no model",
        "FAILED gallery: no image",
    ]


EARLIER = {"a": 30.0, "b": 10.0, "c": 60.0}


@pytest.mark.parametrize(
    ("earlier", "done", "rest"),
    [
        (EARLIER, {"a": 30.0}, 70.0),
        (EARLIER, {"a": 45.0, "b": 15.0}, 90.0),  # half as fast again as then
        (EARLIER, {}, None),  # nothing has passed that could be compared
        (EARLIER, {"a": 0.5}, None),  # kept this time, made then
        (EARLIER, {"a": 100.0}, None),  # the other way round
        ({"a": 1.0, "b": 9.0, "c": 90.0}, {"a": 1.0, "b": 9.0}, None),  # a tenth has passed: too little
        ({"a": 30.0, "b": 10.0}, {"a": 30.0}, None),  # one of the steps was not in that run
        ({}, {"a": 30.0}, None),
        ({"a": 30.0, "b": 2.0, "c": 2.0}, {"a": 30.0}, None),  # not worth telling
    ],
)
def test_the_rest_of_a_run_is_told_only_where_it_goes_like_the_last(
    earlier: Mapping[str, float], done: Mapping[str, float], rest: float | None
) -> None:
    course = Course([["a", "b", "c"]])
    course.enter(["a", "b", "c"], earlier)
    for name, seconds in done.items():
        assert course.begin(name).startswith("step ")
        course.end(name, seconds)
    assert course.rest() == (None if rest is None else pytest.approx(rest))


def test_the_rest_of_a_run_is_not_told_before_its_last_part() -> None:
    course = Course([["a", "b"], ["a", "b"]])
    course.enter(["a", "b"], {"a": 9.0, "b": 9.0})
    assert course.begin("a") == "step 1 of 4: a"
    course.end("a", 9.0)  # and b never begins, as a has failed
    assert course.rest() is None
    course.enter(["a", "b"], {"a": 9.0, "b": 9.0})
    assert course.begin("a") == "step 3 of 4: a"
    course.end("a", 9.0)
    assert course.rest() == pytest.approx(9.0)
