"""The training of a retrieval system: from its data to a finished result that can be loaded again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.faults import safetensors_fault
from setr_lib.files import write_json
from setr_lib.progress import Progress, silent
from setr_lib.systems.held_out import held_out_ranks, recall
from setr_lib.systems.objective import SystemObjective
from setr_lib.training.course import HeldOutCourse, measured_steps, tell_course
from setr_lib.training.loop import OnMetrics, TrainingLoop, replay
from setr_lib.training.notes import is_numbers, put_aside, read_note

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray
    from torch import Tensor

    from setr_lib.systems.data import Features, SystemData
    from setr_lib.systems.models.system_model import SystemModel

WEIGHTS = "weights.safetensors"
RECALL_METRIC = "held_out_recall_at_10"
"""R@10 on the held-out triplets, in percent, as a metric of a training run."""
_RESULT = "result.json"
_CURVE_POINTS = 500


@dataclass(frozen=True)
class SystemResult:
    """A finished training of a retrieval system.

    Attributes:
        folder: Where its weights are (``weights.safetensors``).
        run: Digest of everything that determines the training.
        steps: Optimiser steps.
        seconds: Time of training, that of interrupted runs included.
        parameters: How many numbers were trained.
        ranks_before: Rank of each held-out target before the first step.
        ranks: The same after the last.
        gallery: How many images the held-out queries search.
        rows: Training triplets, or images.
        curve: (step, loss, learning rate) of about 500 steps at most, the last among them.
        resumed_from: The step of the checkpoint that was continued, or 0.
        reused: Nothing was trained: the same training had been finished before.
    """

    folder: Path
    run: str
    steps: int
    seconds: float
    parameters: int
    ranks_before: list[int]
    ranks: list[int]
    gallery: int
    rows: int
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    resumed_from: int = 0
    reused: bool = False

    @property
    def recall(self) -> float:
        """R@10 on the held-out triplets, in percent."""
        return recall(np.asarray(self.ranks))

    @property
    def recall_before(self) -> float:
        """R@10 before the first step."""
        return recall(np.asarray(self.ranks_before))


@dataclass(frozen=True)
class Lesson:
    """What a training of a retrieval system is made of.

    Attributes:
        name: The system's.
        model: The system, untrained.
        data: Training and held-out triplets.
        rows: What is trained on: rows of ``data.triplets`` or ``data.images``.
        features: Gives the images' features.
        run: Digest of everything that determines the training.
        negatives: Mined hard negatives of each training triplet; none by default.
    """

    name: str
    model: SystemModel
    data: SystemData
    rows: pl.DataFrame
    features: Features
    run: str
    negatives: Sequence[Sequence[str]] = ()


def train_system(
    lesson: Lesson, folder: Path, progress: Progress = silent, on_metrics: OnMetrics | None = None
) -> SystemResult:
    """Train a system to the last step, and rank the held-out triplets before and after.

    Args:
        lesson: The system and its data; the system has the trained weights afterwards.
        folder: Of the checkpoints and the result; the caller holds its lock (``checkpoint.only_trainer``).
        progress: Told how far it is.
        on_metrics: Told of each step's loss and learning rate.

    Returns:
        The result, which :func:`load_result` gives again.

    Raises:
        TrainingError: The loss is not finite.
        TrainingDataError: An image cannot be read any more.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model, options = lesson.model, lesson.model.options
    before = _ranks_before(lesson, folder, progress)
    objective = SystemObjective(
        lesson.name, model, lesson.rows, lesson.features, lesson.negatives, lesson.data.copies
    )
    loop = TrainingLoop(objective, options, options.steps, folder, lesson.run)
    course = HeldOutCourse(
        folder,
        lesson.run,
        measured_steps(options.steps, options.held_out_points),
        lambda: {RECALL_METRIC: recall(held_out_ranks(model, lesson.data, lesson.features))},
        on_metrics,
    )
    trained = loop.train(progress, on_metrics, course.after)
    course.tell_up_to(trained.resumed_from)
    ranks = held_out_ranks(model, lesson.data, lesson.features, progress)
    save_file(stored_tensors(model), folder / WEIGHTS)
    result = SystemResult(
        folder=folder,
        run=lesson.run,
        steps=options.steps,
        seconds=trained.seconds,
        parameters=sum(parameter.numel() for parameter in objective.parameters.values()),
        ranks_before=[int(rank) for rank in before],
        ranks=[int(rank) for rank in ranks],
        gallery=len(lesson.data.gallery),
        rows=lesson.rows.height,
        curve=_thinned(trained.curve),
        resumed_from=trained.resumed_from,
    )
    # Last: its presence says that all the rest is there.
    write_json(folder / _RESULT, {**asdict(result), "folder": "", "reused": True})
    return result


def load_result(folder: Path, run: str, on_metrics: OnMetrics | None = None) -> SystemResult | None:
    """Load a finished training.

    Args:
        folder: The folder that :func:`train_system` was given.
        run: Digest of the training wanted.
        on_metrics: Told of the steps of its curve.

    Returns:
        The result, marked as reused; None where there is no finished training, or that of another run.
    """
    weights = folder / WEIGHTS
    if not weights.is_file():
        return None
    if (stored := read_note(folder / _RESULT, run, _is_sound)) is None:
        return None
    if (fault := safetensors_fault(weights)) is not None:
        put_aside(weights, fault, "training goes on from its last checkpoint, or anew")
        return None
    result = _result(stored, folder)
    replay(result.curve, on_metrics)
    tell_course(folder, run, on_metrics)
    return result


def stored_tensors(model: SystemModel) -> dict[str, Tensor]:
    """What is stored of a trained system: its own tensors, on the CPU.

    Args:
        model: The system.

    Returns:
        Tensors by name.
    """
    # A copy of each: safetensors refuses two names of one memory.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}


def _result(stored: Mapping[str, Any], folder: Path) -> SystemResult:
    curve = [(int(step), float(loss), float(rate)) for step, loss, rate in stored["curve"]]
    return SystemResult(**{**stored, "folder": folder, "curve": curve})


def _is_sound(stored: dict[str, Any]) -> bool:
    """Whether a stored result has what is read of one."""
    result = _result(stored, Path())
    ranks = (result.ranks, result.ranks_before)
    return all(is_numbers(each, len(result.ranks), int) for each in ranks) and is_numbers(
        [result.steps, result.parameters, result.gallery, result.rows], 4, int
    )


def _ranks_before(lesson: Lesson, folder: Path, progress: Progress) -> NDArray[np.int64]:
    """Ranks before the first step; kept, because a resumed training starts from other weights."""
    file = folder / "before.json"
    count = lesson.data.held_out.height
    stored = read_note(file, lesson.run, lambda note: is_numbers(note["ranks"], count, int))
    if stored is not None:
        return np.asarray(stored["ranks"], dtype=np.int64)
    ranks = held_out_ranks(lesson.model, lesson.data, lesson.features, progress)
    write_json(file, {"run": lesson.run, "ranks": [int(rank) for rank in ranks]})
    return ranks


def _thinned(curve: Sequence[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    every = -(-len(curve) // _CURVE_POINTS)
    return [point for point in curve if point[0] % every == 0 or point[0] == len(curve)]
