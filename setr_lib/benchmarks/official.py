"""What the official downloads consist of: every file with its count and source, and where the images come from.

Knowledge only: nothing is opened here. Counts were taken from the official files themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from setr_lib.benchmarks import circo, cirr, fashioniq, folder
from setr_lib.benchmarks.sets import CATEGORIES, OFFICIAL_IMAGES, OFFICIAL_QUERIES, EvaluationSet

MINIATURE_STAMP = "miniature.json"
"""What the miniature leaves beside data sets that it has drawn: their counts are its own."""
CAPTIONS_FILE = "image_captions.json"
"""Captions of gallery images, under a data set's root: a list of ``{"candidate": image id, "captions": [text, ...]}``."""
CAPTIONS_SOURCE = "github.com/whats2000/WeiMoCIR has them for CIRR's val and test1 (MIT)"

FASHIONIQ_QUERIES: dict[str, dict[str, int]] = {
    "train": {"dress": 5985, "shirt": 5988, "toptee": 6027},
    "val": {"dress": 2017, "shirt": 2038, "toptee": 1961},
    "test": {"dress": 2024, "shirt": 2038, "toptee": 2056},
}
VAL_GALLERY_IMAGES: dict[tuple[str, str], dict[str, int]] = {
    ("fashioniq", "val"): {"dress": 2628, "shirt": 3089, "toptee": 2902}
}
"""Sizes of FashionIQ's smaller gallery, of references and targets only."""

_CIRR_SOURCE = "github.com/Cuberick-Orion/CIRR, branch cirr_dataset (MIT)"
_FASHIONIQ_SOURCE = "github.com/XiaoxiaoGuo/fashion-iq (CDLA)"
_CIRCO_SOURCE = "github.com/miccunifi/CIRCO (CC BY-NC 4.0)"
_COCO_LIST_SOURCE = "cocodataset.org, 2017 Unlabeled Image info (image_info_unlabeled2017.zip)"


@dataclass(frozen=True)
class OfficialFile:
    """One annotation file: where it belongs, what it holds, how many entries, and where it comes from."""

    path: Path
    what: str
    entries: int | None
    """The official number; ``None`` where there is none."""
    source: str


@dataclass(frozen=True)
class ImageSource:
    """Where the images of a data set belong and come from, and about how large one is."""

    folder: Path
    source: str
    bytes_each: int | None
    basis: str
    """What ``bytes_each`` rests on."""
    elsewhere: Path | None = None
    """Where people often have them instead."""


def official_files(evaluation_set: EvaluationSet) -> list[OfficialFile]:
    """The annotation files that ``evaluation_set`` is read from; of a folder, its query file if there is one."""
    split, kind = evaluation_set.split, evaluation_set.kind
    queries = OFFICIAL_QUERIES.get((kind, split))
    images = OFFICIAL_IMAGES.get((kind, split), {})
    match kind:
        case "cirr":
            return [
                OfficialFile(cirr.captions_file(evaluation_set), "queries", queries, _CIRR_SOURCE),
                OfficialFile(cirr.split_file(evaluation_set), "image list", images.get("all"), _CIRR_SOURCE),
            ]
        case "fashioniq":
            return [
                each for category in CATEGORIES for each in _category_files(evaluation_set, category, images)
            ]
        case "circo":
            return [
                OfficialFile(circo.annotations_file(evaluation_set), "queries", queries, _CIRCO_SOURCE),
                OfficialFile(
                    circo.image_list_file(evaluation_set), "image list", images.get("all"), _COCO_LIST_SOURCE
                ),
            ]
        case "folder":
            path = folder.query_file(evaluation_set)
            return [] if path is None else [OfficialFile(path, "queries", None, "your own")]


def _category_files(
    evaluation_set: EvaluationSet, category: str, images: dict[str, int]
) -> list[OfficialFile]:
    queries = FASHIONIQ_QUERIES[evaluation_set.split][category]
    return [
        OfficialFile(
            fashioniq.captions_file(evaluation_set, category), "queries", queries, _FASHIONIQ_SOURCE
        ),
        OfficialFile(
            fashioniq.split_file(evaluation_set, category),
            "image list",
            images.get(category),
            _FASHIONIQ_SOURCE,
        ),
    ]


def official_galleries(evaluation_set: EvaluationSet) -> dict[str, int] | None:
    """Official sizes by gallery name, of the protocol in use; ``None`` where there are none."""
    if evaluation_set.gallery == "val":
        return VAL_GALLERY_IMAGES.get((evaluation_set.kind, evaluation_set.split))
    return evaluation_set.official_images


def image_source(evaluation_set: EvaluationSet) -> ImageSource:
    """Where the images of ``evaluation_set`` are looked for, and where they can be had."""
    root, named = evaluation_set.root, evaluation_set.image_root
    match evaluation_set.kind:
        case "cirr":
            return ImageSource(
                named or root,
                "NLVR2: ask for them by the form at github.com/lil-lab/nlvr, folder nlvr2, 'Direct Image Download' (many "
                "of the addresses in its list are dead)",
                250_000,
                "a rough guess",
                root / "img_raw" if named is None else None,  # as in CIRR's own README
            )
        case "fashioniq":
            return ImageSource(
                named or root / "images",
                "the shop, by the addresses in github.com/hongwang600/fashion-iq-metadata (many are dead by now: expect an "
                "incomplete gallery)",
                60_000,
                "a rough guess",
            )
        case "circo":
            return ImageSource(
                named or root / "COCO2017_unlabeled" / "unlabeled2017",
                "cocodataset.org, 2017 Unlabeled images (unlabeled2017.zip, 19 GB)",
                154_000,
                "COCO's own figure, 19 GB for all",
            )
        case "folder":
            return ImageSource(named or root, "your own", None, "not known before they are there")
