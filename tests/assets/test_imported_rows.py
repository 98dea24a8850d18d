"""Imported captions and compositions in the graph: used by the next run, without a model, and their origin in
the tables.
"""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest
from PIL import Image

from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION
from setr_assets.partitions import range_tags
from setr_lib.cli import main
from setr_lib.pipeline.context import pipeline_context
from setr_lib.records import TextRecord
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import CAPTIONS, COMPOSITIONS

NAMES = [f"dev-{number}-img0" for number in range(8)]
ASSETS = ["queries", "gallery_images", "reference_captions", "query_compositions"]
# The judge is a folder that is not there: whoever asks for it fails.
SETTINGS = """
[datasets.cirr]
kind = "cirr"
root = "cirr"
splits = ["val"]

[models.judge]
name = "no/model/is/here"
prompts = "miniature"
"""


def write_cirr(root: Path) -> None:
    """Two queries over eight images."""
    for name in ("captions", "image_splits", "dev"):
        (root / name).mkdir(parents=True)
    (root / "image_splits/split.rc2.val.json").write_text(json.dumps({n: f"./dev/{n}.png" for n in NAMES}))
    queries = [
        {
            "pairid": number,
            "reference": NAMES[number],
            "target_hard": NAMES[number + 1],
            "caption": f"edit {number}",
            "img_set": {"id": 1, "members": NAMES[:6]},
        }
        for number in range(2)
    ]
    (root / "captions/cap.rc2.val.json").write_text(json.dumps(queries))
    for name in NAMES:
        Image.new("RGB", (4, 4), "teal").save(root / f"dev/{name}.png")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_cirr(tmp_path / "cirr")
    config = tmp_path / "setr.toml"
    config.write_text(SETTINGS, encoding="utf-8")
    origin = {"dataset": "cirr", "model": "theirs", "prompt_hash": "their prompt"}
    captions = [origin | {"image_id": name, "caption": f"a picture, {name}"} for name in NAMES[:2]]
    parts = {"keep": ["dog"], "add": [], "remove": [], "drop": ["snow"], "target_caption": "a dog"}
    compositions = [origin | {"split": "val", "query_id": str(n), "composition": parts} for n in range(2)]
    for what, rows in (("captions", captions), ("compositions", compositions)):
        file = tmp_path / f"{what}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        assert main(["--config", str(config), what, "import", str(file)]) == 0
    return load_settings(config)


def test_a_run_uses_imported_rows_and_loads_no_model(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            build_definitions(settings)
            .resolve_job_def(EVALUATION)
            .execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey(name) for name in ASSETS],
                tags=range_tags(["cirr-val"]),
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        )
        metadata = {
            event.asset_key.to_user_string(): event.materialization.metadata
            for event in result.get_asset_materialization_events()
            if event.asset_key is not None
        }
    assert result.success
    context = pipeline_context(settings)
    captions = context.tables.read("reference_captions", CAPTIONS, "cirr-val")
    assert captions["caption"].to_list() == [f"a picture, {name}" for name in NAMES[:2]]
    compositions = context.tables.read("query_compositions", COMPOSITIONS, "cirr-val")
    assert compositions["target_caption"].to_list() == ["a dog", "a dog"]
    for asset, table in (("reference_captions", captions), ("query_compositions", compositions)):
        assert set(table.select("model", "prompt_hash", "status", "detail").iter_rows()) == {
            ("theirs", "their prompt", "ok", "imported")
        }
        made_by = TextRecord(model="theirs", prompt_hash="their prompt")
        assert context.tables.read_record(asset, TextRecord, "cirr-val") == made_by
        assert (metadata[asset]["imported"].value, metadata[asset]["model calls"].value) == (2, 0)
