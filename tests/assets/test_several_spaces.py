"""A gallery is embedded in the spaces of the configured methods, and in no other; one table for each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from tiny_world import write_world

from setr_assets.definitions import build_definitions
from setr_assets.jobs import FULL_PIPELINE
from setr_assets.partitions import range_tags
from setr_lib.methods.inputs import MethodError
from setr_lib.pipeline.context import NotMadeYetError, PipelineContext
from setr_lib.pipeline.fusion_calibration import calibration_set
from setr_lib.pipeline.retrieval import rank_set, vectors_of
from setr_lib.records import EmbeddingsRecord
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import PAIRS, TRAINING_IMAGES

PLUGIN = """
import numpy as np
from setr_lib.methods.method import Method
from setr_lib.methods.similarity import similarity
from setr_lib.spaces.space import EmbeddingSpace

class Means(EmbeddingSpace):
    def __init__(self, device, weight=1.0):
        self.id, self.dimension, self.weight = f"means-{weight}", 4, weight
    def embed_images(self, images):
        rows = [[*np.asarray(image, dtype=float).mean(axis=(0, 1)), self.weight] for image in images]
        return np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    def embed_queries(self, images, texts):
        return self.embed_images(images)

class ByMeans(Method):
    name, space, needs = "by_means", "means", {"query_vectors"}
    def scores(self, inputs):
        return similarity(inputs.queries.query_vectors, inputs.gallery.vectors)

class Asks(ByMeans):
    name, needs = "asks", {"reference_patches"}
"""
KEY = "circo-val"
EMBEDDED = ("queries", "gallery_images", "gallery_embeddings", "training_images", "training_embeddings")


@dataclass
class World:
    """A tiny world, and settings of it with other methods and another weight of the space."""

    path: Path
    base: str

    def settings(self, methods: list[str], default: str, weight: float = 1.0) -> Settings:
        coarse = f"[coarse]\nstrategies = {json.dumps(methods)}\ndefault = {json.dumps(default)}"
        space = f'\n[spaces.means]\nkind = "means_plugin:Means"\noptions = {{weight = {weight}}}\n'
        self.path.write_text(self.base.replace("[coarse]", coarse) + space, encoding="utf-8")
        return load_settings(self.path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("spaces")
    path = write_world(folder)
    (folder / "means_plugin.py").write_text(PLUGIN, encoding="utf-8")
    before = [*sys.path]
    yield World(path, path.read_text(encoding="utf-8"))
    sys.path[:] = before
    sys.modules.pop("means_plugin", None)


def run(settings: Settings, *assets: str) -> dict[str, dict[str, Any]]:
    """Materialise ``assets``; their metadata."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            build_definitions(settings)
            .resolve_job_def(FULL_PIPELINE)
            .execute_in_process(
                instance=instance,
                tags=range_tags([KEY]),
                asset_selection=[dg.AssetKey(asset) for asset in assets],
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        )
        return {
            event.asset_key.to_user_string(): {
                name: value.value for name, value in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
            if event.asset_key is not None
        }


def records(settings: Settings) -> tuple[EmbeddingsRecord, EmbeddingsRecord]:
    """Of the gallery and of the training images."""
    tables = PipelineContext(settings).tables
    return (
        tables.read_record("gallery_embeddings", EmbeddingsRecord, KEY),
        tables.read_record("training_embeddings", EmbeddingsRecord),
    )


def test_only_the_spaces_of_configured_methods_are_embedded(world: World) -> None:
    settings = world.settings(["means_plugin:ByMeans"], "means_plugin:ByMeans")
    made = run(settings, *EMBEDDED)
    gallery, training = records(settings)
    assert gallery.table is None and gallery.encoder is None, "no method searches clip"
    means = gallery.spaces["means"]
    assert (means.encoder, means.rows) == ("means-1.0", made["gallery_embeddings"]["embedded"])
    assert training.encoder and training.encoder.startswith("local-dir:clip@"), "pairs are mined there"
    assert training.spaces["means"].table != training.table
    stored = PipelineContext(settings).gallery_store.table_names()
    assert set(stored) == {means.table, training.table, training.spaces["means"].table}


def test_a_second_run_embeds_nothing_and_another_space_only_itself(world: World) -> None:
    both = ["intersection", "means_plugin:ByMeans"]
    settings = world.settings(both, "intersection")
    assert run(settings, "gallery_embeddings")["gallery_embeddings"]["means: embedded"] == 0
    before, _ = records(settings)
    assert before.table is not None, "clip is embedded now"
    made = run(settings, "gallery_embeddings")["gallery_embeddings"]
    assert made["embedded"] == 0 and records(settings)[0].fingerprint() == before.fingerprint()
    heavier = world.settings(both, "intersection", weight=50.0)
    made = run(heavier, "gallery_embeddings")["gallery_embeddings"]
    after, _ = records(heavier)
    assert made["embedded"] == made["means: embedded"] == before.spaces["means"].rows
    assert (after.table, after.version) == (before.table, before.version)
    assert after.spaces["means"].table != before.spaces["means"].table
    assert after.fingerprint() != before.fingerprint()
    assert run(settings, "gallery_embeddings")["gallery_embeddings"]["embedded"] == 0, "both tables are kept"


def test_what_is_not_embedded_in_a_space_names_the_asset(world: World) -> None:
    settings = world.settings(["intersection"], "intersection")
    run(settings, "gallery_embeddings")
    words = (
        rf"gallery of {KEY} was not embedded in the space 'means': materialize gallery_embeddings of {KEY}"
    )
    with pytest.raises(NotMadeYetError, match=words):
        vectors_of(PipelineContext(settings), "gallery_embeddings", f"the gallery of {KEY}", KEY, "means")


def test_a_need_that_the_space_lacks_is_told_before_embedding(world: World) -> None:
    settings = world.settings(["intersection", "means_plugin:Asks"], "intersection", weight=3.0)
    with pytest.raises(dg.Failure, match=r"needs reference_patches.*has no embed_patches") as caught:
        run(settings, "gallery_embeddings")
    assert isinstance(caught.value.__cause__, MethodError)
    assert not any("means-3.0" in name for name in PipelineContext(settings).gallery_store.table_names())


def test_rankings_say_which_space_and_clip_is_ranked_as_without_another(world: World) -> None:
    alone = world.settings(["intersection", "sum"], "intersection")
    run(alone, "gallery_embeddings", "reference_captions", "query_compositions", "method_texts")
    expected = {made.method.name: made for made in rank_set(PipelineContext(alone), KEY).rankings}
    both = world.settings(["means_plugin:ByMeans", "intersection", "sum"], "intersection")
    run(both, "gallery_embeddings")
    found = rank_set(PipelineContext(both), KEY)
    ranked = {made.method.name: made for made in found.rankings}
    for name in ("intersection", "sum"):
        assert ranked[name].rankings.equals(expected[name].rankings)
        assert ranked[name].record.fingerprint() == expected[name].record.fingerprint()
    assert ranked["by_means"].record.space == "means" and ranked["by_means"].record.encoder == "means-1.0"
    assert found.facts["means: space"] == "means" and "space" not in found.facts
    first = ranked["by_means"].rankings.filter(pl.col("rank") == 1)
    assert first.height and (first["score"] < 1 + 1e-6).all()


def test_fusion_is_calibrated_in_the_space_of_the_method(world: World) -> None:
    settings = world.settings(["means_plugin:ByMeans"], "means_plugin:ByMeans")
    run(settings, "training_embeddings", "reranker_pairs")
    context = PipelineContext(settings)
    calibration = calibration_set(context)
    images = context.tables.read("training_images", TRAINING_IMAGES)
    pairs = context.tables.read("reranker_pairs", PAIRS)
    assert calibration.rankings["query_id"].n_unique() == pairs.filter(split="held_out")["group"].n_unique()
    own = calibration.rankings.join(
        calibration.queries.select("query_id", image_id="reference_id"), on=["query_id", "image_id"]
    )
    assert own.height and own["score"].to_list() == pytest.approx([1.0] * own.height, abs=1e-5)
    assert set(calibration.rankings["image_id"]) <= set(images["image_id"])
