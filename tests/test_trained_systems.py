"""A second trained system goes through the steps and assets that the judge's adapter goes through, and
neither touches the other's versions.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import mlflow.artifacts  # noqa: TID253
import polars as pl
import pytest
import torch  # noqa: TID253

from setr_assets import graph
from setr_assets.automation import champion_config
from setr_assets.blueprints import Blueprint
from setr_assets.code_versions import CodeVersions
from setr_assets.jobs import EVALUATION, FULL_PIPELINE, TRAINING
from setr_assets.trained import Inputs, Names, trained_system_assets
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.trained_system import (
    SYSTEMS,
    TrainedSystem,
    TrainedSystemError,
    champions,
    pinned_version,
    registered_models,
)
from setr_lib.pipeline.training_steps import promote, register, train
from setr_lib.records import PromotedRecord, RegisteredRecord, TrainedRecord
from setr_lib.registry import registered_model
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.measure import Measure, MeasuredAgain
from setr_lib.registry.registered_model import LABEL_TAG, Promotion, RegisteredModel, VersionInfo
from setr_lib.registry.round_trip import RoundTripReport
from setr_lib.registry.runs import TrainingRun
from setr_lib.registry.store import MlflowRegistry
from setr_lib.settings import RegistrySettings, Settings, load_settings
from setr_lib.systems.recipe import RECIPES
from setr_lib.training.trained_on import TRAINED_ON, TrainedOn, trained_images, trained_triplets
from tests.tiny_system import Line, LineSystem

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def context(tmp_path: Path) -> PipelineContext:
    return PipelineContext(Settings(base_dir=tmp_path))


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The line is a known trained system, beside the adapter."""
    monkeypatch.setattr(SYSTEMS, "_own", {})
    SYSTEMS.register(LineSystem.name, LineSystem)
    yield


def test_from_a_killed_training_to_a_champion_beside_the_re_rankers(
    context: PipelineContext, tmp_path: Path, both: None
) -> None:
    killed = subprocess.run(
        [sys.executable, "-m", "tests.tiny_system", str(tmp_path), "10"], cwd=REPOSITORY, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    system = LineSystem(context)
    training = train(system)
    assert training.result is not None
    assert training.result.resumed_from == 8
    registry, line = context.registry, context.registry.model("setr-line")
    runs = registry.client.search_runs([registry.found_experiment().experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]
    (finished,) = (run for run in runs if run.info.status == "FINISHED")
    assert len(registry.client.get_metric_history(finished.info.run_id, "loss")) == 20
    torch.rand(1)  # what was drawn outside of the training is of no consequence
    whole = LineSystem(context).train(tmp_path / "whole", lambda *_: None, lambda *_: None)
    assert (whole.slope, whole.offset) == (training.result.slope, training.result.offset)
    assert train(LineSystem(context)).record == training.record

    done = register(system, training.record)
    assert (done.version, done.check) == ("1", "2 scores were the same in a fresh process")
    assert line.version("1").tags[LABEL_TAG] == "fitted"
    logged = training.record.model_uri.rpartition("/")[2]
    registry.client.delete_logged_model_tag(logged, "mlflow.modelVersions")  # as an earlier SETR left it
    assert register(system, training.record).words.startswith("version 1 was registered before")
    shown = registry.client.get_logged_model(logged).tags["mlflow.modelVersions"]
    assert json.loads(shown) == [{"name": "setr-line", "version": 1}]
    description = registry.client.get_registered_model("setr-line").description
    assert description and description.startswith("A line through points")
    assert promote(system, "1").promoted

    # The same store has the re-ranker's versions: each model has a champion of its own.
    reranker = registry.model("setr-reranker")
    uri = training.record.model_uri
    assert reranker.champion() is None
    assert reranker.register(uri, RoundTripReport(uri)) == "1"
    assert reranker.promote("1", LineSystem.measure).promoted
    better = train(LineSystem(context, steps=60))
    assert better.result is not None and better.result.error < training.result.error
    second = register(LineSystem(context, steps=60), better.record).version
    assert second == "2"
    assert promote(LineSystem(context, steps=60), second).reason.startswith("held-out error")
    assert champions(context) == {"setr-line": "2", "setr-reranker": "1"}
    assert [info.aliases for info in reranker.versions()] == [("champion",)]
    assert line.version("1").tags["setr.superseded_by"] == "2"


def test_a_model_that_fails_its_round_trip_is_no_version(context: PipelineContext) -> None:
    class Flat(LineSystem):
        options = LineSystem.options.__class__(learning_rate=1e-300)

    training = train(Flat(context, steps=1))
    done = register(Flat(context, steps=1), training.record)
    assert done.version is None
    assert "nothing was learned" in done.check
    assert context.registry.model("setr-line").versions() == []


def test_what_a_version_was_trained_on_is_in_its_bundle_and_its_tags(context: PipelineContext) -> None:
    class Told(LineSystem):
        def trained_on(self) -> TrainedOn:
            images = pl.DataFrame({"image_id": ["a", "b"], "fingerprint": ["1", "2"]})
            triplets = pl.DataFrame({"reference_id": ["a"], "modification": ["red"], "target_id": ["b"]})
            return TrainedOn(
                "cirr's train triplets",
                trained_images(images, "cirr"),
                trained_triplets(triplets, "cirr"),
                "benchmark",
                ("cirr",),
            )

        label = TrainedSystem.label

    system = Told(context)
    record = train(system).record
    assert record.label == "supervised by cirr's train triplets"
    version = register(system, record).version
    assert version == "1"
    model = context.registry.model("setr-line")
    tags = model.version(version).tags
    assert tags[LABEL_TAG] == record.label and tags["setr.trained_on"] == "cirr's train triplets"
    assert (tags["setr.trained_images"], tags["setr.trained_triplets"]) == ("2", "1")
    folders = model.artifacts(version, ["line", TRAINED_ON])
    assert TrainedOn.read(folders[TRAINED_ON]).triplets.rows() == [("cirr", "a", "red", "b")]
    (run,) = context.registry.client.search_runs([context.registry.found_experiment().experiment_id])
    assert run.inputs is not None
    inputs = {data.dataset.name for data in run.inputs.dataset_inputs}
    assert inputs == {"images of cirr's train triplets", "triplets of cirr's train triplets"}
    line = system.finished(Path(record.checkpoints))
    assert line is not None and offset_of(model, version) == line.offset


def test_a_system_that_does_not_say_what_it_was_trained_on_is_not_called_zero_shot(
    context: PipelineContext,
) -> None:
    class Silent(LineSystem):
        label = TrainedSystem.label

    assert Silent(context).label() == "not recorded what it was trained on"


def made_version(context: PipelineContext, steps: int, **options: int) -> tuple[LineSystem, str]:
    """A registered version whose round trip is taken as passed."""
    system = LineSystem(context, steps=steps, **options)
    uri = train(system).record.model_uri
    model = context.registry.model("setr-line")
    return system, model.register(uri, RoundTripReport(uri), {}, system.measure, system.must_equal)


def test_where_less_is_better_the_lower_figure_is_champion(context: PipelineContext) -> None:
    good, first = made_version(context, 40)
    promote(good, first)
    poor, second = made_version(context, 5)
    decision = promote(poor, second)
    assert (decision.promoted, decision.champion) == (False, first)
    assert "not below version 1's" in decision.reason
    assert context.registry.model("setr-line").challenger() == second


def test_a_champion_of_other_held_out_data_is_measured_again(context: PipelineContext) -> None:
    good, first = made_version(context, 40)
    promote(good, first)
    other, second = made_version(context, 5, held_out_seed=3)
    again = other.measure_again(
        context.registry.model("setr-line").artifacts(first, ["line"]), lambda *_: None
    )
    decision = promote(other, second)
    assert f"not below version 1's {again:.4f} on the same held-out data" in decision.reason
    assert f"{good.measure.of(context.registry.model('setr-line').version(first).tags):.4f}" != f"{again:.4f}"


def test_versions_are_compared_triplet_by_triplet_on_the_same_held_out_data_alone(
    context: PipelineContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LineSystem, "compared", lambda self, mine, champion: "; and paired")
    promote(*made_version(context, 12))
    better = promote(*made_version(context, 40))
    assert better.promoted and better.reason.endswith("; and paired")
    other = promote(*made_version(context, 5, held_out_seed=3))
    assert not other.promoted and "paired" not in other.reason


def test_a_champion_may_be_measured_again_on_a_part_or_not_at_all(
    context: PipelineContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answering(found: MeasuredAgain) -> None:
        monkeypatch.setattr(LineSystem, "measured_again", lambda *_: found)

    promote(*made_version(context, 40))
    answering(MeasuredAgain(0.5, 0.75, ", less 3 of 10"))
    behind = promote(*made_version(context, 5, held_out_seed=3))
    assert not behind.promoted
    assert behind.reason == (
        "held-out error 0.7500, not below version 1's 0.5000 on the same held-out data, less 3 of 10"
    )
    answering(MeasuredAgain(float("nan"), 0.75))
    with pytest.raises(RegistryError, match="error of version 1 is nan, measured again"):
        promote(*made_version(context, 6, held_out_seed=3))
    answering(MeasuredAgain(None, words="was fitted to all of today's points"))
    ahead = promote(*made_version(context, 7, held_out_seed=3))
    assert ahead.promoted and ahead.reason == "version 1 was fitted to all of today's points"


def test_versions_that_do_not_say_what_they_were_measured_on_are_measured_again(
    context: PipelineContext,
) -> None:
    good, first = made_version(context, 40)
    promote(good, first)
    other, second = made_version(context, 5, held_out_seed=3)
    for version in (first, second):  # as an earlier version of SETR could have registered them
        context.registry.client.delete_model_version_tag("setr-line", version, "setr.held_out_digest")
    decision = promote(other, second)
    assert "on the same held-out data" in decision.reason


def test_one_training_registered_twice_at_once_is_one_version(
    context: PipelineContext, tmp_path: Path
) -> None:
    uri = train(LineSystem(context)).record.model_uri
    looked = threading.Barrier(2)

    class Slow(RegisteredModel):
        """Waits, after it has looked for an earlier version, until the other has looked as well."""

        def find(self, digest: str) -> VersionInfo | None:
            found = super().find(digest)
            with contextlib.suppress(threading.BrokenBarrierError):
                looked.wait(timeout=3)
            return found

    def run() -> str:
        settings = context.settings
        registry = MlflowRegistry(settings.tracking_uri, settings.artifact_root)
        return Slow(registry, "setr-line").register(uri, RoundTripReport(uri))

    with ThreadPoolExecutor(2) as pool:
        versions = [future.result(timeout=60) for future in [pool.submit(run), pool.submit(run)]]
    assert versions == ["1", "1"]
    assert len(context.registry.model("setr-line").versions()) == 1


def test_of_two_versions_promoted_at_once_the_better_one_is_champion(context: PipelineContext) -> None:
    good, first = made_version(context, 40)
    _, second = made_version(context, 5)
    looked = threading.Barrier(2)

    class Slow(RegisteredModel):
        """Waits, after it has looked for a champion, until the other has looked as well."""

        def champion(self) -> str | None:
            found = super().champion()
            with contextlib.suppress(threading.BrokenBarrierError):
                looked.wait(timeout=3)
            return found

    def run(version: str) -> Promotion:
        settings = context.settings
        registry = MlflowRegistry(settings.tracking_uri, settings.artifact_root)
        return Slow(registry, "setr-line").promote(version, good.measure, good.must_equal)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(run, version) for version in (first, second)]
        reasons = [future.result(timeout=60).reason for future in futures]
    assert reasons.count("the first sound version") == 1
    assert context.registry.model("setr-line").champion() == first


def test_a_champion_crowned_while_an_earlier_one_is_measured_is_compared_too(
    context: PipelineContext,
) -> None:
    model = context.registry.model("setr-line")
    earlier, first = made_version(context, 5)
    promote(earlier, first)
    best, second = made_version(context, 60, held_out_seed=3)
    middle, third = made_version(context, 12, held_out_seed=3)
    asked: list[str] = []

    def measure_again(version: str) -> float:
        asked.append(version)
        # Another process: it is not kept waiting by a measurement.
        assert model.promote(second, best.measure, best.must_equal, lambda _: 1e9).promoted
        return 1e9

    decision = model.promote(third, middle.measure, middle.must_equal, measure_again)
    assert asked == [first]
    assert (decision.promoted, decision.champion, decision.previous) == (False, second, second)
    assert (model.champion(), model.challenger()) == (second, third)


@pytest.mark.parametrize("figure", ["nan", "inf", "-inf", "much"])
def test_a_figure_that_is_not_finite_is_neither_registered_nor_crowned(
    context: PipelineContext, figure: str
) -> None:
    model = context.registry.model("setr-line")
    system, first = made_version(context, 5)
    uri = model.version(first).model_uri
    context.registry.client.set_model_version_tag("setr-line", first, system.measure.tag, figure)
    with pytest.raises(RegistryError, match=rf"setr\.held_out_error .* is {figure}: version 1 cannot be"):
        promote(system, first)
    assert model.champion() is None

    context.registry.client.set_logged_model_tags(uri.rpartition("/")[2], {system.measure.tag: figure})
    context.registry.client.delete_registered_model("setr-line")
    with pytest.raises(RegistryError, match=rf"is {figure}: {uri} cannot be compared"):
        model.register(uri, RoundTripReport(uri), {}, system.measure, system.must_equal)
    assert model.versions() == []


def test_a_champion_whose_figure_is_not_finite_is_named(context: PipelineContext) -> None:
    model = context.registry.model("setr-line")
    system, first = made_version(context, 5)
    promote(system, first)
    _, second = made_version(context, 40)
    _, third = made_version(context, 40, held_out_seed=3)
    with pytest.raises(RegistryError, match="error of version 1 is nan, measured again"):
        model.promote(third, system.measure, system.must_equal, lambda _: float("nan"))
    context.registry.client.set_model_version_tag("setr-line", first, system.measure.tag, "nan")
    with pytest.raises(RegistryError, match="is nan: version 1 cannot be compared"):
        promote(system, second)
    assert model.champion() == first


@pytest.mark.parametrize("tag", ["setr.run", "setr.held_out_error", "setr.held_out_digest", "line.source"])
def test_a_model_logged_without_a_tag_it_promises_is_not_registered(
    context: PipelineContext, tag: str
) -> None:
    class Forgetful(LineSystem):
        def log(self, run: TrainingRun, result: Line) -> str:
            uri = super().log(run, result)
            context.registry.client.delete_logged_model_tag(uri.rpartition("/")[2], tag)
            return uri

    system = Forgetful(context)
    record = train(system).record
    with pytest.raises(RegistryError, match=f"it was logged without the tag {tag}; give it"):
        register(system, record)
    assert context.registry.model("setr-line").versions() == []


def test_versions_know_the_tags_in_which_they_must_be_equal(context: PipelineContext) -> None:
    system = LineSystem(context)
    register(system, train(system).record)
    assert context.registry.model("setr-line").version("1").tags["line.source"] == "one"


# --- bundles fetched from a store that is no folder of this machine


def offset_of(model: RegisteredModel, version: str) -> float:
    stored = model.artifacts(version, ["line"])["line"] / "line.json"
    return json.loads(stored.read_text())["offset"]


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores are remote: no folder of this machine is one of theirs."""
    monkeypatch.setattr(registered_model, "local_folder", lambda registry, info: None)


def test_a_fetched_bundle_is_that_of_its_store_and_of_its_logged_model(
    context: PipelineContext, tmp_path: Path, remote: None
) -> None:
    model = context.registry.model("setr-line")
    _, version = made_version(context, 5)
    first = offset_of(model, version)
    context.registry.client.delete_registered_model("setr-line")
    _, again = made_version(context, 40)
    second = offset_of(model, again)
    assert again == version and second != first, "the model was deleted and made again"

    elsewhere = PipelineContext(
        Settings(
            base_dir=tmp_path, registry=RegistrySettings(tracking_uri=f"sqlite:///{tmp_path / 'other.db'}")
        )
    )
    assert elsewhere.registry.artifact_root == context.registry.artifact_root
    _, other = made_version(elsewhere, 10)
    assert other == version
    assert offset_of(elsewhere.registry.model("setr-line"), other) not in (first, second)
    assert offset_of(model, again) == second


def test_a_fetch_that_was_broken_off_is_not_used(
    context: PipelineContext, remote: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, download = context.registry.model("setr-line"), mlflow.artifacts.download_artifacts
    _, version = made_version(context, 5)

    def broken_off(artifact_uri: str, dst_path: str, **addresses: str) -> None:
        download(artifact_uri=artifact_uri, dst_path=dst_path, **addresses)
        (Path(dst_path) / "artifacts" / "line" / "line.json").unlink()
        raise ConnectionError("the store went away")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", broken_off)
    with pytest.raises(RegistryError, match=r"cannot be fetched from .*: the store went away"):
        model.artifacts(version, ["line"])
    monkeypatch.undo()
    monkeypatch.setattr(registered_model, "local_folder", lambda registry, info: None)
    folder = model.artifacts(version, ["line"])["line"]
    assert (folder / "line.json").is_file()
    assert len(list(folder.parents[2].iterdir())) == 1, "nothing is left of the first try"


def test_a_bundle_that_another_process_fetched_meanwhile_is_used(
    context: PipelineContext, remote: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, download = context.registry.model("setr-line"), mlflow.artifacts.download_artifacts
    _, version = made_version(context, 5)
    others: list[Path] = []

    def overtaken(artifact_uri: str, dst_path: str, **addresses: str) -> None:
        download(artifact_uri=artifact_uri, dst_path=dst_path, **addresses)
        monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
        others.append(model.artifacts(version, ["line"])["line"])

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", overtaken)
    assert [model.artifacts(version, ["line"])["line"]] == others
    assert (others[0] / "line.json").is_file()


def test_a_store_that_lacks_a_part_of_a_bundle_is_named(context: PipelineContext, remote: None) -> None:
    _, version = made_version(context, 5)
    with pytest.raises(RegistryError, match=r"setr-line version 1 .* lacks one of the folders line, other"):
        context.registry.model("setr-line").artifacts(version, ["line", "other"])


NAMES = Names("line", "registered_line", "promoted_line")


def line_assets() -> tuple[Blueprint, ...]:
    inputs = Inputs(
        reads=("registry.experiment",), model="registry.model", measured_with=(), deps=(), held_out=()
    )
    return trained_system_assets(
        LineSystem, NAMES, inputs, group="line", kinds={"mlflow"}, facts=lambda line: {"error": line.error}
    )


def test_an_evaluation_trains_no_system(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [*graph.blueprints(), *line_assets()]
    monkeypatch.setattr(graph, "blueprints", lambda settings: every)
    built = graph.build_definitions(load_settings(REPOSITORY / "setr.toml"))
    jobs = {
        job: {key.to_user_string() for key in built.resolve_job_def(job).asset_layer.executable_asset_keys}
        for job in (FULL_PIPELINE, EVALUATION, TRAINING)
    }
    assert jobs[FULL_PIPELINE] >= set(NAMES)
    assert not (jobs[EVALUATION] | jobs[TRAINING]) & set(NAMES)


def test_three_assets_of_another_system_by_one_call(context: PipelineContext) -> None:
    versions, none = CodeVersions(context.settings), dg.StaticPartitionsDefinition([])
    assets = [blueprint.build(none, place, versions) for place, blueprint in enumerate(line_assets())]
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize(assets, resources={"setr": context}, instance=instance)
        told = {
            event.asset_key.to_user_string(): event.step_materialization_data.materialization.metadata
            for event in run.get_asset_materialization_events()
            if event.asset_key is not None
        }
        checks = {result.check_name: result.passed for result in run.get_asset_check_evaluations()}
    assert run.success
    assert set(told) == set(NAMES)
    folder = Path(context.tables.read_record("line", TrainedRecord).checkpoints)
    line = LineSystem(context).finished(folder)
    assert line is not None and told["line"]["error"].value == pytest.approx(line.error, rel=1e-3)
    assert told["promoted_line"]["champion"].value == "1"
    assert "held-out error by version" in told["promoted_line"]
    assert checks == {"reloads_in_a_fresh_process": True, "newest_version_is_champion": True}
    assert context.tables.read_record("registered_line", RegisteredRecord).version == "1"
    assert context.tables.read_record("promoted_line", PromotedRecord).reason == "the first sound version"
    assert champions(context) == {}, "no other system's champion"


# --- pinned runs


def test_a_run_is_pinned_by_registered_model(both: None) -> None:
    settings = Settings(registry=RegistrySettings(model="mine"))
    retrieval = {f"setr-{name.replace('_', '-')}" for name in RECIPES}
    assert {*registered_models(settings)} == {"mine", "setr-line", *retrieval}
    versions = {"mine": "3", "setr-line": "4"}
    assert pinned_version(settings, "mine", versions) == "3"
    assert pinned_version(settings, "setr-line", versions) == "4"
    assert pinned_version(settings, "mine", {"setr-line": "4"}) is None
    assert pinned_version(settings, "mine", {}, "5") == "5"
    assert pinned_version(settings, "mine", versions, "3") == "3"
    pinned = {"config": {"versions": versions}}
    steps = ("gallery_embeddings", "coarse_rankings", "reranked_rankings")
    assert champion_config(versions) == {"ops": dict.fromkeys(steps, pinned)}


@pytest.mark.parametrize(
    ("versions", "alias", "words"),
    [
        ({"setr-reranker": "3"}, "4", "champion_version says 4, versions says 3 for setr-reranker"),
        (
            {"setr-rerankr": "3"},
            None,
            "'setr-rerankr': there is no such registered model; known: .*setr-reranker",
        ),
    ],
)
def test_versions_that_cannot_be_meant_are_refused(
    versions: dict[str, str], alias: str | None, words: str
) -> None:
    with pytest.raises(TrainedSystemError, match=words):
        pinned_version(Settings(), "setr-reranker", versions, alias)


def test_what_is_no_trained_system_is_refused(both: None) -> None:
    with pytest.raises(TrainedSystemError, match="must be a subclass of TrainedSystem"):
        SYSTEMS.register("other", Measure)
    with pytest.raises(
        TrainedSystemError, match=r"there is no trained system 'qformr'; known: adapter, .*line.*qformer"
    ):
        SYSTEMS.get("qformr")


def test_a_version_without_its_figure_is_not_compared() -> None:
    with pytest.raises(RegistryError, match=r"setr\.held_out_auc \(held-out AUC\) is missing"):
        Measure("AUC", "setr.held_out_auc").of({})
