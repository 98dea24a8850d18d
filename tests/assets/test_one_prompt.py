"""One re-ranker, one judge prompt: the whole graph where a prompt folder offers FashionIQ a judge prompt of
its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from tiny_world import Run, run_job, write_world

from setr_assets.jobs import EVALUATION, FULL_PIPELINE
from setr_assets.progress import listening
from setr_lib.cli import main
from setr_lib.evaluation.row import Row
from setr_lib.models.multimodal import Picture
from setr_lib.pipeline.context import pipeline_context
from setr_lib.records import RerankedRecord, RerankedRow
from setr_lib.reranking.scorer import JudgedQuery
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import GALLERY, QUERIES, RANKINGS
from setr_lib.texts.prompts import BUILT_IN, PromptTemplate, load_prompts

KEY = "fashioniq-val"
# FashionIQ's queries have two raw captions, so a judge that was shown these would see another text here.
GENERAL = "<reference>{% for caption in captions %}{{ caption }} . {% endfor %}<candidate>match ?"
OWN = "<reference>more {{ modification }} in a red dress , without the circle<candidate>is it ?"


class Warnings:
    """A listener that keeps the warnings of the judging assets by asset."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def started(self, step: str) -> None: ...

    def progressed(self, step: str, partition: str, done: int, total: int, what: str) -> None: ...

    def said(self, step: str, text: str, warning: bool) -> None:
        if warning:
            self.heard.append((step, text))

    def finished(self, step: str, seconds: float, succeeded: bool) -> None: ...


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = write_world(tmp_path_factory.mktemp("world"))
    prompts = path.parent / "prompts"
    shutil.copytree(BUILT_IN / "miniature", prompts)
    (prompts / "judge.jinja").write_text(GENERAL)
    (prompts / "judge.fashioniq.jinja").write_text(OWN)
    path.write_text(path.read_text().replace('prompts = "miniature"', 'prompts = "prompts"'))
    return load_settings(path)


@pytest.fixture(scope="module")
def ran(settings: Settings) -> tuple[Run, list[tuple[str, str]]]:
    """One run of everything, and the warnings that it gave."""
    warnings = Warnings()
    with listening(warnings):
        run = run_job(settings, FULL_PIPELINE, [KEY])
    assert run.failures == {}
    return run, warnings.heard


def judged(settings: Settings, stage: str) -> pl.DataFrame:
    """The judged rows of ``stage`` with the query's texts and the paths of both pictures."""
    context = pipeline_context(settings)
    images = context.tables.read("gallery_images", GALLERY, KEY).select("image_id", "path", "fingerprint")
    queries = context.tables.read("queries", QUERIES, KEY).select("query_id", "reference_id", "modification")
    rankings = context.tables.read(
        context.tables.reranked(KEY, Row("intersection", stage)), RANKINGS
    ).drop_nulls("judge_score")
    return (
        rankings.join(queries, on="query_id")
        .join(images, on="image_id")
        .join(images, left_on="reference_id", right_on="image_id", suffix="_of_reference")
    )


def made_by(settings: Settings) -> dict[str, RerankedRow]:
    """What the record says of each re-ranker."""
    record = pipeline_context(settings).tables.read_record("reranked_rankings", RerankedRecord, KEY)
    return {row.reranker: row for row in record.rows}


def test_the_leaderboards_scores_are_those_of_the_served_model(
    settings: Settings, ran: tuple[Run, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc

    context = pipeline_context(settings)
    rows = judged(settings, "adapter")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.tracking_uri)
    frame = pd.DataFrame(
        {
            "reference": [Path(path).read_bytes() for path in rows["path_of_reference"]],
            "modification": rows["modification"].to_list(),
            "candidate": [Path(path).read_bytes() for path in rows["path"]],
        }
    )
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(settings.tracking_uri)
    try:
        served = mlflow.pyfunc.load_model("models:/setr-reranker@champion").predict(frame)["score"].to_numpy()
    finally:
        mlflow.set_tracking_uri(before)
    scores = rows["judge_score"].to_numpy()
    assert len(scores) > 10
    np.testing.assert_allclose(scores, served, atol=1e-5)

    def asked_with(template: PromptTemplate) -> np.ndarray:
        judge = YesNoJudge(context.models.multimodal("1"), template)
        queries = [
            JudgedQuery(
                Picture(row["fingerprint_of_reference"], Path(row["path_of_reference"])),
                row["modification"],
                (Picture(row["fingerprint"], Path(row["path"])),),
            )
            for row in rows.to_dicts()
        ]
        return np.concatenate(judge.score(queries))

    # What the file for FashionIQ alone would have given is something else.
    own = PromptTemplate(Path("judge.fashioniq.jinja"), OWN)
    assert np.abs(asked_with(own) - scores).max() > 1e-3


def test_every_stage_says_which_prompt_it_used(settings: Settings, ran: tuple[Run, object]) -> None:
    context = pipeline_context(settings)
    general = load_prompts("prompts", settings.base_dir).hash("judge")
    judged_by = made_by(settings)
    for stage in ("base judge", "adapter"):
        table = context.tables.reranked(KEY, Row("intersection", stage))
        assert [row.prompt for row in context.tables.read_record(table, RerankedRecord).rows] == [general]
        assert judged_by[stage].prompt == general
    assert context.registry.model("setr-reranker").version("1").tags["setr.prompt_hash"] == general
    assert context.bundle("1").judge_prompt.source == GENERAL
    stored = (context.bundle("1").judge / "prompts").iterdir()
    assert [path.name for path in stored] == ["judge.jinja"]


def test_each_asset_that_judges_warns_once_of_the_file_that_is_not_used(
    settings: Settings, ran: tuple[Run, list[tuple[str, str]]]
) -> None:
    unused = str(settings.base_dir / "prompts" / "judge.fashioniq.jinja")
    warnings = [(step, text) for step, text in ran[1] if unused in text]
    assert [step for step, _ in warnings] == ["reranker_adapter", "reranking_fusion", "reranked_rankings"]
    assert all("is not used: a re-ranker has one judge prompt" in text for _, text in warnings)


def test_search_warns_of_it_too(
    settings: Settings, ran: tuple[Run, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((settings.base_dir / "data" / "fashioniq" / "images").iterdir())
    arguments = ["search", str(image), "make it red", "--k", "2", "--output", str(tmp_path / "sheet.png")]
    assert main(["--config", str(settings.base_dir / "setr.toml"), *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("judge.fashioniq.jinja is not used") == 1
    assert "adapter v1" in printed.out


def test_other_settings_change_the_base_judges_prompt_and_not_the_adapters(
    settings: Settings, ran: tuple[Run, object], tmp_path: Path
) -> None:
    shutil.copytree(settings.base_dir, tmp_path / "world")
    settings = load_settings(tmp_path / "world" / "setr.toml")
    before = {stage: judged(settings, stage) for stage in ("base judge", "adapter")}
    judge = settings.models.judge.model_copy(update={"prompts": "miniature"})
    other = settings.model_copy(update={"models": settings.models.model_copy(update={"judge": judge})})
    run = run_job(other, EVALUATION, [KEY])
    assert run.failures == {}
    made = run.metadata["reranked_rankings", KEY]
    assert made["adapter: judged now"] == 0
    assert made["base judge: judged now"] == before["base judge"].height
    after = {stage: judged(other, stage) for stage in ("base judge", "adapter")}
    columns = ["query_id", "pool", "image_id", "judge_score"]
    assert after["adapter"].select(columns).equals(before["adapter"].select(columns))
    assert not after["base judge"].select(columns).equals(before["base judge"].select(columns))
    judged_by = made_by(other)
    assert judged_by["base judge"].prompt == load_prompts("miniature").hash("judge")
    assert judged_by["adapter"].prompt == load_prompts("prompts", settings.base_dir).hash("judge")
