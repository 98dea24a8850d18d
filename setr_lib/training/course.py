"""Held-out measures in the course of a training: a few points of a curve, each measured once.

They are no part of a training: what is measured changes neither weights nor random state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.files import write_json
from setr_lib.training.loop import OnMetrics, cuda_devices
from setr_lib.training.notes import is_numbers, read_note

if TYPE_CHECKING:
    import torch

Measured = Mapping[str, float]
"""Held-out measures by the name of a metric."""
_FILE = "held_out_course.json"


def measured_steps(steps: int, points: int) -> frozenset[int]:
    """The steps after which held-out data is measured before the end, evenly spaced.

    Args:
        steps: Optimiser steps of the whole training.
        points: How many measurements there are, that at the end among them.

    Returns:
        Steps between 0 and ``steps``, both excluded; ``points - 1`` of them where there are so many.
    """
    return frozenset(round(steps * part / points) for part in range(1, points)) - {0, steps}


class HeldOutCourse:
    """The held-out measures of a training before its end. A resumed training measures no step twice.

    Args:
        folder: The training's folder of checkpoints.
        run: Digest of everything that the training depends on.
        steps: The steps to measure after (:func:`measured_steps`).
        measure: Measures the model as it is.
        on_metrics: Told of each step's measures.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        steps: frozenset[int],
        measure: Callable[[], Measured],
        on_metrics: OnMetrics | None,
    ) -> None:
        self._file, self._run, self._steps = folder / _FILE, run, steps
        self._measure, self._on_metrics = measure, on_metrics
        self._known = _stored(self._file, run)

    def after(self, step: int, device: torch.device) -> None:
        """What the training loop calls after each step.

        Args:
            step: The step, from 1.
            device: The model's device.
        """
        if step not in self._steps:
            return
        if step not in self._known:
            import torch

            with torch.random.fork_rng(devices=cuda_devices(device)):
                self._known[step] = dict(self._measure())
            points = [[known, values] for known, values in sorted(self._known.items())]
            write_json(self._file, {"run": self._run, "points": points})
        self._tell(step)

    def tell_up_to(self, step: int) -> None:
        """Tell the measures of earlier steps again: those before a checkpoint that was continued.

        Args:
            step: The last of them.
        """
        for known in sorted(self._known):
            if known <= step:
                self._tell(known)

    def _tell(self, step: int) -> None:
        if self._on_metrics is not None:
            self._on_metrics(step, self._known[step])


def tell_course(folder: Path, run: str, on_metrics: OnMetrics | None) -> None:
    """Tell the held-out measures in the course of a finished training again.

    Args:
        folder: The training's folder of checkpoints.
        run: Digest of everything that the training depends on.
        on_metrics: The listener, if any.
    """
    if on_metrics is not None:
        for step, values in sorted(_stored(folder / _FILE, run).items()):
            on_metrics(step, values)


def _stored(file: Path, run: str) -> dict[int, Measured]:
    found = read_note(file, run, _is_sound) or {"points": []}
    return {int(step): values for step, values in found["points"]}


def _is_sound(note: dict[str, object]) -> bool:
    """Whether a note has what is read of it."""
    points = note["points"]
    return isinstance(points, list) and all(
        isinstance(step, int) and is_numbers(list(values.values()), len(values)) for step, values in points
    )
