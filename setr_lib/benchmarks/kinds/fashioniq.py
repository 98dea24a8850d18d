"""FashionIQ: ``captions/cap.CATEGORY.SPLIT.json``, ``image_splits/split.CATEGORY.SPLIT.json``,
``images/NAME.png``.

Three categories, each searched in its own gallery: the whole split (``original``, the zero-shot papers'
protocol) or only its references and targets (``val``). The two captions are joined as "c1 and c2", stripped
of ``.?,`` and spaces at their ends (CIReVL's and OSrCIR's reading; SEARLE averages both orders); an empty
caption is left out of the joining. A train triplet has this one text, too (supervised systems often train on
both orders, or on either caption alone). R@10 and R@50 keep the reference; the headline is the unweighted
mean of the three categories.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.benchmarks.annotations import Row, plain_name, read_json, read_rows, shown
from setr_lib.benchmarks.benchmark import Benchmark, ImageSource, OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.metrics import recalls
from setr_lib.benchmarks.records import ImageRecord, QueryRecord

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.benchmarks.sets import EvaluationSet

CATEGORIES = ("dress", "shirt", "toptee")
"""In the order that every paper tabulates them."""

_QUERIES = {
    "train": {"dress": 5985, "shirt": 5988, "toptee": 6027},
    "val": {"dress": 2017, "shirt": 2038, "toptee": 1961},
    "test": {"dress": 2024, "shirt": 2038, "toptee": 2056},
}
_IMAGES = {
    ("train", "original"): {"dress": 11452, "shirt": 19036, "toptee": 16121},
    ("val", "original"): {"dress": 3817, "shirt": 6346, "toptee": 5373},
    ("test", "original"): {"dress": 3818, "shirt": 6346, "toptee": 5374},
    ("val", "val"): {"dress": 2628, "shirt": 3089, "toptee": 2902},
}
_SOURCE = "github.com/XiaoxiaoGuo/fashion-iq (CDLA)"
_EXTENSIONS = (".png", ".jpg", ".jpeg")
"""In order of preference; the official downloads are PNG files, mirrors often JPEG ones."""
_ENOUGH_ENTRIES = 100
"""So many images of a real ranking of the original gallery are never all references or targets."""


class FashionIQ(Benchmark):
    """FashionIQ (Wu et al., CVPR 2021)."""

    kind = "fashioniq"
    title = "FashionIQ"
    protocol = (
        "A query is a garment and two captions on how the wanted one differs, read as one sentence. Each "
        "category is searched in its own gallery; the reference stays in it. **R@K** is the share of "
        "queries whose target is among the first K, averaged over the categories."
    )
    splits = ("train", "val", "test")
    hidden_splits = ("test",)
    default_splits = ("val",)
    train_split = "train"
    galleries = ("original", "val")
    categories = CATEGORIES
    metrics = recalls(10, 50, of="first")
    headline = ("R@10", "R@50")
    ranking_format = "an object from query id ('dress-0': category and row) to a list of image names"

    def queries(self, evaluation_set: EvaluationSet) -> list[QueryRecord]:
        """All queries: dress, then shirt, then toptee, each in the official order."""
        return [query for category in CATEGORIES for query in _category_queries(evaluation_set, category)]

    def gallery(self, evaluation_set: EvaluationSet) -> list[ImageRecord]:
        """The images of all three galleries, each once (a few are in two categories)."""
        folder = self.image_folder(evaluation_set)
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

    def image_folder(self, evaluation_set: EvaluationSet) -> Path:
        """``images`` under the root, unless settings say otherwise."""
        return evaluation_set.image_root or evaluation_set.root / "images"

    def image_source(self, evaluation_set: EvaluationSet) -> ImageSource:
        """The shop's images."""
        return ImageSource(
            self.image_folder(evaluation_set),
            "the shop, by the addresses in github.com/hongwang600/fashion-iq-metadata (many are dead by "
            "now: expect an incomplete gallery)",
            60_000,
            "a rough guess",
        )

    def files(self, evaluation_set: EvaluationSet) -> list[OfficialFile]:
        """Queries and image list of each category."""
        queries = _QUERIES[evaluation_set.split]
        images = _IMAGES[evaluation_set.split, "original"]
        return [
            OfficialFile(file(evaluation_set, category), what, counts[category], _SOURCE)
            for category in CATEGORIES
            for file, what, counts in (
                (captions_file, "queries", queries),
                (split_file, "image list", images),
            )
        ]

    def official_queries(self, split: str) -> int:
        """Counts of the official files."""
        return sum(_QUERIES[split].values())

    def official_images(self, split: str, gallery: str) -> Mapping[str, int] | None:
        """Counts of the official files, by category; of the small gallery for val only."""
        return _IMAGES.get((split, gallery))

    def caveats(self, evaluation_set: EvaluationSet) -> list[str]:
        """The small gallery is easier than the one that zero-shot papers report."""
        return ["gallery of references and targets only"] if evaluation_set.gallery == "val" else []

    def ranking_notes(
        self, evaluation_set: EvaluationSet, queries: pl.DataFrame, rankings: pl.DataFrame
    ) -> list[str]:
        """Lists that should be of the original gallery, but are probably of the small one."""
        if evaluation_set.gallery != "original" or evaluation_set.hidden:
            return []
        suspect = _ranked_of_small_gallery(queries, rankings)
        if not suspect:
            return []
        return [
            f"{', '.join(suspect)}: every ranked image is some query's reference or target, so this looks "
            "like a ranking of the small gallery, whose recall is higher: score it with --gallery val"
        ]


def _ranked_of_small_gallery(queries: pl.DataFrame, rankings: pl.DataFrame) -> list[str]:
    """The categories whose lists hold nothing but references and targets, sorted."""
    import polars as pl

    targets = queries.select("gallery", image_id="target_ids").explode("image_id")
    small = pl.concat([queries.select("gallery", image_id="reference_id"), targets]).unique()
    lists = rankings.join(queries.select("query_id", "gallery"), on="query_id")
    outside = lists.join(small, on=["gallery", "image_id"], how="anti")["gallery"].unique()
    counted = lists.group_by("gallery", maintain_order=True).len().iter_rows()
    return sorted(name for name, entries in counted if entries >= _ENOUGH_ENTRIES and name not in outside)


def captions_file(evaluation_set: EvaluationSet, category: str) -> Path:
    """The file of one category's queries.

    Args:
        evaluation_set: The set: data set root and split.
        category: One of :data:`CATEGORIES`.

    Returns:
        Its path; whether it exists is not checked.
    """
    return evaluation_set.root / "captions" / f"cap.{category}.{evaluation_set.split}.json"


def split_file(evaluation_set: EvaluationSet, category: str) -> Path:
    """The file that lists the original gallery of one category.

    Args:
        evaluation_set: The set: data set root and split.
        category: One of :data:`CATEGORIES`.

    Returns:
        Its path; whether it exists is not checked.
    """
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
    """The text that a model reads: "c1 and c2" (see the head of this module).

    Args:
        captions: The annotators' captions of a query.

    Returns:
        The modification text.
    """
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


def _names(evaluation_set: EvaluationSet, category: str) -> list[str]:
    if evaluation_set.gallery == "original":
        return _split(split_file(evaluation_set, category))
    if evaluation_set.hidden:
        raise DatasetError(
            f"[datasets.{evaluation_set.dataset}] gallery = 'val' is made of references and targets, and "
            f"the targets of split {evaluation_set.split!r} are hidden: use gallery = 'original'"
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
