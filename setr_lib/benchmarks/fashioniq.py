"""FashionIQ: ``captions/cap.CATEGORY.SPLIT.json``, ``image_splits/split.CATEGORY.SPLIT.json``, ``images/NAME.png``.

Three categories, each searched in its own gallery: the whole split (``original``, the zero-shot papers' protocol) or
only its references and targets (``val``). The two captions are joined as "c1 and c2", stripped of ``.?,`` and spaces at
their ends (CIReVL's and OSrCIR's reading; SEARLE averages both orders); an empty caption is left out of the joining.
"""

from __future__ import annotations

import os
from pathlib import Path

from setr_lib.benchmarks.annotations import Row, plain_name, read_json, read_rows, shown
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.records import ImageRecord, QueryRecord
from setr_lib.benchmarks.sets import CATEGORIES, EvaluationSet

_EXTENSIONS = (".png", ".jpg", ".jpeg")
"""In order of preference; the official downloads are PNG files, mirrors often JPEG ones."""


def captions_file(evaluation_set: EvaluationSet, category: str) -> Path:
    """Where the queries of one category are."""
    return evaluation_set.root / "captions" / f"cap.{category}.{evaluation_set.split}.json"


def split_file(evaluation_set: EvaluationSet, category: str) -> Path:
    """Where the original gallery of one category is listed."""
    return evaluation_set.root / "image_splits" / f"split.{category}.{evaluation_set.split}.json"


def _split(file: Path) -> list[str]:
    names = read_json(file, "FashionIQ's image list of the category and split")
    if not isinstance(names, list):
        raise DatasetError(f"must be a list of image names, not {shown(names)}", file=file)
    first: dict[str, int] = {}
    for number, value in enumerate(names):
        row = f"row {number} (counting from 0)"
        try:
            name = plain_name(value)
        except ValueError as error:
            raise DatasetError(str(error), file=file, row=row) from None
        if name in first:
            raise DatasetError(
                f"duplicate image {shown(name)}: row {first[name]} has it already", file=file, row=row
            )
        first[name] = number
    return list(first)


def join_captions(captions: list[str]) -> str:
    """The text that a model reads: "c1 and c2" (see the head of this module)."""
    return " and ".join(text for caption in captions if (text := caption.strip(".?, \t\r\n")))


def _query(row: Row, number: int, category: str, images: set[str], source: Path, hidden: bool) -> QueryRecord:
    captions = row.texts("captions", length=2, blank=True)
    modification = join_captions(captions)
    if not modification:
        raise row.error("both 'captions' are empty")
    reference = row.known("candidate", row.text("candidate"), images, source)
    targets = [] if hidden else [row.known("target", row.text("target"), images, source)]
    if reference in targets:
        raise row.error("'target' is the reference ('candidate') itself")
    return QueryRecord(
        query_id=f"{category}-{number}",
        reference_id=reference,
        modification=modification,
        captions=captions,
        target_ids=targets,
        gallery=category,
    )


def _category_queries(evaluation_set: EvaluationSet, category: str) -> list[QueryRecord]:
    source = split_file(evaluation_set, category)
    images = set(_split(source))
    rows = read_rows(captions_file(evaluation_set, category), "FashionIQ's queries of the category and split")
    return [
        _query(row, number, category, images, source, evaluation_set.hidden)
        for number, row in enumerate(rows)
    ]


def queries(evaluation_set: EvaluationSet) -> list[QueryRecord]:
    """All queries: dress, then shirt, then toptee, each in the official order."""
    return [query for category in CATEGORIES for query in _category_queries(evaluation_set, category)]


def _names(evaluation_set: EvaluationSet, category: str) -> list[str]:
    if evaluation_set.gallery == "original":
        return _split(split_file(evaluation_set, category))
    if evaluation_set.hidden:
        raise DatasetError(
            f"[datasets.{evaluation_set.dataset}] gallery = 'val' is made of references and targets, and the targets of "
            f"split {evaluation_set.split!r} are hidden: use gallery = 'original'"
        )
    wanted = {
        name
        for query in _category_queries(evaluation_set, category)
        for name in (query.reference_id, *query.target_ids)
    }
    return [name for name in _split(split_file(evaluation_set, category)) if name in wanted]


def _file_names(folder: Path) -> set[str]:
    """What is in the image folder: one listing instead of up to three look-ups per image."""
    try:
        return {entry.name for entry in os.scandir(folder)}
    except OSError:
        return set()  # every image is then found missing, one by one, when the gallery is inspected


def gallery(evaluation_set: EvaluationSet) -> list[ImageRecord]:
    """The images of all three galleries, each once (a few are in two categories)."""
    folder = evaluation_set.image_root or evaluation_set.root / "images"
    present = _file_names(folder)
    records: dict[str, ImageRecord] = {}
    for category in CATEGORIES:
        for name in _names(evaluation_set, category):
            if name in records:
                records[name].galleries.append(category)
                continue
            file_name = next(
                (name + end for end in _EXTENSIONS if name + end in present), name + _EXTENSIONS[0]
            )
            records[name] = ImageRecord(name, f"{folder}/{file_name}", [category])
    return list(records.values())
