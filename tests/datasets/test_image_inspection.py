"""Inspection of images: ok, missing, broken; never an exception because of an image."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.datasets import coverage, inspect_gallery
from setr_lib.hashing import fingerprint_file
from setr_lib.tables import GALLERY


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def gallery(tmp_path: Path) -> pl.DataFrame:
    noise((90, 70)).save(tmp_path / "good.png")
    noise((90, 70)).save(tmp_path / "good.jpg")
    noise((1, 1)).save(tmp_path / "dot.jpg")
    noise((9, 7)).convert("P").save(tmp_path / "palette.gif")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:5000])
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("this is no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    names = ["good.png", "good.jpg", "dot.jpg", "palette.gif", "cut.png", "cut.jpg", "text.png", "empty.png"]
    names += ["folder.png", "gone.png"]
    return pl.DataFrame(
        {
            "image_id": names,
            "path": [str(tmp_path / name) for name in names],
            "galleries": [["all"]] * len(names),
        }
    )


def test_every_image_gets_a_status(gallery: pl.DataFrame, tmp_path: Path) -> None:
    inspected = inspect_gallery(gallery)
    assert inspected.schema == GALLERY
    assert inspected["image_id"].to_list() == gallery["image_id"].to_list()
    assert inspected["status"].to_list() == ["ok"] * 4 + ["broken"] * 5 + ["missing"]
    assert inspected["width"].to_list()[:4] == [90, 90, 1, 9]
    assert inspected["height"].to_list()[:4] == [70, 70, 1, 7]
    assert inspected["fingerprint"][0] == fingerprint_file(tmp_path / "good.png")
    assert inspected["fingerprint"][9] is None
    assert inspected["width"].null_count() == 6
    broken = inspected.filter(status="broken")["detail"]
    assert broken.str.contains("cannot be read as a picture|only regular files").all()
    assert not broken.str.contains("0x").any()  # addresses would make two inspections differ
    assert inspect_gallery(gallery).equals(inspected)
    assert coverage(inspected) == 0.4


def test_progress_reaches_the_end(gallery: pl.DataFrame) -> None:
    calls: list[tuple[int, int]] = []
    inspect_gallery(gallery, lambda done, total, _: calls.append((done, total)))
    assert calls[-1] == (10, 10)
    assert calls == sorted(calls)


def test_an_empty_gallery_is_no_error(gallery: pl.DataFrame) -> None:
    nothing = inspect_gallery(gallery.head(0))
    assert nothing.schema == GALLERY
    assert coverage(nothing) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads files without permission")
def test_an_unreadable_file_is_broken(gallery: pl.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "good.png").chmod(0)
    assert inspect_gallery(gallery)["status"][0] == "broken"
