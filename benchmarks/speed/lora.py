"""Training of the judge's LoRA adapter against transformers' `Trainer` with PEFT, on the same batches.

Both begin with a loaded model, fresh LoRA layers and a set of groups, one positive and five negatives each as
the pipeline makes them, and end with the weights after the last step: SETR's time has the check that shared
prefixes are exact and the vision tower in it. Without dropout both compute the same loss.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.figure import BenchSetting, Figure, Growth
from benchmarks.speed.timing import in_turns
from setr_lib.errors import SetrError
from setr_lib.progress import silent
from setr_lib.settings import AdapterSettings

if TYPE_CHECKING:
    from benchmarks.speed.lora_trainer import Step
    from setr_lib.models.multimodal import Picture, RenderedPrompt
    from setr_lib.reranking.training_step import Group, YesNoObjective
    from setr_lib.reranking.yes_no_judge import YesNoJudge

NAMES = ("lora-step-small", "lora-step")
NEGATIVES = 4
"""Candidates of a group's own text beside its target; one more pair of a group has another group's text."""
SEEDS = (11, 12, 13)
TARGET = 1.5
COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")
NOUNS = ("circle", "square", "dress", "shirt", "cup", "tree", "dog", "car")


@dataclass(frozen=True)
class Case:
    """One of the two models, and how much is trained on it.

    Attributes:
        name: Of the figure.
        what: The model, in words.
        side: Width and height of the pictures.
        prompts: The prompt set of its judge.
        groups: Groups of a step.
        steps: Steps that are timed; two epochs.
        growth: Groups of a step at three sizes.
        learning_rate: The highest.
        rounds: How often each way is timed, after a run that is not.
        hidden: Width of the random model; 0 where it is not random.
    """

    name: str
    what: str
    side: int
    prompts: str
    groups: int
    steps: int
    growth: tuple[int, ...]
    learning_rate: float
    rounds: int
    hidden: int = 0


def cases(full: bool) -> dict[str, Case]:
    """The cases of a run, by name.

    Args:
        full: The sizes of a full run.
    """
    small = Case(
        NAMES[0], "the miniature's model", 64, "miniature", 16, 50 if full else 8, (4, 8, 16), 1e-3, 2
    )
    large = Case(
        NAMES[1],
        "a random Qwen3-VL",
        256,
        "standard",
        2,
        50 if full else 3,
        (1, 2, 4),
        1e-4,
        1,
        256,
    )
    return {case.name: case for case in (small, large)}


def figures(setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
    """Measure the figures.

    Args:
        setting: How they are run.
        names: Of :data:`NAMES`.

    Yields:
        One after the other.
    """
    import torch

    torch.set_num_threads(setting.threads)
    known = cases(setting.full)
    for name in names:
        yield _figure(known[name], setting)
        gc.collect()


def _figure(case: Case, setting: BenchSetting) -> Figure:
    work = _Work.of(case, setting)
    setting.progress(0, 3, f"{case.name}: two trainings compared")
    curves = {seed: work.ours(seed, case.steps) for seed in SEEDS}
    theirs = work.theirs(SEEDS[0], case.steps)
    equal, gaps = _compared(curves, theirs)
    setting.progress(1, 3, f"{case.name}: both timed")
    found = in_turns(
        {
            "ours": partial(work.ours, SEEDS[0], case.steps),
            "theirs": partial(work.theirs, SEEDS[0], case.steps),
        },
        rounds=case.rounds,
    )
    ours, other = found["ours"].seconds, found["theirs"].seconds
    setting.progress(2, 3, f"{case.name}: other sizes")
    tokens, shared = work.tokens()
    return Figure(
        case.name,
        f"{case.steps} steps of LoRA on {case.what}, {case.groups} groups of {NEGATIVES + 2} pairs a step, "
        f"{tokens} tokens a pair, {shared} of them before the candidate",
        ours,
        "transformers' Trainer with PEFT, the pairs one by one in the same batches, processed beforehand",
        other,
        equal=equal,
        checked="loss of the first step within 1e-4; all steps' losses nearer than three seeds'",
        target=f"at least {TARGET} times as fast",
        met=other / ours >= TARGET,
        also={
            "ours, s a step": ours / case.steps,
            "the Trainer, s a step": other / case.steps,
            **gaps,
            "ours with dropout 0.05, s a step": work.a_step(dropout=0.05),
        },
        profile=work.profile(),
        growth=work.growth(),
        note="dropout is 0 but where it is named",
    )


def _compared(
    curves: Mapping[int, Sequence[float]], theirs: Sequence[float]
) -> tuple[bool, dict[str, float]]:
    """Whether a curve is the other's: at the first step exactly, afterwards against the spread of seeds."""
    ours = curves[SEEDS[0]]
    gaps = [abs(mine - other) for mine, other in zip(ours, theirs, strict=True)]
    spreads = [max(at) - min(at) for at in zip(*curves.values(), strict=True)]
    # The first losses are equal whatever the seed: LoRA begins by adding nothing.
    found = {
        "first step: gap of the losses": gaps[0],
        "all steps: largest gap of the losses": max(gaps),
        "all steps: largest spread of three seeds": max(spreads),
    }
    return gaps[0] <= 1e-4 and max(gaps) <= max(spreads), found


@dataclass(frozen=True)
class _Work:
    """A loaded judge, its training material and the trainer's batches."""

    case: Case
    judge: YesNoJudge
    material: list[Group]
    batches: list[Step]
    folder: Path

    @classmethod
    def of(cls, case: Case, setting: BenchSetting) -> _Work:
        from benchmarks.speed.lora_trainer import processed_steps
        from setr_lib.models.multimodal import MultimodalModel
        from setr_lib.reranking.yes_no_judge import YesNoJudge
        from setr_lib.settings import JudgeSettings
        from setr_lib.texts.prompts import load_prompts

        folder = setting.folder / case.name
        folder.mkdir(parents=True, exist_ok=True)
        template = load_prompts(case.prompts).get("judge")
        name = _model_folder(case, setting.folder, template.render(modification=_text(0), captions=[]))
        judge = YesNoJudge(
            MultimodalModel.load(JudgeSettings(name=str(name)), device=setting.device), template
        )
        material = _material(case, max(case.groups, case.steps * case.groups // 2))
        starts = range(0, case.steps * case.groups, case.groups)
        order = [
            [material[at % len(material)] for at in range(start, start + case.groups)] for start in starts
        ]
        return cls(case, judge, material, processed_steps(judge, order), folder)

    @contextmanager
    def begun(self, seed: int, dropout: float = 0.0, groups: int | None = None) -> Iterator[_Begun]:
        """Fresh LoRA layers and the objective, whose batches are the trainer's."""
        from setr_lib.reranking.lora import lora_layers
        from setr_lib.reranking.training_step import YesNoObjective

        settings = AdapterSettings(
            learning_rate=self.case.learning_rate,
            dropout=dropout,
            seed=seed,
            groups_per_batch=groups or self.case.groups,
            checkpoint_every=1_000,
        )

        class InOrder(YesNoObjective):
            def batch_at(self, step: int) -> list[Group]:
                return _in_order(self.groups, step, self.settings.groups_per_batch)

        with lora_layers(self.judge.model, settings) as peft_model:
            yield _Begun(peft_model, InOrder(self.judge, self.material, settings), settings)

    def ours(self, seed: int, steps: int) -> list[float]:
        """SETR's training: the loss of each step."""
        self.judge.model.vision.memory.clear()
        with self.begun(seed) as begun:
            return begun.trained(self, steps)[0]

    def theirs(self, seed: int, steps: int) -> list[float]:
        """The trainer's."""
        from benchmarks.speed.lora_trainer import train_by_trainer

        with self.begun(seed) as begun:
            return train_by_trainer(
                self.judge,
                begun.peft_model,
                begun.objective,
                self.batches[:steps],
                begun.settings,
                self.folder,
            )

    def a_step(self, dropout: float = 0.0, groups: int | None = None) -> float:
        """Seconds of a step, the images' features at hand."""
        with self.begun(SEEDS[0], dropout, groups) as begun:
            begun.trained(self, 1)
            return begun.trained(self, self.case.rounds)[1] / self.case.rounds

    def growth(self) -> Growth:
        """A step at several sizes."""
        sizes = self.case.growth
        return Growth("groups a step", sizes, [self.a_step(groups=size) for size in sizes])

    def profile(self) -> list[tuple[str, float]]:
        """The operations of a step that take longest, in seconds of their own."""
        from torch.profiler import ProfilerActivity, profile

        with self.begun(SEEDS[0]) as begun:
            begun.objective.gradients(0)
            with profile(activities=[ProfilerActivity.CPU]) as found:
                begun.objective.gradients(1)
        spent = [(event.key, event.self_cpu_time_total / 1e6) for event in found.key_averages()]
        return sorted(spent, key=lambda part: -part[1])[:8]

    def tokens(self) -> tuple[int, int]:
        """Tokens of a pair, and how many of them stand before the candidate's."""
        query = self.material[0][0].query
        start, ends = self.judge.model.rows.judge_rows(
            self.judge.prompt(query), query.reference, query.candidates
        )
        return len(start.ids) + len(ends[0].ids), len(start.ids)


@dataclass(frozen=True)
class _Begun:
    peft_model: Any
    objective: YesNoObjective
    settings: AdapterSettings

    def trained(self, work: _Work, steps: int) -> tuple[list[float], float]:
        """The losses of some steps from the weights of now, and the seconds of these steps."""
        from setr_lib.training.loop import TrainingLoop

        if not self.objective.shares_prefixes:
            raise SetrError(f"{work.case.name}: prefixes are not shared; the log says why")
        pictures = [
            picture
            for group in work.material
            for query in group
            for picture in (query.query.reference, *query.query.candidates)
        ]
        work.judge.model.vision.precompute(pictures)
        folder = work.folder / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        found = TrainingLoop(self.objective, self.settings, steps, folder, "bench").train(silent, None)
        return [loss for _, loss, _ in found.curve], found.seconds


def _in_order(groups: Sequence[Group], step: int, size: int) -> list[Group]:
    """The groups of a step, the same for any seed: seeds differ in the first weights of the layers alone."""
    return [groups[place % len(groups)] for place in range(step * size, (step + 1) * size)]


def _model_folder(case: Case, folder: Path, prompt: RenderedPrompt) -> Path:
    """Where the model is; the random one is made."""
    import setr_lib
    from benchmarks.speed.random_qwen import QwenSize, write_random_qwen

    if not case.hidden:
        return Path(setr_lib.__file__).parent / "miniature" / "weights" / "mllm"
    size = QwenSize(hidden=case.hidden, layers=8, side=case.side)
    words = " ".join([prompt.system, *(str(part) for part in prompt.parts), *COLOURS, *NOUNS, "make it"])
    return write_random_qwen(folder / f"qwen-{size.hidden}-{size.layers}-lora", size, words)


def _text(number: int) -> str:
    return f"make it {COLOURS[number % len(COLOURS)]} {NOUNS[number // len(COLOURS) % len(NOUNS)]}"


def _material(case: Case, count: int) -> list[Group]:
    """Groups as the pipeline makes them, of drawn pictures: each is seen about five times an epoch."""
    from random import Random

    from setr_lib.reranking.scorer import JudgedQuery
    from setr_lib.reranking.training_step import LabelledQuery

    drawn = Random("lora bench")  # noqa: S311 - reproducible, not secret
    pictures = [_picture(number, case.side) for number in range(max(NEGATIVES + 2, round(1.25 * count)))]
    groups: list[Group] = []
    for number in range(count):
        reference, *candidates = drawn.sample(pictures, NEGATIVES + 2)
        own = JudgedQuery(reference, _text(number), tuple(candidates))
        other = JudgedQuery(reference, _text(number + 1), tuple(candidates[:1]))
        groups.append((LabelledQuery(own, (True,) + (False,) * NEGATIVES), LabelledQuery(other, (False,))))
    return groups


def _picture(number: int, side: int) -> Picture:
    """A drawn picture, as the bytes of a PNG file."""
    import io

    import numpy as np
    from PIL import Image

    from setr_lib.hashing import fingerprint_bytes
    from setr_lib.models.multimodal import Picture

    blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
    return Picture(fingerprint_bytes(file.getvalue()), file.getvalue())
