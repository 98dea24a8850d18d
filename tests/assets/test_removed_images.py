"""A gallery of which much is gone: refused by every way to it, until a person consents, for one run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image
from tiny_world import Run, run_job

from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION, FULL_PIPELINE
from setr_assets.removals import consent
from setr_lib.benchmarks import image_folders
from setr_lib.cli import main
from setr_lib.errors import SetrError
from setr_lib.hashing import fingerprint_file
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.evaluating import read_set
from setr_lib.pipeline.retriever import Retriever
from setr_lib.settings import Settings, load_settings
from setr_lib.spaces.removals import RemovalRefusedError
from setr_lib.spaces.stored_galleries import stored_images_of

PLUGIN = """
import numpy as np
from setr_lib.methods.method import Method
from setr_lib.methods.similarity import similarity
from setr_lib.spaces.space import EmbeddingSpace

class Means(EmbeddingSpace):
    id, dimension = "means", 4
    def __init__(self, device=None):
        pass
    def embed_images(self, images):
        rows = [[*np.asarray(image, dtype=float).mean(axis=(0, 1)), 1.0] for image in images]
        return np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)

class ByMeans(Method):
    name, space, label, source = "by_means", "means", "", "an example"
    def scores(self, inputs):
        return similarity(inputs.queries.reference_vectors, inputs.gallery.vectors)
"""
SETTINGS = """
[datasets.mine]
kind = "folder"
root = "pictures"

[spaces.means]
kind = "removed_plugin:Means"

[coarse]
strategies = ["removed_plugin:ByMeans"]
default = "by_means"

[reranking]
rerankers = []
fusion = "cosine_judge"

[evaluation]
bootstrap_samples = 100
contact_sheet_queries = 1
baselines = []
"""
STEPS = ("gallery_images", "gallery_embeddings")
CONSENT = {"ops": {"gallery_images": {"config": {"accept_removals": True}}}}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``setr.toml`` of a folder of 30 pictures."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    draw(tmp_path / "pictures", 30)
    (tmp_path / "removed_plugin.py").write_text(PLUGIN, encoding="utf-8")
    path = tmp_path / "setr.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    before = [*sys.path]
    yield path
    sys.path[:] = before
    sys.modules.pop("removed_plugin", None)


def draw(folder: Path, count: int, shade: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (6, 4), (8 * number, shade, 90)).save(folder / f"{number:02d}.png")


def run(settings: Settings, *assets: str, config: dict[str, Any] | None = None) -> Run:
    return run_job(settings, EVALUATION, ["mine"], config, assets or STEPS)


def stored(settings: Settings, key: str = "mine") -> set[str]:
    """The images of the gallery that have vectors."""
    found = stored_images_of(PipelineContext(settings).gallery_store, key)
    return set().union(*(ids for ids, _ in found))


def empty(folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.unlink()


def test_a_mount_that_is_away_removes_nothing_until_consent_for_one_run(world: Path) -> None:
    settings, pictures = load_settings(world), world.parent / "pictures"
    assert run(settings).success
    assert len(stored(settings)) == 30
    before = fingerprint_file(settings.table_path("gallery_images", "mine"))
    empty(pictures)
    failed = run(settings)
    (words,) = failed.failures.values()
    assert f"mine: there is no readable image in {pictures}" in words and "30 images" in words
    assert "setr compare --accept-removals" in words
    assert "ops: {gallery_images: {config: {accept_removals: true}}}" in words
    assert len(stored(settings)) == 30
    assert fingerprint_file(settings.table_path("gallery_images", "mine")) == before
    assert run(settings, config=CONSENT).success
    assert stored(settings) == set()
    draw(pictures, 30)
    assert run(settings).success
    empty(pictures)
    assert not run(settings).success, "the consent was for that run"
    assert len(stored(settings)) == 30


def test_a_fifth_may_go_and_no_more(world: Path) -> None:
    settings, pictures = load_settings(world), world.parent / "pictures"
    draw(pictures / "more", 30)  # 60 in all: 12 may go
    assert run(settings).success
    for number in range(12):
        (pictures / f"more/{number:02d}.png").unlink()
    assert run(settings).success
    assert len(stored(settings)) == 48
    for number in range(10):
        (pictures / f"{number:02d}.png").write_bytes(b"no picture any more")
    (words,) = run(settings).failures.values()
    assert "10 of the 48 images" in words and "'00.png', '01.png', '02.png' and 7 more" in words
    assert "20% ([storage] removable_share)" in words
    world.write_text(SETTINGS + "\n[storage]\nremovable_share = 0.3\n", encoding="utf-8")
    assert run(load_settings(world)).success


def test_it_is_asked_again_where_vectors_are_stored(world: Path) -> None:
    settings, pictures = load_settings(world), world.parent / "pictures"
    assert run(settings).success
    for number in range(15):
        (pictures / f"{number:02d}.png").unlink()
    assert run(settings, "gallery_images", config=CONSENT).success
    failed = run(settings, "gallery_embeddings")
    assert (
        "ops: {gallery_embeddings: {config: {accept_removals: true}}}"
        in failed.failures["gallery_embeddings"]
    )
    assert len(stored(settings)) == 30
    told = {"ops": {"gallery_embeddings": {"config": {"accept_removals": True}}}}
    assert run(settings, "gallery_embeddings", config=told).success
    assert len(stored(settings)) == 15


def test_changed_bytes_another_root_and_a_moved_project_need_no_consent(world: Path, tmp_path: Path) -> None:
    settings, pictures = load_settings(world), world.parent / "pictures"
    assert run(settings).success
    draw(pictures, 30, shade=200)
    assert run(settings).success
    draw(tmp_path / "others", 12)
    for number, path in enumerate(sorted((tmp_path / "others").iterdir())):
        path.rename(path.with_name(f"other-{number}.png"))
    world.write_text(SETTINGS.replace('"pictures"', '"others"'), encoding="utf-8")
    assert run(load_settings(world)).success
    assert stored(settings) == {f"other-{number}.png" for number in range(12)}
    empty(tmp_path / "others")
    assert not run(load_settings(world)).success, "it is the gallery that is stored now"


def test_a_moved_project_is_the_same_gallery(world: Path, tmp_path: Path) -> None:
    assert run(load_settings(world)).success
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("pictures", "var", "setr.toml", "removed_plugin.py"):
        shutil.move(tmp_path / name, moved / name)
    settings = load_settings(moved / "setr.toml")
    for number in range(20):
        (moved / f"pictures/{number:02d}.png").unlink()
    assert not run(settings).success
    assert len(stored(settings)) == 30


def test_a_folder_that_cannot_be_listed_keeps_its_vectors_however_few(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, pictures = load_settings(world), world.parent / "pictures"
    draw(pictures / "nas", 2)
    assert run(settings).success
    scandir = image_folders.os.scandir

    def away(path: Any) -> Any:
        if path == str(pictures / "nas"):
            raise OSError(107, "Transport endpoint is not connected")
        return scandir(path)

    monkeypatch.setattr(image_folders.os, "scandir", away)
    (words,) = run(settings).failures.values()
    assert f"{pictures / 'nas'} (Transport endpoint is not connected)" in words
    assert "'nas/00.png', 'nas/01.png'" in words
    main(["--config", str(world), "doctor", "mine", "--json"])
    told = json.loads(capsys.readouterr().out)["evaluation_sets"][0]["problems"]
    assert any("'nas/00.png', 'nas/01.png' there have vectors" in problem for problem in told)
    assert len(stored(settings)) == 32
    done = run(settings, config=CONSENT)
    assert done.success
    assert "not connected" in done.metadata["gallery_images", "mine"]["not whole"]


def test_what_is_passed_over_is_said_by_the_asset(world: Path) -> None:
    (world.parent / "pictures/film.mp4").write_bytes(b"x")
    (world.parent / "pictures/elsewhere").symlink_to(world.parent / "lost")
    (world.parent / "lost").mkdir()
    made = run(load_settings(world), "gallery_images").metadata["gallery_images", "mine"]
    assert "1 .mp4" in made["passed over"] and "outside_links = true" in made["passed over"]
    assert "not whole" not in made


def test_compare_asks_and_takes_consent(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, pictures = load_settings(world), world.parent / "pictures"
    rows = [f"{number:02d}.png,red,{number + 1:02d}.png" for number in range(4)]
    (pictures / "queries.csv").write_text("\n".join(["reference,modification,target", *rows]))
    assert run(settings).success
    empty(pictures)
    context = PipelineContext(settings)
    with pytest.raises(RemovalRefusedError, match=f"no readable image in {pictures}"):
        read_set(context, "mine")
    draw(pictures, 10)
    arguments = ["--config", str(world), "compare"]
    assert main(arguments) == 1
    assert "20 of the 30 images" in capsys.readouterr().err
    assert len(stored(settings)) == 30
    assert main([*arguments, "--accept-removals"]) == 0
    assert len(stored(settings)) == 10


def test_doctor_tells_it_before(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def problems() -> list[str]:
        capsys.readouterr()
        main(["--config", str(world), "doctor", "mine", "--json"])
        return json.loads(capsys.readouterr().out)["evaluation_sets"][0]["problems"]

    assert run(load_settings(world)).success
    assert problems() == []
    for number in range(10):
        (world.parent / f"pictures/{number:02d}.png").unlink()
    (told,) = problems()
    assert "10 of the 30 images" in told and "--accept-removals" in told
    empty(world.parent / "pictures")
    assert any("no readable image" in problem for problem in problems())


def test_the_retriever_asks_too(world: Path) -> None:
    settings, pictures = load_settings(world), world.parent / "pictures"
    retriever = Retriever.from_folder(pictures, settings)
    key = retriever.gallery.evaluation_set.gallery_key
    assert len(stored(settings, key)) == 30
    for number in range(10):
        (pictures / f"{number:02d}.png").unlink()
    with pytest.raises(RemovalRefusedError, match="pass accept_removals=True"):
        Retriever.from_folder(pictures, settings)
    assert len(stored(settings, key)) == 30
    Retriever.from_folder(pictures, settings, accept_removals=True)
    assert len(stored(settings, key)) == 20
    empty(pictures)
    with pytest.raises(RemovalRefusedError, match="no readable image"):
        Retriever.from_folder(pictures, settings)
    with pytest.raises(SetrError, match="none of its 0 files"):
        Retriever.from_folder(pictures, settings, accept_removals=True)


def test_captions_in_place_of_images_are_not_taken_for_a_gallery_that_is_away(world: Path) -> None:
    """With captions, a set without images is a caption proxy; not where its images had vectors."""
    settings, root = load_settings(world), world.parent / "pictures"
    captions = [{"candidate": f"{number:02d}.png", "captions": ["a shape"]} for number in range(30)]
    (root / "image_captions.json").write_text(json.dumps(captions))
    assert run(settings).success
    for path in root.glob("*.png"):
        path.write_bytes(b"no picture")
    (words,) = run(settings).failures.values()
    assert "no readable image" in words
    assert run(settings, config=CONSENT).success
    assert stored(settings) == set()
    assert run(settings).success, "there is nothing left to ask for"


def test_data_that_the_miniature_drew_by_other_dials_is_another_gallery(world: Path) -> None:
    settings, pictures = load_settings(world), world.parent / "pictures"
    (pictures / "miniature.json").write_text('{"seed": 0, "size": 1.0}')
    assert run(settings).success
    for number in range(5, 30):
        (pictures / f"{number:02d}.png").unlink()
    assert not run(settings).success
    (pictures / "miniature.json").write_text('{"seed": 0, "size": 0.2}')
    assert run(settings).success
    assert len(stored(settings)) == 5


def test_the_demos_consent_is_config_of_its_job(world: Path) -> None:
    job = build_definitions(load_settings(world)).resolve_job_def(FULL_PIPELINE)
    dg.validate_run_config(job, {"ops": consent()})
    assert set(consent()) == {"gallery_images", "gallery_embeddings", "training_embeddings"}
    misspelt = {step: {"config": {"accept_removal": True}} for step in consent()}
    with pytest.raises(dg.DagsterInvalidConfigError):
        dg.validate_run_config(job, {"ops": misspelt})
