"""``setr doctor`` on image folders: what is not listed, followed or read, and references beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from setr_lib.benchmarks import image_folders
from setr_lib.cli import main
from setr_lib.settings import load_settings
from setr_lib.spaces.space import EmbeddingSpace
from setr_lib.spaces.vector_store import GalleryStore

SETTINGS = """
[datasets.mine]
kind = "folder"
root = "."
image_root = "."
"""
Found = dict[str, Any]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose folder is the image folder, with what SETR and a NAS have left in it."""
    for name in ("a.png", "pictures/b.png", "var/reports/r.png", "@eaDir/a.png", "dagster_home/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "teal").save(tmp_path / name)
    (tmp_path / "queries.csv").write_text("reference,modification,target\na.png,red,pictures/b.png\n")
    (tmp_path / "setr.toml").write_text(SETTINGS)
    return tmp_path


@pytest.fixture
def doctor(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, Found, str]]:
    """``doctor()``: the exit status, what the JSON document says of the set, and the page."""

    def run() -> tuple[int, Found, str]:
        capsys.readouterr()
        arguments = ["--config", str(project / "setr.toml"), "doctor", "mine"]
        status = main([*arguments, "--json"])
        document = json.loads(capsys.readouterr().out)["evaluation_sets"][0]
        main(arguments)
        return status, document, capsys.readouterr().out

    return run


def test_a_clean_folder_is_the_whole_gallery(doctor: Callable[[], tuple[int, Found, str]]) -> None:
    _, found, page = doctor()
    assert (found["problems"], found["warnings"]) == ([], [])
    assert found["images"]["total"] == 2
    assert "the whole gallery, 2 images" in page


def test_what_is_passed_over_is_a_warning(
    project: Path, doctor: Callable[[], tuple[int, Found, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("disk")
    (project / "disk").symlink_to(elsewhere)
    (project / "film.mp4").write_bytes(b"x")
    _, found, page = doctor()
    assert found["problems"] == []
    links, files = found["warnings"]
    assert f"{project / 'disk'} -> {elsewhere}" in links and "[datasets.mine] outside_links = true" in links
    assert "1 file not read as images: 1 .mp4" in files
    assert page.count("1 .mp4") == page.count("outside_links") == 1
    assert "the whole gallery" not in page
    assert "the 2 images that are listed; 1 link to a folder elsewhere is not followed" in " ".join(
        page.split()
    )


def test_a_folder_that_cannot_be_listed_is_a_problem_and_the_gallery_not_whole(
    project: Path, doctor: Callable[[], tuple[int, Found, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = image_folders.os.scandir
    (project / "queries.csv").unlink()

    def away(path: Any) -> Any:
        if path == str(project / "pictures"):
            raise OSError(107, "Transport endpoint is not connected")
        return scandir(path)

    monkeypatch.setattr(image_folders.os, "scandir", away)
    status, found, page = doctor()
    (problem,) = found["problems"]
    assert f"{project / 'pictures'} (Transport endpoint is not connected)" in problem
    assert (status, found["status"], found["images"]["folders_listed_to_the_end"]) == (1, "incomplete", False)
    assert "the whole gallery" not in page


def test_references_beside_the_gallery_are_counted(
    project: Path, doctor: Callable[[], tuple[int, Found, str]]
) -> None:
    (project / "refs").mkdir()
    Image.new("RGB", (4, 4), "red").save(project / "refs/q.png")
    (project / "queries.csv").write_text("reference,modification,target\nq.png,red,b.png\n")
    text = SETTINGS.replace('image_root = "."', 'image_root = "pictures"\nreference_root = "refs"')
    (project / "setr.toml").write_text(text)
    _, found, page = doctor()
    assert found["problems"] == []
    assert found["images"]["references_outside_of_the_gallery"] == 1
    assert "the whole gallery, 1 images, and 1 reference image outside of it" in page


class Colours(EmbeddingSpace):
    """An image's vector is its mean colour."""

    id, dimension = "colours", 3

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        rows = np.array([np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) + 1 for image in images])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_training_images_that_are_gone_are_told_before_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from setr_lib.datasets import inspect_training_images, load_training_images

    config, pictures = tmp_path / "setr.toml", tmp_path / "train"
    pictures.mkdir()
    for number in range(12):
        Image.new("RGB", (8, 8), (number, 9, 90)).save(pictures / f"{number}.png")
    rows = [{"image": f"{number}.png", "caption": f"shape {number}"} for number in range(12)]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config.write_text('[training]\ncaptions = "captions.jsonl"\nimage_root = "train"\n')
    settings = load_settings(config)
    images = inspect_training_images(load_training_images(settings))
    store = GalleryStore(settings.lancedb_uri)
    store.synchronise(store.table_name("training", Colours()), images, Colours())

    def problem() -> str:
        capsys.readouterr()
        main(["--config", str(config), "doctor", "--json"])
        return json.loads(capsys.readouterr().out)["training"]["problems"][0]

    for number in range(11):
        (pictures / f"{number}.png").unlink()
    told = problem()
    assert "11 of the 12 images" in told and "training_embeddings" in told and "accept_removals" in told
