"""The registry with a real SQLite store, real adapters of a tiny judge, and a fresh process where one is
promised.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from setr_lib.escaping import visible
from setr_lib.pipeline.adapter_system import AdapterSystem
from setr_lib.registry import registered_model
from setr_lib.registry.bundle import (
    ADAPTER,
    BASE_VARIABLE,
    JUDGE,
    PARTS,
    Bundle,
    base_reference,
    write_bundle,
)
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.place import Project
from setr_lib.registry.registered_model import Promotion, RegisteredModel
from setr_lib.registry.reranker_model import log_adapter
from setr_lib.registry.round_trip import RoundTripReport
from setr_lib.registry.serving import PairScorer
from setr_lib.registry.store import MlflowRegistry
from setr_lib.reranking.held_out import judge_pair_frame, measure
from setr_lib.reranking.training import train_adapter
from setr_lib.reranking.training_result import AdapterResult
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import JudgeSettings
from setr_lib.texts.prompts import PromptTemplate
from tests.nasty import NASTY
from tests.registry.stored_places import named_places, stored_folder
from tests.reranking import judge_worlds as worlds

MODEL = "setr-reranker"


class Made(NamedTuple):
    """What the tests of this module share: a judge, a good and a poor adapter, and a registry of their
    own.
    """

    judge: Path
    base: YesNoJudge
    good: AdapterResult
    poor: AdapterResult
    registry: MlflowRegistry

    @property
    def model(self) -> RegisteredModel:
        return self.registry.model(MODEL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("registry")
    base = worlds.load_tiny_judge(root / "judge")
    good, poor = (
        train_adapter(
            base, worlds.pairs(), worlds.pictures(), worlds.settings(epochs=epochs), root / name
        )
        for name, epochs in (("good", 5.0), ("poor", 0.6))
    )  # fmt: skip
    assert good.after.auc > poor.after.auc
    registry = MlflowRegistry(f"sqlite:///{root / 'mlflow.db'}", root / "artifacts")
    return Made(root / "judge", base, good, poor, registry)


def log(made: Made, result: AdapterResult, template: PromptTemplate | None = None) -> str:
    with made.registry.runs.start("test", result.settings.model_dump(), {"purpose": "test"}) as run:
        for step, loss, rate in result.curve.iter_rows():
            run.log(step, {"loss": loss, "learning_rate": rate})
        judge, store = JudgeSettings(name=str(made.judge)), made.registry.artifact_root
        project = Project(made.judge.parent, store) if store.is_relative_to(made.judge.parent) else None
        reference = base_reference(made.base.model, judge, str(made.judge), project)
        template = template or made.base.template
        return log_adapter(run, result, reference, template, worlds.pictures())


def assert_stored_as_people_expect(made: Made, model: RegisteredModel, version: str) -> None:
    """No places of this machine, no bytecode; a card, an input example, the version of the code."""
    client, info = made.registry.client, model.version(version)
    assert named_places(made.registry, model, version, [made.judge.parent]) == []
    folder = stored_folder(made.registry, model, version)
    assert {"MLmodel", "input_example.json", "reranker.json"} <= {file.name for file in folder.rglob("*")}
    assert not list(folder.rglob("__pycache__"))
    logged = client.get_logged_model(info.model_uri.rpartition("/")[2])
    run = client.get_run(info.run_id or "")
    described = client.get_model_version(model.name, version).description
    assert described == logged.tags["mlflow.note.content"]
    assert "### Held-out measures" in (described or "")
    (data,) = folder.rglob("MLmodel")
    assert '"type": "binary", "name": "reference"' in data.read_text()
    assert info.tags["setr.version"] == logged.tags["setr.version"] == run.data.tags["setr.version"]
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": model.name, "version": int(version)}]


def promote(
    model: RegisteredModel, version: str, measure_again: Callable[[str], float] | None = None
) -> Promotion:
    """As the adapter is promoted."""
    return model.promote(version, AdapterSystem.measure, AdapterSystem.must_equal, measure_again)


def bundle_of(model: RegisteredModel, version: str) -> Bundle:
    return Bundle(**model.artifacts(version, PARTS))


def sound(uri: str) -> RoundTripReport:
    return RoundTripReport(uri)


def rows(made: Made) -> tuple[pd.DataFrame, np.ndarray]:
    """A frame for ``predict`` (held-out pairs) and the scores that training gave."""
    pictures = worlds.pictures()
    pairs = made.good.held_out.head(12)
    frame = pd.DataFrame(
        {
            "reference": [pictures[name].source for name in pairs["reference_id"]],
            "modification": pairs["modification"].to_list(),
            "candidate": [pictures[name].source for name in pairs["candidate_id"]],
        }
    )
    return frame, pairs["after"].to_numpy()


@pytest.fixture
def bundle(made: Made, tmp_path: Path) -> dict[str, str]:
    """The stored folders of the good adapter, to be damaged."""
    reference = base_reference(made.base.model, JudgeSettings(name=str(made.judge)), str(made.judge))
    folders = write_bundle(tmp_path / "bundle", made.good, reference, made.base.template, worlds.pictures())
    return {name: str(path) for name, path in folders.items()}


def test_an_empty_registry_is_asked_without_being_made(tmp_path: Path) -> None:
    registry = MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    assert registry.model(MODEL).champion() is None
    assert registry.model(MODEL).versions() == []
    assert registry.runs.find_logged("x") is None
    assert not list(tmp_path.iterdir())


def test_from_training_to_champion(made: Made, tmp_path: Path) -> None:
    registry, model = made.registry, made.model
    uri = log(made, made.poor)
    assert registry.runs.find_logged(made.poor.run) == uri
    report = registry.round_trip(uri)
    assert report.problems == []
    np.testing.assert_allclose(
        sorted(report.scores),
        sorted(_example_scores(made.poor)),
        atol=1e-3,
    )
    first = model.register(uri, report)
    assert model.register(uri, report) == first, "the same training is the same version"
    crowned = promote(model, first)
    assert (crowned.promoted, crowned.previous) == (True, None)
    assert_stored_as_people_expect(made, model, first)
    run = registry.client.get_run(model.version(first).run_id or "")
    assert run.info.status == "FINISHED"
    assert run.data.params["rank"] == "8"
    assert run.data.metrics["held_out_auc"] == pytest.approx(made.poor.after.auc)
    assert len(registry.client.get_metric_history(run.info.run_id, "loss")) == made.poor.steps
    course = registry.client.get_metric_history(run.info.run_id, "held_out_auc")
    ends = {0: made.poor.before.auc, made.poor.steps: made.poor.after.auc}
    assert {point.step: point.value for point in course} == pytest.approx(ends)

    better_uri = log(made, made.good)
    second = model.register(better_uri, sound(better_uri))
    better = promote(model, second)
    assert (better.champion, better.previous) == (second, first)
    assert model.version(first).tags["setr.superseded_by"] == second
    assert bundle_of(model, second).adapter.joinpath("adapter_model.safetensors").is_file()

    # As a user would, from another folder: only the alias and the tracking URI are known.
    frame, expected = rows(made)
    frame.to_parquet(tmp_path / "rows.parquet")
    program = (
        "import sys, mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model('models:/setr-reranker@champion')\n"
        "assert model.predict(model.input_example)['error'].isna().all()\n"
        "model.predict(pd.read_parquet('rows.parquet')).to_json('scores.json')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": registry.tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads((tmp_path / "scores.json").read_text())
    np.testing.assert_allclose(list(answer["score"].values()), expected, atol=1e-3)
    np.testing.assert_allclose(list(answer["p_yes"].values()), 1 / (1 + np.exp(-expected)), atol=1e-3)

    # A worse one stays behind, and says why.
    worse = replace(made.poor, run="another training")
    worse_uri = log(made, worse)
    third = model.register(worse_uri, sound(worse_uri))
    behind = promote(model, third)
    assert (behind.promoted, behind.champion) == (False, second)
    assert "not above" in model.version(third).tags["setr.not_promoted_because"]
    assert (model.champion(), model.challenger()) == (second, third)
    assert {info.version: info.aliases for info in model.versions()} == {
        third: ("challenger",),
        second: ("champion",),
        first: (),
    }


def test_a_champion_of_other_pairs_is_measured_on_these(made: Made, tmp_path: Path) -> None:
    registry = MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    model = registry.model(MODEL)
    own = made._replace(registry=registry)
    uri = log(own, replace(made.good, held_out_digest="others"))
    promote(model, model.register(uri, sound(uri)))
    newer_uri = log(own, made.poor)
    newer = model.register(newer_uri, sound(newer_uri))
    asked: list[str] = []

    def score(version: str) -> float:
        asked.append(version)
        held_out = worlds.pairs().filter(split="held_out")
        judge = bundle_of(model, version).load_judge()
        return measure(held_out, judge_pair_frame(judge, held_out, worlds.pictures())).auc

    decision = promote(model, newer, score)
    assert asked == ["1"]
    assert not decision.promoted
    assert "on the same held-out data" in decision.reason


def test_an_equal_version_stays_behind(made: Made, tmp_path: Path) -> None:
    registry = MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    model = registry.model(MODEL)
    own = made._replace(registry=registry)
    first, second = (
        model.register(uri, sound(uri))
        for uri in (log(own, made.good), log(own, replace(made.good, run="again")))
    )
    promote(model, first)
    decision = promote(model, second)
    assert (decision.promoted, decision.champion) == (False, first)
    assert "not above" in decision.reason


OTHER_PROMPT = "<reference>{{ modification }}<candidate>match the query ?"


def test_a_version_that_answers_another_prompt_is_not_compared_and_takes_over(
    made: Made, tmp_path: Path
) -> None:
    registry = MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    model = registry.model(MODEL)
    own = made._replace(registry=registry)
    uri = log(own, made.good)
    first = model.register(uri, sound(uri))
    promote(model, first)
    template = PromptTemplate(tmp_path / "judge.jinja", OTHER_PROMPT)
    poorer = replace(made.poor, run="other prompt", prompt_hash=template.hash)
    assert poorer.held_out_digest == made.good.held_out_digest
    newer_uri = log(own, poorer, template)
    newer = model.register(newer_uri, sound(newer_uri))
    decision = promote(model, newer, lambda version: pytest.fail(f"compared with {version}"))
    assert (decision.champion, decision.previous) == (newer, first)
    assert decision.reason == f"version {first} answers another prompt, {made.good.prompt_hash}"
    assert bundle_of(model, newer).judge_prompt.source == OTHER_PROMPT
    assert bundle_of(model, first).judge_prompt.source == made.base.template.source


def test_a_bundle_is_fetched_whole_where_the_store_is_no_folder_of_this_machine(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    model = registry.model(MODEL)
    uri = log(made._replace(registry=registry), made.good)
    version = model.register(uri, sound(uri))
    here = bundle_of(model, version)
    monkeypatch.setattr(registered_model, "local_folder", lambda registry, info: None)
    fetched = bundle_of(model, version)
    assert fetched.adapter != here.adapter
    assert fetched.adapter.is_relative_to(registry.artifact_root / "fetched")
    assert fetched.judge_prompt.hash == made.good.prompt_hash
    shutil.rmtree(fetched.judge)  # as a fetch that was killed leaves it
    assert bundle_of(model, version).record == here.record


def test_a_failed_training_is_a_failed_run(made: Made) -> None:
    with pytest.raises(ZeroDivisionError), made.registry.runs.start("fails", {}) as run:
        raise ZeroDivisionError
    assert made.registry.client.get_run(run.run_id).info.status == "FAILED"


def test_a_killed_run_is_marked_when_its_training_goes_on(made: Made) -> None:
    client = made.registry.client
    experiment = client.get_experiment_by_name(made.registry.experiment)
    assert experiment is not None
    lost, other = (
        client.create_run(experiment.experiment_id, tags={"setr.run": digest}).info.run_id
        for digest in ("one", "two")
    )
    with made.registry.runs.start("again", {}, {"setr.run": "one"}) as run:
        assert client.get_run(run.run_id).info.status == "RUNNING"
    states = [client.get_run(each).info.status for each in (lost, run.run_id, other)]
    assert states == ["KILLED", "FINISHED", "RUNNING"]


def test_texts_of_a_run_act_on_no_page_of_mlflow(made: Made) -> None:
    with made.registry.runs.start("nasty", {"file": NASTY, "epochs": 2}, {"source": NASTY}) as run:
        pass
    stored = made.registry.client.get_run(run.run_id)
    shown = [stored.data.params["file"], stored.data.tags["source"]]
    assert shown == [visible(NASTY)] * 2 and stored.data.params["epochs"] == "2"
    assert "mlflow.note.content" not in stored.data.tags, "the only text that MLflow reads as Markdown"


def test_a_model_with_problems_is_not_registered(made: Made) -> None:
    report = RoundTripReport("models:/m-1", ["scores differ"])
    with pytest.raises(RegistryError, match="not registered: scores differ"):
        made.model.register("models:/m-1", report)
    with pytest.raises(RegistryError, match="no version 99"):
        made.model.version("99")


# --- damaged bundles


def test_a_sound_bundle_scores_as_in_training(made: Made, bundle: dict[str, str]) -> None:
    scorer = PairScorer.load(bundle)
    assert scorer.check_examples() == []
    frame, expected = rows(made)
    frame.index = pd.Index(range(100, 100 + len(frame)))
    answer = scorer.predict(frame)
    assert list(answer.index) == list(frame.index)
    np.testing.assert_allclose(answer["score"], expected, atol=1e-3)
    assert scorer.predict(frame.head(0)).empty


def test_a_bundle_holds_the_one_prompt_and_those_of_data_sets_in_older_ones_are_not_used(
    made: Made, bundle: dict[str, str]
) -> None:
    prompts = Path(bundle[JUDGE]) / "prompts"
    assert [path.name for path in prompts.iterdir()] == ["judge.jinja"]
    (prompts / "judge.fashioniq.jinja").write_text(OTHER_PROMPT)
    scorer = PairScorer.load(bundle)
    assert scorer.judge.template.source == made.base.template.source
    assert scorer.check_examples() == []


def test_a_prompt_that_is_not_that_of_the_training_is_refused(
    made: Made, bundle: dict[str, str], tmp_path: Path
) -> None:
    (Path(bundle[JUDGE]) / "prompts" / "judge.jinja").write_text(OTHER_PROMPT)
    with pytest.raises(RegistryError, match="changed since the adapter was trained under it"):
        PairScorer.load(bundle)
    reference = base_reference(made.base.model, JudgeSettings(name=str(made.judge)), str(made.judge))
    other = PromptTemplate(tmp_path / "judge.jinja", OTHER_PROMPT)
    with pytest.raises(RegistryError, match="trained under another judge prompt"):
        write_bundle(tmp_path / "wrong", made.good, reference, other, worlds.pictures())


def test_missing_keys_are_an_error(bundle: dict[str, str]) -> None:
    weights = Path(bundle[ADAPTER]) / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.0" not in name}, weights)
    with pytest.raises(Exception, match="does not fit this model"):
        PairScorer.load(bundle)


@pytest.mark.parametrize(
    ("factor", "problem"), [(0.0, "differ from those of training"), (float("nan"), "not finite")]
)
def test_changed_weights_are_noticed(bundle: dict[str, str], factor: float, problem: str) -> None:
    weights = Path(bundle[ADAPTER]) / "adapter_model.safetensors"
    save_file({name: tensor * factor for name, tensor in load_file(weights).items()}, weights)
    assert problem in PairScorer.load(bundle).check_examples()[0]


def test_an_adapter_that_changes_nothing_is_noticed(made: Made, tmp_path: Path) -> None:
    idle = replace(made.good, held_out=made.good.held_out.with_columns(after="before"))
    reference = base_reference(made.base.model, JudgeSettings(name=str(made.judge)), str(made.judge))
    folders = write_bundle(tmp_path / "idle", idle, reference, made.base.template, worlds.pictures())
    problems = PairScorer.load({name: str(path) for name, path in folders.items()}).check_examples()
    assert any("changes no score" in problem for problem in problems)


def test_the_base_is_found_by_environment_or_named(
    made: Made, bundle: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(made.judge, moved)
    record = Path(bundle[JUDGE]) / "reranker.json"
    record.write_text(record.read_text().replace(str(made.judge), str(tmp_path / "gone")))
    with pytest.raises(RegistryError, match=BASE_VARIABLE):
        PairScorer.load(bundle)
    monkeypatch.setenv(BASE_VARIABLE, str(moved))
    assert PairScorer.load(bundle).check_examples() == []
    monkeypatch.setenv(BASE_VARIABLE, str(tmp_path / "nowhere" / "at" / "all"))
    assert PairScorer.load(bundle, {"base_model": str(moved)}).check_examples() == []
    with pytest.raises(RegistryError, match="no such folder"):
        PairScorer.load(bundle)


def test_another_base_is_refused(bundle: dict[str, str], tmp_path: Path) -> None:
    from tests.tiny_judges import write_tiny_judge

    other = write_tiny_judge("llava", tmp_path / "other", seed=5)
    with pytest.raises(RegistryError, match="was trained on"):
        PairScorer.load(bundle, {"base_model": str(other)})


def test_other_libraries_are_accepted_only_with_the_same_scores(bundle: dict[str, str]) -> None:
    path = Path(bundle[JUDGE]) / "reranker.json"
    record = json.loads(path.read_text())
    record["versions"]["transformers"] = "4.50.0"
    path.write_text(json.dumps(record))
    assert PairScorer.load(bundle).check_examples() == []
    examples = Bundle(Path(bundle[ADAPTER]), Path(bundle[JUDGE])).examples
    examples.with_columns(adapted_score=examples["adapted_score"] + 1).write_parquet(
        Path(bundle[JUDGE]) / "examples.parquet"
    )
    with pytest.raises(RegistryError, match=r"transformers 4\.50\.0 ->"):
        PairScorer.load(bundle)


def test_paths_are_read_only_below_the_allowed_folders(
    made: Made, bundle: dict[str, str], tmp_path: Path
) -> None:
    frame, expected = rows(made)
    allowed, secret = tmp_path / "allowed", tmp_path / "secret.png"
    allowed.mkdir()
    image: bytes = frame["reference"].to_list()[0]
    (allowed / "picture.png").write_bytes(image)
    secret.write_bytes(image)
    (allowed / "link.png").symlink_to(secret)
    one = frame.head(1)
    absent = "reference: there is no picture of this name"
    answer = PairScorer.load(bundle).predict(one.assign(reference=[str(allowed / "picture.png")]))
    assert "no files are read by name here" in answer["error"].to_list()[0]
    scorer = PairScorer.load(bundle, {"image_roots": [str(allowed)]})
    for named in ("picture.png", str(allowed / "picture.png")):
        answer = scorer.predict(one.assign(reference=[named]))
        assert answer["score"].to_list()[0] == pytest.approx(expected[0], abs=1e-3)
    for named in ("../secret.png", str(secret), "link.png", "absent.png"):
        answer = scorer.predict(one.assign(reference=[named]))
        assert answer["error"].to_list() == [absent] and np.isnan(answer["score"].to_list()[0])
    with pytest.raises(RegistryError, match=r"\['candidate'\] are missing"):
        scorer.predict(one.drop(columns="candidate"))
    (error,) = scorer.predict(one.assign(candidate=[1.5]))["error"].to_list()
    assert error == "candidate: a picture's bytes are needed, not a number"


def test_through_mlflow_nulls_base64_and_json_are_rows_of_their_own(made: Made, tmp_path: Path) -> None:
    """In JSON, MLflow itself takes a picture's column for base64, and refuses a null there."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import invocations

    frame, expected = rows(made)
    (tmp_path / "picture.png").write_bytes(frame["reference"].to_list()[0])
    uri = log(made, made.good)
    with made.registry.as_default():
        model = mlflow.pyfunc.load_model(uri, model_config={"image_roots": [str(tmp_path)], "max_rows": 50})
    good = frame.head(1).astype(object)
    sent = pd.concat(
        [
            good,
            good.assign(reference=[None]),
            good.assign(modification=[None]),
            good.assign(candidate=[float("nan")]),
            good.assign(reference=["picture.png"]),
            good.assign(reference=[7]),
        ],
        ignore_index=True,
    )
    answer = model.predict(sent)
    assert list(answer.columns) == ["score", "p_yes", "error"]
    assert [error is None for error in answer["error"]] == [True, False, False, False, True, False]
    assert [score is None for score in answer["score"]] == [False, True, True, True, False, True]
    assert answer["score"][0] == pytest.approx(expected[0], abs=1e-3)
    numbers = pd.DataFrame({"reference": [1, 2], "modification": ["red"] * 2, "candidate": [b"", b""]})
    with pytest.raises(MlflowException, match="Incompatible input types for column reference"):
        model.predict(numbers)  # a column without a single picture; no row could be answered
    with pytest.raises(RegistryError, match=r"51 rows, more than the 50"):
        model.predict(pd.concat([good] * 51))

    def text(content: bytes) -> str:
        return base64.encodebytes(content).decode()

    wanted, named = frame["modification"][0], text(b"file:picture.png")
    picture = text(frame["candidate"].to_list()[0])
    records = [
        {"reference": named, "modification": wanted, "candidate": picture},
        {"reference": "", "modification": wanted, "candidate": picture},
        {"reference": named, "modification": None, "candidate": picture},
        {"reference": named, "modification": wanted, "candidate": text(b"file:../picture.png")},
        {"reference": named, "modification": wanted, "candidate": text(b"no picture")},
    ]
    schema = model.metadata.get_input_schema()

    def answered(records: list[dict[str, Any]]) -> list[dict[str, object]]:
        given = invocations(json.dumps({"dataframe_records": records}), "application/json", model, schema)
        return json.loads(given.response, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))[
            "predictions"
        ]

    first, *wrong = answered(records)
    assert first["error"] is None and first["score"] == pytest.approx(expected[0], abs=1e-3)
    assert all(line["score"] is None and line["p_yes"] is None and line["error"] for line in wrong)
    with pytest.raises(MlflowException, match="Failed to convert column reference"):
        answered([*records, {"reference": None, "modification": wanted, "candidate": picture}])


def _example_scores(result: AdapterResult) -> list[float]:
    return [
        score
        for label in (True, False)
        for score in result.held_out.filter(label=label).head(4)["after"].to_list()
    ]
