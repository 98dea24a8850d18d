"""A trained retrieval system through the whole graph: triplets, training, registration in a fresh process,
promotion, rankings and report; and what a version was trained on.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import torch  # noqa: TID253
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from safetensors.torch import load_file
from tiny_world import write_world

from setr_assets.automation import WEEKLY
from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION, FULL_PIPELINE
from setr_assets.partitions import range_tags
from setr_lib.cli import main
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.pipeline.retrieval_system import RetrievalSystem, known_system
from setr_lib.pipeline.system_data import make_triplets, read_triplets, trained_on_data
from setr_lib.pipeline.trained_weights import NoWeightsError
from setr_lib.pipeline.training_steps import promote, train
from setr_lib.records import CoarseRecord, TripletsRecord
from setr_lib.registry import system_bundle
from setr_lib.registry.registered_model import LABEL_TAG, RegisteredModel
from setr_lib.registry.round_trip import RoundTripReport
from setr_lib.registry.system_bundle import held_out_of
from setr_lib.settings import Settings, load_settings
from setr_lib.systems.bundle import SystemBundleError
from setr_lib.systems.data import COPY, HELD_OUT, TrainingDataError
from setr_lib.systems.options import SYNTHESISED
from setr_lib.systems.recipe import RECIPES
from setr_lib.tables import METRICS, TRAINING_IMAGES
from setr_lib.training.trained_on import TRAINED_ON, USERS_OWN, TrainedOn
from tests.registry.stored_places import named_places

KEY = "circo-val"
SYSTEMS = """
[systems.prompt_tuned]
context_vectors = 4
steps = 4
batch_size = 4
learning_rate = 1e-2
checkpoint_every = 2
"""
LEARNED_FROM = ("training_images", "training_embeddings", "reranker_pairs", "training_triplets")
STEPS = ("trained_prompt_tuned", "registered_prompt_tuned", "promoted_prompt_tuned")
RANKED = ("coarse_rankings", "reranked_rankings", "evaluation_report")
MADE = (
    "queries",
    "gallery_images",
    "gallery_embeddings",
    "reference_captions",
    "query_compositions",
    "method_texts",
)


@dataclass
class World:
    """A tiny world whose settings name a trained retrieval system, with an instance of Dagster's."""

    settings: Settings
    instance: dg.DagsterInstance

    @property
    def context(self) -> PipelineContext:
        return PipelineContext(self.settings, pipeline_context(self.settings).models)

    @property
    def model(self) -> RegisteredModel:
        return self.context.registry.model("setr-prompt-tuned")

    def changed(self, **options: Any) -> PipelineContext:
        """A context with other options of the system."""
        settings = self.settings.model_copy(deep=True)
        settings.systems["prompt_tuned"] |= options
        return PipelineContext(settings, pipeline_context(self.settings).models)

    def run(self, *assets: str) -> tuple[dict[str, dict[str, Any]], dict[str, bool]]:
        """Materialise assets; their metadata, and which checks passed."""
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        result = (
            build_definitions(self.settings)
            .resolve_job_def(FULL_PIPELINE)
            .execute_in_process(
                instance=self.instance,
                tags=range_tags([KEY]),
                asset_selection=[dg.AssetKey(asset) for asset in assets],
                run_config=quiet,
            )
        )
        made = {
            event.asset_key.to_user_string(): {
                name: value.value for name, value in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
            if event.asset_key is not None
        }
        return made, {each.check_name: each.passed for each in result.get_asset_check_evaluations()}

    def stale(self, *assets: str) -> set[str]:
        """Which assets are stale, by Dagster's own judgement."""
        graph = build_definitions(self.settings).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        found = set()
        for name in assets:
            key = dg.AssetKey(name)
            partition = KEY if graph.get(key).partitions_def is not None else None
            found |= {name} if resolver.get_status(key, partition) is StaleStatus.STALE else set()
        return found

    def rows(self) -> dict[str, tuple[str | None, str]]:
        """Version and label of each method's row in the report."""
        frame = self.context.tables.read("evaluation_report", METRICS, KEY)
        columns = frame.filter(reranker="").select("method", "model_version", "label").unique()
        return {method: (version, label) for method, version, label in columns.rows()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    path = write_world(tmp_path_factory.mktemp("systems"), judge=None)
    text = path.read_text(encoding="utf-8")
    text = text.replace("[coarse]", '[coarse]\nstrategies = ["sum", "prompt_tuned"]\ndefault = "sum"')
    text = text.replace("[reranking]", "[reranking]\nrerankers = []") + SYSTEMS
    path.write_text(text, encoding="utf-8")
    with dg.DagsterInstance.ephemeral() as instance:
        made = World(load_settings(path), instance)
        made.run(*MADE, *LEARNED_FROM)
        yield made


def registered(system: RetrievalSystem) -> str:
    """Train a system and register it, its round trip taken as passed; the version."""
    made = train(system).record
    model = system.context.registry.model(system.registered_model(system.context.settings))
    report = RoundTripReport(made.model_uri)
    return model.register(made.model_uri, report, {LABEL_TAG: made.label}, system.measure, system.must_equal)


def held_out_of_first(world: World, first: pl.DataFrame) -> Callable[[Path], pl.DataFrame]:
    """What reads the held-out triplets of a bundle, and finds others for version 1."""
    folder = world.model.artifacts("1", ["system"])["system"]
    return lambda system: first if system == folder else held_out_of(system)


class TestLife:
    """In this order: trained, ranked with, another version."""

    def test_from_triplets_to_a_champion_that_a_fresh_process_could_load(self, world: World) -> None:
        made, checks = world.run(*STEPS)
        assert checks["reloads_in_a_fresh_process"] and checks["newest_version_is_champion"]
        assert made["trained_prompt_tuned"]["trained now"] is True
        assert made["trained_prompt_tuned"]["trained parameters"] == 4 * 16
        assert made["registered_prompt_tuned"]["version"] == made["promoted_prompt_tuned"]["champion"] == "1"
        data = known_system("prompt_tuned")(world.context).data
        images = world.context.tables.read("training_images", TRAINING_IMAGES).filter(status="ok")
        assert {*data.images["image_id"]} == {*images["image_id"]} and data.held_out.height
        base = world.settings.base_dir
        assert named_places(world.context.registry, world.model, "1", [base]) == []
        run = world.context.registry.client.get_run(world.model.version("1").run_id or "")
        assert made["trained_prompt_tuned"]["MLflow run"].endswith(f"/runs/{run.info.run_id}")
        assert run.data.tags["dagster.url"].endswith(run.data.tags["dagster.run_id"])
        assert world.stale(*LEARNED_FROM, *STEPS) == set()

    def test_a_second_materialisation_trains_and_registers_nothing(self, world: World) -> None:
        made, checks = world.run(*STEPS)
        assert made["trained_prompt_tuned"]["trained now"] is False
        assert [info.version for info in world.model.versions()] == ["1"]
        assert checks["newest_version_is_champion"]
        runs = world.context.registry.client.search_runs(
            [world.context.registry.found_experiment().experiment_id]
        )
        assert len(runs) == 1

    def test_its_row_says_version_and_what_it_has_learned_from(self, world: World) -> None:
        made, _ = world.run(*RANKED)
        assert made["coarse_rankings"]["prompt_tuned: weights"].startswith("setr-prompt-tuned v1 (")
        tables = world.context.tables
        weights = tables.read_record(tables.coarse(KEY, "prompt_tuned"), CoarseRecord).weights
        assert weights is not None and (weights.model, weights.version) == ("setr-prompt-tuned", "1")
        assert world.rows()["prompt_tuned"][0] == "setr-prompt-tuned 1"
        assert world.rows()["prompt_tuned"][1].startswith("zero-shot"), "synthesised triplets, no overlap"
        assert world.rows()["sum"][0] is None
        page = Path(str(made["evaluation_report"]["report"])).read_text(encoding="utf-8")
        assert "setr-prompt-tuned" in page

    def test_a_search_by_command_ranks_with_the_champion(
        self, world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        config = str(world.settings.base_dir / "setr.toml")
        image = str(next(iter(sorted(world.settings.base_dir.glob("data/circo/**/*.jpg")))))
        output = tmp_path / "sheet.jpg"
        argv = ["--config", config, "search", image, "red", "--dataset", KEY, "--k", "3"]
        assert main([*argv, "--method", "prompt_tuned", "--output", str(output)]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "prompt_tuned" in shown or "prompt tuned" in shown
        assert output.is_file()

    def test_a_better_version_says_the_paired_difference_and_makes_rankings_stale(self, world: World) -> None:
        context = world.changed(steps=5)
        system = known_system("prompt_tuned")(context)
        version = registered(system)
        assert version == "2"
        decision = promote(system, version)
        held_out = system.data.held_out.unique(["reference_id", "modification", "target_id"]).height
        assert f"paired on {held_out:,} triplets: " in decision.reason
        assert "no difference was seen" in decision.reason, "both find all of the few held-out triplets"
        context.registry.client.set_registered_model_alias("setr-prompt-tuned", "champion", "2")
        world.run("champion_prompt_tuned")
        assert "coarse_rankings" in world.stale(*RANKED)
        world.run(*RANKED)
        assert world.rows()["prompt_tuned"][0] == "setr-prompt-tuned 2"
        assert world.stale(*RANKED) == set()

    def test_where_held_out_data_differ_the_champion_is_measured_again_and_paired(self, world: World) -> None:
        """Its stored ranks, among other images, say nothing triplet by triplet; those of today do."""
        client = world.context.registry.client
        client.set_registered_model_alias("setr-prompt-tuned", "champion", "1")
        client.set_model_version_tag("setr-prompt-tuned", "1", "setr.held_out_digest", "of another day")
        system = known_system("prompt_tuned")(world.changed(steps=5))
        decision = promote(system, "2")
        height = system.data.held_out.unique(["reference_id", "modification", "target_id"]).height
        assert f"on the same held-out data; paired on {height:,} triplets: " in decision.reason
        again = system.measure_again(world.model.artifacts("1", system.artifacts), lambda *_: None)
        assert f"version 1's {again:.4f}" in decision.reason

    def test_what_the_champion_was_trained_on_decides_nothing_when_it_is_measured_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As where what is held out was drawn anew, and the champion knows all of it."""
        system = known_system("prompt_tuned")(world.changed(steps=5))
        learned = TrainedOn.read(world.model.artifacts("1", [TRAINED_ON])[TRAINED_ON])
        nothing = system.data.held_out[:0].with_columns(rank=0)
        monkeypatch.setattr(system_bundle, "held_out_of", held_out_of_first(world, nothing))
        assert {*system.data.gallery} <= {*learned.images["image_id"]}, "held-out ones count in the record"
        decision = promote(system, "2")
        assert decision.promoted
        assert decision.reason.startswith(
            "version 1 was trained on images of every held-out triplet of today"
        )
        client = world.context.registry.client
        client.set_registered_model_alias("setr-prompt-tuned", "champion", "1")

    @pytest.mark.parametrize(
        ("tag", "words"),
        [
            ("setr.triplets", "was trained on other triplets, another"),
            ("setr.encoder_id", "was trained on another encoder, another"),
            ("setr.preprocessing_id", "was trained on pictures that were prepared otherwise, another"),
        ],
    )
    def test_a_version_of_another_source_or_encoder_takes_over(
        self, world: World, tag: str, words: str
    ) -> None:
        client, model = world.context.registry.client, world.model
        client.set_registered_model_alias("setr-prompt-tuned", "champion", "1")
        before = model.version("1").tags[tag]
        client.set_model_version_tag("setr-prompt-tuned", "1", tag, "another")
        decision = promote(known_system("prompt_tuned")(world.changed(steps=5)), "2")
        client.set_model_version_tag("setr-prompt-tuned", "1", tag, before)
        assert decision.promoted and decision.reason == f"version 1 {words}"

    def test_the_weekly_run_is_pinned_to_it(self, world: World) -> None:
        definitions = build_definitions(world.settings)
        context = dg.build_schedule_context(
            instance=world.instance,
            resources={"setr": world.context},
            scheduled_execution_time=dt.datetime(2026, 11, 23, 3, tzinfo=dt.UTC),
        )
        (request,) = definitions.resolve_schedule_def(WEEKLY).evaluate_tick(context).run_requests or []
        pinned = request.run_config["ops"]["coarse_rankings"]["config"]["versions"]
        assert pinned == {"setr-prompt-tuned": world.model.champion()}
        assert dg.validate_run_config(definitions.resolve_job_def(EVALUATION), request.run_config)
        executed = definitions.resolve_job_def(EVALUATION).asset_layer.executable_asset_keys
        assert not {dg.AssetKey(name) for name in (*STEPS, "training_triplets")} & {*executed}

    def test_what_is_in_the_bundle_is_what_it_was_trained_on(self, world: World) -> None:
        system = known_system("prompt_tuned")(world.context)
        found = TrainedOn.read(world.model.artifacts("1", [TRAINED_ON])[TRAINED_ON])
        assert found.triplet_kind == "synthesised" and {*found.images["namespace"]} == {USERS_OWN}
        rows = system.data.triplets.select("reference_id", "modification", "target_id")
        mine = found.triplets.select("reference_id", "modification", "target_id")
        assert {*mine.rows()} == {*rows.rows()}, "held-out ones count, too"
        named = {*rows["reference_id"], *rows["target_id"], *system.data.gallery}
        assert {*found.images["image_id"]} == named
        fingerprints = dict(system.data.images.select("image_id", "fingerprint").iter_rows())
        assert dict(found.images.select("image_id", "fingerprint").iter_rows()) == {
            image: fingerprints[image] for image in named
        }


def system_of(world: World, name: str, **options: Any) -> RetrievalSystem:
    """A system of the world with options of its own."""
    settings = world.settings.model_copy(deep=True)
    settings.systems[name] = {"batch_size": 4, "steps": 1, **options}
    return known_system(name)(PipelineContext(settings, pipeline_context(world.settings).models))


def test_systems_that_learn_from_images_were_trained_on_all_that_are_drawn(world: World) -> None:
    every, some = system_of(world, "pic2word"), system_of(world, "pic2word", limit=5)
    held_out = {*every.data.gallery}
    assert {*every.trained_on().images["image_id"]} == {*every.data.images["image_id"]}
    found = some.trained_on()
    assert {*found.images["image_id"]} == held_out | {*some.rows["image_id"]}
    assert found.images.height == len(held_out) + 5
    assert {*found.triplets.select("reference_id", "modification", "target_id").rows()} == {
        *some.data.held_out.select("reference_id", "modification", "target_id").rows()
    }


def test_images_that_may_be_mined_as_negatives_were_trained_on(world: World) -> None:
    """A negative teaches as well: an evaluation set's own image among them is an overlap."""
    mined, other = system_of(world, "retrieval_dpo", limit=1), system_of(world, "prompt_tuned", limit=1)
    images = world.context.tables.read("training_images", TRAINING_IMAGES).filter(status="ok")
    assert {*mined.trained_on().images["image_id"]} == {*images["image_id"]}
    few = {*other.trained_on().images["image_id"]}
    row = other.rows.row(0, named=True)
    assert few == {row["reference_id"], row["target_id"], *other.data.gallery} < {*images["image_id"]}


def test_held_out_images_are_no_mined_negatives(world: World) -> None:
    lesson = system_of(world, "retrieval_dpo", negatives=6, depth=500).lesson(lambda *_: None)
    held_out = {*lesson.data.images.filter(split=HELD_OUT)["image_id"]}
    mined = {image for negatives in lesson.negatives for image in negatives}
    assert mined and not mined & held_out
    rows = zip(lesson.rows.iter_rows(named=True), lesson.negatives, strict=True)
    assert all(not {row["reference_id"], row["target_id"]} & {*negatives} for row, negatives in rows)


def test_copies_of_held_out_images_are_not_trained_on(world: World, tmp_path: Path) -> None:
    folder = shutil.copytree(world.settings.base_dir, tmp_path / "copied")
    context = PipelineContext(load_settings(folder / "setr.toml"), pipeline_context(world.settings).models)
    before = read_triplets(context, SYNTHESISED)
    chosen = before.triplets.filter(split="train")["target_id"][0]
    prints = dict(before.images.select("image_id", "fingerprint").iter_rows())
    images = context.tables.read("training_images", TRAINING_IMAGES)
    copied = pl.when(pl.col("image_id") == chosen).then(pl.lit(prints[before.gallery[0]]))
    context.tables.write(
        "training_images", images.with_columns(fingerprint=copied.otherwise("fingerprint")), TRAINING_IMAGES
    )
    after = make_triplets(context, SYNTHESISED)
    assert after.images.filter(image_id=chosen)["split"].item() == COPY
    assert after.held_out.equals(before.held_out) and after.gallery == before.gallery
    dropped = before.triplets.height - after.triplets.height
    assert dropped >= 1 and chosen not in {*after.triplets["reference_id"], *after.triplets["target_id"]}
    record = context.tables.read_record("training_triplets", TripletsRecord, SYNTHESISED)
    assert record.dropped == dropped
    options = known_system("retrieval_dpo")(context).options
    rows = after.training_triplets(None, 0)
    learned = trained_on_data(context.settings, after, rows, options)
    assert chosen not in {*learned.images["image_id"]}, "nor mined as a negative"


def test_one_triplet_alone_is_refused_where_targets_are_compared(world: World) -> None:
    with pytest.raises(TrainingDataError, match="the 1 training triplets of 'synthesised' have one target"):
        system_of(world, "prompt_tuned", limit=1).lesson(lambda *_: None)
    assert system_of(world, "retrieval_dpo", limit=1).lesson(lambda *_: None).rows.height == 1


def test_a_system_that_builds_on_another_joins_what_both_learned_from_and_needs_its_encoder(
    world: World,
) -> None:
    below, above = system_of(world, "mapping", limit=20), system_of(world, "composing", limit=2)
    with pytest.raises(NoWeightsError, match="builds on mapping, of which no version is promoted: mat"):
        above.digest()
    promote(below, registered(below))
    above = system_of(world, "composing", limit=2)
    lower, own = below.trained_on(), {*above.rows["reference_id"], *above.rows["target_id"]}
    found = above.trained_on()
    assert {*found.images["image_id"]} == {*lower.images["image_id"]} | own | {*above.data.gallery}
    assert found.images.height > len(own | {*above.data.gallery})
    model = above.untrained()
    stored = model.state_dict()
    base = below.context.registry.model("setr-mapping")
    tensors = load_file(base.artifacts("1", ["system"])["system"] / "weights.safetensors")
    assert tensors and all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())
    assert above.digest() == system_of(world, "composing", limit=2).digest()
    above = system_of(world, "composing", limit=2)
    above.encoder.preprocessing_id, kept = "another", above.encoder.preprocessing_id
    try:
        with pytest.raises(
            SystemBundleError, match=r"composing builds on mapping version 1 .* which was trained on"
        ):
            above.digest()
    finally:
        above.encoder.preprocessing_id = kept


def test_every_system_has_an_own_digest_of_encoder_data_and_settings(world: World) -> None:
    names = [name for name in RECIPES if name != "composing"]
    digests = {system_of(world, name).digest() for name in names}
    assert len(digests) == len(names)
    digest = system_of(world, "prompt_tuned").digest()
    assert digest == system_of(world, "prompt_tuned", checkpoint_every=7).digest()
    assert digest != system_of(world, "prompt_tuned", seed=7).digest()
