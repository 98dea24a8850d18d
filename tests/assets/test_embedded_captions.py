"""Captions with vectors in the graph: embedded once, kept by model, ranked, and stale with their model."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from test_caption_proxy import write_captioned, write_json
from tiny_world import run_job

from setr_assets.code_versions import CodeVersions
from setr_assets.definitions import blueprints
from setr_assets.jobs import EVALUATION
from setr_lib.cli import main
from setr_lib.pipeline.context import pipeline_context
from setr_lib.records import CoarseRecord, EmbeddingsRecord
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import RANKINGS
from tests.tiny_sentences import write_tiny_text_model

SETTINGS = """
[datasets.cirr]
kind = "cirr"
root = "cirr"
splits = ["val"]

[models]
device = "cpu"

[models.encoder]
name = "no-such-encoder"

[coarse]
caption_strategies = ["captions_intersection", {methods}]

[spaces.sentences]
kind = "sentence_transformers"
options = {{ model = "{model}", batch_size = 4 }}

[evaluation]
bootstrap_samples = 200
contact_sheet_queries = 1
caption_baselines = ["captions_intersection"]
"""
DENSE = '"captions_intersection_dense", "captions_intersection_hybrid", "captions_soft_dense"'


def settings_in(folder: Path, model: str = "one", methods: str = DENSE) -> Settings:
    path = folder / "setr.toml"
    path.write_text(SETTINGS.format(model=model, methods=methods), encoding="utf-8")
    return load_settings(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("dense")
    write_captioned(found / "cirr")
    write_tiny_text_model(found / "one")
    write_tiny_text_model(found / "other", seed=3)
    return found


def test_captions_are_embedded_once_and_ranked_by_their_vectors(folder: Path) -> None:
    settings = settings_in(folder)
    run = run_job(settings, EVALUATION, ["cirr-val"])
    assert not run.failures, "".join(run.failures.values())
    context = pipeline_context(settings)
    made = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, "cirr-val")
    space = context.models.space("sentences")
    vectors = made.caption_vectors["sentences"]
    assert (vectors.rows, vectors.encoder) == (14, space.id)
    assert made.table is None, "no image, and no other model"
    for name in ("captions_intersection_dense", "captions_intersection_hybrid", "captions_soft_dense"):
        table = context.tables.coarse("cirr-val", name)
        assert context.tables.read(table, RANKINGS).filter(pool="gallery").height == 6 * 7
        record = context.tables.read_record(table, CoarseRecord)
        assert (record.space, record.encoder) == ("sentences", space.id)
        assert record.caption_vectors_version == vectors.version
    by_words = context.tables.read_record(
        context.tables.coarse("cirr-val", "captions_intersection"), CoarseRecord
    )
    assert by_words.encoder is None and "caption_vectors_table" not in by_words.stated()
    rows = pl.read_parquet(settings.table_path("evaluation_report", "cirr-val"))
    assert rows.filter(method="captions_intersection_dense")["label"].str.starts_with("caption proxy").all()

    file = folder / "cirr" / "image_captions.json"
    captions = json.loads(file.read_text())
    captions[0]["captions"][1] = "One dog in the sea."
    write_json(file, captions)
    again = run_job(settings, EVALUATION, ["cirr-val"])
    assert again.failures == {}
    after = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, "cirr-val")
    assert (after.caption_vectors["sentences"].table, after.caption_vectors["sentences"].rows) == (
        vectors.table,
        14,
    )
    assert after.caption_vectors["sentences"].version > vectors.version

    other = run_job(settings_in(folder, "other"), EVALUATION, ["cirr-val"])
    assert other.failures == {}
    kept = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, "cirr-val")
    assert kept.caption_vectors["sentences"].table != vectors.table, "a table for each model"


def test_a_plan_counts_the_captions_to_embed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings_in(folder)
    main(["--config", str(folder / "setr.toml"), "plan", "--counts-only"])
    assert "captions to embed in sentences: 14" in capsys.readouterr().out
    settings_in(folder, methods='"captions_text"')
    main(["--config", str(folder / "setr.toml"), "plan", "--counts-only"])
    assert "captions to embed" not in capsys.readouterr().out


def versions(settings: Settings) -> dict[str, str]:
    found = CodeVersions(settings)
    return {each.name: found.version(each.number, each.reads) for each in blueprints()}


def differing(one: Settings, other: Settings) -> set[str]:
    before, after = versions(one), versions(other)
    return {name for name in before if before[name] != after[name]}


def test_another_model_concerns_what_embeds_and_ranks_captions(folder: Path) -> None:
    one = settings_in(folder)
    assert differing(one, settings_in(folder, "other")) == {"gallery_embeddings", "coarse_rankings"}
    words = settings_in(folder, methods='"captions_text"')
    assert differing(words, settings_in(folder, "other", methods='"captions_text"')) == set()
    weights = folder / "one" / "1_Pooling" / "config.json"
    before = versions(one)
    weights.write_text(weights.read_text().replace("mean", "cls"))
    changed = versions(settings_in(folder))
    assert {name for name in before if before[name] != changed[name]} == {
        "gallery_embeddings",
        "coarse_rankings",
    }
