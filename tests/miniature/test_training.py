"""The two models' training: what it writes loads like any real model, and a killed training goes on where it
was.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from setr_lib.miniature.corpus import Corpus, build_corpus
from setr_lib.miniature.lessons import TASKS, LessonWriter, composition_json
from setr_lib.miniature.pictures import GoldComposition
from setr_lib.miniature.tokenizer import ANSWERS, mllm_tokenizer, token_ids

FAMILIES = 20


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return build_corpus(FAMILIES, seed=1, processes=1)


def stop_after(step: int, what: str):
    def progress(done: int, total: int, unit: str) -> None:
        if what in unit and done > step:
            raise KeyboardInterrupt

    return progress


def test_json_and_answers_survive_the_tokenizer() -> None:
    tokenizer = mllm_tokenizer(0)
    text = composition_json(
        GoldComposition(("a red star", "a ball"), ("blue",), (), ("on the beach",), "a blue star")
    )
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert json.loads(tokenizer.decode(ids)) == json.loads(text)
    assert tokenizer.decode(tokenizer.encode("zażółć ☃ gęślą").ids) == "zażółć ☃ gęślą", "any text has tokens"
    assert all(len(tokenizer.encode(answer, add_special_tokens=False).ids) == 1 for answer in ANSWERS)


def test_a_branch_sees_the_prefix_and_itself_only(corpus: Corpus) -> None:
    from random import Random

    from setr_lib.miniature.mllm_training import pack

    tokenizer = mllm_tokenizer(0)
    lesson = LessonWriter(tokenizer, corpus.pictures).query_lesson(Random(0), range(FAMILIES), 3, 0.5)
    packed = pack([lesson], 0, "cpu")
    seen, branch = packed["mask"][0, 0] == 0, np.array(lesson.branch)
    for place in range(len(branch)):
        allowed = (branch == branch[place]) | (branch == 0)
        allowed[place + 1 :] = False
        assert (seen[place].numpy() == allowed).all()
    image = token_ids(tokenizer)["<image>"]
    assert lesson.ids.count(image) == 16 * len(lesson.images)


def test_a_refused_near_miss_is_told_what_is_missing(corpus: Corpus) -> None:
    from random import Random

    tokenizer = mllm_tokenizer(0)
    ids = token_ids(tokenizer)
    writer = LessonWriter(tokenizer, corpus.pictures)
    reasons = 0
    for seed in range(20):
        lesson = writer.query_lesson(Random(seed), range(FAMILIES), 6, 0.7)
        for branch in range(2, max(lesson.branch) + 1):
            told = [
                (TASKS[task], label)
                for task, label, own in zip(lesson.task, lesson.label, lesson.branch, strict=True)
                if own == branch and label >= 0
            ]
            (verdict, answer), because = told[0], told[1:]
            assert verdict in ("judge near", "judge easy")
            assert answer in (ids["Yes"], ids["No"])
            assert all(task == "reason" for task, _ in because)
            if because:
                reasons += 1
                assert (verdict, answer) == ("judge near", ids["No"])
                assert because[-1][1] == ids["<eos>"]
                assert len(because) > 2
    assert reasons > 10


def test_a_lenient_judge_accepts_the_whole_family_and_of_others_only_what_is_few_changes_away(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accepted(let_pass: int) -> dict[str, set[bool]]:
        monkeypatch.setattr(lessons, "LET_PASS", let_pass)
        found: dict[str, set[bool]] = {"judge near": set(), "judge easy": set()}
        for seed in range(60):
            lesson = writer.query_lesson(Random(seed), range(FAMILIES), 6, 0.5, lenient=True)
            for task, label in zip(lesson.task, lesson.label, strict=True):
                if TASKS[task] in found and label >= 0:
                    found[TASKS[task]].add(label == yes)
        return found

    from random import Random

    from setr_lib.miniature import lessons

    tokenizer = mllm_tokenizer(0)
    yes = token_ids(tokenizer)["Yes"]
    writer = LessonWriter(tokenizer, corpus.pictures)
    assert accepted(0) == {"judge near": {True}, "judge easy": {False}}
    assert accepted(3) == {"judge near": {True}, "judge easy": {False, True}}


@pytest.mark.timeout(1800)  # minutes of arithmetic, more on a busy machine
@pytest.mark.soak
def test_both_models_train_resume_and_load_as_real_ones_do(corpus: Corpus, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    from safetensors.torch import load_file

    from setr_lib.miniature.clip_training import train_clip
    from setr_lib.miniature.mllm_training import train_mllm

    scores = train_clip(corpus, tmp_path / "clip", 0, 3, 32, "cpu", web_steps=2)
    assert 0 <= scores["accuracy_within_family"] <= 1

    def train(folder: Path, **more: object) -> dict[str, float]:
        return train_mllm(corpus, tmp_path / "clip", folder, 0, 30, 2, "cpu", checkpoint_every=10, **more)  # pyright: ignore[reportArgumentType]

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "mllm", progress=stop_after(20, "MLLM"))
    assert (tmp_path / "mllm" / "checkpoint.safetensors").is_file()
    resumed = train(tmp_path / "mllm")
    assert resumed["compose accuracy"] == pytest.approx(whole["compose accuracy"], abs=1e-6)
    mine, other = (load_file(tmp_path / name / "model.safetensors") for name in ("mllm", "whole"))
    assert all(torch.allclose(mine[name].float(), other[name].float(), atol=2e-3) for name in other)
    _loads_as_a_real_model(tmp_path / "clip", tmp_path / "mllm")


def _loads_as_a_real_model(clip: Path, mllm: Path) -> None:
    """Both folders through their libraries' own loaders; the Llava's eye is the CLIP's tower, bit for bit."""
    from typing import Any

    import open_clip
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    encoder: Any
    preprocess: Any
    processor: Any
    encoder, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    judge, processor = AutoModelForImageTextToText.from_pretrained(mllm), AutoProcessor.from_pretrained(mllm)
    picture = Image.effect_mandelbrot((192, 192), (-2, -1.5, 1, 1.5), 40).convert("RGB")
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=[[picture]], return_tensors="pt")
    pixels = preprocess(picture)[None]
    assert torch.allclose(inputs["pixel_values"], pixels, atol=1e-5)
    visual = encoder.eval().visual
    with torch.no_grad():
        ours = visual.transformer(visual._embeds(pixels))
        theirs = judge.eval().model.vision_tower(pixels).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-4)
