"""Captions without images: the same assets to the same report, no model loaded, and every page says what it
is.
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from tiny_world import Run, run_job, tables, write_world

from setr_assets.jobs import EVALUATION
from setr_assets.where_next import _of_evaluation
from setr_lib.cli import main
from setr_lib.datasets import evaluation_set
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.pipeline.evaluation import assess
from setr_lib.records import RerankedRecord
from setr_lib.runners import RunRequest
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import CAPTIONS, COMPOSITIONS, QUERIES, RANKINGS

REAL = Path(__file__).parents[3] / "shared" / "data" / "cirr"
THINGS = ["dog", "cat", "boat", "sofa", "bird", "horse", "car", "tree"]
METHODS = ["captions_text", "captions_union", "captions_intersection"]
SETTINGS = """
[datasets.cirr]
kind = "cirr"
root = "{root}"
splits = [{splits}]

[models.encoder]
name = "no-such-encoder"

[models.judge]
name = "no/such-judge"
prompts = "miniature"

[evaluation]
bootstrap_samples = 200
contact_sheet_queries = 2
"""


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_captioned(root: Path) -> None:
    """CIRR's layout with eight images (the last without a caption), six queries, and no picture."""
    names = [f"dev-{number}-img0" for number in range(8)]
    captions = [
        {"candidate": name, "captions": [f"A {thing}.", f"One {thing} on grass."]}
        for name, thing in zip(names, THINGS, strict=True)
    ]
    write_json(root / "image_captions.json", captions[:-1])
    for split, hidden in (("val", False), ("test1", True)):
        write_json(
            root / f"image_splits/split.rc2.{split}.json", {name: f"./dev/{name}.png" for name in names}
        )
        rows = []
        for number in range(6):
            members = names[number % 3 :][:6]
            target = members[1 + number % 5]
            text = f"a {THINGS[names.index(target)]} instead of the {THINGS[names.index(members[0])]}"
            row = {"pairid": number, "reference": members[0], "caption": text}
            row |= {} if hidden else {"target_hard": target, "target_soft": {target: 1.0}}
            rows.append(row | {"img_set": {"id": number % 3, "members": members, "reference_rank": 0}})
        write_json(root / f"captions/cap.rc2.{split}.json", rows)


def settings_in(folder: Path, root: Path, *splits: str) -> Settings:
    path = folder / "setr.toml"
    named = ", ".join(f'"{split}"' for split in splits)
    path.write_text(SETTINGS.format(root=root.as_posix(), splits=named), encoding="utf-8")
    return load_settings(path)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("captioned")
    write_captioned(folder / "cirr")
    return settings_in(folder, folder / "cirr", "val", "test1")


@pytest.fixture(scope="module")
def first(settings: Settings) -> Run:
    return run_job(settings, EVALUATION, ["cirr-val", "cirr-test1"])


@pytest.fixture
def context(settings: Settings, first: Run) -> PipelineContext:
    return pipeline_context(settings)


def test_the_run_succeeds_without_any_model(first: Run, settings: Settings) -> None:
    assert first.failures == {}
    assert first.success
    assert first.checks == {"gallery_embeddings: every_image_once": True}
    stored = first.metadata["gallery_embeddings", "cirr-val"]
    assert (stored["images_with_captions"], stored["images_without_captions"]) == (7, 1)
    assert first.metadata["gallery_images", "cirr-val"]["missing"] == 8


def test_every_row_is_labelled_and_none_is_comparable(context: PipelineContext) -> None:
    rows = pl.read_parquet(context.settings.table_path("evaluation_report", "cirr-val"))
    assert set(rows["method"]) == {"random", *METHODS}
    assert set(rows["reranker"]) == {""}
    assert set(rows["n_queries"]) == {6}
    assert set(rows["coverage"]) == {1.0}, "every image is ranked"
    assert not rows["comparable"].any()
    labels = rows.filter(pl.col("method") != "random")["label"].unique().to_list()
    assert len(labels) == 1 and labels[0].startswith(
        "caption proxy; captions were ranked, no image was looked at; "
    )
    assert "1 of 8 images have no caption and rank last" in labels[0]


def test_targets_are_found_by_their_words(context: PipelineContext) -> None:
    rows = pl.read_parquet(context.settings.table_path("evaluation_report", "cirr-val"))
    found = rows.filter(metric="R@1", method="captions_intersection")["value"].item()
    assert found == 100.0, "the text names the target, and refuses the reference"
    chance = rows.filter(metric="R@1", method="random")["value"].item()
    assert chance == pytest.approx(100 / 7)


def test_every_image_is_ranked_the_uncaptioned_last(context: PipelineContext) -> None:
    for name in METHODS:
        ranked = context.tables.read(context.tables.coarse("cirr-val", name), RANKINGS).filter(pool="gallery")
        for _, one in ranked.group_by("query_id"):
            assert one.height == 7
            assert one.sort("rank")["image_id"][-1] == "dev-7-img0"


def test_captions_and_compositions_are_read_from_words(context: PipelineContext) -> None:
    queries = context.tables.read("queries", QUERIES, "cirr-val")
    captions = context.tables.read("reference_captions", CAPTIONS, "cirr-val")
    assert set(captions["image_id"]) == set(queries["reference_id"])
    composed = context.tables.read("query_compositions", COMPOSITIONS, "cirr-val")
    assert composed["query_id"].to_list() == queries["query_id"].to_list()
    assert composed.row(0, named=True)["remove"] == ["dog"]


def test_the_page_shows_captions_and_says_what_they_are(settings: Settings, first: Run) -> None:
    page = (settings.report_root / "cirr-val" / "index.html").read_text(encoding="utf-8")
    assert "Caption proxy." in page
    assert "captions were ranked, no image was looked at" in page
    assert "One boat on grass." in page
    assert "missing" not in page and "frozen CLIP" not in page
    hidden = (settings.report_root / "cirr-test1" / "index.html").read_text(encoding="utf-8")
    assert "not public" in hidden and "Caption proxy." in hidden
    assert pl.read_parquet(settings.table_path("evaluation_report", "cirr-test1")).is_empty()


def test_stage_2_is_left_out_in_words(first: Run, context: PipelineContext) -> None:
    assert "no image to judge" in first.metadata["reranked_rankings", "cirr-val"]["stage 2"]
    assert context.tables.read_record("reranked_rankings", RerankedRecord, "cirr-val").rows == []
    comparisons = {(c.a, c.b, c.metric) for c in assess(context, "cirr-val").comparisons}
    union = "captions_union"
    assert ("captions_intersection", union, "R_subset@1") in comparisons


def test_a_second_run_changes_no_table_and_no_version(settings: Settings, first: Run) -> None:
    before, stored = tables(settings), first.metadata["gallery_embeddings", "cirr-val"]["captions_version"]
    second = run_job(settings, EVALUATION, ["cirr-val", "cirr-test1"])
    assert second.success
    after = tables(settings)
    assert [name for name in before if not before[name].equals(after[name])] == []
    assert second.metadata["gallery_embeddings", "cirr-val"]["captions_version"] == stored


def test_leaderboard_says_caption_proxy(
    settings: Settings, first: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(settings.base_dir / "setr.toml")]
    assert main([*config, "leaderboard"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "caption proxy" in printed
    assert "captions were ranked, no image was looked at" in printed


def test_a_plan_and_a_submission_know_that_captions_are_ranked(
    settings: Settings, first: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(settings.base_dir / "setr.toml")]
    assert main([*config, "plan"]) == 0
    assert "cirr-val: captions of the pictures and no picture" in capsys.readouterr().out
    assert main([*config, "plan", "--json"]) == 0
    document, notes = capsys.readouterr()
    assert json.loads(document)["seconds"] is None and "Nothing is timed" in notes
    main([*config, "submit", "cirr"])
    told = "".join(capsys.readouterr())
    assert "cirr-test1 · captions_intersection" in told and "no image was looked at" in told


def test_words_are_not_exported_as_a_models(
    settings: Settings, first: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(settings.base_dir / "setr.toml")]
    for what in ("captions", "compositions"):
        main([*config, what, "export", "cirr-val"])
        assert capsys.readouterr().out == ""


def test_search_needs_vectors_and_says_so(
    settings: Settings, first: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = ["--config", str(settings.base_dir / "setr.toml")]
    assert main([*config, "search", str(tmp_path / "any.png"), "red", "--dataset", "cirr"]) == 1
    told = capsys.readouterr().err
    assert (
        "captions stand in for the pictures" in told and f"put them into {settings.base_dir / 'cirr'}" in told
    )
    assert "not embedded" not in told, "the step that it would name has been made"


def test_what_comes_next_names_no_search_that_cannot_be(settings: Settings, first: Run) -> None:
    request = RunRequest(settings, sets=("cirr-test1",))
    lines = dict(_of_evaluation(request, [evaluation_set(settings, "cirr-test1")]))
    assert [command for command in lines if " search " in f" {command}"] == []
    assert any("submit cirr --split test1" in command for command in lines)


def test_a_malformed_caption_file_stops_in_words(tmp_path: Path) -> None:
    write_captioned(tmp_path / "cirr")
    file = tmp_path / "cirr" / "image_captions.json"
    write_json(file, [{"candidate": "dev-0-img0", "captions": "one text"}])
    run = run_job(settings_in(tmp_path, tmp_path / "cirr", "val"), EVALUATION, ["cirr-val"])
    assert not run.success
    assert all(str(file) in message and "row 0" in message for message in run.failures.values())


def test_images_and_captions_together_give_both_kinds_of_rows(tmp_path: Path) -> None:
    world = load_settings(write_world(tmp_path))
    images = json.loads((tmp_path / "data/cirr/image_splits/split.rc2.val.json").read_text())
    write_json(
        tmp_path / "data/cirr/image_captions.json",
        [{"candidate": name, "captions": [f"a thing called {name}"]} for name in images],
    )
    options = world.evaluation.model_copy(update={"limit": 2})
    settings = world.model_copy(update={"evaluation": options})
    run = run_job(settings, EVALUATION, ["cirr-val"])
    assert run.failures == {}
    rows = pl.read_parquet(settings.table_path("evaluation_report", "cirr-val"))
    assert {*METHODS, "sum", "intersection"} <= set(rows["method"])
    assert set(rows.filter(method="captions_union")["reranker"]) == {""}
    assert "base judge" in set(rows.filter(method="intersection")["reranker"])
    labels = dict(rows.filter(metric="R@1").select("method", "label").iter_rows())
    assert labels["captions_union"].startswith("caption proxy")
    assert labels["sum"].startswith("zero-shot") and "captions" not in labels["random"]


@pytest.mark.soak
@pytest.mark.skipif(not (REAL / "image_captions.json").is_file(), reason=f"the real files are not at {REAL}")
def test_cirr_val_by_its_real_captions(tmp_path: Path) -> None:
    """Every query against every image; the intersection above the union, in the gallery and in the
    subsets.
    """
    settings = settings_in(tmp_path, REAL, "val")
    run = run_job(settings, EVALUATION, ["cirr-val"])
    assert run.failures == {}
    rows = pl.read_parquet(settings.table_path("evaluation_report", "cirr-val"))
    assert set(rows["n_queries"]) == {4181}
    assert rows["label"].str.contains("2 of 2,297 images have no caption and rank last").all()
    assert run.metadata["gallery_embeddings", "cirr-val"]["images_with_captions"] == 2295
    found = rows.select("method", "metric", "value").rows()
    value = {(method, metric): number for method, metric, number in found}
    for metric, floor in (("R@10", 44.0), ("R_subset@1", 43.7)):
        assert value["captions_intersection", metric] > value["captions_union", metric] > floor
    differences = assess(pipeline_context(settings), "cirr-val").comparisons
    above = {(c.b, c.metric): c.low for c in differences if c.a.startswith("captions_intersection")}
    assert above["captions_union", "R@10"] > 0
    assert above["captions_union", "R_subset@1"] > 0
