"""Embedding spaces and re-rankers with trained weights: left out without a champion, one table and one set of
scores for each version, and what is stale after a promotion.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from tiny_world import write_world

from setr_assets.automation import champion_config
from setr_assets.code_versions import calibrated_systems, needed_systems
from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION, FULL_PIPELINE
from setr_assets.partitions import range_tags
from setr_assets.progress import listening
from setr_lib import Retriever
from setr_lib.cli import main
from setr_lib.errors import SetrError
from setr_lib.evaluation.row import Row
from setr_lib.methods.similarity import unit
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.retrieval import rank_set
from setr_lib.pipeline.trained_weights import NoWeightsError
from setr_lib.pipeline.training_steps import train
from setr_lib.pixels import read_image
from setr_lib.records import CoarseRecord, EmbeddingsRecord
from setr_lib.registry.registered_model import LABEL_TAG
from setr_lib.registry.round_trip import RoundTripReport
from setr_lib.reranking.reranker import RerankerError
from setr_lib.settings import Settings, load_settings
from setr_lib.spaces.space import SpaceError
from setr_lib.tables import GALLERY, METRICS, RANKINGS
from tests.test_extending import shown_files
from tests.tiny_system import LineSystem

PLUGIN = """
import json
import numpy as np
from my_trained_space import ByTint, Tinted
from setr_lib.reranking.reranker import Reranker

SYSTEM = "my_system:LineSystem"

def slope(weights):
    return json.loads((weights.folders["line"] / "line.json").read_text())["slope"]

class ByBoth(ByTint):
    name, trained = "by_both", SYSTEM
    def __init__(self, version=None):
        self.version = version
    def with_weights(self, weights):
        assert weights.id in weights.space.id, "one version for both"
        return ByBoth(weights.version)
    def scores(self, inputs):
        return super().scores(inputs) / 2

class Slope(Reranker):
    name, trained, is_logit = "slope", SYSTEM, False
    def __init__(self, weights=None):
        self.weights = weights
        self.id = "slope" if weights is None else f"slope {weights.id}"
    def with_weights(self, weights):
        return Slope(weights)
    def score(self, queries):
        return [slope(self.weights) * np.arange(len(q.candidates)) for q in queries]

class Nameless(Slope):
    name = "nameless"
    def with_weights(self, weights):
        return Nameless()

class NamelessSpace(Tinted):
    @classmethod
    def with_weights(cls, weights, **options):
        return cls("tinted", 1.0)
"""
KEY, MODEL = "circo-val", "setr-line"
MADE = ("queries", "gallery_images", "reference_captions", "query_compositions", "method_texts")
TRAINING_SIDE = ("training_images", "reranker_pairs")
BY_VERSION = (
    "gallery_embeddings",
    "coarse_rankings",
    "reranked_rankings",
    "evaluation_report",
    "training_embeddings",
    "reranking_fusion",
)
SOURCE = "champion_my_system_LineSystem"
LACKING = (
    "no version of setr-line is promoted; materialize promoted_line and what is before it: "
    "`setr run --until promoted_line`"
)


@dataclass
class World:
    """A tiny world whose settings name a trained space and re-ranker, with an instance of Dagster's."""

    path: Any
    instance: dg.DagsterInstance
    warnings: list[str] = field(default_factory=list)

    def started(self, step: str) -> None: ...

    def progressed(self, step: str, partition: str, done: int, total: int, what: str) -> None: ...

    def finished(self, step: str, seconds: float, succeeded: bool) -> None: ...

    def said(self, step: str, text: str, warning: bool) -> None:
        self.warnings += [f"{step}: {text}"] if warning else []

    @property
    def context(self) -> PipelineContext:
        return PipelineContext(load_settings(self.path))

    def run(
        self, *assets: str, pinned: Mapping[str, str] | None = None, settings: Settings | None = None
    ) -> dict[str, dict[str, Any]]:
        """Materialise ``assets``, evaluation pinned to versions as the weekly run is; their metadata."""
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        config = champion_config(pinned or {})
        chosen = {"ops": {op: made for op, made in config.get("ops", {}).items() if op in assets}}
        with listening(self):
            result = (
                build_definitions(settings or load_settings(self.path))
                .resolve_job_def(FULL_PIPELINE)
                .execute_in_process(
                    instance=self.instance,
                    tags=range_tags([KEY]),
                    asset_selection=[dg.AssetKey(asset) for asset in assets],
                    run_config={**quiet, **chosen},
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
        """Which assets are stale by Dagster's own judgement, of those that were made with some version."""
        graph = build_definitions(load_settings(self.path)).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        status = {
            name: resolver.get_status(
                dg.AssetKey(name), KEY if graph.get(dg.AssetKey(name)).is_partitioned else None
            )
            for name in BY_VERSION
        }
        return {name for name, found in status.items() if found is StaleStatus.STALE}

    def promote(self, steps: int) -> str:
        """Train a line, register it and make it champion, whatever it is worth."""
        context = self.context
        made, model = train(LineSystem(context, steps=steps)).record, context.registry.model(MODEL)
        version = model.register(made.model_uri, RoundTripReport(made.model_uri), {LABEL_TAG: made.label})
        context.registry.client.set_registered_model_alias(MODEL, "champion", version)
        return version

    def embedded(self, asset: str = "gallery_embeddings") -> EmbeddingsRecord:
        return self.context.tables.read_record(asset, EmbeddingsRecord, KEY if "gallery" in asset else None)

    def coarse(self, method: str) -> CoarseRecord:
        tables = self.context.tables
        return tables.read_record(tables.coarse(KEY, method), CoarseRecord)

    def rows(self) -> dict[tuple[str, str], tuple[str | None, str]]:
        """Version and label of each line of the report."""
        frame = self.context.tables.read("evaluation_report", METRICS, KEY)
        columns = frame.select("method", "reranker", "model_version", "label").unique()
        return {(method, reranker): (version, label) for method, reranker, version, label in columns.rows()}

    def command(self, *arguments: str) -> int:
        return main(["--config", str(self.path), *arguments])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("parts")
    path = write_world(folder)
    (folder / "my_trained_space.py").write_text(shown_files()["my_trained_space.py"], encoding="utf-8")
    (folder / "my_system.py").write_text("from tests.tiny_system import LineSystem\n", encoding="utf-8")
    (folder / "my_parts.py").write_text(PLUGIN, encoding="utf-8")
    methods = '"sum", "my_trained_space:ByTint", "my_parts:ByBoth"'
    text = path.read_text(encoding="utf-8")
    text = text.replace("[coarse]", f'[coarse]\nstrategies = [{methods}]\ndefault = "sum"')
    chosen = '[reranking]\nmethods = ["sum", "by_tint"]\nrerankers = ["base judge", "my_parts:Slope"]'
    text = text.replace("[reranking]\n", f"{chosen}\n", 1)
    path.write_text(text + '\n[spaces.tinted]\nkind = "my_trained_space:Tinted"\n', encoding="utf-8")
    before = [*sys.path]
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(path, instance)
    sys.path[:] = before
    for module in ("my_parts", "my_system", "my_trained_space"):
        sys.modules.pop(module, None)


def test_the_champion_is_a_source_of_what_works_with_it(world: World) -> None:
    settings = load_settings(world.path)
    built = build_definitions(settings)
    deps = {
        spec.key.to_user_string(): {dep.asset_key.to_user_string() for dep in spec.deps}
        for spec in built.resolve_all_asset_specs()
    }
    assert {name for name, found in deps.items() if SOURCE in found} == {*BY_VERSION} - {"evaluation_report"}
    for job in (EVALUATION, FULL_PIPELINE):
        assert dg.AssetKey(SOURCE) in built.resolve_job_def(job).asset_layer.executable_asset_keys
    assert needed_systems(settings) == calibrated_systems(settings) == ["my_system:LineSystem"]


class TestLife:
    """In this order: before any champion, with the first, with the second."""

    def test_without_a_champion_all_else_goes_on(self, world: World) -> None:
        made = world.run(*MADE, *TRAINING_SIDE, *BY_VERSION)
        sentence = f"the embedding space 'tinted' has no weights yet: {LACKING}"
        assert f"gallery_embeddings: left out: {sentence}" in world.warnings
        assert f"training_embeddings: left out: {sentence}" in world.warnings
        assert made["gallery_embeddings"]["tinted: left out"] == sentence
        assert [*world.embedded().spaces] == [*world.embedded("training_embeddings").spaces] == []
        of_method = "retrieval method 'by_tint' searches the embedding space 'tinted', which"
        assert f"coarse_rankings: left out: {of_method} has no weights yet: {LACKING}" in world.warnings
        assert made["coarse_rankings"]["methods"] == made["reranked_rankings"]["methods"] == "sum"
        words = "left out: slope (no version of setr-line is promoted yet); only the base judge re-ranks"
        assert f"reranked_rankings: {words}" in world.warnings
        assert {row for row in world.rows() if row[0] != "random"} == {("sum", ""), ("sum", "base judge")}
        assert world.stale() == set()

    def test_without_a_champion_whoever_asks_is_told(
        self, world: World, capsys: pytest.CaptureFixture[str]
    ) -> None:
        retriever = Retriever.from_evaluation_set(KEY, load_settings(world.path))
        image = next(iter(retriever.gallery.paths.values()))
        with pytest.raises(
            NoWeightsError, match="searches the embedding space 'tinted', which has no weights"
        ):
            retriever.search(image, "red", k=3, method="by_tint", reranker=None)
        assert retriever.search(image, "red", k=3).reranker == "base judge"
        with pytest.raises(RerankerError, match=r"'slope' has no weights yet.*materialize promoted_line"):
            retriever.search(image, "red", k=3, reranker="slope")
        settings = load_settings(world.path)
        settings.coarse.default = "my_trained_space:ByTint"
        with pytest.raises(NoWeightsError, match="is the default method, which cannot be left out"):
            rank_set(PipelineContext(settings), KEY)
        with pytest.raises(dg.Failure, match="The default method, by_tint, searches it"):
            world.run("gallery_embeddings", settings=settings)
        capsys.readouterr()
        assert world.command("plan", "--counts-only") == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "images to embed in clip" in printed and "images to embed in tinted" not in printed
        assert f"left out: the embedding space 'tinted' has no weights yet: {LACKING}" in printed
        assert world.command("doctor", "--json") == 0
        printed = capsys.readouterr().out
        assert (
            "no version is promoted, so method by_both and space tinted and re-ranker slope will" in printed
        )

    def test_a_promotion_makes_stale_what_works_with_it(self, world: World) -> None:
        assert world.promote(steps=5) == "1"
        assert world.stale() == set(), "nobody has looked yet"
        world.run(SOURCE)
        assert world.stale() == {*BY_VERSION} - {"evaluation_report"}
        with pytest.raises(
            dg.Failure, match="was not embedded in the space 'tinted': materialize gallery_emb"
        ):
            world.run("coarse_rankings")
        made = world.run("training_embeddings", *TRAINING_SIDE, *BY_VERSION)
        assert world.stale() == set()
        assert made["coarse_rankings"]["methods"] == "sum, by_tint, by_both"
        for method, weights in (("by_tint", None), ("by_both", "1"), ("sum", None)):
            record = world.coarse(method)
            assert (record.weights.version if record.weights else None) == weights
            assert (record.space_weights is not None) == (method != "sum")
        fusions = made["reranking_fusion"]["trials"]
        assert all(f"{name} " in fusions for name in ("by_tint", "slope"))

    def test_rows_say_the_version_and_what_it_has_learned_from(self, world: World) -> None:
        rows = world.rows()
        used = "setr-line 1"
        assert rows["by_tint", ""][0] == rows["by_both", ""][0] == rows["sum", "slope"][0] == used
        unknown = "overlap unknown, registered as fitted; "
        assert all(rows[row][1].startswith(unknown) for row in (("by_tint", ""), ("sum", "slope")))
        version, label = rows["by_tint", "base judge"]
        assert version == used and label.startswith(unknown)
        assert rows["by_tint", "slope"][1].startswith(unknown), "one version, named once"
        assert rows["sum", ""][0] is None and "fitted" not in rows["sum", ""][1]

    def test_vectors_are_those_of_the_version(self, world: World) -> None:
        context, stored = world.context, world.embedded().vectors(KEY, "tinted")
        opened = context.weights.space("tinted", {MODEL: "1"})
        assert stored.encoder == opened.model.id and "setr-line-v1-" in stored.encoder
        ids, vectors = context.gallery_store.read(stored.table, stored.version)
        paths = dict(
            context.tables.read("gallery_images", GALLERY, KEY).select("image_id", "path").iter_rows()
        )
        pixels = np.array([np.asarray(read_image(paths[image])).mean(axis=(0, 1)) / 255 for image in ids])
        constant: Any = opened.model
        expected = unit(np.column_stack([pixels, np.full(len(ids), constant.constant)]))
        np.testing.assert_allclose(vectors, expected, atol=1e-6)

    def test_another_version_is_another_table_and_other_scores(self, world: World) -> None:
        tables = world.context.tables
        scores = tables.read(tables.reranked(KEY, Row("sum", "slope")), RANKINGS)["judge_score"].to_list()
        first = world.embedded().vectors(KEY, "tinted")
        assert world.promote(steps=60) == "2"
        with pytest.raises(
            dg.Failure, match=r"embedded by tinted-setr-line-v1-.*now setr-line v2 \(fitted\)"
        ):
            world.run("coarse_rankings")
        world.run("coarse_rankings", pinned={MODEL: "1"})
        assert world.stale() >= {"gallery_embeddings", "coarse_rankings", "reranking_fusion"}
        world.run("gallery_embeddings", "coarse_rankings", "reranked_rankings", "evaluation_report")
        second = world.embedded().vectors(KEY, "tinted")
        assert second.table != first.table and "setr-line-v2-" in second.encoder
        record = world.coarse("by_both")
        assert record.weights == record.space_weights and record.weights is not None
        assert record.weights.version == "2"
        again = tables.read(tables.reranked(KEY, Row("sum", "slope")), RANKINGS)["judge_score"].to_list()
        assert again != scores
        assert world.stale() == {"training_embeddings", "reranking_fusion"}
        world.run("training_embeddings", *TRAINING_SIDE, "reranking_fusion")
        assert world.stale() <= {"reranked_rankings", "evaluation_report"}, "by another fusion, at most"

    def test_a_pinned_run_embeds_that_version_and_finds_its_table_again(self, world: World) -> None:
        pinned = {MODEL: "1"}
        made = world.run("gallery_embeddings", "coarse_rankings", "reranked_rankings", pinned=pinned)
        assert made["gallery_embeddings"]["embedded"] == 0, "the table of version 1 is still there"
        record = world.coarse("by_tint")
        assert record.space_weights is not None and record.space_weights.version == "1"
        assert world.stale() >= {"gallery_embeddings", "coarse_rankings", "reranked_rankings"}
        world.run("gallery_embeddings")

    def test_a_search_has_the_champion_of_method_space_and_re_ranker(
        self, world: World, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = load_settings(world.path)
        retriever = Retriever.from_evaluation_set(KEY, settings)
        image = next(iter(retriever.gallery.paths.values()))
        found = retriever.search(image, "red", k=3, method="by_both", reranker="slope")
        assert (found.method_version, found.reranker, found.version) == ("2", "slope", "2")
        assert retriever.search(image, "red", k=3).reranker == "slope", "a trained one is the best"
        config = ("search", image, "red", "--dataset", KEY, "--k", "3", "--method", "by_tint")
        assert world.command(*config) == 0
        assert "by_tint v2 · slope v2" in capsys.readouterr().out
        assert world.command("plan", "--sample", "2") == 0
        assert "embed the galleries (tinted)" in capsys.readouterr().out
        assert world.command("doctor", "--json") == 0
        assert '"setr-line v2"' in capsys.readouterr().out

    def test_a_folder_is_embedded_anew_after_a_promotion_and_a_set_says_so(self, world: World) -> None:
        settings = load_settings(world.path)
        folder = Retriever.from_folder(world.path.parent / "data" / "circo", settings)
        held = Retriever.from_evaluation_set(KEY, settings)
        image = next(iter(held.gallery.paths.values()))

        def searched(retriever: Retriever) -> list[float]:
            return [
                hit.coarse_score
                for hit in retriever.search(image, "red", method="by_tint", k=3, reranker=None)
            ]

        before = searched(folder)
        assert searched(held)
        context = folder.context
        context.registry.client.set_registered_model_alias(MODEL, "champion", "1")
        try:
            assert searched(folder) != before
            with pytest.raises(SetrError, match="materialize gallery_embeddings"):
                searched(held)
        finally:
            context.registry.client.set_registered_model_alias(MODEL, "champion", "2")

    def test_an_id_without_the_version_is_refused(self, world: World) -> None:
        settings = load_settings(world.path)
        settings.spaces["tinted"].kind = "my_parts:NamelessSpace"
        with pytest.raises(SpaceError, match=r"has the id 'tinted': put weights.id \('setr-line-v2-"):
            PipelineContext(settings).weights.space("tinted")
        settings = load_settings(world.path)
        settings.reranking.rerankers = ["base judge", "my_parts:Nameless"]
        retriever = Retriever.from_evaluation_set(KEY, settings)
        image = next(iter(retriever.gallery.paths.values()))
        with pytest.raises(RerankerError, match=r"'nameless' with version 2 .* put weights.id"):
            retriever.search(image, "red", k=3, reranker="nameless")


def test_a_trained_space_is_opened_by_a_version_only(world: World) -> None:
    with pytest.raises(SpaceError, match="is trained by 'my_system:LineSystem': it is opened with a version"):
        world.context.models.space("tinted")
