"""CIRR (rc2): ``captions/cap.rc2.SPLIT.json`` and ``image_splits/split.rc2.SPLIT.json`` under the data set's
root.

A query's subset is the image set's six members without the reference; its target is ``target_hard``
(``target_soft`` is not part of the official metrics). Image paths in the split file are relative to
``image_root``, else to the root. Metrics as in the paper and the authors' repository: R@K of the ranking
without the reference; R_subset@K among the five other members of the image set, by their own ranking; Avg =
(R@5 + R_subset@1) / 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from setr_lib.benchmarks.annotations import (
    Row,
    Unique,
    plain_name,
    read_json,
    read_rows,
    relative_name,
    shown,
)
from setr_lib.benchmarks.benchmark import Benchmark, ImageSource, OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.metrics import GALLERY, SUBSET, Average, RecallAt, SubsetRecallAt, recalls
from setr_lib.benchmarks.ranking_lists import Kind, RankingFile, RankingLists, either, faults_error, named
from setr_lib.benchmarks.records import ImageRecord, QueryRecord, TripletRecord

if TYPE_CHECKING:
    from setr_lib.benchmarks.sets import EvaluationSet

SUBSET_MEMBERS = 6
CIRR_VERSION = "rc2"
CIRR_METRICS = {"recall": GALLERY, "recall_subset": SUBSET}
"""The word under ``metric`` of a submission -> the pool that the file ranks."""
CIRR_FILE_LIMIT = 5_000_000
"""Bytes that CIRR's server accepts per file."""

_QUERIES = {"train": 28225, "val": 4181, "test1": 4148}
"""Train's is the paper's number; the others are counted."""
_IMAGES = {"train": 16939, "val": 2297, "test1": 2315}
_SOURCE = "github.com/Cuberick-Orion/CIRR, branch cirr_dataset (MIT)"


class CIRR(Benchmark):
    """Composed Image Retrieval on Real-life images (Liu et al., ICCV 2021)."""

    kind = "cirr"
    title = "CIRR"
    protocol = (
        "A query is a reference image and one sentence on what should change; exactly one image is its "
        "target. The reference is taken out of every ranking before the cut to K. **R@K** is the share of "
        "queries whose target is among the first K. **R_subset@K** ranks only the five look-alikes of the "
        "reference's subset of six. **Avg** is the mean of R@5 and R_subset@1."
    )
    splits = ("train", "val", "test1")
    hidden_splits = ("test1",)
    default_splits = ("val",)
    train_split = "train"
    removes_reference = True
    metrics = (
        *recalls(1, 5, 10, 50, of="first"),
        *(SubsetRecallAt(depth) for depth in (1, 2, 3)),
        Average("Avg", (RecallAt(5, "first"), SubsetRecallAt(1))),
    )
    headline = ("R@1", "R@10", "R_subset@1")
    stage_1_metric = "R@10"
    stage_2_metric = "R@1"
    ranking_format = "a submission of CIRR's"
    server = "https://cirr.cecs.anu.edu.au"
    submitted_lengths: ClassVar[Mapping[str, int]] = {GALLERY: 50, SUBSET: 3}
    submission_keys = frozenset({"version", "metric"})
    captions_source = (
        "github.com/whats2000/WeiMoCIR (MIT) has them for CIRR's val and test1: its file "
        "cirr_dataset/cirr_labeled_images_cir_cleaned.json, under this name"
    )

    def queries(self, evaluation_set: EvaluationSet) -> list[QueryRecord]:
        """All queries of the split, in the official order."""
        images_file = split_file(evaluation_set)
        images = _image_paths(images_file)
        pair_ids = Unique("pairid")
        return [
            _query(row, pair_ids, images, images_file, evaluation_set.hidden)
            for row in read_rows(captions_file(evaluation_set), "CIRR's queries of the split")
        ]

    def gallery(self, evaluation_set: EvaluationSet) -> list[ImageRecord]:
        """All images of the split, in the official order."""
        folder = self.image_folder(evaluation_set)
        paths = _image_paths(split_file(evaluation_set))
        return [ImageRecord(name, f"{folder}/{path}") for name, path in paths.items()]

    def train_triplets(self, train: EvaluationSet) -> list[TripletRecord]:
        """Reference, text and ``target_hard`` of each pair; of its image set nothing is asked."""
        images_file = split_file(train)
        images = _image_paths(images_file)
        rows = read_rows(captions_file(train), "CIRR's train pairs")
        return [_triplet(row, images, images_file) for row in rows]

    def image_source(self, evaluation_set: EvaluationSet) -> ImageSource:
        """NLVR2's images, which CIRR is made of."""
        return ImageSource(
            self.image_folder(evaluation_set),
            "NLVR2: ask for them by the form at github.com/lil-lab/nlvr, folder nlvr2, 'Direct Image "
            "Download' (many of the addresses in its list are dead)",
            250_000,
            "a rough guess",
            evaluation_set.root / "img_raw"
            if evaluation_set.image_root is None
            else None,  # as in CIRR's README
        )

    def files(self, evaluation_set: EvaluationSet) -> list[OfficialFile]:
        """Queries and image list of the split."""
        split = evaluation_set.split
        return [
            OfficialFile(captions_file(evaluation_set), "queries", _QUERIES.get(split), _SOURCE),
            OfficialFile(split_file(evaluation_set), "image list", _IMAGES[split], _SOURCE),
        ]

    def official_queries(self, split: str) -> int | None:
        """Counts of the official files."""
        return _QUERIES.get(split)

    def official_images(self, split: str, gallery: str) -> dict[str, int]:
        """Counts of the official files."""
        return {"all": _IMAGES[split]}

    def read_rankings(self, file: RankingFile) -> RankingLists:
        """A submission: ``version``, ``metric``, and one list of image names per query. What is missing or
        wrong, and a file that is larger than the server accepts, is noted.

        Raises:
            RankingFileError: ``metric`` is missing or wrong.
        """
        content = file.content
        known = {"version": [CIRR_VERSION], "metric": list(CIRR_METRICS)}
        for key, allowed in known.items():
            if key not in content:
                file.fault(Kind.FILE, f"the key {key!r} is missing: it must say {either(allowed)}")
            elif content[key] not in allowed:
                file.fault(Kind.FILE, f"{key!r} must be {either(allowed)}, not {named(content[key])}")
        if file.hidden and file.size > CIRR_FILE_LIMIT:
            limit = f"{CIRR_FILE_LIMIT:,}: write it without indentation"
            file.fault(Kind.FILE, f"has {file.size:,} bytes, and the server takes {limit}")
        if content.get("metric") not in known["metric"]:  # what the lists rank is not known then
            raise faults_error(file.faults)
        lists = {query: file.image_names(query) for query in content if query not in self.submission_keys}
        return RankingLists(lists, CIRR_METRICS[str(content["metric"])], submission=True)

    def submission(self, name: str, lists: Mapping[str, Mapping[str, list[str]]]) -> dict[str, object]:
        """``NAME.recall.json`` and ``NAME.recall_subset.json``."""
        return {
            f"{name}.{metric}.json": {"version": CIRR_VERSION, "metric": metric, **lists[pool]}
            for metric, pool in CIRR_METRICS.items()
        }


def captions_file(evaluation_set: EvaluationSet) -> Path:
    """The file of a split's queries.

    Args:
        evaluation_set: The set: data set root and split.

    Returns:
        Its path; whether it exists is not checked.
    """
    return evaluation_set.root / "captions" / f"cap.rc2.{evaluation_set.split}.json"


def split_file(evaluation_set: EvaluationSet) -> Path:
    """The file of a split's image names and paths.

    Args:
        evaluation_set: The set: data set root and split.

    Returns:
        Its path; whether it exists is not checked.
    """
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


def _triplet(row: Row, images: dict[str, str], images_file: Path) -> TripletRecord:
    reference = row.known("reference", row.text("reference"), images, images_file)
    target = row.known("target_hard", row.text("target_hard"), images, images_file)
    if reference == target:
        raise row.error("'target_hard' is the reference itself")
    return TripletRecord(reference, row.text("caption", blank=True).strip(), target)
