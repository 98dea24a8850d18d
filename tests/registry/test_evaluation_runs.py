"""Evaluations in a real MLflow store: what its pages can compare, what is written once, and what a broken
server costs.
"""

from __future__ import annotations

import json
import socket
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from setr_lib.registry import code_version
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.evaluation_runs import (
    AGAIN_TAG,
    EvaluatedData,
    EvaluatedRow,
    EvaluatedSet,
    EvaluationRuns,
    Figure,
    metric_name,
)
from setr_lib.registry.round_trip import RoundTripReport
from setr_lib.registry.server import address_of, check_answers
from setr_lib.registry.store import MlflowRegistry

DATA = EvaluatedData("cirr-val", "0" * 32, {"dataset": "cirr"}, {"num_queries": 3}, "val")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    root = tmp_path_factory.mktemp("evaluations")
    found = MlflowRegistry(f"sqlite:///{root / 'mlflow.db'}", root / "artifacts")
    client = found.client
    experiment = found.found_experiment().experiment_id
    for digest in ("three", "four"):
        logged = client.create_logged_model(experiment, name=digest, tags={"setr.run": digest})
        uri = f"models:/{logged.model_id}"
        found.model("setr-reranker").register(uri, RoundTripReport(uri))
    return found


@pytest.fixture
def runs(registry: MlflowRegistry, request: pytest.FixtureRequest) -> EvaluationRuns:
    """The runs of an experiment of the test's own."""
    return registry.evaluations(request.node.name)


def evaluation(version: str, value: float, digest: str | None = None) -> EvaluatedSet:
    figures = {"R@10": Figure(value, value - 5, value + 5), "R@10/dress": Figure(1.0)}
    return EvaluatedSet(
        key="cirr-val",
        digest=digest or f"digest of {version}",
        params={"set": "cirr-val"},
        data=DATA,
        rows=[
            EvaluatedRow("sum", {"method": "sum", "reranker": "none"}, {"R@10": Figure(40.0)}),
            EvaluatedRow(
                f"sum · adapter v{version}",
                {"method": "sum", "reranker": "adapter"},
                figures,
                [("setr-reranker", version)],
            ),
        ],
        main=f"sum · adapter v{version}",
        tags={"dagster.run_id": f"run of {version}"},
    )


def found(registry: MlflowRegistry, runs: EvaluationRuns, condition: str) -> list:
    experiment = registry.found_experiment(runs._experiment).experiment_id
    return registry.client.search_runs([experiment], filter_string=condition)


def test_two_versions_have_runs_with_the_same_metrics(registry: MlflowRegistry, runs: EvaluationRuns) -> None:
    three, four = (runs.log(evaluation(version, value)) for version, value in (("1", 62.5), ("2", 70.0)))
    assert three.is_new and four.is_new
    rows = found(registry, runs, "params.reranker = 'adapter'")
    assert {run.data.metrics["R_at_10"] for run in rows} == {62.5, 70.0}
    (newer,) = (run for run in rows if run.data.metrics["R_at_10"] == 70.0)
    assert newer.data.metrics == {
        "R_at_10": 70.0,
        "R_at_10.ci_low": 65.0,
        "R_at_10.ci_high": 75.0,
        "R_at_10/dress": 1.0,
    }
    tags = newer.data.tags
    assert tags["mlflow.parentRunId"] == four.run_id and tags["dagster.run_id"] == "run of 2"
    assert tags["mlflow.runName"] == "cirr-val · sum · adapter v2"
    whole = registry.client.get_run(four.run_id)
    assert whole.data.metrics == newer.data.metrics, "the run above has the row that a search would show"
    assert whole.info.status == "FINISHED" and whole.data.params["row"] == "sum · adapter v2"
    for run in (whole, newer):
        assert run.inputs is not None
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == (DATA.name, DATA.digest)
        assert json.loads(data.dataset.source) == {"dataset": "cirr"}
        assert {tag.key: tag.value for tag in data.tags}["split"] == "val"


def test_the_version_and_its_logged_model_know_the_run(
    registry: MlflowRegistry, runs: EvaluationRuns
) -> None:
    logged = runs.log(evaluation("2", 70.0), "http://127.0.0.1:5000/")
    version = registry.model("setr-reranker").version("2")
    assert version.tags["setr.evaluation.cirr-val"] == f"http://127.0.0.1:5000{logged.path}"
    assert logged.path.endswith(f"/runs/{logged.run_id}")
    model = registry.client.get_logged_model(version.model_uri.rpartition("/")[2])
    scored = {(metric.key, metric.dataset_name, metric.value) for metric in model.metrics or []}
    assert ("R_at_10", "cirr-val", 70.0) in scored
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "setr-reranker", "version": 2}]


def test_a_trial_is_called_one_and_marks_no_version(registry: MlflowRegistry, runs: EvaluationRuns) -> None:
    whole = runs.log(evaluation("2", 70.0))
    version = registry.model("setr-reranker").version("2")

    def scores() -> set[tuple[str, float]]:
        model = registry.client.get_logged_model(version.model_uri.rpartition("/")[2])
        return {(metric.key, metric.value) for metric in model.metrics or []}

    before = scores()
    trial = runs.log(replace(evaluation("2", 12.5, "of a trial"), trial="20 of 4,181 queries"))
    tags = registry.model("setr-reranker").version("2").tags
    assert tags["setr.evaluation.cirr-val"].endswith(whole.path)
    assert scores() == before, "12.5 is no score of the version"
    named = {run.info.run_name for run in found(registry, runs, "tags.`setr.trial` = '20 of 4,181 queries'")}
    of_trial = "cirr-val · trial, 20 of 4,181 queries"
    shown = {"setr-reranker 2", "sum", "sum · adapter v2"}
    assert named == {f"{of_trial} · {title}" for title in shown}
    assert registry.client.get_run(trial.run_id).data.metrics["R_at_10"] == 12.5


def test_the_same_evaluation_is_one_run_that_counts(registry: MlflowRegistry, runs: EvaluationRuns) -> None:
    first = runs.log(evaluation("1", 62.5))
    again = runs.log(replace(evaluation("1", 62.5), tags={"dagster.run_id": "a later one"}))
    assert (again.run_id, again.is_new) == (first.run_id, False)
    assert len(found(registry, runs, "")) == 3, "the evaluation and its two rows"
    tags = registry.client.get_run(first.run_id).data.tags
    assert (tags[AGAIN_TAG], tags["dagster.run_id"]) == ("1", "a later one")
    assert runs.log(evaluation("1", 62.5, "other queries")).is_new


def test_what_a_kill_left_of_logging_is_gone(
    registry: MlflowRegistry, runs: EvaluationRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def strike(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(registry.client, "log_inputs", strike)
        with pytest.raises(Killed):
            runs.log(evaluation("1", 62.5))
    assert len(found(registry, runs, "")) == 2, "cut off at its first row"
    logged = runs.log(evaluation("1", 62.5))
    assert logged.is_new
    left = found(registry, runs, "")
    assert len(left) == 3 and {run.info.status for run in left} == {"FINISHED"}


def test_names_of_metrics_are_what_mlflow_takes() -> None:
    assert metric_name("mAP@5") == "mAP_at_5"
    assert metric_name("Recall_subset@1/dress (a)") == "Recall_subset_at_1/dress _a_"


def test_a_server_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RegistryError, match="does not answer"):
            check_answers(address)
        with pytest.raises(RegistryError, match="does not answer"):
            MlflowRegistry(address, tmp_path).evaluations("x").log(evaluation("1", 1.0))
    check_answers(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.mark.parametrize(("status", "is_refused"), [(500, True), (503, True), (404, False), (401, False)])
def test_a_server_that_does_not_reach_its_store_is_told_at_once(status: int, is_refused: bool) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(RegistryError, match=f"status {status}") if is_refused else nullcontext():
            check_answers(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()


def test_a_password_in_the_address_is_told_nobody() -> None:
    assert address_of("https://me:secret@mlflow.example:8443/base/") == "https://mlflow.example:8443/base"
    assert address_of("sqlite:////data/mlflow.db") is None
    with pytest.raises(RegistryError) as told:
        check_answers("http://me:secret@127.0.0.1:1")
    assert "secret" not in str(told.value)


def test_code_of_a_checkout_is_known_by_its_commit(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert "setr.commit" not in code_version.code_tags(tmp_path)
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first", "--no-verify")
    commit = git("rev-parse", "HEAD")
    code_version.code_tags.cache_clear()
    tags = code_version.code_tags(tmp_path)
    assert tags["setr.commit"] == tags["mlflow.source.git.commit"] == commit
    (tmp_path / "file").write_text("2")
    code_version.code_tags.cache_clear()
    assert code_version.code_tags(tmp_path)["setr.commit"] == f"{commit} (with changes)"
    below = tmp_path / "installed"
    below.mkdir()
    assert "setr.commit" not in code_version.code_tags(below), "a repository around it is somebody else's"
