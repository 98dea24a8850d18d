"""A run of a data set stops where queries and gallery share no image, before anything is embedded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION
from setr_assets.partitions import range_tags
from setr_lib.benchmarks import Benchmark, QueryRecord
from setr_lib.settings import Settings


class Wishes(Benchmark):
    kind = "wishes"

    def queries(self, evaluation_set: Any) -> list[QueryRecord]:
        rows = json.loads((evaluation_set.root / "wishes.json").read_text())
        return [QueryRecord(str(number), reference, "red") for number, reference in enumerate(rows)]


def run_of(folder: Path, asset: str, references: list[str]) -> dg.ExecuteInProcessResult:
    (folder / "data" / "gallery").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4), "teal").save(folder / "data" / "gallery" / name)
    (folder / "data" / "wishes.json").write_text(json.dumps(references))
    datasets = {"mine": {"kind": f"{__name__}:Wishes", "root": "data"}}
    settings = Settings.model_validate({"base_dir": folder, "datasets": datasets})
    with dg.DagsterInstance.ephemeral() as instance:
        return (
            build_definitions(settings)
            .resolve_job_def(EVALUATION)
            .execute_in_process(
                instance=instance,
                raise_on_error=False,
                tags=range_tags(["mine"]),
                asset_selection=[dg.AssetKey(asset)],
            )
        )


@pytest.mark.parametrize("asset", ["queries", "gallery_images"])
def test_a_total_miss_is_the_steps_failure(tmp_path: Path, asset: str) -> None:
    result = run_of(tmp_path, asset, ["a.png", "b.png"])
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    shown = failure.step_failure_data.user_failure_data
    assert shown is not None and shown.description is not None
    assert "mine: none of its 2 queries has its reference in the gallery" in shown.description
    assert "'gallery/a.png'" in shown.description


def test_some_unknown_images_are_a_warning_of_one_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_of(tmp_path / "first", "queries", ["gallery/a.png", "b.png"]).success
    assert "1 of the 2 references of queries are not in the gallery" in capsys.readouterr().err
    assert run_of(tmp_path / "second", "gallery_images", ["gallery/a.png", "b.png"]).success
    assert "of the 2 references" not in capsys.readouterr().err
