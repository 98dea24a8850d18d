"""SIGKILL in the middle of the training of every retrieval system, then the same again: the same weights and
ranks as a training that nobody killed; then every system ranks, those with a space of their own as well.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import load_file
from tiny_world import run_job, write_world

from setr_assets.jobs import EVALUATION, SYSTEMS_TRAINING
from setr_lib.cli import main
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.retrieval_system import known_system
from setr_lib.pipeline.training_steps import promote, register, train
from setr_lib.records import EmbeddingsRecord
from setr_lib.registry.system_bundle import held_out_of
from setr_lib.settings import Settings, load_settings
from setr_lib.systems.recipe import RECIPES
from setr_lib.tables import METRICS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

REPOSITORY, KEY = Path(__file__).parents[2], "circo-val"
OWN_SPACES = [name for name, recipe in RECIPES.items() if recipe.own_space]
METHODS = [*RECIPES, "pic2word_image"]
SMALL = {
    "qformer": "layers = 1\nhidden_size = 16\nheads = 2\nquery_tokens = 2\ntext_length = 8\ndimension = 8\n",
    "retrieval_dpo_fused": "curated = false\n",  # to a random encoder all pictures are near-duplicates
    "composing": "adapter_width = 4\nqueue = 8\nhardest = 4\n",
}
LEARNED_FROM = ("training_images", "training_embeddings", "reranker_pairs", "training_triplets")
ONE_TRAINING = """
import sys
from pathlib import Path
from setr_lib.pipeline.context import pipeline_context
from setr_lib.pipeline.retrieval_system import known_system
from setr_lib.pipeline.training_steps import train
from setr_lib.settings import load_settings

context = pipeline_context(load_settings(Path("setr.toml")))
train(known_system(sys.argv[1])(context))
"""


def write_settings(folder: Path) -> Path:
    """A tiny world in which every trained retrieval system is trained and ranks."""
    path = write_world(folder, judge=None)
    methods = ", ".join(f'"{name}"' for name in ["sum", *METHODS])
    text = path.read_text(encoding="utf-8")
    text = text.replace("[coarse]", f'[coarse]\nstrategies = [{methods}]\ndefault = "sum"')
    text = text.replace("[reranking]", "[reranking]\nrerankers = []")
    for name in OWN_SPACES:
        text += f'\n[spaces.{name}]\nkind = "{name}"\n'
    for name in RECIPES:
        text += f"\n[systems.{name}]\nsteps = 30\nbatch_size = 4\ncheckpoint_every = 2\n{SMALL.get(name, '')}"
    path.write_text(text, encoding="utf-8")
    return path


def training_of(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """The training of one system in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", ONE_TRAINING, name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kill_in_training(folder: Path, name: str) -> None:
    """Start the training and kill it once it has a checkpoint, before its last."""
    before = {*folder.glob("var/checkpoints/*/step-*")}
    process = training_of(folder, name)
    deadline = time.monotonic() + 600
    while not {*folder.glob("var/checkpoints/*/step-*")} - before:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (left,) = {*folder.glob("var/checkpoints/*/step-*")} - before
    assert left.name < "step-000030" and not (left.parent / "result.json").exists()


def stored_of(settings: Settings, name: str) -> tuple[dict[str, list[float]], pl.DataFrame]:
    """The stored tensors and held-out ranks of a system's champion."""
    context = PipelineContext(settings)
    system = known_system(name)
    model = context.registry.model(system.registered_model(settings))
    folder = model.artifacts(model.champion() or "", system.artifacts)["system"]
    tensors = load_file(folder / "weights.safetensors")
    return {key: value.flatten().tolist() for key, value in tensors.items()}, held_out_of(folder)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Settings]:
    """A world in which every system was trained, and one that only has what they learn from."""
    calm = tmp_path_factory.mktemp("calm") / "world"
    calm.mkdir()
    settings = load_settings(write_settings(calm))
    done = run_job(settings, SYSTEMS_TRAINING, [], assets=LEARNED_FROM)
    assert done.success, done.failures
    killed = tmp_path_factory.mktemp("killed") / "world"
    shutil.copytree(calm, killed)
    done = run_job(settings, SYSTEMS_TRAINING, [])
    assert done.success, done.failures
    assert all(done.metadata[f"promoted_{name}", None]["champion"] == "1" for name in RECIPES)
    return settings, load_settings(killed / "setr.toml")


def test_killed_trainings_of_every_system_end_in_the_same_weights_and_ranks(
    worlds: tuple[Settings, Settings],
) -> None:
    calm, killed = worlds
    for name in RECIPES:
        kill_in_training(killed.base_dir, name)
        context = PipelineContext(killed)
        system = known_system(name)(context)
        made = train(system)
        assert made.result is not None and made.result.resumed_from > 0, name
        version = register(system, made.record).version
        assert version == "1" and promote(system, version).promoted, name
        expected, found = stored_of(calm, name), stored_of(killed, name)
        assert found[0] == expected[0], name
        assert found[1].equals(expected[1]), name


def test_every_system_ranks_and_searches_and_trained_spaces_have_a_table_per_version(
    worlds: tuple[Settings, Settings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings, _ = worlds
    done = run_job(settings, EVALUATION, [KEY])
    assert done.success, done.failures
    context = PipelineContext(settings)
    frame = context.tables.read("evaluation_report", METRICS, KEY)
    versions = dict(frame.filter(reranker="").select("method", "model_version").unique().iter_rows())
    for name in METHODS:
        model = "setr-" + name.removesuffix("_image").replace("_", "-")
        assert versions[name] == f"{model} 1"
    record = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, KEY)
    assert {*record.spaces} == {*OWN_SPACES}
    tables = {space: record.spaces[space].table for space in OWN_SPACES}
    assert len({record.table, *tables.values()}) == 1 + len(OWN_SPACES)
    for space in OWN_SPACES:
        assert "setr-" + space.replace("_", "-") in record.spaces[space].encoder
    image = str(min(settings.base_dir.glob("data/circo/**/*.jpg")))
    config = ["--config", str(settings.base_dir / "setr.toml")]
    for name in ("composing", "pic2word", *OWN_SPACES):
        sheet = tmp_path / f"{name}.jpg"
        query = ["search", image, "red", "--dataset", KEY, "--k", "3", "--method", name]
        assert main([*config, *query, "--output", str(sheet)]) == 0
        assert sheet.is_file() and name in capsys.readouterr().out


def test_a_better_version_of_a_trained_space_gets_a_table_of_its_own(
    worlds: tuple[Settings, Settings],
) -> None:
    settings = worlds[0].model_copy(deep=True)
    before = {*PipelineContext(settings).gallery_store.table_names()}
    settings.systems["qformer"]["steps"] = 31
    context = PipelineContext(settings)
    system = known_system("qformer")(context)
    made = train(system)
    version = register(system, made.record).version
    assert version == "2"
    context.registry.client.set_registered_model_alias("setr-qformer", "champion", "2")
    done = run_job(settings, EVALUATION, [KEY], assets=["gallery_embeddings", "coarse_rankings"])
    assert done.success, done.failures
    (table,) = {*context.gallery_store.table_names()} - before
    assert "qformer" in table
