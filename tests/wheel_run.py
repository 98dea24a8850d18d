"""A program that evaluates the folder data set of ``./setr.toml``, for the test of the wheel; needs nothing
of the tree.

Argument: the folder in which ``setr_lib`` must lie. Prints where it does lie.
"""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg

import setr_assets
import setr_lib
from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION
from setr_lib.settings import load_settings

if __name__ == "__main__":
    installed = Path(sys.argv[1])
    for package in (setr_lib, setr_assets):
        assert Path(str(package.__file__)).is_relative_to(installed), package.__file__
    job = build_definitions(load_settings()).resolve_job_def(EVALUATION)
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance,
            partition_key="mine",
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
        )
    assert result.success
    print(setr_lib.__file__)
