"""The gate before registration: a fresh process loads the logged model as any user would, and checks what it
gives.

``check_in_fresh_process`` starts this very module as a program; it prints one JSON line for each model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd

_MARK, _BELOW = "SETR-ROUND-TRIP ", "--below"


@dataclass(frozen=True)
class RoundTripReport:
    """``problems`` is empty for a sound model. ``scores`` are what the fresh process gave for the stored
    examples.
    """

    model_uri: str
    problems: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Scorer(Protocol):
    """What a stored model brings to its round trip: the attribute ``scorer`` of its pyfunc class."""

    def round_trip(self, predict: Callable[[pd.DataFrame], Any]) -> tuple[list[str], list[float]]:
        """Whether this process gives what the training process gave for the examples in the bundle.

        Args:
            predict: The loaded model's ``predict``, as a user calls it.

        Returns:
            What is wrong, in sentences, nothing for a sound model; and the figures that were compared.
        """
        ...


def check_in_fresh_process(
    model_uri: str, tracking_uri: str, timeout: float = 1800, project: Path | None = None
) -> RoundTripReport:
    """Load a logged model in a new Python process, in an empty folder, and let its :class:`Scorer` check it.

    Args:
        model_uri: The logged model.
        tracking_uri: MLflow's store.
        timeout: Seconds after which the process is ended.
        project: The project's folder, below which the base model is looked for; None for none.

    Returns:
        The report.
    """
    from setr_lib.registry.request_cells import LIMITS, variable_of

    started = time.monotonic()
    limits = {variable_of(limit) for limit in LIMITS}  # of requests: the examples are no request
    environment = {
        **{name: value for name, value in os.environ.items() if name not in limits},
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_REGISTRY_URI": tracking_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    below = [] if project is None else [_BELOW, str(project)]
    with tempfile.TemporaryDirectory(prefix="setr-round-trip-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "setr_lib.registry.round_trip", *below, model_uri],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return RoundTripReport(model_uri, [f"the fresh process took more than {timeout:.0f} s"])
    seconds = time.monotonic() - started
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            found = json.loads(line.removeprefix(_MARK))
            return RoundTripReport(model_uri, found["problems"], found["scores"], seconds)
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return RoundTripReport(
        model_uri, [f"the fresh process ended with code {done.returncode}: {last}"], [], seconds
    )


def _check(model_uri: str, projects: Sequence[Path] = ()) -> tuple[list[str], list[float]]:
    """In the fresh process: load through MLflow's public door, predict, and compare."""
    import mlflow.pyfunc

    from setr_lib.errors import SetrError
    from setr_lib.registry.place import searched_below

    try:
        with searched_below(*projects):
            loaded = mlflow.pyfunc.load_model(model_uri)
        scorer: Scorer = loaded.unwrap_python_model().scorer
        return scorer.round_trip(loaded.predict)
    except SetrError as error:
        return [str(error)], []
    except Exception as error:
        return [f"{type(error).__name__}: {error}"], []


def main() -> None:
    projects, models = [], sys.argv[1:]
    if models[:1] == [_BELOW]:
        projects, models = [Path(models[1])], models[2:]
    for model_uri in models:
        problems, scores = _check(model_uri, projects)
        print(_MARK + json.dumps({"problems": problems, "scores": scores}), flush=True)


if __name__ == "__main__":
    main()
