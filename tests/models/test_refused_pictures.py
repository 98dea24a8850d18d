"""A picture or text that a model's processor refuses costs itself, and nothing else: described, composed,
judged, on real architectures. Errors of the model itself stay errors.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch  # noqa: TID253
from PIL import Image

from setr_lib.content_cache import ContentCache
from setr_lib.hashing import fingerprint_bytes, fingerprint_file
from setr_lib.models.device import DeviceError
from setr_lib.models.multimodal import (
    IMAGE,
    ImageSlot,
    MultimodalModel,
    Picture,
    PictureError,
    RefusedTextError,
    RenderedPrompt,
    Request,
)
from setr_lib.reranking.checked_scores import checked_scores
from setr_lib.reranking.rerank import CACHE_KIND as SCORES
from setr_lib.reranking.rerank import judge_pairs
from setr_lib.reranking.reranker import JudgedQuery, Reranker, RerankerError
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import JudgeSettings
from setr_lib.tables import GALLERY, QUERIES
from setr_lib.texts.generation import CACHE_KIND, compose_queries, describe_images
from setr_lib.texts.prompts import load_prompts
from tests.tiny_judges import tiny_picture, write_tiny_judge

torch.set_num_threads(1)
HALF = "red \ud800 circle"
"""A text with a lone surrogate, which no tokenizer of Rust takes."""


def thin() -> bytes:
    """A picture whose sides are 210 to 1: Qwen-VL's processor takes up to 200."""
    file = io.BytesIO()
    Image.new("RGB", (2100, 10), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


def picture(content: bytes) -> Picture:
    return Picture(fingerprint_bytes(content), content)


THIN = picture(thin())
GOOD = [picture(tiny_picture(seed, (32 + 16 * (seed % 3), 40))) for seed in range(5)]


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MultimodalModel:
    folder = write_tiny_judge(request.param, tmp_path_factory.mktemp("judges") / request.param, seed=1)
    settings = JudgeSettings(name=str(folder), batch_size=4, pair_batch_size=8, max_new_tokens=8)
    return MultimodalModel.load(settings, device="cpu")


@pytest.fixture(autouse=True)
def fresh(model: MultimodalModel) -> None:
    model.vision.memory.clear()


@pytest.fixture
def judge(model: MultimodalModel) -> YesNoJudge:
    return YesNoJudge(model, load_prompts("miniature").get("judge"))


def world(folder: Path) -> pl.DataFrame:
    rows = []
    for number, content in enumerate([*(tiny_picture(seed) for seed in range(5)), thin()]):
        path = folder / f"{number}.png"
        path.write_bytes(content)
        rows.append(
            {
                "image_id": f"i{number}",
                "path": str(path),
                "status": "ok",
                "fingerprint": fingerprint_file(path),
            }
        )
    return pl.DataFrame(rows, schema=GALLERY)


def queries_of(references: Sequence[str]) -> pl.DataFrame:
    rows = [
        {"query_id": f"q{n}", "reference_id": image, "modification": "make it red", "captions": []}
        for n, image in enumerate(references)
    ]
    return pl.DataFrame(rows, schema=QUERIES)


def test_the_error_names_the_picture_and_the_others_are_seen_as_without_it(model: MultimodalModel) -> None:
    expected = [features.embeds.clone() for features in model.vision.features(GOOD)]
    model.vision.memory.clear()
    with pytest.raises(PictureError, match=r"the model's processor refuses this picture of 2,100 x 10") as e:
        model.vision.features([*GOOD[:2], THIN, *GOOD[2:]])
    assert list(e.value.refused) == [THIN.identity]
    assert all(picture in model.vision for picture in GOOD) and THIN not in model.vision
    found = model.vision.features(GOOD)
    assert all(torch.equal(a, b.embeds) for a, b in zip(expected, found, strict=True))
    model.vision.memory.clear()
    assert list(model.vision.precompute([THIN, *GOOD])) == [THIN.identity]


@pytest.mark.parametrize("cached", [True, False])
def test_a_refused_picture_has_no_caption_and_the_others_have_theirs(
    model: MultimodalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    monkeypatch.setattr(model, "caches_are_exact", cached)
    prompts, images = load_prompts("miniature"), world(tmp_path)
    alone = describe_images(model, prompts, images.head(5), ContentCache(tmp_path / "a.sqlite", CACHE_KIND))
    cache = ContentCache(tmp_path / "b.sqlite", CACHE_KIND)
    made = describe_images(model, prompts, images.sample(fraction=1, shuffle=True, seed=1), cache)
    refused = made.row(by_predicate=pl.col("image_id") == "i5", named=True)
    assert refused["status"] == "failed" and "refuses this picture of 2,100 x 10" in refused["detail"]
    assert str(tmp_path / "5.png") in refused["detail"]
    assert made.filter(pl.col("image_id") != "i5").sort("image_id").equals(alone.sort("image_id"))


def test_a_query_with_a_refused_reference_falls_back(model: MultimodalModel, tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "c.sqlite", CACHE_KIND)
    made = compose_queries(model, load_prompts("miniature"), queries_of(["i5", "i0"]), world(tmp_path), cache)
    assert made["status"][0] == "fallback" and made["target_caption"][0] == "make it red"
    assert "2,100 x 10" in made["detail"][0] and "2,100" not in made["detail"][1]


@pytest.mark.parametrize("cached", [True, False, None])
def test_a_refused_candidate_is_not_judged_and_the_others_score_as_without_it(
    judge: YesNoJudge, monkeypatch: pytest.MonkeyPatch, cached: bool | None
) -> None:
    monkeypatch.setattr(judge.model, "caches_are_exact", cached)
    clean = [JudgedQuery(GOOD[0], "make it red", tuple(GOOD[1:4])), JudgedQuery(GOOD[4], "blue", (GOOD[0],))]
    expected = checked_scores(judge, clean)
    first = JudgedQuery(GOOD[0], "make it red", (GOOD[1], THIN, *GOOD[2:4]))
    found = checked_scores(judge, [first, JudgedQuery(THIN, "red", (GOOD[0],)), clean[1]])
    np.testing.assert_array_equal(found[0][[0, 2, 3]], expected[0])
    np.testing.assert_array_equal(found[2], expected[1])
    assert np.isnan(found[0][1]) and np.isnan(found[1]).all() and len(found[1]) == 1


def test_pairs_with_a_refused_picture_are_absent(judge: YesNoJudge, tmp_path: Path) -> None:
    cache, gallery = ContentCache(tmp_path / "s.sqlite", SCORES), world(tmp_path)
    wanted = {"q0": ["i1", "i5", "i2"], "q1": ["i0", "i1"]}
    scores = judge_pairs(wanted, queries_of(["i0", "i5"]), gallery, judge, cache)
    assert set(scores) == {("q0", "i1"), ("q0", "i2")}
    assert scores == judge_pairs(wanted, queries_of(["i0", "i5"]), gallery, judge, cache)


@pytest.mark.parametrize("text", [HALF, "red " * 6000], ids=["no Unicode", "too long for a prompt"])
@pytest.mark.parametrize("cached", [True, False])
def test_a_text_that_cannot_be_asked_costs_its_query(
    judge: YesNoJudge, monkeypatch: pytest.MonkeyPatch, cached: bool, text: str
) -> None:
    monkeypatch.setattr(judge.model, "caches_are_exact", cached)
    good = JudgedQuery(GOOD[0], "make it red", tuple(GOOD[1:4]))
    refused, scores = checked_scores(judge, [JudgedQuery(GOOD[1], text, tuple(GOOD)), good])
    assert np.isnan(refused).all() and len(refused) == len(GOOD)
    np.testing.assert_array_equal(scores, checked_scores(judge, [good])[0])


@pytest.mark.parametrize("cached", [True, False])
def test_a_prompt_longer_than_the_model_reads_is_refused(
    model: MultimodalModel, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    monkeypatch.setattr(model, "caches_are_exact", cached)
    long: Request = (RenderedPrompt((ImageSlot(IMAGE), "red " * 5000)), {IMAGE: GOOD[0]})
    with pytest.raises(RefusedTextError, match=r"5,0\d\d tokens, the model reads at most 4,096"):
        model.generate([long])


def test_a_text_too_long_for_the_prompt_is_its_own_compositions_failure(
    model: MultimodalModel, tmp_path: Path
) -> None:
    cache, prompts = ContentCache(tmp_path / "c.sqlite", CACHE_KIND), load_prompts("miniature")
    queries = queries_of(["i0", "i1"])
    long = pl.when(pl.col("query_id") == "q0").then(pl.lit("red " * 6000)).otherwise("modification")
    made = compose_queries(model, prompts, queries.with_columns(modification=long), world(tmp_path), cache)
    alone = compose_queries(model, prompts, queries.filter(query_id="q1"), world(tmp_path), cache)
    assert "20,000 characters" in made["detail"][0] and made["status"][0] == "fallback"
    assert made.filter(query_id="q1").equals(alone)


def test_errors_of_the_model_and_of_memory_are_no_pictures_fault(
    judge: YesNoJudge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, images = judge.model, world(tmp_path).head(2)
    cache = ContentCache(tmp_path / "d.sqlite", CACHE_KIND)

    def fails(error: BaseException) -> Any:
        def run(*_: Any, **__: Any) -> Any:
            raise error

        return run

    for place, error, expected in (
        (model.model, RuntimeError("weights overflow"), RuntimeError),
        (model.processor, ValueError("wrong version of the processor"), ValueError),
        (model.processor, MemoryError(), DeviceError),
        (model.processor, KeyboardInterrupt(), KeyboardInterrupt),
    ):
        name = "get_image_features" if place is model.model else "image_processor"
        with monkeypatch.context() as patch:
            patch.setattr(model, "caches_are_exact", True)
            patch.setattr(place, name, fails(error))
            with pytest.raises(expected):
                describe_images(model, load_prompts("miniature"), images, cache)


class Careful(Reranker):
    """Scores a picture by its mean grey; its own processor refuses thin ones."""

    name, id = "careful", "careful 1"

    def __init__(self, *, listwise: bool, broken: bool = False) -> None:
        self.listwise, self.broken = listwise, broken

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        return [
            np.array([self._grey(p) for p in (query.reference, *query.candidates)][1:]) for query in queries
        ]

    def _grey(self, picture: Picture) -> float:
        image = picture.open()
        if self.broken or image.width > 200 * image.height:
            raise ValueError("absolute aspect ratio must be smaller than 200")
        return float(np.asarray(image).mean())


@pytest.mark.parametrize("listwise", [True, False])
def test_a_reranker_of_ones_own_may_refuse_pictures(
    listwise: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = tmp_path / "thin.png"
    path.write_bytes(thin())
    queries = [
        JudgedQuery(GOOD[0], "red", (GOOD[1], Picture(THIN.fingerprint, path), GOOD[2])),
        JudgedQuery(THIN, "red", (GOOD[1],)),
    ]
    found = checked_scores(Careful(listwise=listwise), queries)
    clean = [JudgedQuery(GOOD[0], "red", (GOOD[1], GOOD[2]))]
    np.testing.assert_array_equal(found[0][[0, 2]], Careful(listwise=listwise).score(clean)[0])
    assert np.isnan(found[0][1]) and np.isnan(found[1]).all()
    assert f"{path} is refused (absolute aspect ratio must be smaller than 200)" in caplog.text
    with pytest.raises(RerankerError, match="careful"):
        checked_scores(Careful(listwise=listwise, broken=True), queries)
