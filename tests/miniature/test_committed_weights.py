"""The committed weights do what their cards say, on pictures drawn anew, through the code that loads any real
model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pytest

from setr_lib.content_cache import ContentCache
from setr_lib.hashing import fingerprint_bytes
from setr_lib.miniature import __file__ as package
from setr_lib.miniature.drawing import draw_picture
from setr_lib.miniature.families import AnyPicture, make_family
from setr_lib.miniature.pictures import Modification, describe_modification, satisfies
from setr_lib.models.multimodal import IMAGE, MultimodalModel, Picture
from setr_lib.reranking.held_out import area_under_curve
from setr_lib.reranking.scorer import JudgedQuery
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import JudgeSettings
from setr_lib.texts.generation import compose_queries
from setr_lib.texts.prompts import PromptSet, load_prompts

WEIGHTS = Path(package).parent / "weights"
QUERIES = 40


@dataclass(frozen=True)
class Drawn:
    """A query of a family never trained on: its text, the family's pictures, and which of them it asks
    for.
    """

    reference: Path
    shown: AnyPicture
    """What the reference shows."""
    modification: Modification
    candidates: list[Path]
    right: list[bool]


@pytest.fixture(scope="module")
def judge() -> MultimodalModel:
    return MultimodalModel.load(JudgeSettings(name=str(WEIGHTS / "mllm")), device="cpu")


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return load_prompts("miniature")


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> list[Drawn]:
    folder = tmp_path_factory.mktemp("drawn")
    rng = Random("committed weights")
    found: list[Drawn] = []
    while len(found) < QUERIES:
        family = make_family(rng, 8)
        modification = describe_modification(family[0], family[1], rng)
        if modification is None:
            continue
        paths = [_saved(picture, rng, folder / f"{len(found)}-{k}.png") for k, picture in enumerate(family)]
        right = [satisfies(each, family[1], modification) for each in family[1:]]
        found.append(Drawn(paths[0], family[0], modification, paths[1:], right))
    return found


def _saved(picture: AnyPicture, rng: Random, path: Path) -> Path:
    draw_picture(picture, rng).save(path)
    return path


def _shown(path: Path) -> Picture:
    return Picture(fingerprint_bytes(path.read_bytes()), path)


def test_both_fit_into_twelve_megabytes_and_have_their_cards() -> None:
    files = list(WEIGHTS.rglob("*.safetensors"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) < 12e6
    for name in ("clip", "mllm"):
        facts = json.loads((WEIGHTS / name / "scores.json").read_text(encoding="utf-8"))
        assert {"seed", "steps", "minutes", "device"} <= set(facts)
        assert (WEIGHTS / name / "README.md").read_text(encoding="utf-8").startswith("# Small")


def test_images_are_described_and_asked_about(
    judge: MultimodalModel, prompts: PromptSet, queries: list[Drawn]
) -> None:
    pictures = [{IMAGE: _shown(each.reference)} for each in queries]
    told = judge.generate([(prompts.get("describe").render(), picture) for picture in pictures])
    captions = [each.shown.caption() for each in queries]
    assert np.mean([mine == theirs for mine, theirs in zip(told, captions, strict=True)]) > 0.7

    def belief(claims: list[str]) -> np.ndarray:
        asked = [prompts.get("yes_no").render(question=f"is this {claim} ?") for claim in claims]
        return judge.answer_scores(list(zip(asked, pictures, strict=True)))

    rng = Random("claims")
    right, near = belief(captions), belief([each.shown.near_miss(rng).caption() for each in queries])
    assert area_under_curve(right, near) > 0.9


def test_queries_are_composed(
    judge: MultimodalModel, prompts: PromptSet, queries: list[Drawn], tmp_path: Path
) -> None:
    asked = pl.DataFrame(
        {
            "query_id": [str(number) for number in range(QUERIES)],
            "reference_id": [each.reference.name for each in queries],
            "modification": [each.modification.text for each in queries],
            "captions": [[each.modification.text] for each in queries],
        }
    )
    gallery = pl.DataFrame(
        {
            "image_id": [each.reference.name for each in queries],
            "path": [str(each.reference) for each in queries],
            "status": ["ok"] * QUERIES,
            "fingerprint": [_shown(each.reference).fingerprint for each in queries],
        }
    )
    cache = ContentCache(tmp_path / "calls.sqlite", "composing")
    made = compose_queries(judge, prompts, asked, gallery, cache)
    assert made.filter(status="ok").height > 0.9 * QUERIES
    gold = [each.modification.composition.target_caption for each in queries]
    exact = np.mean([mine == theirs for mine, theirs in zip(made["target_caption"], gold, strict=True)])
    assert exact > 0.6


def test_near_misses_are_judged_better_than_by_chance(
    judge: MultimodalModel, prompts: PromptSet, queries: list[Drawn]
) -> None:
    asked = [
        JudgedQuery(_shown(each.reference), each.modification.text, tuple(map(_shown, each.candidates)))
        for each in queries
    ]
    scores = np.concatenate(YesNoJudge(judge, prompts.get("judge")).score(asked))
    right = np.array([answer for each in queries for answer in each.right])
    assert area_under_curve(scores[right], scores[~right]) > 0.6


def test_the_judges_eye_is_the_clips_tower() -> None:
    from safetensors.torch import load_file

    clip = load_file(WEIGHTS / "clip" / "open_clip_model.safetensors")
    mllm = load_file(WEIGHTS / "mllm" / "model.safetensors")
    name = next(name for name in mllm if name.endswith("patch_embedding.weight"))
    assert np.array_equal(mllm[name].float().numpy(), clip["visual.conv1.weight"].float().numpy())
