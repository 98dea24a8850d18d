"""``python -m benchmarks.plan_check``: how far ``setr plan`` is from the run that it plans.

A miniature is drawn in a folder of its own, planned, and run from nothing; then the time of each step of
the plan stands beside that of the assets that do it, and the whole plan beside the whole run. The machine
should be idle. A plan counts the start of programs and models by itself, a run has it in the first asset
that needs them: the miniature must be so large that the work outweighs it. Exit status 1: the whole, or a
step of a tenth of the run or more, is off by more than ``--factor``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

REPOSITORY = Path(__file__).parents[1]
STEPS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("look at the images", ("look at the images",), ("gallery_images", "training_images")),
    ("embed the galleries", ("embed the galleries",), ("gallery_embeddings",)),
    ("embed the training images", ("embed the training images",), ("training_embeddings",)),
    ("captions", ("see the references", "describe the references"), ("reference_captions",)),
    ("compositions", ("compose the queries", "write "), ("query_compositions", "method_texts")),
    (
        "the adapter's training",
        ("see the training images", "train the adapter", "judge held-out pairs"),
        ("reranker_adapter",),
    ),
    ("choice of the fusion", ("choose the fusion",), ("reranking_fusion",)),
    ("re-ranking", ("see the candidates", "re-rank"), ("reranked_rankings",)),
)
"""A step, how the lines of the plan begin that are its, and the assets that do it."""
_LARGE = 0.1
"""The share of a run from which on a step must be right by itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, plan, run, compare.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    with TemporaryDirectory(prefix="setr-plan-check-") as folder:
        environment = _project(Path(folder), options)
        _call([*_SETR, "miniature", "write"], folder, environment)
        plan = json.loads(_call([*_SETR, "plan", "--json"], folder, environment))
        begun = time.perf_counter()
        _call([*_SETR, "run"], folder, environment)
        took = time.perf_counter() - begun
        measured = _step_seconds(Path(folder))
    return _compare(plan, measured, took, options.factor)


_SETR = (sys.executable, "-c", "from setr_lib.cli import program; program()")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plan_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=float, default=0.3, help="of the miniature (default: 0.3)")
    parser.add_argument("--groups", type=int, default=500, help="groups of training pairs (default: 500)")
    parser.add_argument("--factor", type=float, default=1.5, help="how far a plan may be off (default: 1.5)")
    return parser


def _project(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """Write the miniature's profile into ``folder``; the variables of every command there."""
    text = (REPOSITORY / "setr.toml").read_text(encoding="utf-8")
    text = text.replace("setr_lib/miniature/weights", str(REPOSITORY / "setr_lib/miniature/weights"))
    (folder / "setr.toml").write_text(text, encoding="utf-8")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SETR_", "DAGSTER_", "MLFLOW_"))
    }
    return kept | {
        "PYTHONPATH": str(REPOSITORY),
        "SETR_CONFIG": str(folder / "setr.toml"),
        "SETR_MINIATURE__SIZE": str(options.size),
        "SETR_MINIATURE__TRAINING_IMAGES": str(max(64, round(1600 * options.size))),
        "SETR_RERANKING__PAIRS__GROUPS": str(options.groups),
        "DO_NOT_TRACK": "1",
    }


def _call(command: Sequence[str], folder: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def _step_seconds(folder: Path) -> dict[str, float]:
    """Seconds of each asset, all its partitions together, of the last run in a folder."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(folder / "dagster_home")) as instance:
        (run,) = instance.get_runs(limit=1)
        found: dict[str, float] = {}
        for step in instance.get_run_step_stats(run.run_id):
            if step.start_time is not None and step.end_time is not None:
                name = step.step_key.split("[")[0]
                found[name] = found.get(name, 0.0) + step.end_time - step.start_time
    return found


def _compare(plan: Mapping[str, Any], measured: Mapping[str, float], took: float, factor: float) -> int:
    """Print the table; 1 where the plan is off."""
    print(f"{'step':28}{'planned':>10}{'run':>10}{'ratio':>8}")
    off, seen = [], 0.0
    for name, starts, assets in STEPS:
        planned = sum(line["seconds"] or 0 for line in plan["steps"] if line["step"].startswith(starts))
        ran = sum(measured.get(asset, 0.0) for asset in assets)
        seen += ran
        ratio = planned / ran if ran else float("nan")
        print(f"{name:28}{planned:8.1f} s{ran:8.1f} s{ratio:8.2f}")
        if ran >= _LARGE * took and not 1 / factor <= ratio <= factor:
            off.append(name)
    start = next((line["seconds"] for line in plan["steps"] if line["step"].startswith("start")), 0.0)
    print(f"{'start, and all else':28}{start:8.1f} s{took - seen:8.1f} s{start / (took - seen):8.2f}")
    whole = plan["seconds"] / took
    print(f"{'whole':28}{plan['seconds']:8.1f} s{took:8.1f} s{whole:8.2f}")
    if plan["busy"]:
        print(f"the machine was busy while it was planned: {plan['busy']}")
    if not 1 / factor <= whole <= factor:
        off.append("whole")
    if off:
        print(f"off by more than {factor:g}: {', '.join(off)}", file=sys.stderr)
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
