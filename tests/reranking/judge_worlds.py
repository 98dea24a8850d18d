"""A tiny judge and pairs that it can learn in seconds: pictures of one colour, texts that name the colour
wanted.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from setr_lib.hashing import fingerprint_bytes
from setr_lib.models.multimodal import MultimodalModel, Picture
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import AdapterSettings, JudgeSettings
from setr_lib.tables import PAIRS
from setr_lib.texts.prompts import PromptTemplate, load_prompts
from tests.tiny_judges import write_tiny_judge

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
IMAGES, TRAINED_ON = 60, 45


def load_tiny_judge(folder: Path, kind: str = "llava") -> YesNoJudge:
    """The tiny judge in ``folder``, written there first if need be."""
    if not (folder / "config.json").is_file():
        write_tiny_judge(kind, folder)
    return judge_of(folder)


def judge_of(folder: Path, adapter: Path | None = None) -> YesNoJudge:
    """The model in ``folder``, with ``adapter`` if given, under the miniature's judge prompt."""
    model = MultimodalModel.load(JudgeSettings(name=str(folder)), adapter=adapter, device="cpu")
    return YesNoJudge(model, prompt())


def prompt() -> PromptTemplate:
    return load_prompts("miniature").get("judge")


def settings(**changes: object) -> AdapterSettings:
    options = {"epochs": 4.0, "learning_rate": 5e-3, "rank": 8, "groups_per_batch": 8, "checkpoint_every": 3}
    return AdapterSettings.model_validate({**options, **changes})


def pictures() -> dict[str, Picture]:
    """Image k has the k-th colour in turn, on a little noise."""
    rng = np.random.default_rng(0)
    found: dict[str, Picture] = {}
    for number in range(IMAGES):
        pixels = rng.integers(0, 60, (8, 8, 3), dtype=np.uint8)
        pixels[2:6, 2:6] = np.array(list(COLOURS.values())[number % 3]) * rng.uniform(0.7, 1)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(file, "PNG")
        found[f"i{number}"] = Picture(fingerprint_bytes(file.getvalue()), file.getvalue())
    return found


def pairs(groups: int = 60, held_out: int = 16) -> pl.DataFrame:
    """A PAIRS frame: one positive, one near miss, one reference and one shuffled text per group."""
    rng = np.random.default_rng(1)
    names = list(COLOURS)
    rows: list[tuple[object, ...]] = []
    for number in range(groups):
        split = "held_out" if number >= groups - held_out else "train"
        low, high = (TRAINED_ON, IMAGES) if split == "held_out" else (0, TRAINED_ON)
        reference, target, other = (
            low + 3 * int(rng.integers(0, (high - low) // 3)) + c for c in rng.permutation(3)
        )
        wanted, wrong = names[target % 3], names[other % 3]
        for candidate, text, label, kind in (
            (target, f"make it {wanted}", True, "positive"),
            (other, f"make it {wanted}", False, "coarse_negative"),
            (reference, f"make it {wanted}", False, "reference_negative"),
            (target, f"make it {wrong}", False, "shuffled_text_negative"),
        ):
            rows.append(
                (
                    f"{number}-{kind}",
                    split,
                    f"g{number}",
                    f"i{reference}",
                    text,
                    f"i{candidate}",
                    label,
                    kind,
                    "captions",
                )
            )  # fmt: skip
    return pl.DataFrame(rows, schema=PAIRS, orient="row")
