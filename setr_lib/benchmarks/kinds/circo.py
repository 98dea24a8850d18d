"""CIRCO: ``annotations/SPLIT.json`` over all of COCO 2017's unlabeled images, whose list is a download of its
own.

The modification is ``relative_caption``. ``shared_concept`` helped the annotators and is not read: it would
leak, unless settings ask for the query that some papers used instead (the option ``query =
"with_shared_concept"``), whose rows say so and are not comparable. Image ids are COCO's numbers, written in
decimal. Val and test share the gallery. Metrics as in the authors' repository: mAP@K divides by min(number of
ground truths, K); R@K is of the first ground truth; mAP@10 also for each semantic aspect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from setr_lib.benchmarks.annotations import Row, Unique, plain_name, read_json, read_rows, shown
from setr_lib.benchmarks.benchmark import COCO, Benchmark, ImageSource, OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.metrics import GALLERY, mean_average_precisions, recalls
from setr_lib.benchmarks.ranking_lists import Kind, RankingFile, RankingLists, named
from setr_lib.benchmarks.records import ImageRecord, QueryRecord

if TYPE_CHECKING:
    from setr_lib.benchmarks.sets import EvaluationSet
    from setr_lib.settings import DatasetSettings

_QUERIES = {"val": 220, "test": 800}
_IMAGES = 123403
_SOURCE = "github.com/miccunifi/CIRCO (CC BY-NC 4.0)"
_LIST_SOURCE = "cocodataset.org, 2017 Unlabeled Image info (image_info_unlabeled2017.zip)"
_LIST_PURPOSE = (
    "COCO 2017's list of unlabeled images, which the gallery is made of: unpack COCO's "
    "image_info_unlabeled2017.zip there"
)
OFFICIAL = "official"
WITH_SHARED_CONCEPT = "with_shared_concept"
CONTAINS_SHARED_CONCEPT = "query contains shared_concept"
"""Why rows of such queries are not comparable, on every page and table that shows them."""
_DECIMAL = re.compile(r"[0-9]{1,18}", re.ASCII)
_COCO_ID = re.compile(r"[1-9][0-9]*", re.ASCII)
_LARGEST_ID = 2**63 - 1


class CIRCO(Benchmark):
    """Composed Image Retrieval on Common Objects in context (Baldrati et al., ICCV 2023)."""

    kind = "circo"
    title = "CIRCO"
    namespace = COCO
    protocol = (
        "A query is a reference image and a relative caption; it has one or more ground truths, and the "
        "reference stays in the gallery. **mAP@K** is the mean average precision of the first K, divided "
        "by the smaller of K and the number of ground truths. **R@K** looks for the single first target "
        "only. Aspects restrict mAP@10 to the queries that carry them."
    )
    splits = ("val", "test")
    hidden_splits = ("test",)
    default_splits = ("val",)
    metrics = (*mean_average_precisions(5, 10, 25, 50), *recalls(5, 10, 25, 50, of="first"))
    aspect_metrics = ("mAP@10",)
    headline = ("mAP@5", "mAP@10")
    stage_1_metric = "mAP@10"
    stage_2_metric = "mAP@5"
    settings_keys = ("query",)
    ranking_format = "a submission of CIRCO's"
    server = "https://circo.micc.unifi.it"
    submitted_lengths: ClassVar[Mapping[str, int]] = {GALLERY: 50}

    def queries(self, evaluation_set: EvaluationSet) -> list[QueryRecord]:
        """All queries of the split; ids are checked against COCO's list where that is present."""
        source = image_list_file(evaluation_set)
        images = _file_names(source) if source.is_file() else None
        ids = Unique("query id")
        return [
            _query(row, ids, images, source, evaluation_set)
            for row in read_rows(annotations_file(evaluation_set), "CIRCO's queries of the split")
        ]

    def check_settings(self, name: str, settings: DatasetSettings) -> None:
        """Refuse also another ``query`` than the two that there are."""
        super().check_settings(name, settings)
        query = settings.options.get("query", OFFICIAL)
        if query not in (OFFICIAL, WITH_SHARED_CONCEPT):
            raise DatasetError(
                f"[datasets.{name}] options: query = {query!r} is not known: use {OFFICIAL!r}, the relative "
                f"caption alone (the default), or {WITH_SHARED_CONCEPT!r}, whose rows are not comparable "
                "with others"
            )

    def caveats(self, evaluation_set: EvaluationSet) -> list[str]:
        """That the queries hold more than the official ones."""
        return [CONTAINS_SHARED_CONCEPT] if _with_shared_concept(evaluation_set) else []

    def gallery(self, evaluation_set: EvaluationSet) -> list[ImageRecord]:
        """All images of COCO's list; without the list there is no gallery.

        Raises:
            DatasetError: The list is absent or wrong.
        """
        folder = self.image_folder(evaluation_set)
        names = _file_names(image_list_file(evaluation_set))
        return [ImageRecord(image_id, f"{folder}/{name}") for image_id, name in names.items()]

    def image_folder(self, evaluation_set: EvaluationSet) -> Path:
        """COCO's own folder under the root, unless settings say otherwise."""
        return evaluation_set.image_root or evaluation_set.root / "COCO2017_unlabeled" / "unlabeled2017"

    def image_source(self, evaluation_set: EvaluationSet) -> ImageSource:
        """COCO's images."""
        return ImageSource(
            self.image_folder(evaluation_set),
            "cocodataset.org, 2017 Unlabeled images (unlabeled2017.zip, 19 GB)",
            154_000,
            "COCO's own figure, 19 GB for all",
        )

    def files(self, evaluation_set: EvaluationSet) -> list[OfficialFile]:
        """The queries of the split, and COCO's image list."""
        queries = _QUERIES[evaluation_set.split]
        return [
            OfficialFile(annotations_file(evaluation_set), "queries", queries, _SOURCE),
            OfficialFile(image_list_file(evaluation_set), "image list", _IMAGES, _LIST_SOURCE),
        ]

    def official_queries(self, split: str) -> int:
        """Counts of the official files."""
        return _QUERIES[split]

    def official_images(self, split: str, gallery: str) -> dict[str, int]:
        """Counts of the official files."""
        return {"all": _IMAGES}

    def gallery_key(self, evaluation_set: EvaluationSet) -> str:
        """One gallery for both splits."""
        return evaluation_set.dataset

    def unlisted_gallery(self, evaluation_set: EvaluationSet) -> str | None:
        """That COCO's list is absent: without it the gallery is not known, but rankings can be scored."""
        file = image_list_file(evaluation_set)
        if file.is_file():
            return None
        return (
            f"COCO's image list is absent ({file}): image ids are only checked to be positive whole numbers"
        )

    def image_id_fault(self, image_id: str) -> str | None:
        """COCO's ids are positive whole numbers."""
        return None if _COCO_ID.fullmatch(image_id) else _no_coco_id(image_id)

    def read_rankings(self, file: RankingFile) -> RankingLists:
        """A submission: one list of COCO's numbers per query."""
        lists = {query: _coco_ids(file, query) for query in file.content}
        as_text = any(isinstance(entry, str) for query in file.content for entry in file.entries(query))
        note = f"{file.path}: image ids are written as text; they are read as the numbers that CIRCO asks for"
        return RankingLists(lists, submission=True, notes=(note,) if as_text else ())

    def submission(self, name: str, lists: Mapping[str, Mapping[str, list[str]]]) -> dict[str, object]:
        """``NAME.json``, with ids as numbers."""
        ranked = lists[GALLERY].items()
        return {f"{name}.json": {query: [int(image) for image in images] for query, images in ranked}}


def _coco_ids(file: RankingFile, query: str) -> list[str]:
    """The ids in decimal. Published submissions have them as text too, and the official code reads both."""
    ids: list[str] = []
    for entry in file.entries(query):
        number = int(entry) if isinstance(entry, str) and _DECIMAL.fullmatch(entry) else entry
        if type(number) is int and 1 <= number <= _LARGEST_ID:
            ids.append(str(number))
        else:
            file.fault(Kind.NO_ID, _no_coco_id(entry), query)
    return ids


def _no_coco_id(entry: object) -> str:
    return f"an image id must be a positive whole number, not {named(entry)}"


def annotations_file(evaluation_set: EvaluationSet) -> Path:
    """The file of a split's queries.

    Args:
        evaluation_set: The set: data set root and split.

    Returns:
        Its path; whether it exists is not checked.
    """
    return evaluation_set.root / "annotations" / f"{evaluation_set.split}.json"


def image_list_file(evaluation_set: EvaluationSet) -> Path:
    """The file of COCO's unlabeled images.

    Args:
        evaluation_set: The set: data set root.

    Returns:
        Its path; whether it exists is not checked.
    """
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


def _with_shared_concept(evaluation_set: EvaluationSet) -> bool:
    return evaluation_set.options.get("query", OFFICIAL) == WITH_SHARED_CONCEPT


def _modification(row: Row, caption: str, evaluation_set: EvaluationSet) -> str:
    """The relative caption; or, where settings ask for it, ``find CONCEPT but CAPTION``, which is how
    MagicLens' published code (``data_utils.py``) writes its CIRCO queries. The authors of BGE-VL (MegaPairs)
    refer to that code for theirs; their own wording is not known to us.
    """
    if not _with_shared_concept(evaluation_set):
        return caption.strip()
    return f"find {row.text('shared_concept').strip()} but {caption.strip()}"


def _query(
    row: Row, ids: Unique, images: dict[str, str] | None, source: Path, evaluation_set: EvaluationSet
) -> QueryRecord:
    query_id = ids.claim(row, str(row.integer("id")))
    row.where = f"{row.where}, id {query_id}"
    caption = row.text("relative_caption")
    reference = row.known("reference_img_id", str(row.integer("reference_img_id", least=1)), images, source)
    record = QueryRecord(query_id, reference, _modification(row, caption, evaluation_set), [caption])
    if evaluation_set.hidden:
        return record
    truths = row.distinct("gt_img_ids", row.integers("gt_img_ids", least=1))
    record.target_ids = [row.known("gt_img_ids", str(truth), images, source) for truth in truths]
    if [row.integer("target_img_id", least=1)] != truths[:1]:
        raise row.error("'target_img_id' must be the first of 'gt_img_ids'")
    if reference in record.target_ids:
        raise row.error("the reference is among its own ground truths")
    record.aspects = row.distinct("semantic_aspects", row.texts("semantic_aspects"))
    return record
