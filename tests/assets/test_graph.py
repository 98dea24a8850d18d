"""The whole graph on a tiny world: it runs, a second run does nothing again, and faults are counted or stop
it in words.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from dagster import TableSchema
from tiny_world import Run, run_job, tables, write_world

from setr_assets.jobs import EVALUATION, FULL_PIPELINE
from setr_lib.cli import main
from setr_lib.evaluation.row import Row
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.pipeline.retrieval import encoded_queries
from setr_lib.records import RerankedRecord
from setr_lib.settings import EncoderSettings, Settings, load_settings
from setr_lib.tables import FAILURES, RANKINGS

SCORED = ["cirr-val", "fashioniq-val", "circo-val"]
EVERY = [*SCORED, "cirr-test1"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(write_world(tmp_path_factory.mktemp("world")))


@pytest.fixture(scope="module")
def first(settings: Settings) -> Run:
    """One run of everything; the tests below read what it left."""
    return run_job(settings, FULL_PIPELINE, EVERY)


@pytest.fixture
def context(settings: Settings, first: Run) -> PipelineContext:
    return pipeline_context(settings)


def test_everything_runs_and_every_gate_passes(first: Run) -> None:
    assert first.failures == {}
    assert first.success
    assert first.checks == {
        "gallery_embeddings: every_image_once": True,
        "training_embeddings: every_image_once": True,
        "registered_reranker: reloads_in_a_fresh_process": True,
        "promoted_reranker: newest_version_is_champion": True,
    }
    assert all(first.done_now().values())


def test_first_run_reranks_with_the_champion_that_it_trained(first: Run) -> None:
    assert first.metadata["reranked_rankings", "cirr-val"]["champion"] == "1"
    assert first.metadata["evaluation_report", "circo-val"]["champion"] == "1"


def test_every_table_has_a_row_for_every_query(context: PipelineContext) -> None:
    from setr_lib.tables import COMPOSITIONS, QUERIES

    for key in EVERY:
        queries = context.tables.read("queries", QUERIES, key)["query_id"].to_list()
        assert context.tables.read("query_compositions", COMPOSITIONS, key)["query_id"].to_list() == queries
        for stage in ("base judge", "adapter"):
            ranked = context.tables.read(context.tables.reranked(key, Row("intersection", stage)), RANKINGS)
            assert ranked["query_id"].unique(maintain_order=True).to_list() == queries
            assert not ranked.select("query_id", "pool", "image_id").is_duplicated().any()


def test_reranking_keeps_the_candidates_and_what_lies_below_k(context: PipelineContext) -> None:
    for key in EVERY:
        depth = 4 if key == "fashioniq-val" else 6  # as tiny_world says
        coarse = context.tables.read(context.tables.coarse(key, "intersection"), RANKINGS)
        for stage in ("base judge", "adapter"):
            ranked = context.tables.read(context.tables.reranked(key, Row("intersection", stage)), RANKINGS)
            columns = ["query_id", "pool", "image_id"]
            assert ranked.select(columns).sort(columns).equals(coarse.select(columns).sort(columns))
            below = (pl.col("pool") == "gallery") & (pl.col("rank") > depth)
            where = [*columns, "rank"]
            assert ranked.filter(below).select(where).equals(coarse.filter(below).select(where))
            judged = ranked.filter(pl.col("pool") == "gallery", pl.col("judge_score").is_not_null())
            assert judged["rank"].max() == depth


def test_hidden_split_has_a_page_and_no_scores(
    context: PipelineContext, settings: Settings, first: Run
) -> None:
    page = (settings.report_root / "cirr-test1" / "index.html").read_text(encoding="utf-8")
    assert "cirr test1" in page
    assert pl.read_parquet(settings.table_path("evaluation_report", "cirr-test1")).is_empty()
    assert not any(name.startswith("R@") for name in first.metadata["evaluation_report", "cirr-test1"])


def test_numbers_of_metadata_are_rounded_and_every_column_is_described(first: Run) -> None:
    for where, values in first.metadata.items():
        for name, value in values.items():
            if isinstance(value, float):
                assert len(repr(value)) <= 8 or abs(value) < 0.01, (where, name, value)
            if name == "dagster/column_schema":
                assert isinstance(value, TableSchema)
                undescribed = [column.name for column in value.columns if not column.description]
                assert not undescribed, (where, undescribed)


def test_reports_have_the_run_the_order_and_links_to_one_another(
    context: PipelineContext, settings: Settings, first: Run
) -> None:
    root = settings.report_root
    pages = {key: (root / key / "index.html").read_text(encoding="utf-8") for key in EVERY}
    for key, page in pages.items():
        assert f"<code>setr run {key}</code> makes it again" in page and "miniature: drawn pictures" in page
        assert "ordered by cosine" in page
        for other in EVERY:
            assert (f'href="../{other}/index.html"' in page) == (other != key)
        failures = context.tables.read("query_failures", FAILURES, key)
        assert page.count('<tr><th scope="row">') >= failures.height > 0
    index = (root / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{key}/index.html"' in index for key in EVERY)
    assert "why targets are not in first place" in first.metadata["evaluation_report", "cirr-val"]


def test_pictures_in_metadata_stay_small(first: Run) -> None:
    for where, values in first.metadata.items():
        for name, value in values.items():
            assert len(str(value)) < 101_000, (where, name)


def test_leaderboard_lists_every_set_method_and_reranker(
    settings: Settings, first: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(settings.base_dir / "setr.toml"), "leaderboard", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["dataset"], row["split"]) for row in rows} == {
        ("cirr", "val"),
        ("fashioniq", "val"),
        ("circo", "val"),
    }
    for dataset in ("cirr", "fashioniq", "circo"):
        lines = {(row["strategy"], row["stage"]) for row in rows if row["dataset"] == dataset}
        assert {("intersection", stage) for stage in ("coarse", "base judge", "adapter")} <= lines
        assert {("sum", "coarse"), ("random", "random")} <= lines
    adapted = [row for row in rows if row["stage"] == "adapter"]
    assert {row["model_version"] for row in adapted} == {"setr-reranker 1"}
    assert not any(row["comparable"] for row in rows)


def test_plan_counts_and_times_every_step(
    settings: Settings, first: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(settings.base_dir / "setr.toml"), "plan", "--sample", "2"]) == 0
    lines = {
        line.strip().split("  ")[0]: line.split()
        for line in capsys.readouterr().out.splitlines()
        if line.strip()
    }
    images = pl.read_parquet(settings.table_path("training_images")).height
    assert f"{images:,}" in lines["embed the training images"]
    for step in (
        "embed the galleries",
        "compose the queries",
        "choose the fusion: base judge",
        "re-rank: adapter",
        "together",
    ):
        assert step in lines


def test_search_refuses_more_answers_than_are_judged(
    settings: Settings, first: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((settings.base_dir / "data" / "circo").rglob("*.jpg"))
    config = ["--config", str(settings.base_dir / "setr.toml")]
    assert main([*config, "search", str(image), "make it red", "--k", "500"]) == 1
    assert "reranking] top_k" in capsys.readouterr().err


def test_search_without_a_number_shows_as_many_as_are_judged(
    settings: Settings, first: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SETR_RERANKING__TOP_K", "4")
    image = next((settings.base_dir / "data" / "circo").rglob("*.jpg"))
    config = ["--config", str(settings.base_dir / "setr.toml")]
    assert main([*config, "search", str(image), "make it red", "--dataset", "circo"]) == 0
    assert re.findall(r"^ +(\d+) ", capsys.readouterr().out, re.MULTILINE) == ["1", "2", "3", "4"]


SEARCH = """
import sys
from setr_lib.cli import main
status = main(sys.argv[1:])
print("imported:", *sorted(name for name in sys.modules if "." not in name))
sys.exit(status)
"""
NOT_SEARCHED_WITH = {
    *("alembic", "dagster", "fastapi", "matplotlib", "mlflow", "openai", "scipy", "sentence_transformers"),
    *("sklearn", "sqlalchemy", "timm"),
}
"""What takes long to import, and no search needs."""


def test_search_answers_with_a_table_and_a_sheet_and_imports_no_more_than_it_uses(
    settings: Settings, first: Run, tmp_path: Path
) -> None:
    image = next((settings.base_dir / "data" / "circo").rglob("*.jpg"))
    sheet = tmp_path / "out" / "sheet.png"
    config = ["--config", str(settings.base_dir / "setr.toml")]
    asked = ["search", str(image), "make it red", "--dataset", "circo", "--k", "3", "--output", str(sheet)]
    command = [sys.executable, "-c", SEARCH, *config, *asked]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    printed, _, imported = ran.stdout.partition("imported:")
    assert "adapter v1" in printed
    table = printed.split("contact sheet")[0]
    assert re.search(r"^\s*1\s", table, re.MULTILINE), "a first answer"
    assert not re.search(rf"\b{int(image.stem)}\b", table), "the reference itself is no answer"
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert {"torch", "lancedb"} <= set(imported.split())
    assert not NOT_SEARCHED_WITH.intersection(imported.split())


@pytest.mark.parametrize(("is_cosine", "heading"), [(True, "cosine"), (False, "score")])
def test_search_calls_only_a_cosine_a_cosine(
    settings: Settings,
    first: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_cosine: bool,
    heading: str,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    plugin = f"graded_{heading}_plugin"
    (settings.base_dir / f"{plugin}.py").write_text(
        f"""
from setr_lib.methods.method import Method
from setr_lib.methods.similarity import similarity

class Graded(Method):
    name, is_cosine = "graded", {is_cosine}
    def scores(self, inputs):
        return 100 * similarity(inputs.queries.modification_vectors, inputs.gallery.vectors)
"""
    )
    image = next((settings.base_dir / "data" / "circo").rglob("*.jpg"))
    named = ["--dataset", "circo", "--method", f"{plugin}:Graded", "--reranker", "base judge", "--k", "3"]
    config = ["--config", str(settings.base_dir / "setr.toml")]
    assert main([*config, "search", str(image), "make it red", *named]) == 0
    headings = next(line for line in capsys.readouterr().out.splitlines() if "image" in line)
    assert headings.split() == ["rank", "before", "image", "fused", "judge", heading]


def test_many_searches_as_json_say_by_what_they_are_ordered(
    settings: Settings,
    first: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SETR_RERANKING__FUSION", "cosine_judge")
    monkeypatch.setenv("SETR_RERANKING__JUDGE_WEIGHT", "0.5")
    images = sorted((settings.base_dir / "data" / "circo").rglob("*.jpg"))[:2]
    file = tmp_path / "wishes.csv"
    file.write_text("\n".join(["reference,text", *(f"{image},make it red" for image in images)]))
    config = ["--config", str(settings.base_dir / "setr.toml")]
    asked = ["search", "--queries", str(file), "--json", "--dataset", "circo", "--k", "4"]
    assert main([*config, *asked]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["query"]["image"] for answer in answers] == list(map(str, images))
    for answer in answers:
        assert (answer["reranker"], answer["reranker_version"], answer["set"]) == (
            "adapter",
            "1",
            "circo-val",
        )
        hits = answer["images"]
        assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
        assert len({hit["rank_before"] for hit in hits}) == 4
        assert answer["order"] == "cosine + 0.5 P(Yes)"
        for hit in hits:
            fused = hit["coarse_score"] + 0.5 / (1 + math.exp(-hit["judge_score"]))
            assert hit["score"] == pytest.approx(fused, abs=1e-6)
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_second_run_does_nothing_again_and_says_so(settings: Settings, first: Run) -> None:
    before = tables(settings)
    second = run_job(settings, FULL_PIPELINE, EVERY)
    assert second.success
    assert set(second.done_now()) == set(first.done_now())
    assert not any(second.done_now().values())
    after = tables(settings)
    assert before.keys() == after.keys()
    assert [name for name in before if not before[name].equals(after[name])] == []


LISTWISE = """
import numpy as np

class Backwards:
    name = "backwards"
    id = "backwards 1"
    listwise = True

    def score(self, queries):
        return [np.arange(len(query.candidates)) for query in queries]
"""


@pytest.fixture
def with_own(settings: Settings, first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of the world in which two methods are re-ranked, by a list-wise re-ranker of one's own, too."""
    shutil.copytree(settings.base_dir, tmp_path / "world")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "world" / "plugin_backwards.py").write_text(LISTWISE)
    made = load_settings(tmp_path / "world" / "setr.toml")
    names = [*made.reranking.rerankers, "plugin_backwards:Backwards"]
    reranking = made.reranking.model_copy(update={"methods": ["sum", "intersection"], "rerankers": names})
    return made.model_copy(update={"reranking": reranking})


def test_every_method_and_re_ranker_is_calibrated_and_evaluated(with_own: Settings) -> None:
    run = run_job(with_own, FULL_PIPELINE, ["cirr-val", "circo-val"])
    assert run.failures == {}
    rerankers = ("base judge", "adapter", "backwards")
    every = [(method, reranker) for method in ("sum", "intersection") for reranker in rerankers]
    fusions = pl.read_parquet(with_own.table_path("reranking_fusion"))
    chosen = fusions.filter(chosen=True)
    assert chosen.select("method", "reranker").rows() == every
    assert chosen["version"].to_list() == [None, "1", None] * 2
    tried = fusions.filter(method="sum", reranker="backwards")["fusion"].to_list()
    assert tried == ["judge", "reciprocal_rank"], "its scores are no log-odds"
    record = pipeline_context(with_own).tables.read_record("reranked_rankings", RerankedRecord, "cirr-val")
    assert [(row.method, row.reranker) for row in record.rows] == every
    assert record.method == "intersection"
    own = {row.reranker: row for row in record.rows}["backwards"]
    assert own.fusion.split()[0] in ("judge", "reciprocal_rank") and "held-out" in own.fusion
    rows = pl.read_parquet(with_own.table_path("evaluation_report", "cirr-val"))
    reranked = rows.filter(pl.col("reranker") != "").select("method", "reranker").unique(maintain_order=True)
    assert reranked.rows() == every
    assert set(rows.filter(reranker="adapter")["model_version"]) == {"setr-reranker 1"}
    table = pipeline_context(with_own).tables.reranked("cirr-val", Row("sum", "backwards"))
    ranked = pl.read_parquet(with_own.table_path(table))
    scores = ranked.filter(pool="subset")["judge_score"].to_numpy()
    assert (scores.min(), scores.max()) == (0, 4), "a subset of five is a list of its own"
    made = run.metadata["reranked_rankings", "cirr-val"]
    assert made["base judge: judged now"] == made["adapter: judged now"] == 0, "the default's scores are kept"
    assert made["sum · backwards: judged now"] == made["sum · backwards: pairs"] > 0
    again = run_job(with_own, EVALUATION, ["cirr-val"])
    assert again.metadata["reranked_rankings", "cirr-val"]["sum · backwards: judged now"] == 0


def test_no_re_ranker_is_stage_1_alone(with_own: Settings) -> None:
    none = with_own.model_copy(
        update={"reranking": with_own.reranking.model_copy(update={"rerankers": [], "methods": None})}
    )
    run = run_job(none, EVALUATION, ["circo-val"])
    assert run.failures == {}
    assert run.metadata["reranked_rankings", "circo-val"]["methods"] == "none"
    rows = pl.read_parquet(none.table_path("evaluation_report", "circo-val"))
    assert set(rows["reranker"]) == {""}
    assert "not re-ranked" in (none.report_root / "circo-val" / "index.html").read_text(encoding="utf-8")


def test_evaluation_alone_uses_the_version_it_is_pinned_to(settings: Settings, first: Run) -> None:
    config = {"ops": {"reranked_rankings": {"config": {"versions": {"setr-reranker": "9"}}}}}
    run = run_job(settings, EVALUATION, ["circo-val"], config)
    assert not run.success
    assert "has no version 9" in run.failures["reranked_rankings"]
    assert "Traceback" not in run.failures["reranked_rankings"]


@pytest.mark.parametrize(
    ("judge", "encoder"),
    [("qwen3_vl", "ViT-B-32"), pytest.param("qwen2_5_vl", None, marks=pytest.mark.soak)],
)
def test_graph_runs_with_the_architectures_of_real_models(
    tmp_path: Path, judge: str, encoder: str | None
) -> None:
    every = load_settings(write_world(tmp_path, judge))
    named = every.models.encoder if encoder is None else EncoderSettings(name=encoder, batch_size=16)
    settings = every.model_copy(
        update={
            "models": every.models.model_copy(update={"encoder": named}),
            "evaluation": every.evaluation.model_copy(update={"limit": 2}),
        }
    )
    run = run_job(settings, FULL_PIPELINE, ["cirr-val"])
    assert run.failures == {}
    assert run.success
    assert all(run.checks.values())
    rows = pl.read_parquet(settings.table_path("evaluation_report", "cirr-val"))
    assert set(rows["reranker"]) == {"", "base judge", "adapter"}
    assert set(rows["n_queries"]) == {2}


class TestFaults:
    """Damage to a copy of the world, after a first run."""

    @pytest.fixture
    def damaged(self, settings: Settings, first: Run, tmp_path: Path) -> Settings:
        shutil.copytree(settings.base_dir, tmp_path / "world")
        return load_settings(tmp_path / "world" / "setr.toml")

    def test_corrupt_and_missing_images_are_counted_and_everything_else_goes_on(
        self, damaged: Settings
    ) -> None:
        folder = damaged.base_dir / "data" / "circo" / "COCO2017_unlabeled" / "unlabeled2017"
        corrupt, missing, *_ = sorted(folder.glob("*.jpg"))
        corrupt.write_bytes(b"no image at all")
        missing.unlink()
        run = run_job(damaged, EVALUATION, ["circo-val"])
        assert run.success, run.failures
        images = run.metadata["gallery_images", "circo-val"]
        assert (images["broken"], images["missing"]) == (1, 1)
        assert all(path.name in images["faulty images"] for path in (corrupt, missing))
        assert run.metadata["gallery_embeddings", "circo-val"]["removed"] == 2
        rows = pl.read_parquet(damaged.table_path("evaluation_report", "circo-val"))
        assert rows["coverage"].max() < 1  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]
        assert "missing or broken" in rows["label"][0]

    def test_broken_annotation_row_stops_its_set_and_loses_nothing(self, damaged: Settings) -> None:
        before = tables(damaged)
        path = damaged.base_dir / "data" / "cirr" / "captions" / "cap.rc2.val.json"
        rows = json.loads(path.read_text())
        del rows[1]["reference"]
        path.write_text(json.dumps(rows))
        run = run_job(damaged, EVALUATION, ["cirr-val"])
        assert not run.success
        message = run.failures["queries"]
        assert str(path) in message
        assert "reference" in message
        after = tables(damaged)
        assert [name for name in before if not after[name].equals(before[name])] == []

    def test_step_without_its_input_says_what_to_materialize(self, damaged: Settings) -> None:
        shutil.rmtree(damaged.storage_root / "tables" / "query_compositions")
        context = pipeline_context(damaged)
        with pytest.raises(Exception, match="materialize 'query_compositions' first"):
            encoded_queries(context, "circo-val")

    def test_damaged_adapter_is_not_promoted(self, damaged: Settings) -> None:
        # Another training (one more epoch), whose stored adapter is then damaged before the gate sees it.
        adapter = damaged.reranking.adapter.model_copy(update={"epochs": 2.0})
        reranking = damaged.reranking.model_copy(update={"adapter": adapter})
        changed = damaged.model_copy(update={"reranking": reranking})
        context = pipeline_context(changed)
        original = context.registry.round_trip

        def damage_first(model_uri: str):
            folder = context.registry.client.get_logged_model(model_uri.rpartition("/")[2]).artifact_location
            weights = next(Path(folder.removeprefix("file://")).rglob("adapter_model.safetensors"))
            weights.write_bytes(weights.read_bytes()[:-64] + bytes(64))
            return original(model_uri)

        context.registry.round_trip = damage_first  # pyright: ignore[reportAttributeAccessIssue]
        run = run_job(changed, "reranker_training", ["circo-val"])
        assert not run.success
        assert run.checks["registered_reranker: reloads_in_a_fresh_process"] is False
        assert ("promoted_reranker", None) not in run.metadata
        assert context.champion_version() == "1"
