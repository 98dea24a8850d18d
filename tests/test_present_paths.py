"""Tables that name image files where a project was before it was moved or copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from setr_lib.pipeline.context import PipelineContext
from setr_lib.settings import load_settings
from setr_lib.tables import GALLERY

SETTINGS = """
[datasets.mine]
kind = "folder"
root = "{root}"
"""


def table(paths: list[Path]) -> pl.DataFrame:
    rows = [
        {"image_id": path.name, "path": str(path), "galleries": ["all"], "status": "ok", "fingerprint": "1"}
        for path in paths
    ]
    return pl.DataFrame(rows, schema=GALLERY)


def project(folder: Path, root: str = "pictures") -> PipelineContext:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "setr.toml").write_text(SETTINGS.format(root=root), encoding="utf-8")
    return PipelineContext(load_settings(folder / "setr.toml"))


def read(context: PipelineContext) -> list[str]:
    return context.tables.read("gallery_images", GALLERY, "mine")["path"].to_list()


@pytest.mark.parametrize("root", ["pictures", "data/our pictures", "../pictures beside", "."])
@pytest.mark.parametrize("original_is_there", [True, False], ids=["copied", "moved"])
def test_images_below_the_settings_folder_are_those_of_this_project(
    tmp_path: Path, root: str, original_is_there: bool
) -> None:
    before, now = tmp_path / "before" / "setr", tmp_path / "now" / "setr-b"
    context = project(before, root)
    names = ["a.png", "b/a.png", "b/c d.png"]
    files = [before / root / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    context.tables.write("gallery_images", table(files), GALLERY, "mine")
    assert read(context) == [str(file) for file in files]

    shutil.copytree(before.parent, now.parent)
    (now.parent / "setr").rename(now)
    if not original_is_there:
        shutil.rmtree(before.parent)
    found = read(project(now, root))
    assert found == [str(now / root / name) for name in names]
    assert all(Path(path).is_file() for path in found)


def test_other_paths_stay(tmp_path: Path) -> None:
    shared, here = tmp_path / "shared", tmp_path / "setr"
    (shared / "pictures").mkdir(parents=True)
    (here / "pictures").mkdir(parents=True)
    for file in (shared / "pictures/a.png", here / "pictures/a.png"):
        file.touch()
    context = project(here, str(shared))  # settings name the folder, wherever it is
    paths = [shared / "pictures/a.png", here / "pictures/a.png", Path("/gone/pictures/b.png")]
    context.tables.write("gallery_images", table(paths), GALLERY, "mine")
    assert read(context) == [str(path) for path in paths]

    context = project(here)  # what is not here stays as it is, to be told missing
    gone = [Path("/gone/pictures/b.png"), Path("/gone/other/a.png")]
    context.tables.write("gallery_images", table(gone), GALLERY, "mine")
    assert read(context) == [str(path) for path in gone]
