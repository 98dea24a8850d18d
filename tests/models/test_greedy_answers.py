"""Answers that are generated side by side are those of transformers' own ``generate``, one prompt a call;
what prompts share is run once, and no more answers are in work than the batch size says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch  # noqa: TID253

from setr_lib.models.multimodal import (
    REFERENCE,
    ImageSlot,
    MultimodalModel,
    Picture,
    PictureError,
    RenderedPrompt,
    Request,
    TokenRow,
)
from setr_lib.models.multimodal.answer_rows import AnswerRows
from setr_lib.models.multimodal.caching_check import attends_to_all_tokens
from setr_lib.models.multimodal.prompt_passes import shared_beginning
from setr_lib.settings import JudgeSettings
from tests.tiny_judges import tiny_picture, write_tiny_judge

torch.set_num_threads(1)
BATCH, LIMIT = 4, 16
SYSTEM = "compose a candidate of the picture and of the query with it"
PICTURES = [Picture(f"p{seed}", tiny_picture(seed, (32 + 16 * (seed % 3), 40))) for seed in range(5)]
TEXTS = ("make it red", "blue and more striped , without the square", "a large dress", "less", "small shirt")


@pytest.fixture(scope="module", params=["llava", "llava_qwen2", "qwen2_5_vl", "qwen3_vl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MultimodalModel:
    folder = write_tiny_judge(request.param, tmp_path_factory.mktemp("judges") / request.param, seed=1)
    loaded = MultimodalModel.load(
        JudgeSettings(name=str(folder), batch_size=BATCH, max_new_tokens=LIMIT), device="cpu"
    )
    answers: list[str] = []
    for bias in (0.0, 0.5, 1.0, 1.5, 2.0):
        prefer(loaded, loaded.eos_ids, bias)
        answers = one_by_one(loaded, requests())
        if differ(loaded, answers):
            break
    assert differ(loaded, answers), "answers must differ, or equality proves nothing"
    return loaded


def prefer(model: MultimodalModel, tokens: Iterable[int], bias: float) -> None:
    """Add a bias to the logits of some tokens."""
    head = model.model.get_output_embeddings()
    if head.bias is None:
        head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
    with torch.no_grad():
        head.bias[sorted(tokens)] = bias


def differ(model: MultimodalModel, answers: Sequence[str]) -> bool:
    """Whether there are many answers, of several lengths."""
    return len(set(answers)) > 4 and len({len(answer.split()) for answer in answers}) > 3


def request_of(picture: Picture, text: str) -> Request:
    return RenderedPrompt((ImageSlot(REFERENCE), f"{text} : compose"), SYSTEM), {REFERENCE: picture}


def requests() -> list[Request]:
    """Prompts of several lengths; two pictures are shown by two prompts, one by three."""
    shown = [*PICTURES, *PICTURES[:3], PICTURES[0]]
    return [
        request_of(picture, TEXTS[place % 5] if place < 8 else "is it") for place, picture in enumerate(shown)
    ]


def one_by_one(model: MultimodalModel, asked: Sequence[Request], limit: int = LIMIT) -> list[str]:
    return [model.plain.generate([each], limit)[0] for each in asked]


def test_answers_are_those_of_transformers_generate(model: MultimodalModel) -> None:
    expected = one_by_one(model, requests())
    assert model.generate(requests()) == expected
    assert model.answering.exact
    assert model.generate(requests()[::-1]) == expected[::-1]
    assert model.generate(requests()[:1]) == expected[:1]
    assert model.generate(requests(), 1) == one_by_one(model, requests(), 1)


def test_answers_come_as_they_end_and_those_begun_before_an_unreadable_picture(
    model: MultimodalModel, tmp_path: Path
) -> None:
    model.generate(requests()[:2], 1)  # whether it may be done is found out before
    asked = [*requests(), request_of(Picture("0", tmp_path / "gone.png"), "red")]
    found: dict[int, str] = {}
    with pytest.raises(PictureError, match=r"gone\.png"):
        found.update(model.answers(asked))
    assert len(found) >= 2 * BATCH
    assert found == {
        place: answer for place, answer in enumerate(one_by_one(model, asked[:-1])) if place in found
    }


def test_a_generated_image_token_is_a_token_like_any_other(model: MultimodalModel) -> None:
    asked = requests()[:3]
    inputs = model.plain.inputs(asked[:1])
    made: list[int] = []
    try:
        for bias in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
            prefer(model, [model.image_token_id], bias)
            with torch.inference_mode():
                ids = model.model.generate(**inputs, max_new_tokens=LIMIT, do_sample=False)[0]
            made = ids[inputs["input_ids"].shape[1] :].tolist()
            if model.image_token_id in made[:-1]:
                break
        assert model.image_token_id in made[:-1]
        assert model.generate(asked) == one_by_one(model, asked)
    finally:
        prefer(model, [model.image_token_id], 0.0)


def test_what_prompts_begin_with_is_run_once(model: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model.generate(requests()[:2], 1)  # whether it may be done is found out before
    ran: list[TokenRow] = []
    run = model.forward.run

    def seen(rows: Sequence[TokenRow], *more: Any) -> Any:
        ran.extend(rows)
        return run(rows, *more)

    monkeypatch.setattr(model.forward, "run", seen)
    pictures = {
        picture.identity: request_of(picture, text)
        for picture, text in zip(PICTURES[:4], TEXTS, strict=False)
    }
    asked = [request_of(picture, text) for picture in PICTURES[:4] for text in TEXTS[:2]]
    model.generate(asked, 1)
    rows = model.rows.rows(list(pictures.values()))
    images = sum(row.images[0].embeds.shape[0] for row in rows)
    assert sum(row.ids.count(model.image_token_id) for row in ran) == images, "each picture once"
    start = model.tokenizer.convert_tokens_to_ids("candidate")
    assert sum(row.ids.count(start) for row in ran) == 1, "the system text once"


def test_memory_is_that_of_the_batch_size(model: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    add = AnswerRows.add

    def seen(self: AnswerRows, cache: Any) -> None:
        add(self, cache)
        sizes.append((len(self), self.nbytes))

    monkeypatch.setattr(AnswerRows, "add", seen)
    model.generate(requests() * 3)
    assert max(rows for rows, _ in sizes) <= BATCH
    config = model.model.config.get_text_config()
    token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * (config.hidden_size // 4)
    longest = max(len(row.ids) for row in model.rows.rows(requests())) + LIMIT
    assert max(size for _, size in sizes) <= BATCH * (longest + 64) * token


def test_a_shared_beginning_ends_before_a_picture_that_differs(model: MultimodalModel) -> None:
    first, other, same = model.rows.rows(
        [request_of(PICTURES[0], "red"), request_of(PICTURES[1], "red"), request_of(PICTURES[0], "blue")]
    )
    text = shared_beginning([first, other], model.image_token_id)
    assert model.image_token_id not in text.ids and not text.images
    assert first.ids[len(text.ids)] == model.image_token_id
    shown = shared_beginning([first, same], model.image_token_id)
    assert len(shown.images) == 1 and shown.images[0] is first.images[0]
    assert shown.ids.count(model.image_token_id) == first.images[0].embeds.shape[0]
    assert first.ids[: len(shown.ids)] == same.ids[: len(shown.ids)] == shown.ids
    assert first.ids[len(shown.ids)] != same.ids[len(shown.ids)]
    assert shared_beginning([first, first], model.image_token_id).ids == first.ids[:-1]


def test_answers_that_come_out_otherwise_are_left_to_transformers(
    model: MultimodalModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected, run_next = one_by_one(model, requests()[:3]), model.forward.run_next
    monkeypatch.setattr(model.answering, "exact", None)
    monkeypatch.setattr(model.answering.generation, "answers", pytest.fail)
    # Wrong positions stand for anything that may go wrong with an architecture.
    monkeypatch.setattr(
        model.forward, "run_next", lambda tokens, at, rows: run_next(tokens, [5] * len(at), rows)
    )
    assert model.generate(requests()[:3]) == expected
    assert model.answering.exact is False and "nothing is cached for answers" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"]}, "slower"),
        ({"layer_types": None, "sliding_window": 4096}, "slower"),
        ({"layer_types": None, "sliding_window": None}, ""),
        ({"_attn_implementation": "flash_attention_2"}, "slower"),
    ],
)
def test_models_with_windows_or_without_masks_are_not_even_tried(
    model: MultimodalModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    words: str,
) -> None:
    config = SimpleNamespace(**{"_attn_implementation": "sdpa", **changes})
    monkeypatch.setattr(model.model.config, "get_text_config", lambda: config)
    assert attends_to_all_tokens(model._loaded) == (not words)
    assert words in caplog.text
