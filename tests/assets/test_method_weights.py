"""A retrieval method with trained weights: left out without a champion, ranked by the champion's or a pinned
version's weights, and stale after a promotion.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from tiny_world import write_world

from setr_assets.code_versions import needed_systems
from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION, FULL_PIPELINE
from setr_assets.partitions import range_tags
from setr_assets.progress import listening
from setr_lib import Retriever
from setr_lib.cli import main
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.fusion_calibration import calibrate
from setr_lib.pipeline.retrieval import rank_set
from setr_lib.pipeline.trained_system import SYSTEMS, champions
from setr_lib.pipeline.trained_weights import NoWeightsError
from setr_lib.pipeline.training_steps import train
from setr_lib.records import CoarseRecord
from setr_lib.registry.registered_model import LABEL_TAG
from setr_lib.registry.round_trip import RoundTripReport
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import METRICS, RANKINGS
from tests.tiny_system import LineSystem

PLUGIN = """
import json
from setr_lib.methods.method import Method
from setr_lib.methods.similarity import similarity
from setr_lib.pipeline.trained_system import SYSTEMS
from tests.tiny_system import LineSystem

SYSTEMS.register("line", LineSystem)

class ByLine(Method):
    name, trained, is_cosine = "by_line", "line", False
    def __init__(self, slope=None, offset=None):
        self.slope, self.offset = slope, offset
    def with_weights(self, weights):
        assert weights.space.dimension and weights.device == "cpu"
        return ByLine(**json.loads((weights.folders["line"] / "line.json").read_text()))
    def scores(self, inputs):
        cosines = similarity(inputs.queries.modification_vectors, inputs.gallery.vectors)
        return (self.slope * cosines + self.offset).astype("float32")
"""
KEY, METHOD = "circo-val", "line_plugin:ByLine"
MADE = (
    "queries",
    "gallery_images",
    "gallery_embeddings",
    "reference_captions",
    "query_compositions",
    "method_texts",
)
RANKED = ("coarse_rankings", "reranked_rankings", "evaluation_report")
SENTENCE = (
    "retrieval method 'by_line' has no weights yet: no version of setr-line is promoted; materialize "
    "promoted_line and what is before it: `setr run --until promoted_line`"
)


@dataclass
class World:
    """A tiny world whose settings name a trained method, with an instance of Dagster's."""

    settings: Settings
    instance: dg.DagsterInstance
    warnings: list[str] = field(default_factory=list)

    def started(self, step: str) -> None: ...

    def progressed(self, step: str, partition: str, done: int, total: int, what: str) -> None: ...

    def finished(self, step: str, seconds: float, succeeded: bool) -> None: ...

    def said(self, step: str, text: str, warning: bool) -> None:
        self.warnings += [text] if warning else []

    @property
    def context(self) -> PipelineContext:
        return PipelineContext(self.settings)

    def run(self, *assets: str, **versions: str) -> dict[str, dict[str, Any]]:
        """Materialise ``assets``, ``coarse_rankings`` pinned to ``versions``; their metadata."""
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        named = {model.replace("_", "-"): version for model, version in versions.items()}
        pinned = {"ops": {"coarse_rankings": {"config": {"versions": named}}}} if versions else {}
        with listening(self):
            result = (
                build_definitions(self.settings)
                .resolve_job_def(FULL_PIPELINE)
                .execute_in_process(
                    instance=self.instance,
                    tags=range_tags([KEY]),
                    asset_selection=[dg.AssetKey(asset) for asset in assets],
                    run_config={**quiet, **pinned},
                )
            )
        return {
            event.asset_key.to_user_string(): {
                name: value.value for name, value in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
            if event.asset_key is not None
        }

    def stale(self) -> set[str]:
        """Which of the three assets that rank and report are stale, by Dagster's own judgement."""
        graph = build_definitions(self.settings).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return {name for name in RANKED if resolver.get_status(dg.AssetKey(name), KEY) is StaleStatus.STALE}

    def record(self) -> CoarseRecord:
        tables = self.context.tables
        return tables.read_record(tables.coarse(KEY, "by_line"), CoarseRecord)

    def scores(self) -> list[float]:
        tables = self.context.tables
        return tables.read(tables.coarse(KEY, "by_line"), RANKINGS)["score"].to_list()

    def rows(self) -> dict[tuple[str, str], tuple[str | None, str]]:
        """Registered models and label of each line of the report."""
        frame = self.context.tables.read("evaluation_report", METRICS, KEY)
        columns = frame.select("method", "reranker", "model_version", "label").unique()
        return {(method, reranker): (version, label) for method, reranker, version, label in columns.rows()}

    def promote(self, steps: int) -> str:
        """Train a line, register it and make it champion, whatever it is worth."""
        context = self.context
        made, model = train(LineSystem(context, steps=steps)).record, context.registry.model("setr-line")
        version = model.register(made.model_uri, RoundTripReport(made.model_uri), {LABEL_TAG: made.label})
        context.registry.client.set_registered_model_alias("setr-line", "champion", version)
        return version


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("weights")
    path = write_world(folder)
    (folder / "line_plugin.py").write_text(PLUGIN, encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    text = text.replace("[coarse]", f'[coarse]\nstrategies = ["sum", "{METHOD}"]\ndefault = "sum"')
    chosen = f'[reranking]\nmethods = ["sum", "{METHOD}"]\nrerankers = ["base judge"]\nfusion = "judge"'
    path.write_text(text.replace("[reranking]", chosen), encoding="utf-8")
    before = [*sys.path]
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        patch.setattr(SYSTEMS, "_own", {})
        yield World(load_settings(path), instance)
    sys.path[:] = before
    sys.modules.pop("line_plugin", None)


def test_the_champion_is_a_source_where_settings_name_such_a_method(world: World) -> None:
    built = build_definitions(world.settings)
    specs = {spec.key.to_user_string(): spec for spec in built.resolve_all_asset_specs()}
    assert "champion_line" in {dep.asset_key.to_user_string() for dep in specs["coarse_rankings"].deps}
    observed = built.resolve_job_def(EVALUATION).asset_layer.executable_asset_keys
    assert dg.AssetKey("champion_line") in observed
    without = world.settings.model_copy(deep=True)
    without.coarse.strategies = without.reranking.methods = ["sum"]
    names = {spec.key.to_user_string(): spec for spec in build_definitions(without).resolve_all_asset_specs()}
    assert names.keys() == specs.keys() - {"champion_line"}


def test_no_default_method_has_trained_weights() -> None:
    assert needed_systems(Settings()) == []


class TestLife:
    """In this order: before any champion, with the first, with the second."""

    def test_without_a_champion_the_method_is_left_out_and_said_so(self, world: World) -> None:
        made = world.run(*MADE, *RANKED)
        assert world.warnings.count(f"left out: {SENTENCE}") == 1
        assert made["coarse_rankings"]["methods"] == "sum"
        assert made["coarse_rankings"]["by_line: left out"] == SENTENCE
        assert made["reranked_rankings"]["methods"] == "sum"
        assert not any(method == "by_line" for method, _ in world.rows())
        assert world.stale() == set()

    def test_without_a_champion_whoever_asks_for_it_is_told_the_sentence(
        self, world: World, capsys: pytest.CaptureFixture[str]
    ) -> None:
        retriever = Retriever.from_evaluation_set(KEY, world.settings)
        image = next(iter(retriever.gallery.paths.values()))
        with pytest.raises(NoWeightsError) as refused:
            retriever.search(image, "red", k=3, method="by_line", reranker=None)
        assert str(refused.value) == SENTENCE
        config = str(world.settings.base_dir / "setr.toml")
        argv = [
            "--config",
            config,
            "search",
            image,
            "red",
            "--dataset",
            KEY,
            "--method",
            "by_line",
            "--k",
            "3",
        ]
        assert main(argv) == 1
        assert SENTENCE in " ".join(capsys.readouterr().err.split())

    def test_without_a_champion_it_is_not_the_default_and_not_calibrated(self, world: World) -> None:
        settings = world.settings.model_copy(deep=True)
        settings.coarse.default = METHOD
        settings.reranking.methods = [METHOD]
        with pytest.raises(NoWeightsError, match="is the default method, which cannot be left out"):
            rank_set(PipelineContext(settings), KEY)
        told: list[tuple[str, bool]] = []
        table = calibrate(PipelineContext(settings), told=lambda words, bad: told.append((words, bad)))
        assert table.is_empty() and told == [(SENTENCE, True)]

    def test_a_promotion_makes_the_rankings_stale_and_the_next_run_uses_it(self, world: World) -> None:
        assert world.promote(steps=5) == "1"
        assert world.stale() == set(), "nobody has looked yet"
        world.run("champion_line")
        assert world.stale() == {"coarse_rankings"}
        made = world.run(*RANKED)
        assert world.stale() == set()
        weights = world.record().weights
        assert weights is not None
        assert (weights.model, weights.version, weights.label) == ("setr-line", "1", "fitted")
        assert made["coarse_rankings"]["by_line: weights"] == "setr-line v1 (fitted)"
        rows = world.rows()
        version, label = rows["by_line", ""]
        unknown = "overlap unknown, registered as fitted"
        assert version == "setr-line 1" and label.startswith(unknown)
        version, label = rows["by_line", "base judge"]
        assert version == "setr-line 1" and label.startswith(f"{unknown}; ")
        assert rows["sum", ""][0] is None and "fitted" not in rows["sum", ""][1]
        page = Path(str(made["evaluation_report"]["report"])).read_text(encoding="utf-8")
        assert "by line weights" in page and "by line · base judge weights" in page

    def test_a_run_may_be_pinned_to_an_older_version(self, world: World) -> None:
        first = world.scores()
        assert world.promote(steps=60) == "2"
        world.run("coarse_rankings", setr_line="1")
        weights = world.record().weights
        assert weights is not None and weights.version == "1"
        assert world.scores() == first
        assert world.stale() >= {"coarse_rankings"}, "the champion is version 2"
        world.run("coarse_rankings")
        weights = world.record().weights
        assert weights is not None and weights.version == "2"
        assert world.scores() != first
        assert "coarse_rankings" not in world.stale()
        assert champions(world.context) == {"setr-line": "2"}, "what the weekly run is pinned to"

    @pytest.mark.parametrize(
        ("version", "words"),
        [
            ({"setr_line": "9"}, "setr-line has no version 9"),
            ({"setr_lin": "1"}, "known: setr-composing, setr-l"),
        ],
    )
    def test_a_version_that_is_not_there_ends_the_step_in_a_sentence(
        self, world: World, version: dict[str, str], words: str
    ) -> None:
        with pytest.raises(dg.Failure, match=words):
            world.run("coarse_rankings", **version)

    def test_a_search_ranks_with_the_champion_and_says_so(self, world: World) -> None:
        retriever = Retriever.from_evaluation_set(KEY, world.settings)
        image = next(iter(retriever.gallery.paths.values()))
        found = retriever.search(image, "red", k=3, method="by_line", reranker=None)
        assert (found.method, found.method_version, len(found.hits)) == ("by_line", "2", 3)
        assert retriever.search(image, "red", k=3, method="sum", reranker=None).method_version is None

    def test_without_any_champion_again_its_old_table_is_gone(self, world: World) -> None:
        world.context.registry.client.delete_registered_model_alias("setr-line", "champion")
        made = world.run(*RANKED)
        assert made["coarse_rankings"]["methods"] == "sum"
        assert {method for method, _ in world.rows()} == {"random", "sum"}
