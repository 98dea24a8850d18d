"""LaSCo: ``lasco_SPLIT.json`` and ``lasco_SPLIT_corpus.json`` (or both under ``downloads``) over COCO 2014's
images.

A query is ``qid``, ``query-image`` and ``target-image`` (COCO id and path each) and ``query-text``; it has
one target. The text was made from two answers to one question of VQA 2.0. The corpus is the gallery: a list
of ``id`` and ``path`` (val's official file), or an object from id to path (train's). Image ids are COCO's
numbers, written in decimal; val searches val2014, train is there for training. R@K keeps the reference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.benchmarks.annotations import Row, clean_text, read_json, read_rows, relative_name, shown
from setr_lib.benchmarks.benchmark import COCO, Benchmark, ImageSource, OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.metrics import recalls
from setr_lib.benchmarks.ranking_lists import Kind, RankingFile, RankingLists, named
from setr_lib.benchmarks.records import ImageRecord, QueryRecord

if TYPE_CHECKING:
    from setr_lib.benchmarks.sets import EvaluationSet

_QUERIES = {"val": 30037}
"""Not from the authors, who give the sum of both splits only (389,305): told by others' evaluation code."""
_IMAGES = {"val": 39826}
_SOURCE = "github.com/levymsn/LaSCo, downloads (MIT)"
_CORPUS_PURPOSE = "LaSCo's corpus of the split, which the gallery is made of"
_COCO_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_SPLIT_FOLDERS = {"val2014", "train2014"}


class LaSCo(Benchmark):
    """Large Scale Composed Image Retrieval (Levy et al., AAAI 2024)."""

    kind = "lasco"
    title = "LaSCo"
    namespace = COCO
    protocol = (
        "A query is a COCO image and a text, made from two answers to one question about two like images; it "
        "searches the split's corpus, and the reference stays in it. **R@K** is the share of queries whose "
        "target is among the first K."
    )
    splits = ("train", "val")
    default_splits = ("val",)
    train_split = "train"
    metrics = recalls(1, 5, 10, 50, 100, of="first")
    headline = ("R@1", "R@5", "R@10")
    stage_1_metric = "R@10"
    ranking_format = "an object from query id (qid) to a list of COCO's image ids"

    def queries(self, evaluation_set: EvaluationSet) -> list[QueryRecord]:
        """All queries of the split, in the official order; ids are checked against the corpus where it is
        there. A ``qid`` that occurs again is ``QID-2``, ``QID-3`` from there on.
        """
        source = corpus_file(evaluation_set)
        images = dict(_corpus(source)) if source.is_file() else None
        seen: Counter[int] = Counter()
        records: list[QueryRecord] = []
        for row in read_rows(queries_file(evaluation_set), "LaSCo's queries of the split"):
            number = row.integer("qid")
            seen[number] += 1
            query_id = str(number) if seen[number] == 1 else f"{number}-{seen[number]}"
            row.where = f"{row.where}, qid {number}"
            reference = row.known("query-image", _image(row, "query-image"), images, source)
            target = row.known("target-image", _image(row, "target-image"), images, source)
            text = row.text("query-text")
            records.append(QueryRecord(query_id, reference, text.strip(), [text], [target]))
        return records

    def gallery(self, evaluation_set: EvaluationSet) -> list[ImageRecord]:
        """The images of the split's corpus."""
        folder = self.image_folder(evaluation_set)
        images = _corpus(corpus_file(evaluation_set))
        return [ImageRecord(image_id, f"{folder}/{path}") for image_id, path in images]

    def image_source(self, evaluation_set: EvaluationSet) -> ImageSource:
        """COCO 2014's images."""
        split = evaluation_set.split
        size = {"train": "13 GB", "val": "6 GB"}[split]
        return ImageSource(
            self.image_folder(evaluation_set),
            f"cocodataset.org, 2014 {split.capitalize()} images ({split}2014.zip, {size}), unpacked there as "
            f"{split}2014",
            160_000,
            "COCO's own figure, 13 GB for the 82,783 of train2014",
        )

    def files(self, evaluation_set: EvaluationSet) -> list[OfficialFile]:
        """Queries and corpus of the split."""
        split = evaluation_set.split
        queries, images = _QUERIES.get(split), _IMAGES.get(split)
        return [
            OfficialFile(queries_file(evaluation_set), "queries", queries, _SOURCE),
            OfficialFile(corpus_file(evaluation_set), "image list", images, _SOURCE),
        ]

    def official_queries(self, split: str) -> int | None:
        """Val's count (see the head of this module); none is published of train alone."""
        return _QUERIES.get(split)

    def official_images(self, split: str, gallery: str) -> dict[str, int] | None:
        """The authors' count for val; none is published of train alone."""
        return {"all": _IMAGES[split]} if split in _IMAGES else None

    def unlisted_gallery(self, evaluation_set: EvaluationSet) -> str | None:
        """That the corpus is absent: rankings can be scored without it."""
        file = corpus_file(evaluation_set)
        if file.is_file():
            return None
        return f"LaSCo's corpus is absent ({file}): image ids are only checked to be positive whole numbers"

    def image_id_fault(self, image_id: str) -> str | None:
        """COCO's ids are positive whole numbers."""
        return None if _COCO_ID.fullmatch(image_id) else _no_coco_id(image_id)

    def read_rankings(self, file: RankingFile) -> RankingLists:
        """One list of COCO's numbers per query, as numbers or as text."""
        return RankingLists({query: _ranked_ids(file, query) for query in file.content})


def _ranked_ids(file: RankingFile, query: str) -> list[str]:
    ids: list[str] = []
    for entry in file.entries(query):
        image_id = str(entry) if type(entry) is int else entry
        if isinstance(image_id, str) and _COCO_ID.fullmatch(image_id):
            ids.append(image_id)
        else:
            file.fault(Kind.NO_ID, _no_coco_id(entry), query)
    return ids


def _no_coco_id(entry: object) -> str:
    return f"an image id must be a positive whole number, not {named(entry)}"


def queries_file(evaluation_set: EvaluationSet) -> Path:
    """The file of a split's queries.

    Args:
        evaluation_set: The set: data set root and split.

    Returns:
        Its path under the root, or under ``downloads`` (as in the authors' repository) where it is there
        only.
    """
    return _file(evaluation_set.root, f"lasco_{evaluation_set.split}.json")


def corpus_file(evaluation_set: EvaluationSet) -> Path:
    """The file that lists a split's images.

    Args:
        evaluation_set: The set: data set root and split.

    Returns:
        Its path, as of :func:`queries_file`.
    """
    return _file(evaluation_set.root, f"lasco_{evaluation_set.split}_corpus.json")


def _file(root: Path, name: str) -> Path:
    file, other = root / name, root / "downloads" / name
    return other if not file.exists() and other.exists() else file


def _image(row: Row, key: str) -> str:
    """The COCO id of a pair of id and path, in decimal."""
    if key not in row.values:
        raise row.error(f"the key {key!r} is missing")
    pair = row.values[key]
    if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) is not int or pair[0] < 1:
        raise row.error(f"{key!r} must be COCO's id and a path, [42, 'val2014/NAME.jpg'], not {shown(pair)}")
    return str(pair[0])


def _corpus(file: Path) -> Iterator[tuple[str, str]]:
    """(image id, path from the image folder) of each image; no id comes twice."""
    content = read_json(file, _CORPUS_PURPOSE)
    if isinstance(content, dict):
        entries = [(f"image {shown(key)}", key, path) for key, path in content.items()]
    elif isinstance(content, list):
        rows = (Row(file, f"row {number} (counting from 0)", entry) for number, entry in enumerate(content))
        entries = [(row.where, str(row.integer("id", least=1)), row.text("path")) for row in rows]
    else:
        raise DatasetError("must be a list of images, or an object from id to path", file=file)
    seen: set[str] = set()
    for where, image_id, path in entries:
        try:
            if not _COCO_ID.fullmatch(image_id):
                raise ValueError(_no_coco_id(image_id))
            if image_id in seen:
                raise ValueError(f"duplicate image id {image_id}")
            seen.add(image_id)
            yield image_id, _image_path(clean_text(path))
        except ValueError as error:
            raise DatasetError(str(error), file=file, row=where) from None


def _image_path(path: str) -> str:
    """``path`` from ``val2014/`` or ``train2014/`` on: the corpus of val has a ``val/`` before it."""
    parts = relative_name(path).split("/")
    start = next((number for number, part in enumerate(parts) if part in _SPLIT_FOLDERS), 0)
    return "/".join(parts[start:])
