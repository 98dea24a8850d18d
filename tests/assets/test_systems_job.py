"""The job that trains the retrieval systems that settings name."""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION, FULL_PIPELINE, SYSTEMS_TRAINING
from setr_lib.settings import SettingsError, load_settings

BASE = """
[datasets.cirr]
root = "cirr"

[training]
captions = "captions.jsonl"
"""


def assets_of(folder: Path, systems: str) -> dict[str, set[str]]:
    """The assets of each job that evaluates or trains, by its name."""
    path = folder / "setr.toml"
    path.write_text(BASE + systems, encoding="utf-8")
    definitions = build_definitions(load_settings(path))
    names = {job.name for job in definitions.jobs or []}
    return {
        name: {
            key.to_user_string() for key in definitions.resolve_job_def(name).asset_layer.selected_asset_keys
        }
        for name in (EVALUATION, FULL_PIPELINE, SYSTEMS_TRAINING)
        if name in names
    }


def test_it_trains_and_promotes_what_is_named_and_what_that_builds_on(tmp_path: Path) -> None:
    found = assets_of(tmp_path, "[systems.composing]\n")
    steps = {
        f"{step}_{name}"
        for step in ("trained", "registered", "promoted")
        for name in ("mapping", "composing")
    }
    material = {"training_images", "training_embeddings", "reranker_pairs", "training_triplets"}
    assert found[SYSTEMS_TRAINING] == steps | material
    assert steps < found[FULL_PIPELINE] and not found[EVALUATION] & found[SYSTEMS_TRAINING]


def test_triplets_of_a_data_set_need_no_pairs(tmp_path: Path) -> None:
    found = assets_of(tmp_path, '[systems.qformer]\ntriplets = "cirr"\n')
    trained = {f"{step}_qformer" for step in ("trained", "registered", "promoted")}
    assert found[SYSTEMS_TRAINING] == {"training_triplets", *trained}


def test_there_is_none_where_no_system_is_named(tmp_path: Path) -> None:
    assert {*assets_of(tmp_path, "")} == {EVALUATION, FULL_PIPELINE}


def test_settings_that_cannot_be_followed_make_no_graph(tmp_path: Path) -> None:
    circo = '[systems.qformer]\ntriplets = "circo"\n[datasets.circo]\nroot = "circo"\n'
    with pytest.raises(SettingsError, match="CIRCO has no train split"):
        assets_of(tmp_path, circo)
