"""How a method's score and a re-ranker's are fused: for each pair, by the settings or as calibrated, said in
words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from setr_lib.methods.inputs import MethodInputs
from setr_lib.methods.method import Method
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.reranking import FusionInUse, fusion_in_use
from setr_lib.reranking.reranker import JudgedQuery, Reranker
from setr_lib.settings import RerankingSettings, Settings, TrainingSettings
from setr_lib.tables import FUSIONS, write_parquet_atomically


class NoCosine(Method):
    name = "counts"
    is_cosine = False

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        return np.zeros((0, 0), np.float32)


class NoLogit(Reranker):
    name = "colours"
    id = "1"

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        return []


def context_of(tmp_path: Path, **options: object) -> PipelineContext:
    training = TrainingSettings(captions=Path("captions.jsonl"))
    reranking = RerankingSettings.model_validate(options)
    return PipelineContext(Settings(base_dir=tmp_path, training=training, reranking=reranking))


def line(
    method: str, reranker: str, version: str | None, fusion: str, weight: float | None
) -> dict[str, object]:
    chosen = {"mean_reciprocal_rank": 0.5, "top_1": 0.4, "queries": 9, "chosen": True}
    return {
        "method": method,
        "reranker": reranker,
        "version": version,
        "fusion": fusion,
        "weight": weight,
        **chosen,
    }


def in_use(context: PipelineContext, method: str, reranker: str, version: str | None = None) -> FusionInUse:
    return fusion_in_use(context, context.methods.get(method), context.rerankers.get(reranker), version)


def test_each_pair_has_its_own_choice(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    rows = [
        line("intersection", "base judge", None, "cosine_judge", 0.5),
        line("intersection", "adapter", "3", "judge", None),
        line("sum", "base judge", None, "reciprocal_rank", None),
    ]
    context.tables.write("reranking_fusion", pl.DataFrame(rows, schema=FUSIONS), FUSIONS)
    base = in_use(context, "intersection", "base judge")
    assert base.words == "cosine_judge, w = 0.5 (best on 9 held-out synthesised queries)"
    assert in_use(context, "sum", "base judge").fusion == "reciprocal_rank"
    assert in_use(context, "intersection", "adapter", "3").words.endswith("synthesised queries)")
    assert in_use(context, "intersection", "adapter", "4").words.endswith("for version 3)")
    unknown = in_use(context, "sum", "adapter", "3")
    assert (unknown.fusion, unknown.weight) == ("cosine_judge", 1.0)
    assert "no calibration of sum and adapter yet" in unknown.words


def test_without_a_calibration_it_is_cosine_and_judge_and_said_so(tmp_path: Path) -> None:
    found = in_use(context_of(tmp_path, judge_weight=2.0), "intersection", "base judge")
    assert found.words == "cosine_judge, w = 2 (no calibration yet: materialize reranking_fusion)"


def test_without_training_images_it_is_not_said_to_be_calibrated_later(tmp_path: Path) -> None:
    context = PipelineContext(Settings(base_dir=tmp_path))
    found = in_use(context, "intersection", "base judge")
    why = "there are no held-out queries to choose by, because [training] names no training images"
    assert found.words == f"cosine_judge, w = 1 ({why}; cosine + 1 x P(Yes) stands in)"
    other = fusion_in_use(context, context.methods.get("sum"), NoLogit(), None)
    assert other.words.startswith(f"reciprocal_rank ({why}; not cosine_judge: ")
    assert other.words.endswith("; reciprocal rank stands in)")
    assert "materialize" not in found.words + other.words


def test_a_table_of_an_earlier_version_is_the_default_methods(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    new = pl.DataFrame([line("", "adapter", "3", "cosine_judge", 0.2)], schema=FUSIONS)
    old = new.drop("method").rename({"reranker": "stage", "version": "adapter_version"})
    write_parquet_atomically(old, context.settings.table_path("reranking_fusion"))
    assert in_use(context, "intersection", "adapter", "3").weight == 0.2
    assert "no calibration of sum" in in_use(context, "sum", "adapter", "3").how


@pytest.mark.parametrize("options", [{"fusion": "cosine_judge"}, {"fusion": "auto"}])
def test_what_is_no_cosine_or_no_log_odds_is_not_added_up_and_why_is_said(
    tmp_path: Path, options: dict[str, object]
) -> None:
    context = context_of(tmp_path, **options)
    judge, method = context.rerankers.get("base judge"), context.methods.get("sum")
    for found, words in (
        (fusion_in_use(context, NoCosine(), judge, None), "the scores of method 'counts' are not cosines"),
        (
            fusion_in_use(context, method, NoLogit(), None),
            "re-ranker 'colours' are not the log-odds of a Yes",
        ),
    ):
        assert found.fusion == "reciprocal_rank"
        assert "not cosine_judge: " in found.words and words in found.words
    alone = context_of(tmp_path, fusion="judge")
    assert fusion_in_use(alone, NoCosine(), NoLogit(), None).words == "judge (by the settings)"
