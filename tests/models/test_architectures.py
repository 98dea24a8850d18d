"""The architectures that people name as their judge, from a local folder to a registered adapter: described,
composed, judged, trained, registered, and loaded again in one fresh process.

What is expected comes from transformers alone: a prompt at a time, its own forward pass and ``generate``.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch  # noqa: TID253
from PIL import Image

from setr_lib.content_cache import ContentCache
from setr_lib.hashing import fingerprint_bytes, fingerprint_file
from setr_lib.models.multimodal import CANDIDATE, IMAGE, REFERENCE, ImageSlot, MultimodalModel, Picture
from setr_lib.models.multimodal.prompt import Request
from setr_lib.models.multimodal.suitability import suitability
from setr_lib.registry.bundle import base_reference
from setr_lib.registry.reranker_model import log_adapter
from setr_lib.registry.round_trip import RoundTripReport
from setr_lib.registry.store import MlflowRegistry
from setr_lib.reranking.lora import lora_layers, trainable_parameters
from setr_lib.reranking.reranker import JudgedQuery
from setr_lib.reranking.training import train_adapter
from setr_lib.reranking.training_result import AdapterResult
from setr_lib.reranking.training_step import YesNoObjective, groups_of
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import JudgeSettings
from setr_lib.tables import GALLERY, QUERIES
from setr_lib.texts.generation import CACHE_KIND, compose_queries, describe_images
from setr_lib.texts.prompts import load_prompts
from tests.published_judges import LAYERS, PUBLISHED, write_published_judge
from tests.reranking import judge_worlds as worlds
from tests.tiny_judges import tiny_picture

torch.set_num_threads(1)
SIDES = [(48, 40), (80, 30), (32, 32), (30, 90), (64, 40), (40, 64)]
"""Of pictures; they have several numbers of tiles."""
PLAINLY_JUDGED = {"gemma3": "in both directions"}
"""Whose pairs are judged one by one, as whole prompts, and the words that say why."""
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def picture(seed: int) -> Picture:
    content = tiny_picture(seed, SIDES[seed % len(SIDES)])
    return Picture(fingerprint_bytes(content), content)


PICTURES = [picture(seed) for seed in range(6)]
QUERIES_JUDGED = [
    JudgedQuery(PICTURES[0], "make it red and the square blue", tuple(PICTURES[1:])),
    JudgedQuery(PICTURES[1], "blue", (PICTURES[2], PICTURES[0])),
]


class Judges:
    """The six models and what is made of them, each once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder, self.judge, self.adapter = cache(self._folder), cache(self._judge), cache(self._adapter)

    def _folder(self, kind: str) -> Path:
        if kind == "smolvlm":
            pytest.importorskip("num2words", reason="SmolVLM's processor needs it")
        return write_published_judge(kind, self.root / kind)

    def settings(self, kind: str) -> JudgeSettings:
        return JudgeSettings(name=str(self.folder(kind)), batch_size=4, max_new_tokens=8)

    def _judge(self, kind: str) -> YesNoJudge:
        return YesNoJudge(MultimodalModel.load(self.settings(kind), device="cpu"), worlds.prompt())

    def _adapter(self, kind: str) -> AdapterResult:
        options = worlds.settings(epochs=1.0, groups_per_batch=2, learning_rate=0.02)
        return train_adapter(self.judge(kind), pairs(), shown(), options, self.root / f"{kind}-trained")


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Judges:
    return Judges(tmp_path_factory.mktemp("published"))


def pairs() -> pl.DataFrame:
    return worlds.pairs(groups=6, held_out=2)


@cache
def shown() -> dict[str, Picture]:
    """The images of :func:`pairs`: of several sizes, so that their prompts have several lengths."""
    return {f"i{number}": picture(number) for number in range(worlds.IMAGES)}


def messages(request: Request) -> tuple[list[dict[str, Any]], list[Any]]:
    """A request as transformers' documentation writes it, and its pictures in order."""
    prompt, pictures = request
    content: list[dict[str, Any]] = []
    images = []
    for part in prompt.parts:
        if isinstance(part, ImageSlot):
            images.append(pictures[part.name].open())
            content.append({"type": "image"})
        else:
            content.append({"type": "text", "text": part})
    turns = [{"role": "user", "content": content}]
    if prompt.system:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt.system}]})
    return turns, images


def by_transformers_alone(folder: Path, requests: Sequence[Request]) -> tuple[list[float], list[str]]:
    """logit(Yes) - logit(No) and a greedy answer of 8 tokens for each request, one at a time."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    tokenizer = processor.tokenizer
    (yes,), (no,) = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("Yes", "No"))
    scores, answers = [], []
    for request in requests:
        turns, images = messages(request)
        text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=[images], return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            logits = model(**inputs).logits[0, -1]
            ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
        scores.append(float(logits[yes] - logits[no]))
        answer = ids[inputs["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(answer, skip_special_tokens=True).strip())
    return scores, answers


def world(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A gallery of the six pictures, and a query on each of three."""
    rows = []
    for number, made in enumerate(PICTURES):
        path = folder / f"{number}.png"
        path.write_bytes(bytes(made.source))  # pyright: ignore[reportArgumentType]
        row = {"image_id": f"i{number}", "path": str(path), "status": "ok"}
        rows.append({**row, "fingerprint": fingerprint_file(path)})
    asked = [
        {"query_id": f"q{n}", "reference_id": f"i{n}", "modification": text, "captions": []}
        for n, text in enumerate(("make it red", "blue and striped", "a large circle"))
    ]
    return pl.DataFrame(rows, schema=GALLERY), pl.DataFrame(asked, schema=QUERIES)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_what_is_known_before_its_weights_are_loaded(judges: Judges, kind: str) -> None:
    found = suitability(judges.settings(kind), str(judges.folder(kind)))
    assert found.problems == ()
    words = PLAINLY_JUDGED.get(kind)
    assert [words in note for note in found.notes] == [True] if words else found.notes == ()
    if kind != "gemma3":
        file = io.BytesIO()
        Image.new("RGB", (640, 480)).save(file, "PNG")
        (photo,) = judges.judge(kind).vision.run([Picture("photo", file.getvalue())])
        assert found.image_tokens == len(photo.placeholder) > 1


def test_the_documentation_says_which_are_judged_pair_by_pair() -> None:
    page = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
    rows = [
        line.split("|") for line in page.splitlines() if line.startswith("| `") and "model_type" not in line
    ]
    told = {row[1].strip().strip("`"): "pair by pair" in row[4] for row in rows}
    assert told == {kind: kind in PLAINLY_JUDGED for kind in PUBLISHED}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_it_describes_and_composes_as_transformers_generates(
    judges: Judges, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = judges.judge(kind).model, load_prompts("miniature")
    gallery, queries = world(tmp_path)
    cache = ContentCache(tmp_path / "texts.sqlite", CACHE_KIND)
    captions = describe_images(model, prompts, gallery, cache).sort("image_id")
    asked = prompts.get("describe").render()
    _, expected = by_transformers_alone(judges.folder(kind), [(asked, {IMAGE: each}) for each in PICTURES])
    assert captions["caption"].to_list() == [" ".join(answer.split()) for answer in expected]
    assert len(set(expected)) > 1, "the test model must tell pictures apart"
    composed = compose_queries(model, prompts, queries, gallery, cache)
    assert model.answering.exact is (None if kind == "gemma3" else True)
    monkeypatch.setattr(model, "caches_are_exact", False)  # from here on transformers' own generate answers
    plain = ContentCache(tmp_path / "plain.sqlite", CACHE_KIND)
    assert compose_queries(model, prompts, queries, gallery, plain).equals(composed)
    monkeypatch.setattr(model, "answers", pytest.fail)
    assert describe_images(model, prompts, gallery, cache).sort("image_id").equals(captions), "all are kept"


@pytest.mark.parametrize("kind", PUBLISHED)
def test_it_judges_as_transformers_does(judges: Judges, kind: str) -> None:
    judge = judges.judge(kind)
    made = np.concatenate(judge.score(QUERIES_JUDGED))
    requests = [
        (judge.prompt(query), {REFERENCE: query.reference, CANDIDATE: candidate})
        for query in QUERIES_JUDGED
        for candidate in query.candidates
    ]
    expected, _ = by_transformers_alone(judges.folder(kind), requests)
    assert np.std(expected[:5]) > 1e-2, "the test model must tell pictures apart"
    assert np.abs(made - expected).max() < 1e-3
    assert judge.model.caches_are_exact == judge.model.prefixes_are_shared == (kind not in PLAINLY_JUDGED)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_pictures_of_several_tiles_have_outputs_of_their_own(judges: Judges, kind: str) -> None:
    model = judges.judge(kind).model
    if kind == "gemma3":
        pytest.skip("takes no vision outputs")
    assert (model.vision.among is not model.vision) == (kind == "llava_onevision"), "it tiles single pictures"
    for tower in {model.vision, model.vision.among}:
        together = tower.run(PICTURES)
        sizes = {len(features.embeds) for features in together}
        assert len(sizes) > 1 or tower is not model.vision, "the pictures must have several numbers of tokens"
        for each, features in zip(PICTURES, together, strict=True):
            (alone,) = tower.run([each])
            assert alone.placeholder == features.placeholder
            assert torch.allclose(alone.embeds, features.embeds, atol=1e-5)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_lora_is_in_the_language_model_alone_and_learns_as_the_plain_pass_does(
    judges: Judges, kind: str
) -> None:
    judge, few = judges.judge(kind), pairs().filter(split="train").head(8)
    model = judge.model.model
    options = worlds.settings(dropout=0.0)
    with lora_layers(judge.model, options):
        names = {name.partition(".lora_")[0] for name in trainable_parameters(model)}
        decoder = {id(module) for module in model.get_decoder().modules()}
        modules = dict(model.named_modules())
        assert {name.rsplit(".", 1)[-1] for name in names} == set(MODULES)
        assert len(names) == LAYERS * len(MODULES)
        assert all(id(modules[name]) in decoder for name in names), "the vision tower is frozen"
        objective = YesNoObjective(judge, groups_of(few, shown()), options)
        assert objective.shares_prefixes == (kind not in PLAINLY_JUDGED)
        for name, weight in objective.parameters.items():  # B = 0 would have no gradient for A
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(len(name)))
        made = _gradients(objective)
        objective.shares_prefixes = False
        expected = _gradients(objective)
    assert max(float(each.abs().max()) for each in expected.values()) > 1e-3
    for name, gradient in expected.items():
        assert torch.allclose(made[name], gradient, atol=1e-4), name


def _gradients(objective: YesNoObjective) -> dict[str, torch.Tensor]:
    objective.gradients(0)
    gradients = {name: weight.grad for name, weight in objective.parameters.items()}
    return {name: gradient.clone() for name, gradient in gradients.items() if gradient is not None}


def test_all_are_trained_registered_and_loaded_in_a_fresh_process(judges: Judges, tmp_path: Path) -> None:
    registry = MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    logged: dict[str, str] = {}
    for kind in PUBLISHED:
        try:
            folder = judges.folder(kind)
        except pytest.skip.Exception:
            continue
        result, judge = judges.adapter(kind), judges.judge(kind)
        assert result.steps == 2
        before, after = (result.held_out[name].to_numpy() for name in ("before", "after"))
        assert np.abs(before - after).max() > 1e-3
        reference = base_reference(judge.model, judges.settings(kind), str(folder))
        with registry.runs.start(kind, result.settings.model_dump(), {"purpose": "test"}) as run:
            logged[kind] = log_adapter(run, result, reference, judge.template, shown())
    done = subprocess.run(
        [sys.executable, "-m", "setr_lib.registry.round_trip", *logged.values()],
        cwd=tmp_path,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": registry.tracking_uri,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    told = [
        json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("SETR-")
    ]
    assert len(told) == len(logged), done.stderr
    model = registry.model("setr-reranker")
    for (kind, uri), found in zip(logged.items(), told, strict=True):
        assert found["problems"] == [], kind
        examples = judges.adapter(kind).held_out
        assert np.abs(np.sort(found["scores"]) - np.sort(_of_examples(examples))).max() < 1e-3, kind
        model.register(uri, RoundTripReport(uri, **found))
    assert len(model.versions()) == len(logged)


def _of_examples(held_out: pl.DataFrame) -> np.ndarray:
    """The scores of those held-out pairs that a bundle stores: up to four of each label."""
    each = [held_out.filter(pl.col("label") == label).head(4)["after"] for label in (True, False)]
    return np.concatenate([part.to_numpy() for part in each])
