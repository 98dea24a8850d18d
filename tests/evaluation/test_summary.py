"""Leaderboard rows: percent, schema, intervals around values, coverage, and honest comparability."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from setr_lib.benchmarks import EvaluationSet, benchmark_of
from setr_lib.benchmarks.kinds.circo import CIRCO
from setr_lib.evaluation import leaderboard
from setr_lib.evaluation.floor import random_rankings
from setr_lib.evaluation.metrics import evaluate
from setr_lib.evaluation.row import EXTERNAL, Row
from setr_lib.evaluation.summary import floor_rows, gallery_coverage, metric_rows, why_not_comparable
from setr_lib.settings import EvaluationSettings
from setr_lib.tables import METRICS

Make = Callable[..., pl.DataFrame]


def set_of(kind: Any, split: str = "val", gallery: str = "all") -> EvaluationSet:
    return EvaluationSet(f"{kind}-{split}", kind, benchmark_of(kind), split, gallery, Path("root"), None)


@pytest.fixture
def circo(queries_of: Make, gallery_of: Make) -> tuple[pl.DataFrame, pl.DataFrame]:
    names = [f"i{number}" for number in range(80)]
    rows = [
        {"query_id": str(n), "reference_id": "i0", "target_ids": [f"i{n + 1}"], "aspects": ["addition"]}
        for n in range(40)
    ]
    return queries_of(rows), gallery_of(dict.fromkeys(names, ("all",)))


def test_rows_are_percent_with_intervals(circo: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    queries, gallery = circo
    rankings = random_rankings(queries, gallery)
    options = EvaluationSettings(bootstrap_samples=200)
    rows = metric_rows(
        set_of("circo"),
        queries,
        rankings,
        gallery,
        row=Row("intersection", "adapter"),
        settings=options,
        model_version="setr-reranker 3",
        label="zero-shot",
    )
    assert rows.schema == METRICS
    summary = evaluate("circo", queries, rankings, gallery).summary
    assert rows["metric"].to_list() == list(summary)
    assert rows["value"].to_list() == pytest.approx([100 * value for value in summary.values()])
    assert (rows["ci_low"] <= rows["value"]).all()
    assert (rows["value"] <= rows["ci_high"]).all()
    first = rows.row(0, named=True)
    assert (first["dataset"], first["split"], first["method"]) == ("circo", "val", "intersection")
    assert (first["reranker"], first["model_version"], first["n_queries"]) == (
        "adapter",
        "setr-reranker 3",
        40,
    )
    assert (first["coverage"], first["comparable"]) == (1.0, False)
    assert first["label"].startswith("zero-shot; 40 queries (official: 220); gallery of 80 images")


def test_rows_of_queries_that_all_miss_have_wilsons_interval_or_none(
    circo: tuple[pl.DataFrame, pl.DataFrame],
) -> None:
    queries, gallery = circo
    worst = random_rankings(queries, gallery)
    misses = worst.join(
        queries.explode("target_ids").select("query_id", image_id="target_ids"),
        on=["query_id", "image_id"],
        how="anti",
    ).with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("query_id"))
    rows = metric_rows(set_of("circo"), queries, misses, gallery, row=Row("sum"))
    recall, mean = (rows.row(by_predicate=pl.col("metric") == name, named=True) for name in ("R@5", "mAP@5"))
    assert (recall["value"], recall["ci_low"]) == (0.0, 0.0)
    assert recall["ci_high"] == pytest.approx(100 * 3.841458820694124 / (40 + 3.841458820694124))
    assert (mean["value"], mean["ci_low"], mean["ci_high"]) == (0.0, None, None)


def test_floor_rows_stand_beside_them(circo: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    rows = floor_rows(set_of("circo"), *circo)
    assert rows.schema == METRICS
    assert (set(rows["method"]), set(rows["reranker"])) == ({"random"}, {""})
    recall = rows.row(by_predicate=pl.col("metric") == "R@10", named=True)
    assert recall["value"] == pytest.approx(100 * 10 / 80)
    assert recall["ci_low"] < recall["value"] < recall["ci_high"]


def test_missing_images_lower_coverage_and_comparability(
    circo: tuple[pl.DataFrame, pl.DataFrame], gallery_of: Make
) -> None:
    queries, gallery = circo
    partial = gallery_of(dict.fromkeys(gallery["image_id"], ("all",)), broken=["i1", "i2"])
    assert gallery_coverage(partial) == pytest.approx(78 / 80)
    reasons = why_not_comparable(set_of("circo"), queries, partial)
    assert "2 of 80 gallery images missing or broken" in reasons
    rows = metric_rows(set_of("circo"), queries, random_rankings(queries, partial), partial, row=Row("s"))
    assert rows["coverage"].unique().to_list() == [pytest.approx(78 / 80)]


def test_an_incomplete_gallery_alone_marks_every_row(
    circo: tuple[pl.DataFrame, pl.DataFrame], gallery_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, whole = circo
    monkeypatch.setattr(CIRCO, "official_queries", lambda *_: queries.height)
    monkeypatch.setattr(CIRCO, "official_images", lambda *_: {"all": whole.height})
    partial = gallery_of(dict.fromkeys(whole["image_id"], ("all",)), broken=["i1", "i2"])

    def rows_over(gallery: pl.DataFrame) -> pl.DataFrame:
        rankings = random_rankings(queries, gallery)
        options = EvaluationSettings(bootstrap_samples=100)
        measured = [
            metric_rows(set_of("circo"), queries, rankings, gallery, row=row, settings=options)
            for row in (Row("s"), Row("s", "base judge"), Row("s", "adapter"), EXTERNAL)
        ]
        return pl.concat([*measured, floor_rows(set_of("circo"), queries, gallery, settings=options)])

    fine = rows_over(whole)
    assert fine["comparable"].all() and set(fine["coverage"]) == {1.0}
    marked = rows_over(partial)
    assert not marked["comparable"].any()
    assert marked["coverage"].unique().to_list() == [pytest.approx(78 / 80)]
    assert marked["label"].str.contains("2 of 80 gallery images missing or broken").all()
    shown = json.loads(leaderboard.as_json(marked))
    assert all(row["coverage"] == pytest.approx(78 / 80) and row["comparable"] is False for row in shown)


def test_only_the_official_set_is_comparable(queries_of: Make, gallery_of: Make) -> None:
    official = queries_of(
        [{"query_id": str(n), "reference_id": "r", "target_ids": ["t"]} for n in range(220)]
    )
    assert why_not_comparable(set_of("circo"), official) == []
    assert gallery_coverage(None) == gallery_coverage(gallery_of({}).drop("status")) == 1.0
    assert why_not_comparable(set_of("folder", "all"), official) == ["not a benchmark"]
    reasons = why_not_comparable(set_of("fashioniq", gallery="val"), official)
    assert reasons[0] == "gallery of references and targets only"
    listed = gallery_of({"a": ["dress"], "b": ["dress", "shirt"]})
    reasons = why_not_comparable(set_of("fashioniq", gallery="val"), official, listed)
    assert "gallery of 3 images (official: 8,619)" in reasons, "the small gallery has official counts, too"


def test_unranked_queries_are_noted(circo: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    queries, gallery = circo
    rankings = random_rankings(queries, gallery).filter(pl.col("query_id") != "7")
    rows = metric_rows(set_of("circo"), queries, rankings, gallery, row=Row("s"))
    assert rows["label"].str.contains("1 queries without a ranking count as misses").all()


def test_a_hidden_split_has_no_rows(circo: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    queries, gallery = circo
    hidden = queries.with_columns(pl.lit([], dtype=pl.List(pl.String)).alias("target_ids"))
    rankings = random_rankings(hidden, gallery)
    rows = metric_rows(set_of("circo", "test"), hidden, rankings, gallery, row=Row("s"))
    assert rows.is_empty()
    assert rows.schema == METRICS
    assert floor_rows(set_of("circo", "test"), hidden, gallery).is_empty()
