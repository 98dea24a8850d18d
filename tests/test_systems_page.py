"""docs/systems.md: its tables are those of the code, and what it shows works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from benchmarks.system_options import page_with_tables
from setr_assets.jobs import EVALUATION, SYSTEMS_TRAINING
from setr_lib.pipeline.system_checks import check_systems, named_systems
from setr_lib.settings import Settings, load_settings
from setr_lib.systems.recipe import RECIPES

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "docs" / "systems.md").read_text(encoding="utf-8")
BASE = """
[datasets.cirr]
root = "cirr"

[training]
captions = "captions.jsonl"
"""


def shown(language: str) -> list[str]:
    """The page's blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def settings_of(folder: Path, block: str) -> Settings:
    path = folder / "setr.toml"
    path.write_text(BASE + block, encoding="utf-8")
    return load_settings(path)


def test_the_tables_of_options_are_those_of_the_code() -> None:
    assert page_with_tables(TEXT) == TEXT, "run python -m benchmarks.system_options"


def test_the_page_has_every_system_with_its_options() -> None:
    first = TEXT.split("**Labels**")[0]
    assert re.findall(r"^\| `(\w+)` \|", first, re.MULTILINE) != []
    assert {*re.findall(r"^\| `(\w+)` \|", first, re.MULTILINE)} == {*RECIPES}
    assert {*re.findall(r"<!-- options: (\w+) -->", TEXT)} == {"all", *RECIPES}
    for recipe in RECIPES.values():
        (row,) = [line for line in first.splitlines() if line.startswith(f"| `{recipe.name}` |")]
        assert f"| {recipe.learns_from} |" in row
        assert ("a reconstruction" in recipe.source) == ("a reconstruction" in row)


@pytest.mark.parametrize("number", range(len(shown("toml"))))
def test_settings_that_the_page_shows_can_be_followed(number: int, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, shown("toml")[number])
    check_systems(settings)
    assert named_systems(settings) == [*settings.systems]


def test_the_run_config_that_the_page_shows_is_one_of_the_evaluation(tmp_path: Path) -> None:
    import dagster as dg

    from setr_assets.definitions import build_definitions

    assert f"`{SYSTEMS_TRAINING}`" in TEXT
    (config,) = shown("yaml")
    definitions = build_definitions(settings_of(tmp_path, shown("toml")[1]))
    assert dg.validate_run_config(definitions.resolve_job_def(EVALUATION), yaml.safe_load(config))


@pytest.mark.soak
def test_the_registered_model_answers_as_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg
    import mlflow
    import numpy as np

    from setr_assets.definitions import build_definitions
    from tests.assets.tiny_world import write_world

    path = write_world(tmp_path)
    steps = "\n[systems.prompt_tuned]\nsteps = 2\nbatch_size = 4\n"
    path.write_text(path.read_text(encoding="utf-8") + steps, encoding="utf-8")
    settings = load_settings(path)
    job = build_definitions(settings).resolve_job_def(SYSTEMS_TRAINING)
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance).success
    picture = next((tmp_path / "data" / "training").rglob("*.png"))
    (tmp_path / "reference.png").write_bytes(picture.read_bytes())
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(settings.tracking_uri)
    (code,) = shown("python")
    found: dict = {}
    exec(code, found)  # noqa: S102 - what the page shows
    vectors = np.array(found["vectors"].to_list())
    assert vectors.shape[0] == 1 and np.linalg.norm(vectors) == pytest.approx(1, abs=1e-4)
