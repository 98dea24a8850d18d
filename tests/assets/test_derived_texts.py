"""Methods whose generated texts were derived, not written by the multimodal LLM: their rows say so."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from tiny_world import write_world

from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION
from setr_assets.partitions import range_tags
from setr_lib.cli import main
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import CoarseRecord
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import CAPTIONS, METRICS, RANKINGS

PLUGIN = """
from setr_lib.methods.method import Method
from setr_lib.methods.similarity import similarity
from setr_lib.texts.answers import Answer, Text
from setr_lib.texts.kind import TextKind

class Headline(Answer):
    headline: Text

def derive(row, texts):
    return {"headline": "a photo: " + row["modification"]}

class ByTexts(Method):
    name = "by_texts"
    texts = (
        TextKind("headlines", task="headline", per="query", answer=Headline, derive=derive),
        TextKind("asked", task="asked", per="query", answer=Headline, prompt="<reference>{{ modification }}"),
    )
    def scores(self, inputs):
        return similarity(inputs.queries.modification_vectors, inputs.gallery.vectors)
"""
KEY = "circo-val"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A tiny world, evaluated by a method that brings a derived text and one that the model is asked for, and
    by built-in ones whose prompts its prompt set has not: SoFT over the first.
    """
    folder = tmp_path_factory.mktemp("derived")
    path = write_world(folder)
    (folder / "derived_plugin.py").write_text(PLUGIN, encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    strategies = ["intersection", "derived_plugin:ByTexts", "cirevl", "cotmr", "soft"]
    text = text.replace("[coarse]", f"[coarse]\nstrategies = {strategies}")
    text += "\n[methods.soft]\nbase = 'derived_plugin:ByTexts'\nlambda = 0.5\n"
    methods = 'methods = ["intersection", "derived_plugin:ByTexts"]\nrerankers = ["base judge"]'
    path.write_text(text.replace("[reranking]", f"[reranking]\n{methods}"), encoding="utf-8")
    before = [*sys.path]
    made = load_settings(path)
    with dg.DagsterInstance.ephemeral() as instance:
        build_definitions(made).resolve_job_def(EVALUATION).execute_in_process(
            instance=instance,
            tags=range_tags([KEY]),
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    yield made
    sys.path[:] = before
    sys.modules.pop("derived_plugin", None)


def test_rows_of_the_method_say_which_text_was_derived(settings: Settings) -> None:
    rows = PipelineContext(settings).tables.read("evaluation_report", METRICS, KEY)
    lines = rows.select("method", "reranker", pl.col("label").str.split("; ").list.first()).unique()
    labels = {(method, reranker): label for method, reranker, label in lines.rows() if method != "random"}
    assert labels == {
        ("intersection", ""): "zero-shot",
        ("intersection", "base judge"): "zero-shot",
        ("by_texts", ""): "zero-shot, headlines derived",
        ("by_texts", "base judge"): "zero-shot, headlines derived",
        ("cirevl", ""): "zero-shot, edited_captions derived",
        ("cotmr", ""): "zero-shot, cotmr_captions derived, cotmr_objects derived",
        ("soft", ""): "zero-shot, headlines derived, soft_constraints derived",
    }


def test_built_in_methods_rank_by_texts_derived_from_compositions(settings: Settings) -> None:
    tables = PipelineContext(settings).tables
    for name in ("edited_captions", "cotmr_captions", "cotmr_objects", "soft_constraints"):
        texts = pl.read_parquet(settings.table_path("method_texts", f"{KEY}/{name}"))
        assert set(texts.select("status", "model").iter_rows()) == {("derived", "derived from compositions")}
    assert tables.read("reference_captions", CAPTIONS, KEY).is_empty(), "derived texts need no caption"
    record = tables.read_record(tables.coarse(KEY, "soft"), CoarseRecord)
    assert record.options == {"base": "derived_plugin:ByTexts", "lambda": 0.5}
    ranked = {
        name: tables.read(tables.coarse(KEY, name), RANKINGS)["query_id"].n_unique()
        for name in ("by_texts", "cirevl", "cotmr", "soft")
    }
    assert len(set(ranked.values())) == 1


def test_the_leaderboard_and_the_report_show_it(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(Path(settings.base_dir) / "setr.toml"), "leaderboard"]) == 0
    assert "headlines derived" in " ".join(capsys.readouterr().out.split())
    page = (settings.report_root / KEY / "index.html").read_text(encoding="utf-8")
    assert "zero-shot, headlines derived" in page
