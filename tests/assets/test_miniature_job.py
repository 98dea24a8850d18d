"""The job that rebuilds the miniature, run for real on a small size; its models are there, and stay."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from setr_assets.definitions import build_definitions
from setr_assets.miniature import MINIATURE
from setr_lib.miniature import __file__ as package
from setr_lib.settings import MiniatureSettings, Settings


def test_the_job_draws_the_data_and_leaves_models_that_are_there(tmp_path: Path) -> None:
    weights = Path(package).parent / "weights"
    before = {path: path.stat().st_mtime_ns for path in weights.rglob("*")}
    miniature = MiniatureSettings(seed=1, size=0.02, training_images=16)
    job = build_definitions(Settings(base_dir=tmp_path, miniature=miniature)).resolve_job_def(MINIATURE)
    with dg.DagsterInstance.ephemeral() as instance:
        config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        assert job.execute_in_process(instance=instance, run_config=config).success
    made = sorted(path.parent.name for path in tmp_path.glob("var/miniature/*/miniature.json"))
    assert made == ["circo", "cirr", "fashioniq", "training"]
    assert {path: path.stat().st_mtime_ns for path in weights.rglob("*")} == before
