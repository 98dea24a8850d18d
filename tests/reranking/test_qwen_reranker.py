"""Qwen3-VL-Reranker's convention: its prompt, the lower-case answers, the score; on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from setr_lib.hashing import fingerprint_bytes
from setr_lib.models.multimodal import JudgeError, Picture
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.reranking import open_reranker
from setr_lib.reranking.qwen_reranker import InstructedJudge
from setr_lib.reranking.reranker import JudgedQuery, RerankerError, get_reranker, reranker_names
from setr_lib.settings import Settings, load_settings
from tests.tiny_judges import EOS, IMAGE_PAD, VISION_END, VISION_START, tiny_picture, write_tiny_judge

SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "find the picture ."


def write_tiny_reranker(folder: Path) -> Path:
    """A tiny Qwen3-VL whose tokenizer has both spellings of the answers."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    write_tiny_judge("qwen3_vl", folder)
    processor: Any = AutoProcessor.from_pretrained(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        processor.tokenizer.add_tokens(["yes", "no"])
        model.resize_token_embeddings(len(processor.tokenizer))
        model.get_output_embeddings().weight.data.normal_(std=0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("reranker")
    write_tiny_reranker(found / "model")
    return found


def settings_in(folder: Path, **options: str) -> Settings:
    said = {"name": "model", "instruction": INSTRUCTION, **options}
    lines = "".join(f'{key} = "{value}"\n' for key, value in said.items())
    (folder / "setr.toml").write_text(
        '[models]\ndevice = "cpu"\n[models.judge]\nname = "no/such-judge"\n'
        f'[models.reranker]\n{lines}[reranking]\nrerankers = ["qwen3-vl-reranker"]\n',
        encoding="utf-8",
    )
    return load_settings(folder / "setr.toml")


@pytest.fixture(scope="module")
def reranker(folder: Path) -> InstructedJudge:
    found = open_reranker(PipelineContext(settings_in(folder)), "qwen3-vl-reranker").scorer
    assert isinstance(found, InstructedJudge)
    return found


def picture(seed: int) -> Picture:
    content = tiny_picture(seed, (48, 32) if seed % 2 else (32, 32))
    return Picture(fingerprint_bytes(content), content)


QUERIES = [
    JudgedQuery(picture(0), "make it red", (picture(1), picture(2), picture(3))),
    JudgedQuery(picture(4), "a large circle without the dress", (picture(5),)),
]


def expected(folder: Path, query: JudgedQuery, candidate: Picture) -> float:
    """logit(yes) - logit(no) by transformers alone, from the messages as the convention has them."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    content = [
        {"type": "text", "text": f"<Instruct>: {INSTRUCTION}"},
        {"type": "text", "text": "<Query>:"},
        {"type": "image", "image": query.reference.open()},
        {"type": "text", "text": query.modification},
        {"type": "text", "text": "\n<Document>:"},
        {"type": "image", "image": candidate.open()},
    ]
    messages = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": content},
    ]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        logits = model(**inputs).logits[0, -1]
    vocabulary = processor.tokenizer.get_vocab()
    return float(logits[vocabulary["yes"]] - logits[vocabulary["no"]])


def test_scores_are_the_logits_of_the_lower_case_answers(folder: Path, reranker: InstructedJudge) -> None:
    for query, scores in zip(QUERIES, reranker.score(QUERIES), strict=True):
        reference = [expected(folder / "model", query, candidate) for candidate in query.candidates]
        assert scores.dtype == np.float32
        assert scores == pytest.approx(reference, abs=1e-4)
    vocabulary = reranker.model.tokenizer.get_vocab()
    assert (reranker.model.yes_id, reranker.model.no_id) == (vocabulary["yes"], vocabulary["no"])
    assert "Yes" in vocabulary, "the judge's spelling is there, too, and is not asked"


def test_the_prompt_is_the_models_own(reranker: InstructedJudge) -> None:
    image = VISION_START + IMAGE_PAD + VISION_END
    assert reranker.model.prompts.chat_text(reranker.prompt(QUERIES[0])) == (
        f"system : {SYSTEM}{EOS} "
        f"user : <Instruct>: {INSTRUCTION}<Query>:{image}make it red\n<Document>:{image}{EOS} Assistant : "
    )


def test_another_instruction_is_another_reranker(folder: Path, reranker: InstructedJudge) -> None:
    other = open_reranker(PipelineContext(settings_in(folder, instruction="the red one")), reranker.name)
    assert other.scorer.id != reranker.id
    assert other.label.startswith("trained elsewhere")
    again = open_reranker(PipelineContext(settings_in(folder)), reranker.name)
    assert again.scorer.id == reranker.id


def test_it_is_named_and_no_default() -> None:
    assert "qwen3-vl-reranker" in reranker_names()
    assert Settings().reranking.rerankers == ["base judge", "adapter"]
    assert Settings().models.reranker.name == "Qwen/Qwen3-VL-Reranker-2B"
    with pytest.raises(RerankerError, match="once it is opened"):
        get_reranker("qwen3-vl-reranker").score(QUERIES)


def test_a_model_that_cannot_answer_or_load_is_told(folder: Path) -> None:
    write_tiny_judge("qwen3_vl", folder / "judge")
    with pytest.raises(JudgeError, match="no single token for Yes and No"):
        open_reranker(PipelineContext(settings_in(folder, name="judge")), "qwen3-vl-reranker")
    (folder / "empty").mkdir()
    with pytest.raises(JudgeError, match=r"models\.reranker\.name = "):
        open_reranker(PipelineContext(settings_in(folder, name="empty")), "qwen3-vl-reranker")
