"""Where no configured method reads captions or compositions, the multimodal LLM writes none, and all else is
as usual.
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from tiny_world import Run, run_job, write_world

from setr_assets.code_versions import CodeVersions, reads_of
from setr_assets.definitions import blueprints
from setr_assets.jobs import EVALUATION
from setr_lib.cli import main
from setr_lib.methods.inputs import MethodError
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.evaluation import assess
from setr_lib.pipeline.report_page import contact_sheet
from setr_lib.pipeline.retrieval import rank_set
from setr_lib.settings import Settings, load_settings

KEY = "circo-val"
WRITTEN = {"reference_captions": "captions", "query_compositions": "compositions"}


def settings_of(path: Path, base: str, strategies: list[str], rerankers: list[str]) -> Settings:
    coarse = f"[coarse]\nstrategies = {json.dumps(strategies)}\ndefault = {json.dumps(strategies[0])}"
    reranking = f"[reranking]\nrerankers = {json.dumps(rerankers)}"
    text = base.replace("[coarse]", coarse).replace("[reranking]", reranking)
    path.write_text(text.replace('name = "judge"', 'name = "no/such-judge"'), encoding="utf-8")
    return load_settings(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = write_world(tmp_path_factory.mktemp("plain"))
    return path, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def settings(world: tuple[Path, str]) -> Settings:
    return settings_of(*world, ["sum", "image"], [])


@pytest.fixture(scope="module")
def run(settings: Settings) -> Run:
    """A whole evaluation; a multimodal LLM that were asked for would not be found."""
    return run_job(settings, EVALUATION, [KEY])


def test_the_evaluation_takes_no_multimodal_llm(run: Run, settings: Settings) -> None:
    assert run.failures == {}
    for asset in WRITTEN:
        made = run.metadata[asset, KEY]
        assert (made["dagster/partition_row_count"], made["model calls"]) == (0, 0)
    rows = pl.read_parquet(settings.table_path("evaluation_report", KEY))
    assert {"sum", "image"} <= set(rows["method"])


def test_page_and_contact_sheet_do_without(run: Run, settings: Settings) -> None:
    page = (settings.report_root / KEY / "index.html").read_text(encoding="utf-8")
    assert "The multimodal LLM composed" not in page
    context = PipelineContext(settings)
    assert contact_sheet(context, KEY, assess(context, KEY)) is not None


def test_the_plan_counts_none(run: Run, world: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    path, base = world

    def counted(strategies: list[str]) -> list[str]:
        settings_of(path, base, strategies, [])
        assert main(["--config", str(path), "plan", "--counts-only"]) == 0
        lines = capsys.readouterr().out.splitlines()
        return next(line for line in lines if KEY in line).split()[2:4]

    assert counted(["sum", "image"]) == ["0", "0"]
    captions, compositions = counted(["sum", "union_text"])
    assert captions != "0" and compositions == "0"


def test_a_method_that_reads_them_makes_them_stale_and_is_not_ranked_without(
    run: Run, world: tuple[Path, str]
) -> None:
    plain = settings_of(*world, ["sum", "image"], [])
    with_union = settings_of(*world, ["sum", "union_text"], [])
    for asset, kind in WRITTEN.items():
        (blueprint,) = (found for found in blueprints() if found.name == asset)
        before, after = (CodeVersions(made).version("1", blueprint.reads) for made in (plain, with_union))
        assert (before != after) == (kind == "captions")
        assert not set(reads_of(blueprint.reads, plain))
    with pytest.raises(MethodError, match="reference_captions"):
        rank_set(PipelineContext(with_union), KEY)


@pytest.mark.parametrize(
    ("strategies", "methods", "texts"),
    [
        (["sum"], [], set()),
        (["sum", "union_text"], [], {"captions"}),
        (["sum"], ["intersection"], {"compositions"}),
    ],
)
def test_what_is_ranked_or_re_ranked_counts(
    strategies: list[str], methods: list[str], texts: set[str]
) -> None:
    coarse = {"strategies": [*strategies, *methods], "default": "sum"}
    found = Settings.model_validate({"coarse": coarse, "reranking": {"methods": methods or None}})
    assert PipelineContext(found).methods.texts_needed == texts
    made = {
        kind
        for asset, kind in WRITTEN.items()
        for one in blueprints()
        if one.name == asset
        if set(reads_of(one.reads, found))
    }
    assert made == texts
