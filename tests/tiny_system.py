"""The smallest trained system: a line through points, with a measure, a bundle and a registered model."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch  # noqa: TID253

from setr_lib.files import read_json, write_json
from setr_lib.hashing import digest_json
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.trained_system import TrainedSystem
from setr_lib.pipeline.training_steps import train
from setr_lib.progress import Progress
from setr_lib.registry.measure import Measure
from setr_lib.registry.registered_model import HELD_OUT_TAG
from setr_lib.registry.runs import RUN_TAG, PyfuncModel, TrainingRun, pinned_requirements
from setr_lib.settings import Settings
from setr_lib.training.loop import Objective, OnMetrics, TrainingLoop, indices_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

POINTS, HELD_OUT = 40, 10


@dataclass(frozen=True)
class LineSettings:
    """What the training loop reads."""

    learning_rate: float = 0.3
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    checkpoint_every: int = 4
    seed: int = 7


@dataclass(frozen=True)
class Line:
    """A finished training."""

    slope: float
    offset: float
    error: float
    steps: int
    resumed_from: int


class SquaredError(Objective):
    """Slope and offset of a line, towards the points."""

    what = "line training steps"

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> None:
        self.x, self.y, self.seed = torch.tensor(x), torch.tensor(y), seed
        self.parameters = {
            name: torch.nn.Parameter(torch.zeros((), dtype=torch.float64)) for name in ("slope", "offset")
        }
        self.device = torch.device("cpu")

    def gradients(self, step: int) -> float:
        """Of the mean squared error, with noise, which a resumed training must draw again."""
        chosen = indices_at(step, 8, len(self.x), self.seed)
        noise = 0.01 * torch.randn(8, dtype=torch.float64)
        line = self.parameters["slope"] * self.x[chosen] + self.parameters["offset"]
        loss = ((line - self.y[chosen] + noise) ** 2).mean()
        loss.backward()
        return float(loss.detach())


class LineSystem(TrainedSystem[Line]):
    """A line through points of a seeded random source, as a trained system for tests; it takes a second."""

    name = "line"
    measure = Measure("error", "setr.held_out_error", higher_is_better=False)
    must_equal: ClassVar[Mapping[str, str]] = {"line.source": "was fitted to other points"}
    artifacts = ("line",)
    promoted_by = "promoted_line"
    options = LineSettings()

    def __init__(self, context: PipelineContext, steps: int = 20, held_out_seed: int = 2) -> None:
        super().__init__(context)
        self.steps, self.held_out_seed = steps, held_out_seed

    @staticmethod
    def registered_model(settings: Settings) -> str:
        """Not named by settings."""
        return "setr-line"

    def digest(self) -> str:
        """Of the options, the number of steps and the points."""
        return digest_json(["line", vars(self.options), self.steps, self.held_out_seed])

    def parameters(self) -> Mapping[str, object]:
        """The options."""
        return vars(self.options)

    def label(self) -> str:
        """Of lines."""
        return "fitted"

    def finished(self, folder: Path) -> Line | None:
        """The line in ``folder``."""
        stored = read_json(folder / "line.json")
        return None if stored is None else Line(**stored)

    def train(self, folder: Path, progress: Progress, on_metrics: OnMetrics) -> Line:
        """Fit the line."""
        objective = SquaredError(*points(1, POINTS), self.options.seed)
        loop = TrainingLoop(objective, self.options, self.steps, folder, self.digest())
        trained = loop.train(progress, on_metrics)
        slope, offset = (float(parameter.detach()) for parameter in objective.parameters.values())
        error = error_of(slope, offset, self.held_out_seed)
        line = Line(slope, offset, error, self.steps, trained.resumed_from)
        write_json(folder / "line.json", vars(line))
        return line

    def log(self, run: TrainingRun, result: Line) -> str:
        """Log slope and offset."""
        from mlflow.models import ModelSignature
        from mlflow.types.schema import ColSpec, DataType, Schema

        folder = self.context.settings.checkpoint_root / self.digest()[:16] / "bundle" / "line"
        write_json(folder / "line.json", {"slope": result.slope, "offset": result.offset})
        columns = Schema([ColSpec(DataType.double, "x")])
        model = PyfuncModel(
            name="line",
            code=Path(__file__).with_name("pyfunc_tiny_system.py"),
            artifacts={"line": folder},
            signature=ModelSignature(inputs=columns),
            requirements=pinned_requirements(["mlflow"]),
            tags={
                RUN_TAG: self.digest(),
                self.measure.tag: repr(result.error),
                HELD_OUT_TAG: f"seed {self.held_out_seed}",
                "line.source": "one",
            },
            params={},
        )
        return run.log_model(model, result.steps)

    def measure_again(self, artifacts: Mapping[str, Path], progress: Progress) -> float:
        """The error of a stored line on the held-out points of today."""
        stored = json.loads((artifacts["line"] / "line.json").read_text())
        return error_of(stored["slope"], stored["offset"], self.held_out_seed)

    def in_words(self, result: Line) -> str:
        """Its error."""
        return f"fitted; held-out error {result.error:.3g}"


def points(seed: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points near y = 2 x - 1."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, count)
    return x, 2 * x - 1 + rng.normal(0, 0.05, count)


def error_of(slope: float, offset: float, seed: int) -> float:
    """The mean squared error of a line on held-out points."""
    x, y = points(seed, HELD_OUT)
    return float(((slope * x + offset - y) ** 2).mean())


def main() -> None:
    """Train in the folder that the first argument names, and kill this process at the step of the second."""
    folder, step = Path(sys.argv[1]), int(sys.argv[2])

    def strike(done: int, total: int, what: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    train(LineSystem(PipelineContext(Settings(base_dir=folder))), progress=strike)


if __name__ == "__main__":
    main()
