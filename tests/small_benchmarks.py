"""CIRR, FashionIQ and CIRCO in their official layouts, small but with galleries large enough for whole
submissions.

Annotation files only: whoever scores ranking files has no images. ``ranked_*`` make perfect files for them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

IMAGES = 60
CATEGORIES = ("dress", "shirt", "toptee")
SETTINGS = """
[datasets.cirr]
kind = "cirr"
root = "cirr"
splits = ["val", "test1"]

[datasets.fashioniq]
kind = "fashioniq"
root = "fashioniq"
splits = ["val"]

[datasets.circo]
kind = "circo"
root = "circo"
splits = ["val", "test"]
"""

Json = dict[str, Any]


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_benchmarks(folder: Path) -> Path:
    """All three data sets under ``folder`` and a ``setr.toml`` that names them; returns its path."""
    for split in ("val", "test1"):
        _write_cirr(folder / "cirr", split)
    for split in ("val", "test"):
        _write_fashioniq(folder / "fashioniq", split)
        _write_circo(folder / "circo", split)
    path = folder / "setr.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    return path


def write_image_list(folder: Path, ids: range) -> None:
    """COCO's list of unlabeled images, which CIRCO's annotations do not bring along."""
    images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in ids]
    write_json(
        folder / "circo/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", {"images": images}
    )


def cirr_names(split: str) -> list[str]:
    return [f"{split}-{number}-img0" for number in range(IMAGES)]


def _write_cirr(root: Path, split: str) -> None:
    names = cirr_names(split)
    write_json(root / f"image_splits/split.rc2.{split}.json", {name: f"./{name}.png" for name in names})
    rows: list[Json] = []
    for number in range(4):
        members = names[number : number + 6]
        row: Json = {"pairid": 30 + number, "reference": members[0], "caption": f"edit {number}"}
        if split == "val":
            row |= {"target_hard": members[2], "target_soft": {}}
        rows.append({**row, "img_set": {"id": number, "members": members, "reference_rank": 0}})
    write_json(root / f"captions/cap.rc2.{split}.json", rows)


def _write_fashioniq(root: Path, split: str) -> None:
    for category in CATEGORIES:
        names = [f"{category[0].upper()}{number:03d}" for number in range(IMAGES)]
        write_json(root / f"image_splits/split.{category}.{split}.json", names)
        rows: list[Json] = []
        for number in range(3):
            row: Json = {"candidate": names[number], "captions": ["is red", "is longer"]}
            rows.append(row if split == "test" else {"target": names[number + 10], **row})
        write_json(root / f"captions/cap.{category}.{split}.json", rows)


def _write_circo(root: Path, split: str) -> None:
    rows: list[Json] = []
    for number in range(3):
        row: Json = {"reference_img_id": 900 + number, "relative_caption": "is larger", "id": number}
        row["shared_concept"] = "a dog"
        if split == "val":
            truths = list(range(101 + number, 104 + number))
            row |= {"target_img_id": truths[0], "gt_img_ids": truths, "semantic_aspects": ["addition"]}
        rows.append(row)
    write_json(root / f"annotations/{split}.json", rows)


def _first(first: list[Any], others: list[Any], depth: int, without: object = None) -> list[Any]:
    rest = [other for other in others if other not in first and other != without]
    return [*first, *rest][:depth]


def ranked_cirr(root: Path, split: str, metric: str) -> Json:
    """A perfect submission for one of CIRR's metrics (of a hidden split: any valid one)."""
    content: Json = {"version": "rc2", "metric": metric}
    rows: list[Json] = json.loads((root / f"captions/cap.rc2.{split}.json").read_text())
    names = list(json.loads((root / f"image_splits/split.rc2.{split}.json").read_text()))
    for row in rows:
        target = [row["target_hard"]] if "target_hard" in row else []
        others = names if metric == "recall" else row["img_set"]["members"]
        depth = 50 if metric == "recall" else 3
        content[str(row["pairid"])] = _first(target, others, depth, without=row["reference"])
    return content


def ranked_fashioniq(root: Path, split: str, *, depth: int = 50) -> Json:
    """A perfect FashionIQ ranking, all three categories; the reference is in every list."""
    content: Json = {}
    for category in CATEGORIES:
        rows: list[Json] = json.loads((root / f"captions/cap.{category}.{split}.json").read_text())
        names = json.loads((root / f"image_splits/split.{category}.{split}.json").read_text())
        for number, row in enumerate(rows):
            first = [row[key] for key in ("target", "candidate") if key in row]
            content[f"{category}-{number}"] = _first(first, names, depth)
    return content


def ranked_circo(root: Path, split: str) -> Json:
    """A perfect CIRCO submission; what follows the ground truths are ids 1, 2, 3 ..."""
    rows: list[Json] = json.loads((root / f"annotations/{split}.json").read_text())
    return {str(row["id"]): _first(row.get("gt_img_ids", []), list(range(1, 61)), 50) for row in rows}
