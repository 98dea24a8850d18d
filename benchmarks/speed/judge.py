"""The judge's pairs per second: against one pair per forward pass, plain batches and sentence-transformers.

The bound of the large model is its language model's multiplications at torch's own rate.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed.figure import BenchSetting, Figure, Growth
from benchmarks.speed.random_qwen import QWEN3_VL_2B, QwenSize, write_random_qwen
from benchmarks.speed.timing import in_turns

if TYPE_CHECKING:
    from setr_lib.models.multimodal import MultimodalModel, Picture, Request
    from setr_lib.reranking.reranker import JudgedQuery
    from setr_lib.reranking.yes_no_judge import YesNoJudge

NAMES: tuple[str, ...] = (
    *("judge-small-cold", "judge-small-kept", "judge-crossencoder", "judge-large-kept"),
    "judge-2b-kept",
)
NEEDS = {"judge-2b-kept": "cuda"}
"""The device without which a figure is skipped."""
_MINIATURE = Path(__file__).parents[2] / "setr_lib" / "miniature" / "weights" / "mllm"
_WORDS = (
    *("make", "it", "red", "and", "the", "square", "blue", "with", "a", "large"),
    *("striped", "circle", "on", "the", "left", "without", "green"),
)
_K = 50
_PLAIN_BATCH = 16
_CROSS_BATCH = 32
_COLD, _KEPT = 8.0, 13.0
_CLOSE = 1e-3
_CLOSE_IN_HALF = 0.5
"""In half precision: a logit of 20 is rounded to 0.1."""


@dataclass
class _Work:
    """A judge and its queries, each with ``_K`` candidates.

    Attributes:
        judge: Opened.
        queries: What it scores.
        looked_at: Of so many pairs the alternatives are timed; their seconds are scaled to all.
    """

    judge: YesNoJudge
    queries: list[JudgedQuery]
    looked_at: int

    @property
    def model(self) -> MultimodalModel:
        return self.judge.model

    @property
    def pairs(self) -> int:
        return sum(len(query.candidates) for query in self.queries)

    @cached_property
    def requests(self) -> list[Request]:
        """The first pairs as whole prompts with pictures."""
        from setr_lib.models.multimodal import CANDIDATE, REFERENCE

        pairs = [(query, candidate) for query in self.queries for candidate in query.candidates]
        return [
            (self.judge.prompt(query), {REFERENCE: query.reference, CANDIDATE: candidate})
            for query, candidate in pairs[: self.looked_at]
        ]

    def cold(self) -> np.ndarray:
        """All scores, the vision tower included."""
        self.model.vision.memory.clear()
        return self.kept()

    def kept(self) -> np.ndarray:
        """All scores; the vision features are in memory."""
        return np.concatenate(self.judge.score(self.queries))

    def plainly(self, size: int) -> np.ndarray:
        """The scores of the first pairs by transformers' own forward pass, ``size`` pairs each."""
        import torch

        starts = range(0, len(self.requests), size)
        with torch.inference_mode():
            made = [
                self.model.plain.answer_differences(self.requests[start : start + size]) for start in starts
            ]
        return torch.cat(made).numpy()

    def whole(self, seconds: float) -> float:
        """Seconds of all pairs, from those of the first."""
        return seconds * self.pairs / len(self.requests)


def figures(setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
    """Measure the figures of the judge.

    Args:
        setting: How the benchmarks are run.
        names: Which of ``NAMES``.

    Yields:
        The figures.
    """
    import torch

    torch.set_num_threads(setting.threads)
    if {*names} & {*NAMES[:3]}:
        work = _small(setting)
        if {*names} & {*NAMES[:2]}:
            yield from (figure for figure in _against_plain(setting, work) if figure.name in names)
        if "judge-crossencoder" in names:
            yield _against_cross_encoder(setting, work)
    for case in (_large(setting), _two_billion(setting)):
        if case.name in names:
            yield kept_figure(setting, case)


def _small(setting: BenchSetting) -> _Work:
    queries = 160 if setting.full else 40
    judge = _judge(setting, _MINIATURE, "miniature")
    work = _Work(judge, _queries(_pictures(500, 64), queries), 400)
    judge.score(work.queries[:4])  # warm-up; what may be cached is found out here
    return work


def _against_plain(setting: BenchSetting, work: _Work) -> Iterator[Figure]:
    setting.progress(0, 2, "judge: the miniature's model")
    work.plainly(_PLAIN_BATCH)
    ways = in_turns(
        {
            "cold": work.cold,
            "kept": work.kept,
            "one": lambda: work.plainly(1),
            "batches": lambda: work.plainly(_PLAIN_BATCH),
        },
        rounds=2,
    )
    alone, batches = work.whole(ways["one"].seconds), work.whole(ways["batches"].seconds)
    growth = _growth(work)
    setting.progress(2, 2, "judge: the miniature's model")
    for name, target, told in (
        ("cold", _COLD, "from PNG files in memory to scores"),
        ("kept", _KEPT, "vision features in memory"),
    ):
        ours = ways[name].seconds
        apart = float(np.abs(ways[name].output[: work.looked_at] - ways["one"].output).max())
        yield Figure(
            name=f"judge-small-{name}",
            work=f"{work.pairs:,} pairs, {_K} candidates a query, by the miniature's model, {told}",
            ours_s=ours,
            alternative=f"one pair per forward pass of transformers, timed on {work.looked_at} pairs",
            alternative_s=alone,
            equal=apart < _CLOSE,
            checked=f"logits of {work.looked_at} pairs within {_CLOSE:g}",
            target=f"at least {target:g} times as fast",
            met=alone >= target * ours,
            also={
                "ours, pairs/s": work.pairs / ours,
                "one pair per forward pass, pairs/s": work.pairs / alone,
                f"plain batches of {_PLAIN_BATCH}, pairs/s": work.pairs / batches,
                "largest difference of a logit": apart,
            },
            profile=_profile(work.cold if name == "cold" else work.kept),
            growth=growth if name == "kept" else None,
        )


def _against_cross_encoder(setting: BenchSetting, work: _Work) -> Figure:
    encoder, inputs = _cross_encoder(work), [_messages(*request) for request in work.requests]

    def theirs() -> np.ndarray:
        return np.asarray(encoder.predict(inputs, batch_size=_CROSS_BATCH, show_progress_bar=False))

    setting.progress(0, 1, "judge: sentence-transformers")
    encoder.predict(inputs[:_CROSS_BATCH], batch_size=_CROSS_BATCH, show_progress_bar=False)
    ways = in_turns({"ours": work.cold, "theirs": theirs}, rounds=2)
    apart = float(np.abs(ways["ours"].output[: work.looked_at] - ways["theirs"].output.reshape(-1)).max())
    ours, alternative = ways["ours"].seconds, work.whole(ways["theirs"].seconds)
    return Figure(
        name="judge-crossencoder",
        work=f"{work.pairs:,} pairs, {_K} candidates a query, by the miniature's model, from PNG to scores",
        ours_s=ours,
        alternative=(
            f"sentence-transformers' CrossEncoder with LogitScore, batches of {_CROSS_BATCH}, the same "
            f"prompts, pictures decoded before; timed on {work.looked_at} pairs"
        ),
        alternative_s=alternative,
        equal=apart < _CLOSE,
        checked=f"logits of {work.looked_at} pairs within {_CLOSE:g}",
        also={"ours, pairs/s": work.pairs / ours, "CrossEncoder, pairs/s": work.pairs / alternative},
    )


def _cross_encoder(work: _Work) -> Any:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore
    from torch.nn import Identity

    model = work.model
    transformer = Transformer(
        str(_MINIATURE),
        transformer_task="any-to-any",
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
    )
    score = LogitScore(true_token_id=model.yes_id, false_token_id=model.no_id)
    return CrossEncoder(modules=[transformer, score], device=str(model.device), activation_fn=Identity())


def _messages(prompt: Any, pictures: Any) -> list[dict[str, Any]]:
    from setr_lib.models.multimodal import ImageSlot

    content: list[dict[str, Any]] = [
        {"type": "image", "image": pictures[part.name].open()}
        if isinstance(part, ImageSlot)
        else {"type": "text", "text": part}
        for part in prompt.parts
    ]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if prompt.system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt.system}]})
    return messages


@dataclass(frozen=True)
class Case:
    """A Qwen3-VL with random weights, whose judge is timed against the bound of its products.

    Attributes:
        name: Of the figure.
        size: Of the model.
        target: Share of the bound that is aimed at.
        queries: How many, with ``_K`` candidates each.
    """

    name: str
    size: QwenSize
    target: float
    queries: int


def _large(setting: BenchSetting) -> Case:
    return Case("judge-large-kept", QwenSize(768, 14), 0.65, 4 if setting.full else 1)


def _two_billion(setting: BenchSetting) -> Case:
    return Case("judge-2b-kept", QWEN3_VL_2B, 0.4, 20 if setting.full else 5)


def kept_figure(setting: BenchSetting, case: Case) -> Figure:
    """Write the model, and time its judge with the vision features in memory.

    Args:
        setting: How the benchmarks are run.
        case: The model.

    Returns:
        The figure.
    """
    size = case.size
    folder = setting.folder / f"random-qwen-{size.hidden}-{size.layers}-{size.head_size}"
    judge = _judge(setting, write_random_qwen(folder, size, " ".join(_WORDS)), "standard", size.dtype)
    work = _Work(judge, _queries(_pictures(_K + 10, 256), case.queries), _PLAIN_BATCH)
    setting.progress(0, 2, f"judge: a random Qwen3-VL, {case.name}")
    work.kept()  # warm-up: the vision features are in memory, the caches checked
    flops = _flops(work, size)
    before = _rate(work.model)
    ways = in_turns({"ours": work.kept}, rounds=3)
    rate = max(before, _rate(work.model))
    setting.progress(1, 2, f"judge: a random Qwen3-VL, {case.name}, plain batches")
    begun = perf_counter()
    plain = work.plainly(_PLAIN_BATCH)
    alternative = work.whole(perf_counter() - begun)
    ours, bound = ways["ours"].seconds, flops / rate
    close = _CLOSE if size.dtype == "float32" else _CLOSE_IN_HALF
    apart = float(np.abs(ways["ours"].output[: work.looked_at] - plain).max())
    return Figure(
        name=case.name,
        work=(
            f"{work.pairs} pairs, {_K} candidates a query, by a Qwen3-VL, random weights in "
            f"{size.dtype}, {size.weights / 1e6:,.0f} M parameters in its layers, "
            f"{(size.side // 32) ** 2} visual tokens, vision features in memory"
        ),
        ours_s=ours,
        alternative=f"plain batches of {_PLAIN_BATCH} of transformers; timed on {work.looked_at} pairs",
        alternative_s=alternative,
        equal=apart < close,
        checked=f"logits of {work.looked_at} pairs within {close:g}",
        target=f"at least {case.target:.0%} of the bound",
        met=bound >= case.target * ours,
        bound_s=bound,
        bound=(
            f"{flops / 1e9:,.0f} GFLOP of the language model's layers and attention, prefixes once, the "
            "last layer where it is read, at torch's rate of F.linear at 4096 x 4096 x 4096 "
            f"({rate / 1e9:,.0f} GFLOP/s, the higher of before and after)"
        ),
        also={
            "ours, pairs/s": work.pairs / ours,
            "plain batches, pairs/s": work.pairs / alternative,
            "ours, GFLOP/s": flops / ours / 1e9,
            "largest difference of a logit": apart,
            "standard deviation of the logits": float(plain.std()),
        },
        profile=_profile(work.kept),
    )


def _flops(work: _Work, size: QwenSize) -> float:
    """Multiplications and additions that the language model's layers do."""
    total, layer = 0.0, size.weights / size.layers
    for query in work.queries:
        prefix, suffixes = work.model.rows.judge_rows(
            work.judge.prompt(query), query.reference, query.candidates
        )
        first, rest = len(prefix.ids), sum(len(suffix.ids) for suffix in suffixes)
        read = len(suffixes)
        keys = size.hidden * size.hidden  # of keys and values, which have half as many heads
        total += 2 * (first * size.weights + rest * (size.weights - layer + keys) + read * (layer - keys))
        seen = first * first / 2 + sum(len(suffix.ids) * (first + len(suffix.ids) / 2) for suffix in suffixes)
        total += 4 * size.hidden * size.layers * seen
    return total


def _rate(model: MultimodalModel) -> float:
    """Operations a second of a large product in the model's dtype."""
    import torch

    side = 4096
    left, right = (torch.randn(side, side, dtype=model.model.dtype, device=model.device) for _ in range(2))

    times = 1 if model.device.type == "cpu" else 20  # so that the wait for a GPU does not count

    def product() -> float:
        made = [torch.nn.functional.linear(left, right) for _ in range(times)]
        return float(made[-1][0, 0])  # waits for a GPU

    return 2 * side**3 * times / in_turns({"product": product}, rounds=3)["product"].seconds


def _growth(work: _Work) -> Growth:
    sizes, seconds = [], []
    for part in (4, 2, 1):
        some = _Work(work.judge, work.queries[: len(work.queries) // part], work.looked_at)
        sizes.append(some.pairs)
        seconds.append(in_turns({"kept": some.kept}, rounds=2)["kept"].seconds)
    return Growth("pairs", sizes, seconds)


def _profile(run: Callable[[], object]) -> list[tuple[str, float]]:
    """Seconds by kind of operation, as torch's profiler counts them; Python and all else is the rest."""
    from torch.profiler import ProfilerActivity, profile

    kinds = {"linear layers": ("aten::mm", "aten::addmm"), "attention": ("scaled_dot_product", "lerp", "bmm")}
    begun = perf_counter()  # of a GPU, what it does while the CPU waits is in the rest
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    taken, seconds = perf_counter() - begun, dict.fromkeys([*kinds, "other tensor operations"], 0.0)
    for event in found.key_averages():
        names = [kind for kind, parts in kinds.items() if any(part in event.key for part in parts)]
        seconds[names[0] if names else "other tensor operations"] += event.self_cpu_time_total / 1e6
    seconds["Python, decoding, the profiler"] = max(0.0, taken - sum(seconds.values()))
    return sorted(seconds.items(), key=lambda part: -part[1])


def _judge(setting: BenchSetting, folder: Path, prompts: str, dtype: str = "auto") -> YesNoJudge:
    from setr_lib.models.multimodal import MultimodalModel
    from setr_lib.reranking.yes_no_judge import YesNoJudge
    from setr_lib.settings import JudgeSettings
    from setr_lib.texts.prompts import load_prompts

    settings = JudgeSettings.model_validate({"name": str(folder), "dtype": dtype})
    model = MultimodalModel.load(settings, device=setting.device)
    return YesNoJudge(model, load_prompts(prompts).get("judge"))


def _queries(pictures: Sequence[Picture], number: int) -> list[JudgedQuery]:
    from setr_lib.reranking.reranker import JudgedQuery

    chosen = np.random.default_rng(0)
    return [
        JudgedQuery(
            pictures[int(chosen.integers(len(pictures)))],
            " ".join(chosen.choice(_WORDS, size=int(chosen.integers(3, 9)))),
            tuple(pictures[n] for n in chosen.choice(len(pictures), _K, replace=False)),
        )
        for _ in range(number)
    ]


def _pictures(number: int, side: int) -> list[Picture]:
    """Random coarse patterns as PNG files in memory."""
    from PIL import Image

    from setr_lib.models.multimodal import Picture

    drawn = np.random.default_rng(1)
    found = []
    for n in range(number):
        file = io.BytesIO()
        blocks = Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        blocks.resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
        found.append(Picture(f"drawn-{number}-{n}", file.getvalue()))
    return found
