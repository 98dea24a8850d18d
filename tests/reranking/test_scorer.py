"""The scorer: batching queries together, or splitting one, changes no score; the plain forward pass is the
yardstick.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from setr_lib.models.multimodal import CANDIDATE, REFERENCE, MultimodalModel, Picture
from setr_lib.reranking.scorer import JudgedQuery, batches_of_queries
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import JudgeSettings
from setr_lib.texts.prompts import load_prompts
from tests.tiny_judges import tiny_picture, write_tiny_judge

PICTURES = [Picture(f"p{seed}", tiny_picture(seed, (32 + 16 * (seed % 2), 48))) for seed in range(5)]
QUERIES = [
    JudgedQuery(PICTURES[0], "make it red", tuple(PICTURES)),
    JudgedQuery(PICTURES[1], "blue and the square without it", tuple(PICTURES[2:4])),
    JudgedQuery(PICTURES[1], "blue", ()),
    JudgedQuery(PICTURES[2], "a dress", (PICTURES[4],)),
]


@pytest.fixture(scope="module", params=["llava", "qwen3_vl", "qwen2_5_vl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_judge(request.param, tmp_path_factory.mktemp("judge") / request.param)


def load(folder: Path, pairs: int, prompts: str = "miniature") -> YesNoJudge:
    model = MultimodalModel.load(JudgeSettings(name=str(folder), pair_batch_size=pairs), device="cpu")
    return YesNoJudge(model, load_prompts(prompts).get("judge"))


@pytest.mark.parametrize("name", ["miniature", "standard"])
@pytest.mark.parametrize("pairs", [1, 3, 100])
def test_scores_are_those_of_the_plain_forward_pass(folder: Path, name: str, pairs: int) -> None:
    judge = load(folder, pairs, name)
    scores = judge.score(QUERIES)
    assert [len(found) for found in scores] == [5, 2, 0, 1]
    for query, found in zip(QUERIES, scores, strict=True):
        requests = [
            (judge.prompt(query), {REFERENCE: query.reference, CANDIDATE: candidate})
            for candidate in query.candidates
        ]
        assert found.dtype == np.float32
        assert np.allclose(found, judge.model.plain_answer_scores(requests), atol=1e-4)
    assert judge.model.caches_are_exact


def test_the_plain_way_gives_the_same(folder: Path) -> None:
    judge = load(folder, 4)
    expected = judge.score(QUERIES)
    judge.model.caches_are_exact = False
    for found, wanted in zip(judge.score(QUERIES), expected, strict=True):
        assert np.allclose(found, wanted, atol=1e-4)


def test_one_query(folder: Path) -> None:
    judge = load(folder, 4)
    assert np.allclose(judge.score(QUERIES[:1])[0], judge.score(QUERIES)[0], atol=1e-5)
    assert judge.score(QUERIES[2:3])[0].shape == (0,)
    assert judge.score([]) == []


def test_queries_of_one_candidate_each_share_no_larger_batches_than_settings_have(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = load(folder, 3)
    assert judge.model.pairs_in_work > 20, "a small model"
    queries = [
        JudgedQuery(PICTURES[n % 5], "red" if n % 2 else "a blue dress", (PICTURES[-n % 5],))
        for n in range(20)
    ]
    encode, sizes = judge.model.encode_prefixes, list[int]()
    monkeypatch.setattr(
        judge.model, "encode_prefixes", lambda prefixes: sizes.append(len(prefixes)) or encode(prefixes)
    )
    together = np.concatenate(judge.score(queries))
    assert sum(sizes) == 20
    assert max(sizes) <= 3
    assert np.allclose(together, [judge.score([query])[0][0] for query in queries], atol=1e-5)


def test_the_same_model_under_another_prompt_is_another_reranker(folder: Path) -> None:
    judge, other = load(folder, 4), load(folder, 4, "standard")
    assert judge.model.id == other.model.id
    assert judge.id != other.id
    assert judge.id == load(folder, 2).id, "how it is run is no part of what it is"
    assert not np.allclose(judge.score(QUERIES)[0], other.score(QUERIES)[0], atol=1e-3)


def test_batches_keep_queries_whole_and_in_order() -> None:
    for pairs in (1, 5, 6, 7, 100):
        batches = list(batches_of_queries(QUERIES, pairs))
        assert [query for batch in batches for query in batch] == QUERIES
        assert all(len(batch) == 1 or sum(len(q.candidates) for q in batch) <= pairs for batch in batches)
