"""Every built-in method that searches vectors and needs no training ranks a tiny world through the pipeline,
and answers a search.
"""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from tiny_world import write_world

from setr_assets.definitions import build_definitions
from setr_assets.jobs import FULL_PIPELINE
from setr_assets.partitions import range_tags
from setr_lib.methods.method import Method, get_method, method_names, ranks_captions
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.retrieval import RankedSet, rank_set
from setr_lib.pipeline.retriever import Retriever
from setr_lib.settings import TRAINED_SPACES, Settings, load_settings
from setr_lib.tables import GALLERY, QUERIES
from tests.tiny_sentences import write_tiny_embedder

KEY = "circo-val"
ASSETS = (
    "queries",
    "gallery_images",
    "gallery_embeddings",
    "reference_captions",
    "query_compositions",
    "method_texts",
)
CORPORA = """
[methods.basic]
subjects = "subjects.txt"
styles = "styles.txt"
"""
EMBEDDER = """
[spaces.embedder]
kind = "sentence_transformers"
options = { model = "embedder" }
"""


def methods_of_vectors() -> list[Method]:
    every = [get_method(name) for name in method_names()]
    return [
        method
        for method in every
        if method.trained is None and method.space not in TRAINED_SPACES and not ranks_captions(method)
    ]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("built_in")
    path = write_world(folder)
    (folder / "subjects.txt").write_text("circle\nsquare\ntriangle\nstar\n", encoding="utf-8")
    (folder / "styles.txt").write_text("on white\non grey\non black\n", encoding="utf-8")
    names = json.dumps([method.name for method in methods_of_vectors()])
    text = path.read_text(encoding="utf-8").replace("[coarse]", f"[coarse]\nstrategies = {names}")
    path.write_text(text + CORPORA + EMBEDDER, encoding="utf-8")
    write_tiny_embedder(folder / "embedder")
    made = load_settings(path)
    with dg.DagsterInstance.ephemeral() as instance:
        build_definitions(made).resolve_job_def(FULL_PIPELINE).execute_in_process(
            instance=instance,
            tags=range_tags([KEY]),
            asset_selection=[dg.AssetKey(asset) for asset in ASSETS],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    return made


@pytest.fixture(scope="module")
def ranked(settings: Settings) -> RankedSet:
    return rank_set(PipelineContext(settings), KEY)


def test_every_method_ranks_every_query(settings: Settings, ranked: RankedSet) -> None:
    queries = PipelineContext(settings).tables.read("queries", QUERIES, KEY)
    assert {made.method.name for made in ranked.rankings} == {method.name for method in methods_of_vectors()}
    for made in ranked.rankings:
        lengths = made.rankings.filter(pool="gallery").group_by("query_id").len()
        assert set(lengths["query_id"]) == set(queries["query_id"]), made.method.name
        assert lengths["len"].min() == 10, made.method.name
        assert made.rankings["score"].is_finite().all(), made.method.name


def test_records_say_which_texts_were_derived(ranked: RankedSet) -> None:
    """The miniature's prompts have none of the methods' own texts: all are derived."""
    for made in ranked.rankings:
        assert made.record.derived_texts == [kind.name for kind in made.method.texts], made.method.name


@pytest.mark.parametrize("name", ["basic", "embedder", "pdv_f", "projection", "role", "sdr_cir"])
def test_a_search_ranks_as_the_evaluation_does(settings: Settings, ranked: RankedSet, name: str) -> None:
    tables = PipelineContext(settings).tables
    query = tables.read("queries", QUERIES, KEY).row(0, named=True)
    images = dict(tables.read("gallery_images", GALLERY, KEY).select("image_id", "path").iter_rows())
    retriever = Retriever.from_evaluation_set(KEY, settings)
    found = retriever.search(
        Path(images[query["reference_id"]]), query["modification"], k=5, method=name, reranker=None
    )
    (made,) = (made for made in ranked.rankings if made.method.name == name)
    expected = made.rankings.filter((pl.col("query_id") == query["query_id"]) & (pl.col("pool") == "gallery"))
    # The search takes the reference and its copies out.
    shown = [image for image in expected["image_id"] if image in {hit.image_id for hit in found.hits}]
    assert shown == [hit.image_id for hit in found.hits][: len(shown)] and len(shown) >= 3
