"""A finished project with one thing on its disk damaged: the run says in one line what, the repair mends it,
and the next run ends in the same tables.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from tiny_world import tables, write_world

from setr_lib.settings import load_settings
from tests.repairs.damages import (
    Damage,
    a_file,
    a_folder,
    assert_told,
    cut,
    emptied,
    garbage,
    gone,
    holed,
    mend,
    name_of,
    text,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

TABLE = "var/lancedb/cirr-val--*.lance"
BUNDLE = "var/mlartifacts/setr/models/*/artifacts/artifacts"
DAMAGES: dict[str, tuple[Damage, ...]] = {
    f"{TABLE}/data/*.lance": (gone, cut, garbage, a_folder, holed),
    f"{TABLE}/_versions/*.manifest": (cut, emptied, garbage, holed),
    f"{TABLE}/_refs/tags/*.json": (cut, garbage),
    TABLE: (gone, a_file, a_folder),
    "var/lancedb": (a_file,),
    "var/cache/model_calls.sqlite": (gone, cut, garbage, a_folder, holed),
    "var/mlflow.db": (cut, garbage, emptied, a_folder),
    f"{BUNDLE}/adapter/adapter_model.safetensors": (gone, cut, garbage),
    f"{BUNDLE}/judge/reranker.json": (cut, text("{}"), text("[]")),
    "var/checkpoints/*/result.json": (cut, emptied, text("{}"), text("[1]")),
    "var/checkpoints/*/before.json": (text("{}"), text("[1]"), emptied),
    "var/checkpoints/*/adapter/adapter_model.safetensors": (gone, cut),
    "var/tables/queries/cirr-val.parquet": (gone, cut, garbage, a_folder),
    "var/tables/queries/cirr-val.json": (emptied, text("[]"), text("{}"), garbage),
    "var/tables/gallery_embeddings/cirr-val.json": (cut, text("{}")),
    "var/tables/coarse_rankings/cirr-val/sum.parquet": (a_folder,),
    "var/tables/reranking_fusion.parquet": (cut,),
    "var/tables": (a_file,),
    "var/reports": (a_file,),
    "var/reports/cirr-val/index.html": (a_folder,),
    "var/checkpoints": (a_file,),
    "var/mlartifacts": (a_file, gone),
    "dagster_home/history/runs.db": (cut, garbage, a_folder),
    "dagster_home/history/runs/index.db": (cut, garbage),
    "dagster_home/dagster.yaml": (text("{"), a_folder),
}
CASES = [(file, damage) for file, damages in DAMAGES.items() for damage in damages]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project after a run of everything."""
    folder = tmp_path_factory.mktemp("finished")
    write_world(folder)
    status, printed = run(folder)
    assert status == 0, printed
    return folder


def run(folder: Path) -> tuple[int, str]:
    """The demo, as a person starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "setr_lib.cli", "run"],
        cwd=folder,
        env={**os.environ, "SETR_CONFIG": str(folder / "setr.toml")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def copied(finished: Path, folder: Path) -> Path:
    """A copy of the project whose registry names the copy's own files."""
    shutil.copytree(finished, folder)
    with closing(sqlite3.connect(folder / "var" / "mlflow.db")) as connection, connection:
        for table, column in (("logged_models", "artifact_location"), ("experiments", "artifact_location")):
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (f"{finished}/", f"{folder}/")
            )
    return folder


def told_in(printed: str) -> list[str]:
    """The lines that say what is damaged."""
    return [line for line in printed.splitlines() if "`setr repair" in line and ": run `" in line]


def same_tables(expected: dict[str, pl.DataFrame], found: dict[str, pl.DataFrame]) -> None:
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        keys = [each for each in ("query_id", "pool", "image_id", "rank") if each in table.columns]
        assert found[name].height == table.height, name
        assert found[name].select(keys).equals(table.select(keys)), name


@pytest.mark.parametrize(("file", "damage"), CASES, ids=name_of)
def test_damage_is_told_mended_and_made_good(
    finished: Path, tmp_path: Path, file: str, damage: Damage
) -> None:
    folder = copied(finished, tmp_path / "project")
    damage(min(folder.glob(file)))
    status, printed = run(folder)
    if status:
        named = re.findall(r"`setr repair (\w+)`", "\n".join(printed.strip().splitlines()[-5:]))
        assert named, printed
        for line in told_in(printed):
            if not line.startswith("    "):
                assert_told(line, re.findall(r"`setr repair (\w+)`", line)[0])
        for part in dict.fromkeys(named):
            assert mend(folder, part) == 0
        status, printed = run(folder)
        assert list((folder / "var" / "set-aside").iterdir())
    assert status == 0, printed
    expected = load_settings(finished / "setr.toml")
    same_tables(tables(expected), tables(load_settings(folder / "setr.toml")))


def test_dagsters_own_command_ends_with_the_line(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "project")
    garbage(folder / "var" / "cache" / "model_calls.sqlite")
    command = "job execute -m setr_assets.definitions -j evaluation --tags"
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("dagster")),
            *command.split(),
            '{"dagster/partition": "cirr-val"}',
        ],
        cwd=folder,
        env={
            **os.environ,
            "SETR_CONFIG": str(folder / "setr.toml"),
            "DAGSTER_HOME": str(folder / "dagster_home"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-5:]
    assert any(line.startswith("setr: ") and "`setr repair cache`" in line for line in last), done.stdout[
        -3000:
    ]
