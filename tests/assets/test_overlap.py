"""A re-ranker that was trained on the gallery's own images is not called zero-shot, whatever it was
registered as: in the report, on the leaderboard and in the registry.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from tiny_world import write_world

from setr_assets.definitions import build_definitions
from setr_assets.jobs import FULL_PIPELINE
from setr_assets.partitions import range_tags
from setr_lib.cli import main
from setr_lib.evaluation.overlap import Overlap
from setr_lib.pipeline.adapter_system import AdapterSystem
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.evaluating import evaluate
from setr_lib.pipeline.evaluation import assess
from setr_lib.pipeline.evaluation_runs import tell_mlflow
from setr_lib.pipeline.learned import tag_known_overlaps, tag_overlaps
from setr_lib.pipeline.reranking_run import RerankingRun
from setr_lib.pipeline.training_steps import promote
from setr_lib.records import TrainedRecord
from setr_lib.registry.registered_model import LABEL_TAG
from setr_lib.registry.round_trip import RoundTripReport
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import GALLERY, METRICS, QUERIES, TRAINING_IMAGES
from setr_lib.training.trained_on import TRAINED_ON, TrainedOn

CIRCO, CIRR = "circo-val", "cirr-val"
ROW = "sum · adapter"
READ = ("queries", "gallery_images", "training_images")
TRAINED = ("training_embeddings", "reranker_pairs", "reranker_adapter")
EVALUATED = (
    "gallery_embeddings",
    "reference_captions",
    "query_compositions",
    "coarse_rankings",
    "reranked_rankings",
    "evaluation_report",
)


def small(folder: Path) -> Path:
    """A tiny world of two evaluation sets, one method and one re-ranker."""
    path = write_world(folder)
    text = path.read_text(encoding="utf-8")
    text = text.replace("[coarse]", '[coarse]\nstrategies = ["sum"]\ndefault = "sum"')
    text = text.replace('splits = ["val", "test1"]', 'splits = ["val"]')
    text = text.replace("groups = 20", "groups = 8").replace("top_k = 6", "top_k = 2")
    text = text.replace("[evaluation]\n", "[evaluation]\nlimit = 8\n")
    start, end = text.index("[datasets.fashioniq]"), text.index("[datasets.circo]")
    chosen = '[reranking]\nrerankers = ["adapter"]\nfusion = "judge"\n'
    path.write_text((text[:start] + text[end:]).replace("[reranking]\n", chosen, 1), encoding="utf-8")
    return path


def train_on_the_gallery(folder: Path) -> None:
    """Let ``[training] captions`` name CIRCO's gallery, by other names: the files are copied."""
    training, images = folder / "data" / "training", folder / "data" / "circo" / "COCO2017_unlabeled"
    lines = [json.loads(line) for line in (training / "captions.jsonl").read_text("utf-8").splitlines()]
    for line, file in zip(lines, sorted((images / "unlabeled2017").iterdir()), strict=False):
        shutil.copy(file, training / f"own-{file.name}")
        line["image"] = f"own-{file.name}"
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (training / "captions.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("overlap")
    path = small(folder)
    train_on_the_gallery(folder)
    loaded = load_settings(path)
    told = loaded.registry.model_copy(update={"evaluations": "looked-at"})
    return loaded.model_copy(update={"registry": told})


def materialised(settings: Settings, *assets: str) -> dict[tuple[str, str | None], dict[str, Any]]:
    """Materialise assets for both evaluation sets; their metadata by asset and set."""
    with dg.DagsterInstance.ephemeral() as instance:
        done = (
            build_definitions(settings)
            .resolve_job_def(FULL_PIPELINE)
            .execute_in_process(
                instance=instance,
                tags=range_tags([CIRR, CIRCO]),
                asset_selection=[dg.AssetKey(asset) for asset in assets],
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        )
        return {
            (event.asset_key.to_user_string(), event.partition): {
                name: value.value for name, value in event.materialization.metadata.items()
            }
            for event in done.get_asset_materialization_events()
            if event.asset_key is not None
        }


@pytest.fixture(scope="module")
def report(settings: Settings) -> dict[str, Any]:
    """An adapter is trained and made champion (its round trip is taken as passed), and both sets are
    evaluated; the metadata of CIRCO's report.
    """
    materialised(settings, *READ, *TRAINED)
    context = PipelineContext(settings)
    record = context.tables.read_record("reranker_adapter", TrainedRecord)
    assert record.label == "zero-shot", "no evaluation set is in question yet"
    model = context.registry.model("setr-reranker")
    version = model.register(record.model_uri, RoundTripReport(record.model_uri), {LABEL_TAG: record.label})
    tag_known_overlaps(context, model.name, version)
    tags = model.version(version).tags
    assert tags["setr.overlaps_with"] == CIRCO, "both galleries were read before"
    assert tags[LABEL_TAG] == "trained on images or queries of circo-val"
    assert promote(AdapterSystem(context), version).promoted
    return materialised(settings, *EVALUATED)["evaluation_report", CIRCO]


@pytest.fixture
def context(settings: Settings, report: dict[str, Any]) -> PipelineContext:
    return PipelineContext(settings)


def trained_on(context: PipelineContext) -> TrainedOn:
    model = context.registry.model(context.settings.registry.model)
    return TrainedOn.read(model.artifacts("1", [TRAINED_ON])[TRAINED_ON])


def counts(context: PipelineContext, key: str) -> tuple[int, int, int, int]:
    """Gallery images and queries that were seen, and all of them, by the bytes of the files."""
    learned = {
        Path(path).read_bytes()
        for image, path in context.tables.read("training_images", TRAINING_IMAGES)
        .select("image_id", "path")
        .iter_rows()
        if image in set(trained_on(context).images["image_id"])
    }
    files = context.tables.read("gallery_images", GALLERY, key).select("image_id", "path").iter_rows()
    seen = {image: Path(path).read_bytes() in learned for image, path in files}
    queries = context.tables.read("queries", QUERIES, key)
    named = [
        (reference, *targets)
        for reference, targets in queries.select("reference_id", "target_ids").iter_rows()
    ]
    asked = [any(seen[image] for image in images) for images in named]
    return sum(seen.values()), len(seen), sum(asked), len(asked)


def labels(context: PipelineContext, key: str) -> dict[str, str]:
    frame = context.tables.read("evaluation_report", METRICS, key).filter(pl.col("metric") != "")
    return {row["reranker"]: row["label"] for row in frame.iter_rows(named=True)}


def words_of(found: Sequence[int]) -> tuple[str, str]:
    images, of_images, queries, of_queries = found
    label = f"trained on {images} of the gallery's {of_images} images ({queries} of {of_queries} queries)"
    return (
        label,
        f"{images} of {of_images} gallery images, {queries} of {of_queries} queries, 0 of their triplets",
    )


def test_the_word_is_taken_away_wherever_it_stood(
    context: PipelineContext, settings: Settings, report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = counts(context, CIRCO)
    assert found[0] > 10 and found[2] > 0
    label, overlap = words_of(found)
    assert labels(context, CIRCO)["adapter"].startswith(f"{label}; ")
    page = (settings.report_root / CIRCO / "index.html").read_text(encoding="utf-8")
    shown = page.replace("&#39;", "'")
    assert f"<td>{label}</td><td>{overlap}</td>" in shown
    assert "<dd>zero-shot</dd>" not in shown and f"<dd>{label}</dd>" in shown, "the provenance"
    told = report["what trained rows have learned from"]
    assert label in told and overlap in told
    config = ["--config", str(settings.base_dir / "setr.toml")]
    capsys.readouterr()
    assert main([*config, "leaderboard"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{ROW}: {label}; seen in training: {overlap}" in printed
    assert main([*config, "leaderboard", "--json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out) if row["reranker"] == "adapter"]
    assert {row["overlap"] for row in rows if row["dataset"] == "circo"} == {overlap}
    tags = context.registry.model("setr-reranker").version("1").tags
    assert tags["setr.overlap.circo-val"] == overlap
    assert tags[LABEL_TAG] == "trained on images or queries of circo-val"


def test_a_set_that_was_not_seen_stays_zero_shot_and_says_the_counts(context: PipelineContext) -> None:
    images, of_images, queries, of_queries = counts(context, CIRR)
    assert images == queries == 0
    assert labels(context, CIRR)["adapter"].startswith("zero-shot; ")
    tags = context.registry.model("setr-reranker").version("1").tags
    assert tags["setr.overlap.cirr-val"] == words_of((0, of_images, 0, of_queries))[1]
    assert tags["setr.overlaps_with"] == CIRCO
    assert tags["setr.trained_on"] == "triplets synthesised from captions"
    learned = trained_on(context)
    assert (tags["setr.trained_images"], tags["setr.trained_triplets"]) == (
        str(learned.images.height),
        str(learned.triplets.height),
    )
    assert learned.images["fingerprint"].null_count() == 0


def test_every_evaluation_is_a_run_of_mlflow_that_names_its_dagster_run(
    context: PipelineContext, settings: Settings, report: dict[str, Any]
) -> None:
    client, run_id = context.registry.client, report["MLflow run id"]
    run = client.get_run(run_id)
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "looked-at" and report["MLflow run"].endswith(f"/runs/{run_id}")
    assert run.data.tags["dagster.url"].endswith(f"/runs/{run.data.tags['dagster.run_id']}")
    assert (run.data.tags["dagster.asset"], run.data.tags["dagster.partition"]) == (
        "evaluation_report",
        CIRCO,
    )
    rows = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    by_row = {(row.data.params["method"], row.data.params["reranker"]): row for row in rows}
    frame = context.tables.read("evaluation_report", METRICS, CIRCO)
    assert set(by_row) == {("random", "none"), ("sum", "none"), ("sum", "adapter")}
    for line in frame.iter_rows(named=True):
        metrics, name = by_row[line["method"], line["reranker"] or "none"].data.metrics, line["metric"]
        name = name.replace("@", "_at_")
        assert metrics[name] == line["value"]
        assert metrics.get(f"{name}.ci_low") == line["ci_low"]
    adapted = by_row["sum", "adapter"]
    assert (adapted.data.params["version"], adapted.data.params["registered"]) == ("1", "setr-reranker 1")
    assert run.info.run_name == "circo-val · setr-reranker 1"
    assert adapted.data.tags["mlflow.runName"] == "circo-val · sum · adapter v1"
    assert run.inputs is not None
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == CIRCO and json.loads(data.dataset.source)["folder"] == "data/circo"
    assert (
        context.registry.model("setr-reranker").version("1").tags["setr.evaluation.circo-val"]
        == (report["MLflow run"])
    )
    written = json.dumps([[each.data.tags, each.data.params] for each in (run, *rows)])
    assert str(settings.base_dir) not in written + data.dataset.source


def test_without_dagster_the_same_evaluation_is_the_same_run(context: PipelineContext) -> None:
    done = evaluate(RerankingRun(context, {"setr-reranker": "1"}), CIRR)
    assert done.told is not None and "an earlier evaluation with the same scores" in done.told.words
    run = context.registry.client.get_run(done.told.run_id or "")
    assert run.data.tags["dagster.partition"] == CIRR
    assert run.data.tags["setr.evaluated_again"] == "1"


def test_an_mlflow_that_does_not_answer_costs_no_evaluation(
    context: PipelineContext, settings: Settings
) -> None:
    away = settings.registry.model_copy(update={"tracking_uri": "http://127.0.0.1:1"})
    told = tell_mlflow(
        PipelineContext(settings.model_copy(update={"registry": away})), CIRR, assess(context, CIRR)
    )
    assert told.failed and told.run_id is None
    assert told.words.startswith("tables are written, but MLflow has no run of this evaluation: ")
    assert "http://127.0.0.1:1 does not answer" in told.words


def test_a_trial_takes_back_no_overlap_and_finds_one(context: PipelineContext) -> None:
    model = context.registry.model("setr-reranker")
    (used,) = assess(context, CIRCO).versions
    assert used.overlap is not None and not used.overlap.is_empty
    before = model.version("1").tags
    nothing = replace(used, overlap=Overlap(0, 9, 0, 0, 2))
    tag_overlaps(context, CIRCO, [nothing], trial=True)
    tag_overlaps(context, "another-val", [nothing], trial=True)
    assert model.version("1").tags == before, "the other queries may have been seen"
    tag_overlaps(context, "another-val", [used], trial=True)
    tags = model.version("1").tags
    assert tags["setr.overlaps_with"] == f"another-val, {CIRCO}"
    assert "another-val" in tags[LABEL_TAG]
    tag_overlaps(context, "another-val", [nothing])
    after = model.version("1").tags
    assert (after["setr.overlaps_with"], after[LABEL_TAG]) == (
        before["setr.overlaps_with"],
        before[LABEL_TAG],
    )


def test_a_version_from_before_says_that_the_overlap_is_unknown(
    context: PipelineContext, settings: Settings
) -> None:
    client = context.registry.client
    client.delete_model_version_tag("setr-reranker", "1", "setr.trained_on")
    materialised(settings, "evaluation_report")
    label = labels(context, CIRR)["adapter"]
    assert label.startswith("overlap unknown, registered as trained on images or queries of circo-val; ")
