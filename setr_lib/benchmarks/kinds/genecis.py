"""GeneCIS: ``genecis/TASK.json`` for each of four tasks, over images of COCO and of Visual Genome.

A row (*template*) holds ``reference``, ``target``, ``gallery`` (the distractors, without the target) and
``condition``, the text. A query is ranked in its own candidates only: the target and the distractors. Images
of the object tasks are COCO's (``val_image_id``), whole; those of the attribute tasks are crops of Visual
Genome's (``image_id``, a number or its digits as text, as in VAW's annotations; ``instance_bbox``: left, top,
width, height), which ``setr crop`` writes to files.

The official code puts the target at index 0 and sorts the similarities; which of two equal ones comes first
is left to the sort. Here a target is ranked behind all candidates of its score.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from setr_lib.benchmarks.annotations import Row, read_rows
from setr_lib.benchmarks.benchmark import COCO, Benchmark, ImageSource, OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.metrics import recalls
from setr_lib.benchmarks.ranking_lists import Kind, RankingFile, RankingLists, named
from setr_lib.benchmarks.records import ImageRecord, QueryRecord
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from setr_lib.benchmarks.sets import EvaluationSet

_QUERIES = {"focus_attribute": 2000, "change_attribute": 2112, "focus_object": 1960, "change_object": 1960}
_CANDIDATES = {"focus_attribute": 10, "change_attribute": 15, "focus_object": 15, "change_object": 15}
"""How many images each query ranks, the target included."""
_DIGITS = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_SOURCE = "github.com/facebookresearch/genecis, folder genecis (CC BY-NC 4.0)"
_COCO = "cocodataset.org, 2017 Val images (val2017.zip, 1 GB)"
_VISUAL_GENOME = "Visual Genome 1.2 (visualgenome.org)"
_VISUAL_GENOME_FOLDERS = ("VG_100K", "VG_100K_2", "VG_All")
DILATION = 0.7
"""By how much of its width and height a box is enlarged before it is cut out."""
_NOISE = 0.002
"""The share of queries that the authors call noise: 0.2 points."""
_IN_FILE_ORDER = 0.1
"""The share of lists in the file's own order from which on they cannot be a system's."""


class GeneCIS(Benchmark):
    """General Conditional Image Similarity (Vaze et al., CVPR 2023)."""

    kind = "genecis"
    title = "GeneCIS"
    protocol = (
        "A query is a reference image and a condition: the attribute or object that the wanted image has in "
        "common with the reference (focus), or has where the reference has another (change). Every query "
        "searches its own small gallery, the target and 9 or 14 distractors. **R@K** is the share of queries "
        "whose target is among the first K; a target is ranked behind all candidates of the same score. The "
        "published average is the mean of the four tasks' R@1."
    )
    splits = tuple(_QUERIES)
    gallery_per_query = True
    ties_count_against = True
    metrics = recalls(1, 2, 3, of="first")
    averaged = "R@1"
    ranking_format = "an object from query id (the row's number from 0) to a list of image ids"

    def queries(self, evaluation_set: EvaluationSet) -> list[QueryRecord]:
        """All queries of the task, in the official order; an id is the row's number from 0."""
        return [
            QueryRecord(
                query_id=template.query_id,
                reference_id=template.reference.image_id,
                modification=template.condition.strip(),
                captions=[template.condition],
                target_ids=[template.target.image_id],
                gallery=template.query_id,
            )
            for template in _templates(evaluation_set)
        ]

    def gallery(self, evaluation_set: EvaluationSet) -> list[ImageRecord]:
        """All images of the task, each in the galleries of the queries that have it as a candidate; and in
        ``all``, with the references, which no query ranks and ``setr search`` does.
        """
        folder = self.image_folder(evaluation_set)
        records: dict[str, ImageRecord] = {}
        for template in _templates(evaluation_set):
            for image in template.images:
                path = f"{folder}/{image.file_name}"
                records.setdefault(image.image_id, ImageRecord(image.image_id, path))
            for image_id in template.candidate_ids:
                records[image_id].galleries.append(template.query_id)
        return list(records.values())

    def image_folder(self, evaluation_set: EvaluationSet) -> Path:
        """``val2017`` of the object tasks, ``crops`` of the attribute tasks; below the root, or below
        ``image_root``."""
        return _images_root(evaluation_set) / ("crops" if _of_attributes(evaluation_set) else "val2017")

    def image_namespace(self, evaluation_set: EvaluationSet) -> str:
        """COCO's numbers in the object tasks; crops of Visual Genome's images are GeneCIS's own."""
        return self.kind if _of_attributes(evaluation_set) else COCO

    def image_source(self, evaluation_set: EvaluationSet) -> ImageSource:
        """COCO's images, or the crops of Visual Genome's."""
        folder = self.image_folder(evaluation_set)
        if not _of_attributes(evaluation_set):
            return ImageSource(folder, _COCO, 163_000, "a rough guess")
        words = (
            f"`setr crop {evaluation_set.dataset}`, which cuts them from the images of {_VISUAL_GENOME}, "
            f"looked for in {_images_root(evaluation_set)}: {', '.join(_VISUAL_GENOME_FOLDERS)}"
        )
        return ImageSource(folder, words, 100_000, "a rough guess")

    def cut_images(self, evaluation_set: EvaluationSet, progress: Progress = silent) -> int:
        """Write the crops of an attribute task as PNG files; nothing for an object task."""
        if not _of_attributes(evaluation_set):
            return 0
        folder = self.image_folder(evaluation_set)
        templates = _templates(evaluation_set)
        images = list(dict.fromkeys(image for template in templates for image in template.images))
        made, faults = 0, list[str]()
        for done, image in enumerate(images, start=1):
            if not (folder / image.file_name).is_file():
                try:
                    _write_crop(image, _images_root(evaluation_set), folder / image.file_name)
                    made += 1
                except (OSError, ValueError) as error:
                    faults.append(str(error))
            progress(done, len(images), "crops looked at")
        if faults:
            raise DatasetError(
                f"{evaluation_set.key}: {made:,} crops were written, {len(faults):,} of {len(images):,} "
                f"could not be, the first: {faults[0]}; the images come from {_VISUAL_GENOME}"
            )
        return made

    def files(self, evaluation_set: EvaluationSet) -> list[OfficialFile]:
        """The templates of the task."""
        entries = _QUERIES[evaluation_set.split]
        return [OfficialFile(templates_file(evaluation_set), "queries", entries, _SOURCE)]

    def official_queries(self, split: str) -> int:
        """Counts of the official files."""
        return _QUERIES[split]

    def caveats(self, evaluation_set: EvaluationSet) -> list[str]:
        """That queries have other numbers of candidates than the official ones; a few may be named twice."""
        try:
            templates = _templates(evaluation_set)
        except DatasetError:
            return []
        official = _CANDIDATES[evaluation_set.split]
        other = sum(len(template.candidate_ids) != official for template in templates)
        named = all(1 + len(template.distractors) == official for template in templates)
        if not other or (named and other <= _NOISE * len(templates)):
            return []
        return [f"{other:,} queries with other than {official} different candidates"]

    def read_rankings(self, file: RankingFile) -> RankingLists:
        """One list of ids per query; COCO's numbers as numbers or as text."""
        return RankingLists({query: _ranked_ids(file, query) for query in file.content})

    def query_notes(self, evaluation_set: EvaluationSet) -> list[str]:
        """That queries have their own reference as target, which whoever ranks by the image alone finds; or
        name a candidate more than once, which is ranked once here.
        """
        templates, key = _templates(evaluation_set), evaluation_set.key
        own = [each.query_id for each in templates if each.target == each.reference]
        twice = [each.query_id for each in templates if len(each.candidate_ids) <= len(each.distractors)]
        told = (
            (own, "have their own reference as target"),
            (twice, "name a candidate more than once, which is ranked once"),
        )
        return [f"{len(ids):,} queries of {key} {what}, first {ids[0]}" for ids, what in told if ids]

    def ranking_notes(
        self, evaluation_set: EvaluationSet, queries: pl.DataFrame, rankings: pl.DataFrame
    ) -> list[str]:
        """Lists in the order of the file, which has the target first: equal scores, sorted by position."""
        import polars as pl

        in_file = {template.query_id: list(template.candidate_ids) for template in _templates(evaluation_set)}
        lists = rankings.sort("rank").group_by("query_id").agg(pl.col("image_id"))
        answers = [(in_file[query], images) for query, images in lists.iter_rows() if len(images) > 1]
        same = sum(candidates[: len(images)] == images for candidates, images in answers)
        if not same or same < _IN_FILE_ORDER * len(answers):
            return []
        return [
            f"{same:,} of {len(answers):,} lists name the candidates in the order of the file, target first: "
            "such lists come of equal scores that were sorted by position, and say nothing of a system"
        ]


def _ranked_ids(file: RankingFile, query: str) -> list[str]:
    ids: list[str] = []
    for entry in file.entries(query):
        if isinstance(entry, str) or type(entry) is int:
            ids.append(str(entry))
        else:
            file.fault(Kind.NO_ID, f"an image id must be a number or text, not {named(entry)}", query)
    return ids


class _Picture(NamedTuple):
    """An image of a template: the whole of ``number``, or the part in ``box``."""

    number: int
    box: tuple[float, ...] | None = None
    """Left, top, width, height in pixels."""

    @property
    def image_id(self) -> str:
        """COCO's number; of a crop ``IMAGE_LEFT_TOP_WIDTH_HEIGHT``."""
        box = () if self.box is None else (f"{int(side) if side == int(side) else side}" for side in self.box)
        return "_".join([str(self.number), *box])

    @property
    def file_name(self) -> str:
        """COCO's, or that of the crop."""
        return f"{self.number:012d}.jpg" if self.box is None else f"{self.image_id}.png"


@dataclass(frozen=True)
class _Template:
    query_id: str
    condition: str
    reference: _Picture
    target: _Picture
    distractors: list[_Picture]

    @property
    def images(self) -> Iterator[_Picture]:
        """The reference, the target, the distractors."""
        yield from (self.reference, self.target, *self.distractors)

    @property
    def candidate_ids(self) -> dict[str, None]:
        """Ids of the target and the distractors in the file's order, each once."""
        return dict.fromkeys(image.image_id for image in (self.target, *self.distractors))


def templates_file(evaluation_set: EvaluationSet) -> Path:
    """The file of a task's templates.

    Args:
        evaluation_set: The set: data set root, and the task as its split.

    Returns:
        Its path; whether it exists is not checked.
    """
    return evaluation_set.root / "genecis" / f"{evaluation_set.split}.json"


def crop(image: Image.Image, box: tuple[float, ...]) -> Image.Image:
    """The picture of an instance as the official code makes it: the box, dilated, on a black square.

    The dilation is 0.7 of width and height, all of it to the left and to the top: the right edge is counted
    from the moved left one, so it stays where it was, unless the left one was stopped at the image's.

    Args:
        image: The whole image.
        box: Left, top, width, height in pixels.

    Returns:
        A square RGB image.

    Raises:
        ValueError: No pixel is in the box.
    """
    from PIL import Image

    left, top, width, height = box
    x0, y0 = max(0.0, left - DILATION * width), max(0.0, top - DILATION * height)
    x1 = min(float(image.width), x0 + (1 + DILATION) * width)
    y1 = min(float(image.height), y0 + (1 + DILATION) * height)
    if round(x1) <= round(x0) or round(y1) <= round(y0):
        raise ValueError(f"no pixel of it is in the box {box}")
    part = image.convert("RGB").crop((round(x0), round(y0), round(x1), round(y1)))
    side = max(part.size)
    square = Image.new("RGB", (side, side))
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square


def _write_crop(picture: _Picture, root: Path, path: Path) -> None:
    """Cut ``picture`` out of its image in one of Visual Genome's folders below ``root``, and save it."""
    from setr_lib.files import replacing
    from setr_lib.pixels import UnreadableImageError, read_image

    name = f"{picture.number}.jpg"
    source = next(
        (file for folder in _VISUAL_GENOME_FOLDERS if (file := root / folder / name).is_file()), None
    )
    if source is None or picture.box is None:
        raise FileNotFoundError(f"{root}: no {name} in {', '.join(_VISUAL_GENOME_FOLDERS)}")
    try:
        part = crop(read_image(source), picture.box)
    except UnreadableImageError as error:
        raise ValueError(str(error)) from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    with replacing(path) as temporary:
        part.save(temporary, format="PNG")


def _images_root(evaluation_set: EvaluationSet) -> Path:
    return evaluation_set.image_root or evaluation_set.root


def _of_attributes(evaluation_set: EvaluationSet) -> bool:
    return evaluation_set.split.endswith("attribute")


def _templates(evaluation_set: EvaluationSet) -> list[_Template]:
    cropped = _of_attributes(evaluation_set)
    rows = read_rows(templates_file(evaluation_set), "GeneCIS's queries of the task")
    return [_template(row, str(number), cropped) for number, row in enumerate(rows)]


def _template(row: Row, query_id: str, cropped: bool) -> _Template:
    reference = _picture(row.row("reference"), cropped)
    target = _picture(row.row("target"), cropped)
    distractors = [_picture(entry, cropped) for entry in row.rows("gallery")]
    if not distractors:
        raise row.error("'gallery' is empty: it must hold the distractors")
    return _Template(query_id, row.text("condition"), reference, target, distractors)


def _picture(row: Row, cropped: bool) -> _Picture:
    if not cropped:
        return _Picture(row.integer("val_image_id", least=1))
    box = tuple(row.numbers("instance_bbox", length=4))
    if min(box[2:]) <= 0:
        raise row.error(f"'instance_bbox' has the width and height {box[2:]}: both must be above 0")
    if isinstance(text := row.values.get("image_id"), str):
        if not _DIGITS.fullmatch(text):
            raise row.error(f"'image_id' must be a number of Visual Genome's, not {text[:80]!r}")
        return _Picture(int(text), box)
    return _Picture(row.integer("image_id", least=1), box)
