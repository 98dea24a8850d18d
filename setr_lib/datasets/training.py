"""What the re-ranker's pairs are made from: a captioned image set or a file of ready triplets (JSON Lines
both), or the train split of a data set.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from setr_lib.benchmarks.annotations import Row, Unique, read_json_lines
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.near_ids import meant
from setr_lib.benchmarks.records import image_names
from setr_lib.benchmarks.sets import train_set
from setr_lib.datasets.train_splits import IMAGES, split_source, train_split
from setr_lib.settings import Settings
from setr_lib.tables import TRIPLETS

TRIPLET_FILE = "triplets"
"""What tables of training material call a triplet file."""


def _image_folder(settings: Settings, file: Path) -> Path:
    folder = settings.training.image_root
    return file.parent if folder is None else settings.resolve(folder)


def _captioned(row: Row, names: Unique) -> tuple[str, str]:
    return names.claim(row, row.name("image")), row.text("caption").strip()


def _captioned_images(file: Path) -> list[tuple[str, str]]:
    names = Unique("image")
    return [_captioned(row, names) for row in read_json_lines(file, "the captioned training images")]


def _triplet(row: Row) -> tuple[str, str, str]:
    reference, target = row.name("reference"), row.name("target")
    if reference == target:
        raise row.error("'target' is the reference itself")
    return reference, row.text("modification").strip(), target


def read_training_triplets(settings: Settings) -> pl.DataFrame | None:
    """The triplets of ``[training] triplets``, or of the train split of ``[training] dataset``.

    Args:
        settings: The settings.

    Returns:
        ``reference_id``, ``modification``, ``target_id`` in the file's order; None where settings name
        neither.

    Raises:
        DatasetError: A file is missing or wrong; it names file, line and reason. Or the data set has no train
            split.
    """
    if settings.training.dataset is not None:
        return train_split(settings, settings.training.dataset).triplets
    if settings.training.triplets is None:
        return None
    file = settings.resolve(settings.training.triplets)
    rows = [_triplet(row) for row in read_json_lines(file, "the training triplets")]
    return pl.DataFrame(rows, schema=TRIPLETS, orient="row")


def triplet_source(settings: Settings) -> str:
    """What the triplets of :func:`read_training_triplets` are called in tables made of them.

    Args:
        settings: The settings.

    Returns:
        ``triplets`` of a file; of a data set e.g. ``cirr train``.

    Raises:
        DatasetError: The data set is not in the settings, or has no train split.
    """
    if settings.training.dataset is None:
        return TRIPLET_FILE
    train = train_set(settings, settings.training.dataset)
    return split_source(train.kind, train.split)


def missing_image_hint(settings: Settings, image_id: str) -> str:
    """Which image of the training images' folder is meant by a name that no file has.

    Args:
        settings: The settings.
        image_id: The name, as the captions or triplets have it.

    Returns:
        The end of a sentence; empty where nothing in the folder is like it, or the images are a data set's.
    """
    training = settings.training
    named = training.triplets or training.captions
    if training.dataset is not None or named is None:
        return ""
    folder = _image_folder(settings, settings.resolve(named))
    try:
        return meant(image_id, image_names(folder, "training"), folder)
    except DatasetError:  # no such folder
        return f"; there is no folder {folder}"


def read_training_images(settings: Settings) -> pl.DataFrame:
    """Each training image once; triplets or a data set, where set, take the place of captions.

    Args:
        settings: The settings.

    Returns:
        ``image_id``, ``path`` (absolute) and ``caption`` (empty for triplets).

    Raises:
        DatasetError: A file is missing or wrong, or settings name nothing to train on.
    """
    if settings.training.dataset is not None:
        return train_split(settings, settings.training.dataset).image_frame
    triplets = read_training_triplets(settings)
    if triplets is not None and settings.training.triplets is not None:
        file = settings.resolve(settings.training.triplets)
        named = zip(triplets["reference_id"], triplets["target_id"], strict=True)
        images = [(name, "") for name in dict.fromkeys(name for pair in named for name in pair)]
    elif settings.training.captions is not None:
        file = settings.resolve(settings.training.captions)
        images = _captioned_images(file)
    else:
        raise DatasetError(
            "[training] names neither 'captions' nor 'triplets' nor a 'dataset': there is nothing to train on"
        )
    folder = _image_folder(settings, file)
    rows = [(name, f"{folder}/{name}", caption) for name, caption in images]
    return pl.DataFrame(rows, schema=IMAGES, orient="row")
