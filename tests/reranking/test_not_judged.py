"""A re-ranked table says how many of the pairs that it should have judged have no score."""

from __future__ import annotations

import polars as pl

from setr_lib.evaluation.row import Row
from setr_lib.pipeline.reranking_run import RerankedTable
from setr_lib.progress import CallCounter, silent
from setr_lib.records import RerankedRow
from setr_lib.tables import RANKINGS


def table(scores: dict[tuple[str, int], float | None], depth: int) -> RerankedTable:
    rows = [("q", pool, rank, f"i{rank}", 0.5, 0.5, score) for (pool, rank), score in scores.items()]
    by = RerankedRow(
        method="sum", reranker="judge", label="", model="m", prompt=None, fusion="judge", is_logit=True
    )
    rankings = pl.DataFrame(rows, schema=RANKINGS, orient="row")
    return RerankedTable(Row("sum", "judge"), rankings, by, CallCounter(silent), depth)


def test_pairs_without_a_score_are_counted_once_within_the_depth() -> None:
    judged: dict[tuple[str, int], float | None] = {("gallery", 1): 1.0, ("gallery", 2): -1.0}
    fine = table({**judged, ("gallery", 3): None, ("subset", 1): 0.5}, depth=2)
    assert fine.not_judged == 0 and "not judged" not in fine.facts and "without" not in fine.words
    lacking = table({**judged, ("gallery", 3): None, ("subset", 3): None, ("subset", 4): None}, depth=3)
    assert lacking.not_judged == 2 == lacking.facts["not judged"]
    assert "2 without a score (a picture or text that cannot be used)" in lacking.words
