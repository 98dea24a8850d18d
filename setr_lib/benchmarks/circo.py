"""CIRCO: ``annotations/SPLIT.json`` over all of COCO 2017's unlabeled images, whose list is a download of its own.

The modification is ``relative_caption``; ``shared_concept`` helped the annotators and is never read (it would leak).
Image ids are COCO's numbers, written in decimal. Val and test share the gallery.
"""

from __future__ import annotations

from pathlib import Path

from setr_lib.benchmarks.annotations import Row, Unique, plain_name, read_json, read_rows, shown
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.records import ImageRecord, QueryRecord
from setr_lib.benchmarks.sets import EvaluationSet

_LIST_PURPOSE = "COCO 2017's list of unlabeled images, which the gallery is made of: unpack COCO's image_info_unlabeled2017.zip there"


def annotations_file(evaluation_set: EvaluationSet) -> Path:
    """Where the split's queries are."""
    return evaluation_set.root / "annotations" / f"{evaluation_set.split}.json"


def image_list_file(evaluation_set: EvaluationSet) -> Path:
    """Where COCO's list of unlabeled images is."""
    return evaluation_set.root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"


def _file_names(file: Path) -> dict[str, str]:
    """Image id -> file name. Plain loops and no ``Row`` per image: the real list has 123,403 of them."""
    content = read_json(file, _LIST_PURPOSE)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DatasetError("must be an object with a list of 'images'", file=file)
    names: dict[str, str] = {}
    for number, image in enumerate(images):
        try:
            if not isinstance(image, dict):
                raise ValueError(f"must be an object, not {shown(image)}")
            image_id, name = image["id"], plain_name(image["file_name"])
            if type(image_id) is not int or image_id < 1:
                raise ValueError(f"'id' must be a positive whole number, not {shown(image_id)}")
            if (key := str(image_id)) in names:
                raise ValueError(f"duplicate image id {key}")
        except KeyError as error:
            raise DatasetError(
                f"the key {error} is missing", file=file, row=f"images, row {number}"
            ) from None
        except ValueError as error:
            raise DatasetError(str(error), file=file, row=f"images, row {number}") from None
        names[key] = name
    return names


def gallery(evaluation_set: EvaluationSet) -> list[ImageRecord]:
    """All images of COCO's list. Raises ``DatasetError`` where the list is absent: there is no gallery without it."""
    folder = evaluation_set.image_root or evaluation_set.root / "COCO2017_unlabeled" / "unlabeled2017"
    names = _file_names(image_list_file(evaluation_set))
    return [ImageRecord(image_id, f"{folder}/{name}", ["all"]) for image_id, name in names.items()]


def _query(row: Row, ids: Unique, images: dict[str, str] | None, source: Path, hidden: bool) -> QueryRecord:
    query_id = ids.claim(row, str(row.integer("id")))
    row.where = f"{row.where}, id {query_id}"
    caption = row.text("relative_caption")
    reference = row.known("reference_img_id", str(row.integer("reference_img_id", least=1)), images, source)
    record = QueryRecord(query_id, reference, caption.strip(), [caption])
    if hidden:
        return record
    truths = row.distinct("gt_img_ids", row.integers("gt_img_ids", least=1))
    record.target_ids = [row.known("gt_img_ids", str(truth), images, source) for truth in truths]
    if [row.integer("target_img_id", least=1)] != truths[:1]:
        raise row.error("'target_img_id' must be the first of 'gt_img_ids'")
    if reference in record.target_ids:
        raise row.error("the reference is among its own ground truths")
    record.aspects = row.distinct("semantic_aspects", row.texts("semantic_aspects"))
    return record


def queries(evaluation_set: EvaluationSet) -> list[QueryRecord]:
    """All queries of the split; ids are checked against COCO's list where that is present."""
    source = image_list_file(evaluation_set)
    images = _file_names(source) if source.is_file() else None
    ids = Unique("query id")
    return [
        _query(row, ids, images, source, evaluation_set.hidden)
        for row in read_rows(annotations_file(evaluation_set), "CIRCO's queries of the split")
    ]
