"""Generated texts: captions and compositions, against transformers' ``generate`` with one prompt a call."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.speed.figure import BenchSetting, Figure, Growth
from benchmarks.speed.random_qwen import QwenSize, write_random_qwen
from benchmarks.speed.timing import Timing, in_turns

if TYPE_CHECKING:
    from setr_lib.models.multimodal import MultimodalModel, Picture, Request

NAMES: tuple[str, ...] = ("generate",)
_PADDED = 16
"""Prompts of one call on left-padded batches."""
_TARGET = 2.0
_MODIFICATIONS = ("make it red and smaller", "two of them on a beach", "seen from behind", "without the dog")
_MINIATURE = Path(__file__).parents[2] / "setr_lib" / "miniature" / "weights" / "mllm"


@dataclass(frozen=True)
class _Load:
    """Pictures to describe and compose for, and the tokens of an answer at most."""

    pictures: int
    tokens: int
    size: QwenSize


def figures(setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
    """Measure the figures of generated texts.

    Args:
        setting: How the benchmarks are run.
        names: Which of ``NAMES``.

    Yields:
        The figure.
    """
    import torch

    torch.set_num_threads(setting.threads)
    if "generate" in names:
        yield _generate(setting, _load(setting))


def _load(setting: BenchSetting) -> _Load:
    """What is generated: about twelve minutes of it in a full run on two cores, more on a GPU."""
    if not setting.full:
        return _Load(4, 32, QwenSize())
    return _Load(64, 64, QwenSize(1024, 16)) if setting.device == "cuda" else _Load(8, 32, QwenSize(1024, 16))


def _generate(setting: BenchSetting, load: _Load) -> Figure:
    model = _random_model(setting, load.size)
    requests = _described_and_composed(_pictures(load.pictures))
    model.generate(requests[:2] + requests[-2:], 2)  # warm-up; whether it may be done is found out here
    one = partial(_one_by_one, model, requests, load.tokens)
    _one_by_one(model, requests[:1], 2)
    setting.progress(0, 3, "generate: three ways in turns")
    ways = in_turns(
        {
            "ours": partial(_ours, model, requests, load.tokens),
            "one": one,
            "padded": partial(_padded, model, requests, load.tokens),
        },
        rounds=2,
    )
    setting.progress(1, 3, "generate: growth")
    growth = _growth(model, load, ways["ours"].seconds)
    setting.progress(2, 3, "generate: the miniature's model")
    small = _miniature(setting)
    ours, alternative = ways["ours"].seconds, ways["one"].seconds
    bound_s, bound = _bound(model, requests, load)
    return Figure(
        name="generate",
        work=(
            f"{load.pictures} captions and {2 * load.pictures} compositions, two of each picture, by the "
            f"standard prompts; at most {load.tokens} tokens each; Qwen3-VL with random weights, "
            f"{load.size.weights / 1e6:,.0f} M parameters in its layers, {_visual_tokens(load)} visual tokens"
        ),
        ours_s=ours,
        alternative="transformers' generate in a loop, one prompt a call, greedy, the same model and limit",
        alternative_s=alternative,
        equal=ways["ours"].output == ways["one"].output and small["ours"].output == small["one"].output,
        checked="every answer, token by token; those of the miniature's model, too",
        target=f"at least {_TARGET:g} times as fast",
        met=alternative >= _TARGET * ours,
        bound_s=bound_s,
        bound=bound,
        also={
            f"generate on left-padded batches of {_PADDED}, s": ways["padded"].seconds,
            "miniature's model, compositions: ours, s": small["ours"].seconds,
            "miniature's model, compositions: one prompt a call, s": small["one"].seconds,
            "miniature's model, compositions: left-padded batches, s": small["padded"].seconds,
        },
        profile=_profile(model, requests, ours),
        growth=growth,
        note=(
            "With random weights no answer ends before the limit; the miniature's model ends its answers "
            "itself. Answers of the left-padded batches are not compared: padding may turn a near tie."
        ),
    )


def _ours(model: MultimodalModel, requests: Sequence[Request], tokens: int) -> list[str]:
    model.vision.memory.clear()
    return model.generate(requests, tokens)


def _one_by_one(model: MultimodalModel, requests: Sequence[Request], tokens: int) -> list[str]:
    return [model.plain.generate([request], tokens)[0] for request in requests]


def _padded(model: MultimodalModel, requests: Sequence[Request], tokens: int) -> list[str]:
    starts = range(0, len(requests), _PADDED)
    batches = [model.plain.generate(requests[start : start + _PADDED], tokens) for start in starts]
    return [answer for batch in batches for answer in batch]


def _growth(model: MultimodalModel, load: _Load, seconds: float) -> Growth:
    """Captions and compositions of a quarter, half and all of the pictures."""
    sizes, found = [load.pictures // 4, load.pictures // 2], list[float]()
    for size in sizes:
        requests = _described_and_composed(_pictures(size))
        begun = perf_counter()
        _ours(model, requests, load.tokens)
        found.append(perf_counter() - begun)
    return Growth("texts", [3 * size for size in (*sizes, load.pictures)], [*found, seconds])


def _miniature(setting: BenchSetting) -> dict[str, Timing]:
    """Compositions by the miniature's trained model: its answers end by themselves."""
    from setr_lib.models.multimodal import IMAGE, REFERENCE, MultimodalModel
    from setr_lib.settings import JudgeSettings
    from setr_lib.texts.prompts import load_prompts

    model = MultimodalModel.load(JudgeSettings(name=str(_MINIATURE)), device=setting.device)
    template, pictures = load_prompts("miniature").get("compose"), _pictures(32)
    requests: list[Request] = []
    for place, picture in enumerate(pictures):
        text = ("make it red", "make it larger", "two circles", "without the square")[place % 4]
        prompt = template.render(modification=text, captions=[text])
        requests.append((prompt, {REFERENCE: picture, IMAGE: picture}))
    model.generate(requests[:4])
    limit = model.max_new_tokens
    return in_turns(
        {
            "ours": partial(_ours, model, requests, limit),
            "one": partial(_one_by_one, model, requests, limit),
            "padded": partial(_padded, model, requests, limit),
        },
        rounds=2,
    )


def _bound(model: MultimodalModel, requests: Sequence[Request], load: _Load) -> tuple[float, str]:
    """Seconds of the counted multiplications at the rate of one large product, and what is counted."""
    rate = _flops_per_second(model)
    rows = model.rows.rows(requests)
    prompts, second = sum(len(row.ids) for row in rows), rows[load.pictures + 1 :: 2]
    again = sum(row.ids.index(model.image_token_id) + row.images[0].embeds.shape[0] for row in second)
    made = len(requests) * load.tokens
    flops = 2 * (prompts - again + made) * load.size.weights + 2 * made * load.size.head
    return flops / rate, (
        f"multiplications of the layers with {prompts:,} tokens of prompts, a picture of two compositions "
        f"once, and {made:,} tokens of answers, and of the output head, at the rate of a product of 4096 x "
        f"4096 ({rate / 1e9:,.0f} GFLOP/s); attention and the vision tower are not counted"
    )


def _flops_per_second(model: MultimodalModel) -> float:
    import torch

    side = 4096
    left, right = (torch.randn(side, side, dtype=model.model.dtype, device=model.device) for _ in range(2))

    def product() -> float:
        return float(torch.nn.functional.linear(left, right)[0, 0])  # waits for a GPU

    return 2 * side**3 / in_turns({"product": product}, rounds=5)["product"].seconds


def _profile(model: MultimodalModel, requests: Sequence[Request], seconds: float) -> list[tuple[str, float]]:
    """Seconds of pictures and prompts, which are those with one token each, and of the rest of all."""
    begun = perf_counter()
    _ours(model, requests, 1)
    prompts = perf_counter() - begun
    parts = [("pictures and prompts", prompts), ("answers", max(0.0, seconds - prompts))]
    return sorted(parts, key=lambda part: -part[1])


def _visual_tokens(load: _Load) -> int:
    return (load.size.side // 32) ** 2


def _random_model(setting: BenchSetting, size: QwenSize) -> MultimodalModel:
    from setr_lib.models.multimodal import MultimodalModel
    from setr_lib.settings import JudgeSettings
    from setr_lib.texts.prompts import load_prompts

    prompts = load_prompts("standard")
    words = " ".join([prompts.get("describe").source, prompts.get("compose").source, *_MODIFICATIONS])
    folder = write_random_qwen(setting.folder / f"generate-qwen-{size.hidden}-{size.layers}", size, words)
    return MultimodalModel.load(JudgeSettings(name=str(folder)), device=setting.device)


def _described_and_composed(pictures: Sequence[Picture]) -> list[Request]:
    """A caption of each picture, then two compositions of each."""
    from setr_lib.models.multimodal import IMAGE, REFERENCE
    from setr_lib.texts.prompts import load_prompts

    prompts = load_prompts("standard")
    describe, compose = prompts.get("describe").render(), prompts.get("compose")
    requests: list[Request] = [(describe, {IMAGE: picture}) for picture in pictures]
    for place, picture in enumerate(pictures):
        for text in (_MODIFICATIONS[place % 4], _MODIFICATIONS[(place + 1) % 4]):
            prompt = compose.render(modification=text, captions=[text])
            requests.append((prompt, {REFERENCE: picture, IMAGE: picture}))
    return requests


def _pictures(count: int) -> list[Picture]:
    import numpy as np
    from PIL import Image

    from setr_lib.models.multimodal import Picture

    found = []
    for seed in range(count):
        cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(cells).resize((256, 256), Image.Resampling.BICUBIC).save(file, "PNG")
        found.append(Picture(f"drawn {seed}", file.getvalue()))
    return found
