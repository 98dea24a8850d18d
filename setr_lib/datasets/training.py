"""What the re-ranker's pairs are made from: a captioned image set, or a file of ready triplets (JSON Lines
both).
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from setr_lib.benchmarks.annotations import Row, Unique, read_json_lines
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.settings import Settings

_IMAGES = pl.Schema({"image_id": pl.String(), "path": pl.String(), "caption": pl.String()})
_TRIPLETS = pl.Schema({"reference_id": pl.String(), "modification": pl.String(), "target_id": pl.String()})


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
    """The triplets of ``[training] triplets``.

    Args:
        settings: The settings.

    Returns:
        ``reference_id``, ``modification``, ``target_id`` in the file's order; None where settings name no
        file.

    Raises:
        DatasetError: The file is missing or wrong; it names file, line and reason.
    """
    if settings.training.triplets is None:
        return None
    file = settings.resolve(settings.training.triplets)
    rows = [_triplet(row) for row in read_json_lines(file, "the training triplets")]
    return pl.DataFrame(rows, schema=_TRIPLETS, orient="row")


def read_training_images(settings: Settings) -> pl.DataFrame:
    """Each training image once; triplets, where set, take the place of captions.

    Args:
        settings: The settings.

    Returns:
        ``image_id``, ``path`` (absolute) and ``caption`` (empty for triplets).

    Raises:
        DatasetError: A file is missing or wrong, or settings name neither captions nor triplets.
    """
    triplets = read_training_triplets(settings)
    if triplets is not None and settings.training.triplets is not None:
        file = settings.resolve(settings.training.triplets)
        named = zip(triplets["reference_id"], triplets["target_id"], strict=True)
        images = [(name, "") for name in dict.fromkeys(name for pair in named for name in pair)]
    elif settings.training.captions is not None:
        file = settings.resolve(settings.training.captions)
        images = _captioned_images(file)
    else:
        raise DatasetError("[training] names neither 'captions' nor 'triplets': there is nothing to train on")
    folder = _image_folder(settings, file)
    rows = [(name, f"{folder}/{name}", caption) for name, caption in images]
    return pl.DataFrame(rows, schema=_IMAGES, orient="row")
