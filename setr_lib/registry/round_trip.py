"""The gate before registration: a fresh process loads the logged model as any user would, and checks what it
gives.

``check_in_fresh_process`` starts this very module as a program; it prints one JSON line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field

_MARK = "SETR-ROUND-TRIP "


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


def check_in_fresh_process(model_uri: str, tracking_uri: str, timeout: float = 1800) -> RoundTripReport:
    """Load ``model_uri`` in a new Python process, in an empty folder, and score the stored examples through
    pyfunc.
    """
    started = time.monotonic()
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryDirectory(prefix="setr-round-trip-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "setr_lib.registry.round_trip", model_uri],
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


def _check(model_uri: str) -> tuple[list[str], list[float]]:
    """In the fresh process: load through MLflow's public door, predict, and compare."""
    import mlflow.pyfunc
    import pandas as pd

    from setr_lib.errors import SetrError

    try:
        loaded = mlflow.pyfunc.load_model(model_uri)
        scorer = loaded.unwrap_python_model().scorer
        problems = scorer.check_examples()
        examples = scorer.bundle.examples
        frame = pd.DataFrame(
            {name: examples[name].to_list() for name in ("reference", "modification", "candidate")}
        )
        answer = loaded.predict(frame)
        if list(answer.columns) != ["score", "p_yes"] or len(answer) != examples.height:
            problems.append(f"predict gave columns {list(answer.columns)} and {len(answer)} rows")
    except SetrError as error:
        return [str(error)], []
    except Exception as error:
        return [f"{type(error).__name__}: {error}"], []
    return problems, [float(score) for score in answer["score"]]


def main() -> None:
    problems, scores = _check(sys.argv[1])
    print(_MARK + json.dumps({"problems": problems, "scores": scores}), flush=True)


if __name__ == "__main__":
    main()
