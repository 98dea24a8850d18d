"""The scorer: batching queries together, or splitting one, changes no score; the plain forward pass is the yardstick."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from setr_lib.models.multimodal import CANDIDATE, REFERENCE, MultimodalModel, Picture
from setr_lib.reranking.scorer import (
    JudgedQuery,
    batches_of_queries,
    judge_prompt,
    score_queries,
    score_query,
)
from setr_lib.settings import JudgeSettings
from setr_lib.texts.prompts import load_prompts
from tests.tiny_judges import tiny_picture, write_tiny_judge

PICTURES = [Picture(f"p{seed}", tiny_picture(seed, (32 + 16 * (seed % 2), 48))) for seed in range(5)]
QUERIES = [
    JudgedQuery(PICTURES[0], "make it red", tuple(PICTURES)),
    JudgedQuery(PICTURES[1], "blue and the square without it", tuple(PICTURES[2:4]), ("blue", "without it")),
    JudgedQuery(PICTURES[1], "blue", ()),
    JudgedQuery(PICTURES[2], "a dress", (PICTURES[4],)),
]


@pytest.fixture(scope="module", params=["llava", "qwen3_vl", "qwen2_5_vl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_judge(request.param, tmp_path_factory.mktemp("judge") / request.param)


def load(folder: Path, pairs: int) -> MultimodalModel:
    return MultimodalModel.load(JudgeSettings(name=str(folder), pair_batch_size=pairs), device="cpu")


@pytest.mark.parametrize("name", ["miniature", "standard"])
@pytest.mark.parametrize("pairs", [1, 3, 100])
def test_scores_are_those_of_the_plain_forward_pass(folder: Path, name: str, pairs: int) -> None:
    model, prompts = load(folder, pairs), load_prompts(name)
    scores = score_queries(model, prompts, QUERIES, dataset="fashioniq")
    template = prompts.get("judge", "fashioniq")
    assert [len(found) for found in scores] == [5, 2, 0, 1]
    for query, found in zip(QUERIES, scores, strict=True):
        requests = [
            (judge_prompt(template, query), {REFERENCE: query.reference, CANDIDATE: candidate})
            for candidate in query.candidates
        ]
        assert found.dtype == np.float32
        assert np.allclose(found, model.plain_answer_scores(requests), atol=1e-4)
    assert model.caches_are_exact


def test_the_plain_way_gives_the_same(folder: Path) -> None:
    model, prompts = load(folder, 4), load_prompts("miniature")
    expected = score_queries(model, prompts, QUERIES)
    model.caches_are_exact = False
    for found, wanted in zip(score_queries(model, prompts, QUERIES), expected, strict=True):
        assert np.allclose(found, wanted, atol=1e-4)


def test_one_query(folder: Path) -> None:
    model, prompts = load(folder, 4), load_prompts("miniature")
    alone = score_query(model, prompts, QUERIES[0].reference, QUERIES[0].modification, QUERIES[0].candidates)
    assert np.allclose(alone, score_queries(model, prompts, QUERIES)[0], atol=1e-5)
    assert score_queries(model, prompts, QUERIES[2:3])[0].shape == (0,)
    assert score_queries(model, prompts, []) == []


def test_batches_keep_queries_whole_and_in_order() -> None:
    for pairs in (1, 5, 6, 7, 100):
        batches = list(batches_of_queries(QUERIES, pairs))
        assert [query for batch in batches for query in batch] == QUERIES
        assert all(len(batch) == 1 or sum(len(q.candidates) for q in batch) <= pairs for batch in batches)
