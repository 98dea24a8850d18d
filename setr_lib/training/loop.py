"""The training loop: AdamW, learning-rate schedule, clipped gradients, checkpoints, and going on from one.

What is trained, and towards what, is an :class:`Objective`. A training is a function of its inputs and its
seed: killed and started again, it goes on from its last checkpoint to the same end.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol

from setr_lib.errors import SetrError
from setr_lib.progress import Progress
from setr_lib.training.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    import torch

OnMetrics = Callable[[int, Mapping[str, float]], None]
"""Called as ``on_metrics(step, values)``; after a resume, the steps before it are told again first."""

_CLIP_NORM = 1.0


class TrainingError(SetrError):
    """A training cannot be done with these settings; the message says what to change."""


class LoopSettings(Protocol):
    """What the loop reads of a system's settings; ``AdapterSettings`` has all of it."""

    @property
    def learning_rate(self) -> float:
        """The highest rate, after the warm-up."""
        ...

    @property
    def warmup_share(self) -> float:
        """Share of all steps, between 0 and 1, in which the rate rises."""
        ...

    @property
    def weight_decay(self) -> float:
        """AdamW's."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """Optimiser steps between two checkpoints."""
        ...

    @property
    def seed(self) -> int:
        """Of dropout."""
        ...


class Objective(ABC):
    """What a training optimises: parameters, and the gradients of one step's batch.

    Attributes:
        parameters: The trained tensors by name; the names are those of the checkpoints.
        device: Where the model is.
        what: What a progress display counts.
        fused: AdamW moves all parameters in one operation; rounded differently from one after the other.
    """

    parameters: Mapping[str, torch.nn.Parameter]
    device: torch.device
    what: str = "training steps"
    fused: bool = False

    @property
    def state(self) -> Mapping[str, torch.Tensor]:
        """Tensors besides the parameters that a step changes in place, by name; in checkpoints, too."""
        return {}

    @abstractmethod
    def gradients(self, step: int) -> float:
        """Leave the gradients of a step's batch in the parameters.

        The loop has seeded torch and cleared the gradients (:func:`begin_step`); the batch must depend on
        ``step`` alone, not on what ran before (:func:`indices_at`).

        Args:
            step: The optimiser step, from 0.

        Returns:
            The batch's mean loss.
        """

    def diverged(self, step: int, loss: float) -> SetrError:
        """The error for a loss that is not finite: what to change.

        Args:
            step: The optimiser step, from 0.
            loss: The loss.

        Returns:
            The error that the loop raises.
        """
        return TrainingError(f"the loss at step {step + 1} is {loss}: lower the learning rate")


@dataclass(frozen=True)
class LoopResult:
    """What a finished loop tells.

    Attributes:
        curve: (step from 1, loss, learning rate) of each step.
        resumed_from: The step of the checkpoint that was continued, or 0.
        seconds: Time of training, that of interrupted runs included.
    """

    curve: list[tuple[int, float, float]]
    resumed_from: int
    seconds: float


class TrainingLoop:
    """One training: every step of an objective, and its checkpoints.

    Args:
        objective: What is trained, and towards what.
        settings: The settings of the optimiser, the schedule and the checkpoints.
        steps: Optimiser steps of the whole training.
        folder: The folder of the checkpoints; the caller holds its lock (``checkpoint.only_trainer``).
        run: Digest of everything that the training depends on.
    """

    def __init__(
        self, objective: Objective, settings: LoopSettings, steps: int, folder: Path, run: str
    ) -> None:
        import torch

        self.objective, self.settings, self.steps = objective, settings, steps
        self.folder, self.run = folder, run
        self.optimiser = torch.optim.AdamW(
            list(objective.parameters.values()),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=objective.fused or None,
        )

    def train(
        self,
        progress: Progress,
        on_metrics: OnMetrics | None,
        after_step: Callable[[int, torch.device], None] | None = None,
    ) -> LoopResult:
        """Train to the last step, from the newest checkpoint of this run if there is one.

        Args:
            progress: Told of each step.
            on_metrics: Told of each step's loss and learning rate.
            after_step: Called after each step, with its number from 1 and the model's device; it must leave
                the parameters and the optimiser as they are (``course.HeldOutCourse.after``).

        Returns:
            The curve and how it came about; the parameters are those of the last step.

        Raises:
            SetrError: The loss is not finite (``Objective.diverged``).
            CheckpointError: A checkpoint of this run does not fit.
        """
        objective, began = self.objective, time.monotonic()
        found = load_checkpoint(self.folder, objective.parameters, self.optimiser, self.run, objective.state)
        state = found or {}
        start, earlier = int(state.get("step", 0)), float(state.get("seconds", 0.0))
        curve = [(int(step), float(loss), float(rate)) for step, loss, rate in state.get("curve", [])]
        replay(curve, on_metrics)
        progress(start, self.steps, objective.what)
        for step in range(start, self.steps):
            loss, rate = self._step(step)
            curve.append((step + 1, loss, rate))
            replay(curve[-1:], on_metrics)
            progress(step + 1, self.steps, objective.what)
            if (step + 1) % self.settings.checkpoint_every == 0 or step + 1 == self.steps:
                spent = earlier + time.monotonic() - began
                told = {"run": self.run, "step": step + 1, "seconds": spent, "curve": curve}
                save_checkpoint(self.folder, objective.parameters, self.optimiser, told, objective.state)
            if after_step is not None:
                after_step(step + 1, objective.device)
        return LoopResult(curve, start, earlier + time.monotonic() - began)

    def _step(self, step: int) -> tuple[float, float]:
        import torch

        rate = learning_rate_at(step, self.steps, self.settings)
        for parameter_group in self.optimiser.param_groups:
            parameter_group["lr"] = rate
        parameters = self.objective.parameters
        with torch.random.fork_rng(devices=cuda_devices(self.objective.device)):
            begin_step(parameters, self.settings.seed, step)
            loss = self.objective.gradients(step)
        if not math.isfinite(loss):
            raise self.objective.diverged(step, loss)
        torch.nn.utils.clip_grad_norm_(parameters.values(), _CLIP_NORM)
        self.optimiser.step()
        return loss, rate


def begin_step(parameters: Mapping[str, torch.nn.Parameter], seed: int, step: int) -> None:
    """Clear the gradients, and seed torch by the step alone, so that a resumed training draws the
    same dropout.

    Args:
        parameters: The trained tensors.
        seed: Of the training.
        step: The optimiser step, from 0.
    """
    import torch

    torch.manual_seed(seed * 1_000_003 + step)
    for parameter in parameters.values():
        parameter.grad = None


def learning_rate_at(step: int, total: int, settings: LoopSettings) -> float:
    """The learning rate of a step: linear warm-up, then half a cosine down to a hundredth.

    Args:
        step: The optimiser step, from 0.
        total: Steps of the whole training.
        settings: The highest rate and the share of the warm-up.

    Returns:
        The rate.
    """
    warmup = round(settings.warmup_share * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def indices_at(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """Which items are in the batch of a step: epochs are shuffled by the seed and run on into each other.

    Args:
        step: The optimiser step, from 0.
        batch_size: Items per step.
        count: Items of the training set.
        seed: Of the order.

    Returns:
        ``batch_size`` indices, from 0 to ``count - 1``.
    """
    drawn = range(step * batch_size, (step + 1) * batch_size)
    return [_epoch_order(seed, number // count, count)[number % count] for number in drawn]


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    order = list(range(count))
    Random(f"epoch/{seed}/{epoch}").shuffle(order)  # noqa: S311 - reproducible, not secret
    return order


def replay(curve: Iterable[Sequence[float]], on_metrics: OnMetrics | None) -> None:
    """Tell ``on_metrics`` of steps that were trained.

    Args:
        curve: (step, loss, learning rate) of each step.
        on_metrics: The listener, if any.
    """
    if on_metrics is not None:
        for step, loss, rate in curve:
            on_metrics(int(step), {"loss": float(loss), "learning_rate": float(rate)})


def cuda_devices(device: torch.device) -> list[int]:
    """The devices whose random state ``torch.random.fork_rng`` must keep beside the CPU's.

    Args:
        device: The model's device.

    Returns:
        The index of a CUDA device, else nothing.
    """
    return [device.index or 0] if device.type == "cuda" else []
