"""The wheel, built from the tree and unpacked elsewhere: it holds all of its files, and a data set of one's
own runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import polars as pl
import pytest

from tests.tiny_encoder import write_tiny_clip
from tests.tiny_judges import tiny_picture, write_tiny_judge

REPOSITORY = Path(__file__).parents[1]
SETTINGS = """
[datasets.mine]
kind = "folder"
root = "pictures"

[models]
device = "cpu"

[models.encoder]
name = "local-dir:clip"

[models.judge]
name = "judge"
max_new_tokens = 4

[evaluation]
bootstrap_samples = 100
"""
"""Prompts, methods and depths are the defaults: they must work where there is no tree."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unpacked wheel, far from the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    assert not folder.resolve().is_relative_to(REPOSITORY)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``setr.toml``, six pictures, two queries and tiny models."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pictures").mkdir()
    for number in range(6):
        (folder / "pictures" / f"{number}.png").write_bytes(tiny_picture(number))
    queries = "reference,modification,target\n0.png,make it red,1.png\n2.png,is striped,3.png\n"
    (folder / "pictures" / "queries.csv").write_text(queries, encoding="utf-8")
    (folder / "setr.toml").write_text(SETTINGS, encoding="utf-8")
    write_tiny_clip(folder / "clip")
    write_tiny_judge("llava", folder / "judge")
    return folder


def python(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python in ``folder`` that finds SETR in the unpacked wheel."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "OMP_NUM_THREADS") if name in os.environ
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_every_file_that_is_no_module_is_in_the_wheel(installed: Path) -> None:
    packages = [path for name in ("setr_lib", "setr_assets") for path in (REPOSITORY / name).rglob("*")]
    files = [path for path in packages if path.is_file() and path.parent.name != "__pycache__"]
    names = [str(path.relative_to(REPOSITORY)) for path in files]
    prompts = [name for name in names if name.startswith("setr_lib/texts/prompts/")]
    assert {Path(name).parent.name for name in prompts} == {"miniature", "standard"} and len(prompts) > 10
    assert sum(name.endswith((".html.jinja", ".css", ".js")) for name in names) == 5
    assert sum(name.endswith(".safetensors") for name in names) == 2
    for name in names:
        assert (installed / name).read_bytes() == (REPOSITORY / name).read_bytes(), name


def test_a_folder_of_pictures_is_run_far_from_the_tree(installed: Path, project: Path) -> None:
    where = "import setr_assets, setr_lib; print(setr_assets.__file__, setr_lib.__file__)"
    files = python(installed, project, "-c", where).stdout.split()
    assert all(Path(file).is_relative_to(installed) for file in files)
    assert "finished in" in python(installed, project, "-m", "setr_lib.cli", "run", "mine").stdout
    report = project / "var" / "reports" / "mine" / "index.html"
    assert "make it red" in report.read_text(encoding="utf-8")
    rows = pl.read_parquet(project / "var" / "tables" / "evaluation_report" / "mine.parquet")
    assert {"", "base judge"} <= set(rows["reranker"])


def test_the_command_answers_far_from_the_tree(installed: Path, project: Path) -> None:
    setr = ("-c", "import sys; from setr_lib.cli import main; sys.exit(main())")
    assert "doctor" in python(installed, project, *setr, "--help").stdout
    page = python(installed, project, *setr, "doctor").stdout
    assert "all that the configured data sets need is there" in page
    assert "no adapter can be trained before [training] names" in page
