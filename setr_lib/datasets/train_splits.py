"""The train split of a benchmark, from its official files, as training triplets and image files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.loading import read_gallery, read_train_triplets
from setr_lib.benchmarks.near_ids import meant
from setr_lib.benchmarks.roots import root_hint
from setr_lib.benchmarks.sets import EvaluationSet, train_set
from setr_lib.settings import Settings

IMAGES = pl.Schema({"image_id": pl.String(), "path": pl.String(), "caption": pl.String()})
"""Training images before anyone has opened them."""


@dataclass(frozen=True)
class TrainSplit:
    """The triplets of a data set's train split, and where their images are.

    Attributes:
        dataset: The data set's name in the settings.
        kind: The benchmark's word in settings (``cirr``): the namespace of the image ids, which say nothing
            about images of another benchmark.
        split: The split's name, e.g. ``train``.
        triplets: ``reference_id``, ``modification``, ``target_id`` (``tables.TRIPLETS``), in the official
            order.
        images: Image id -> absolute path, of the images that triplets name, in the order in which they do.
            Whether the files are there is not checked.
    """

    dataset: str
    kind: str
    split: str
    triplets: pl.DataFrame
    images: Mapping[str, str]

    @property
    def source(self) -> str:
        """What tables of training material call it, ``cirr train``: neither captions nor a triplet file."""
        return split_source(self.kind, self.split)

    @property
    def image_frame(self) -> pl.DataFrame:
        """``image_id``, ``path`` and an empty ``caption`` of each image, for ``inspect_training_images``."""
        rows = [(image, path, "") for image, path in self.images.items()]
        return pl.DataFrame(rows, schema=IMAGES, orient="row")


def split_source(kind: str, split: str) -> str:
    """What tables of training material call a train split.

    Args:
        kind: The benchmark's word in settings.
        split: The split's name.

    Returns:
        E.g. ``cirr train``.
    """
    return f"{kind} {split}"


def train_split(settings: Settings, dataset: str) -> TrainSplit:
    """Read the train split of a data set; no image is opened.

    Args:
        settings: The settings.
        dataset: The data set's name, e.g. ``cirr``.

    Returns:
        Its triplets, and the paths of their images.

    Raises:
        DatasetError: The data set is not in the settings, its benchmark has no train split, or a file of it
            is missing (the message says where it comes from) or wrong (it names row and reason).
    """
    train = train_set(settings, dataset)
    _require_files(train)
    triplets = read_train_triplets(train)
    if triplets.is_empty():
        raise DatasetError(f"{train.key}: the train split of {train.benchmark.name} has no triplets")
    paths = dict(read_gallery(train).select("image_id", "path").iter_rows())
    images: dict[str, str] = {}
    for pair in triplets.select("reference_id", "target_id").iter_rows():
        for image in pair:
            if image not in paths:
                raise DatasetError(
                    f"{train.key}: a triplet names the image {image!r}, which is not among the "
                    f"{len(paths):,} images of the train split{meant(image, paths)}"
                )
            images[image] = paths[image]
    return TrainSplit(dataset, train.kind, train.split, triplets, images)


def _require_files(train: EvaluationSet) -> None:
    """Refuse a train split whose annotation files are absent, with where they come from."""
    for file in train.benchmark.files(train):
        if not file.path.exists():
            raise DatasetError(
                f"there is no such file ({file.what} of {train.benchmark.name}'s train split): it comes from "
                f"{file.source}{root_hint(train)}",
                file=file.path,
            )
