"""CIRR (rc2): ``captions/cap.rc2.SPLIT.json`` and ``image_splits/split.rc2.SPLIT.json`` under the data set's root.

A query's subset is the image set's six members without the reference; its target is ``target_hard`` (``target_soft``
is no part of the official metrics). Image paths in the split file are relative to ``image_root``, else to the root.
"""

from __future__ import annotations

from pathlib import Path

from setr_lib.benchmarks.annotations import (
    Row,
    Unique,
    plain_name,
    read_json,
    read_rows,
    relative_name,
    shown,
)
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.records import ImageRecord, QueryRecord
from setr_lib.benchmarks.sets import EvaluationSet

SUBSET_MEMBERS = 6


def captions_file(evaluation_set: EvaluationSet) -> Path:
    """Where the split's queries are."""
    return evaluation_set.root / "captions" / f"cap.rc2.{evaluation_set.split}.json"


def split_file(evaluation_set: EvaluationSet) -> Path:
    """Where the split's image names and paths are."""
    return evaluation_set.root / "image_splits" / f"split.rc2.{evaluation_set.split}.json"


def _image_paths(file: Path) -> dict[str, str]:
    """Image name -> path relative to the image root."""
    images = read_json(file, "CIRR's image list of the split")
    if not isinstance(images, dict):
        raise DatasetError(f"must be an object from image name to path, not {shown(images)}", file=file)
    paths: dict[str, str] = {}
    for name, path in images.items():
        try:
            paths[plain_name(name)] = relative_name(path)
        except ValueError as error:
            raise DatasetError(str(error), file=file, row=f"image {shown(name)}") from None
    return paths


def gallery(evaluation_set: EvaluationSet) -> list[ImageRecord]:
    """All images of the split, in the official order."""
    folder = evaluation_set.image_root or evaluation_set.root
    paths = _image_paths(split_file(evaluation_set))
    return [ImageRecord(name, f"{folder}/{path}", ["all"]) for name, path in paths.items()]


def _query(
    row: Row, pair_ids: Unique, images: dict[str, str], images_file: Path, hidden: bool
) -> QueryRecord:
    pair_id = pair_ids.claim(row, str(row.integer("pairid")))
    row.where = f"{row.where}, pairid {pair_id}"
    caption = row.text("caption", blank=True)  # pair 27098 of the official test1 has an empty one
    image_set = row.row("img_set")
    members = image_set.distinct("members", image_set.texts("members", length=SUBSET_MEMBERS))
    for member in members:
        image_set.known("members", member, images, images_file)
    reference = row.known("reference", row.text("reference"), images, images_file)
    targets = [] if hidden else [row.known("target_hard", row.text("target_hard"), images, images_file)]
    if reference in targets:
        raise row.error("'target_hard' is the reference itself")
    for key, name in (("reference", reference), *(("target_hard", target) for target in targets)):
        if name not in members:
            raise row.error(f"{key!r} {shown(name)} is not among the members of its image set")
    return QueryRecord(
        query_id=pair_id,
        reference_id=reference,
        modification=caption.strip(),
        captions=[caption],
        target_ids=targets,
        subset_ids=[member for member in members if member != reference],
    )


def queries(evaluation_set: EvaluationSet) -> list[QueryRecord]:
    """All queries of the split, in the official order."""
    images_file = split_file(evaluation_set)
    images = _image_paths(images_file)
    pair_ids = Unique("pairid")
    return [
        _query(row, pair_ids, images, images_file, evaluation_set.hidden)
        for row in read_rows(captions_file(evaluation_set), "CIRR's queries of the split")
    ]
