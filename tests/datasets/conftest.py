"""Tiny data sets in the official layouts, written by hand into a temporary folder; and the real annotation
files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from setr_lib.settings import Settings

REAL = Path(__file__).parents[3] / "shared" / "data"
CATEGORIES = ("dress", "shirt", "toptee")


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def cirr_row(pair_id: int, reference: str, target: str | None, members: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"pairid": pair_id, "reference": reference, "caption": f"edit {pair_id} "}
    if target is not None:
        row |= {"target_hard": target, "target_soft": {target: 1.0}}
    return row | {"img_set": {"id": 1, "members": members, "reference_rank": 0}}


@pytest.fixture
def cirr_root(tmp_path: Path) -> Path:
    root = tmp_path / "cirr"
    for split, folder, hidden in (("val", "dev", False), ("test1", "test1", True)):
        names = [f"{folder}-{number}-img0" for number in range(8)]
        write_json(
            root / f"image_splits/split.rc2.{split}.json", {name: f"./{folder}/{name}.png" for name in names}
        )
        rows = [
            cirr_row(7, names[0], None if hidden else names[2], names[:6]),
            cirr_row(3, names[5], None if hidden else names[3], names[2:]),
        ]
        write_json(root / f"captions/cap.rc2.{split}.json", rows)
    return root


@pytest.fixture
def fashioniq_root(tmp_path: Path) -> Path:
    root = tmp_path / "fashioniq"
    for split in ("val", "test"):
        for category in CATEGORIES:
            names = [f"{category[0].upper()}{number}" for number in range(4)] + ["BOTH"] * (
                category != "dress"
            )
            write_json(root / f"image_splits/split.{category}.{split}.json", names)
            row: dict[str, Any] = {"candidate": names[0], "captions": [" is red.", "has no sleeves?"]}
            if split == "val":
                row = {"target": names[1], **row}
            write_json(
                root / f"captions/cap.{category}.{split}.json", [row, {**row, "captions": ["", "longer"]}]
            )
    return root


@pytest.fixture
def circo_root(tmp_path: Path) -> Path:
    root = tmp_path / "circo"
    query = {"reference_img_id": 11, "relative_caption": "is larger", "shared_concept": "a dog", "id": 0}
    truths = {"target_img_id": 12, "gt_img_ids": [12, 14], "semantic_aspects": ["addition", "negation"]}
    write_json(root / "annotations/val.json", [{**query, **truths}, {**query, **truths, "id": 1}])
    write_json(root / "annotations/test.json", [query])
    images = [
        {"id": number, "file_name": f"{number:012d}.jpg", "width": 8, "height": 8} for number in range(10, 16)
    ]
    write_json(
        root / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", {"images": images, "info": {}}
    )
    return root


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name in ("a.png", "sub/b.JPG", "sub/c.webp", ".hidden/d.png", "notes.txt"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.new("RGB", (6, 4), "teal").save(path)
    return root


@pytest.fixture
def settings_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Settings]:
    """``settings_for(kind, root, splits=[...], ...)``: settings with one data set named after its kind."""
    for name in list(os.environ):
        if name.startswith("SETR_"):
            monkeypatch.delenv(name)

    def build(kind: str, root: Path, **options: Any) -> Settings:
        return Settings.model_validate(
            {"datasets": {kind: {"kind": kind, "root": root, **options}}, "base_dir": tmp_path}
        )

    return build


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not (REAL / "cirr" / "captions").is_dir():
        pytest.skip(f"the real annotation files are not at {REAL}")
    return REAL
