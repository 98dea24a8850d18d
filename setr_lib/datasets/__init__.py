"""Any benchmark's data, read into the same two tables (queries and gallery), and the training files.

What belongs here: the tables that stages ask for, and the opening of images. How a benchmark's files are read
is its class's, in ``setr_lib.benchmarks``. Nothing here needs a model. Polars and Pillow are imported inside
the functions, so that listing the evaluation sets costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setr_lib.benchmarks import (
    DatasetError,
    EvaluationSet,
    evaluation_set,
    evaluation_sets,
    named_sets,
    set_of_split,
    training_pixels,
)
from setr_lib.pixel_rules import OFFICIAL, PixelRules
from setr_lib.progress import Progress, silent
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.datasets.train_splits import TrainSplit

__all__ = [
    "DatasetError",
    "EvaluationSet",
    "coverage",
    "evaluation_set",
    "evaluation_sets",
    "inspect_gallery",
    "inspect_training_images",
    "load_gallery",
    "load_image_captions",
    "load_queries",
    "load_training_images",
    "load_training_triplets",
    "named_sets",
    "set_of_split",
    "split_triplets",
    "take_queries",
    "train_split",
    "training_pixels",
]


def load_queries(settings: Settings, key: str) -> pl.DataFrame:
    """The queries of an evaluation set. Annotation files only: no image is opened.

    CIRCO's ids are checked against COCO's image list where that is present.

    Args:
        settings: The settings.
        key: The evaluation set, e.g. ``cirr-val``.

    Returns:
        A ``tables.QUERIES`` frame in the official files' order.

    Raises:
        DatasetError: A file is missing or wrong; it names file, row and reason.
    """
    from setr_lib.benchmarks.loading import read_queries

    return read_queries(evaluation_set(settings, key))


def load_gallery(settings: Settings, key: str) -> pl.DataFrame:
    """The gallery of an evaluation set. No image is opened; image folders may be listed.

    Args:
        settings: The settings.
        key: The evaluation set, e.g. ``cirr-val``.

    Returns:
        One row per image: ``image_id``, ``path`` (absolute) and ``galleries``.

    Raises:
        DatasetError: A file is missing or wrong (CIRCO: also COCO's image list); it names file, row and
            reason.
    """
    from setr_lib.benchmarks.loading import read_gallery

    return read_gallery(evaluation_set(settings, key))


def load_image_captions(settings: Settings, key: str) -> pl.DataFrame | None:
    """The captions of a gallery's images that come with the data set.

    Args:
        settings: The settings.
        key: The evaluation set, e.g. ``cirr-val``.

    Returns:
        ``image_id`` and ``captions`` (at most three) of the images that have any; None without a file.

    Raises:
        DatasetError: The file is wrong; it names file, row and reason.
    """
    from setr_lib.benchmarks.image_captions import read_image_captions

    return read_image_captions(evaluation_set(settings, key))


def inspect_gallery(
    gallery: pl.DataFrame, progress: Progress = silent, rules: PixelRules = OFFICIAL
) -> pl.DataFrame:
    """Open every image of a gallery; never raises because of an image.

    Args:
        gallery: A :func:`load_gallery` frame.
        progress: Told how many images are opened.
        rules: How the images become RGB: ``EvaluationSet.pixels``.

    Returns:
        A ``tables.GALLERY`` frame in the same order; ``status`` is ``ok``, ``missing`` or ``broken``, and
        ``detail`` says why.
    """
    from setr_lib.datasets.images import inspect_images
    from setr_lib.tables import GALLERY, conform

    return conform(inspect_images(gallery, progress, rules), GALLERY, "gallery images")


def load_training_images(settings: Settings) -> pl.DataFrame:
    """The training images and their captions; with ``[training] triplets`` or ``dataset``, the images that
    these name.

    Args:
        settings: The settings.

    Returns:
        ``image_id`` (the name in the file), ``path`` (absolute) and ``caption`` (empty for triplets).

    Raises:
        DatasetError: A file is missing or wrong, or settings name none; it names file, line and reason.
    """
    from setr_lib.datasets.training import read_training_images

    return read_training_images(settings)


def inspect_training_images(
    images: pl.DataFrame, progress: Progress = silent, rules: PixelRules = OFFICIAL
) -> pl.DataFrame:
    """Open every training image; never raises because of an image.

    Args:
        images: A :func:`load_training_images` frame.
        progress: Told how many images are opened.
        rules: How the images become RGB: :func:`training_pixels`.

    Returns:
        A ``tables.TRAINING_IMAGES`` frame in the same order.
    """
    from setr_lib.datasets.images import inspect_images
    from setr_lib.tables import TRAINING_IMAGES, conform

    return conform(inspect_images(images, progress, rules), TRAINING_IMAGES, "training images")


def load_training_triplets(settings: Settings) -> pl.DataFrame | None:
    """The triplets of ``[training] triplets``, or of the train split of ``[training] dataset``.

    Args:
        settings: The settings.

    Returns:
        ``reference_id``, ``modification``, ``target_id`` with the ids of :func:`load_training_images`; None
        where settings name no triplets.

    Raises:
        DatasetError: A file is missing or wrong; it names file, line and reason.
    """
    from setr_lib.datasets.training import read_training_triplets

    return read_training_triplets(settings)


def train_split(settings: Settings, dataset: str) -> TrainSplit:
    """The train split of a data set, from its official files; no image is opened.

    Args:
        settings: The settings.
        dataset: The data set's name, e.g. ``cirr``.

    Returns:
        Its triplets, and the paths of their images.

    Raises:
        DatasetError: The data set is not in the settings, its benchmark has no train split, or a file of it
            is missing (the message says where it comes from) or wrong (it names row and reason).
    """
    from setr_lib.datasets import train_splits

    return train_splits.train_split(settings, dataset)


def split_triplets(triplets: pl.DataFrame, held_out_share: float, seed: int) -> pl.Series:
    """Which triplets are trained on and which are held out, so that these share no image.

    Args:
        triplets: ``reference_id`` and ``target_id``.
        held_out_share: Share of the images to hold out, between 0 and 1.
        seed: Of the choice.

    Returns:
        ``train``, ``held_out``, or ``dropped`` where a triplet has an image on either side, in the order of
        ``triplets``.
    """
    from setr_lib.datasets import held_out

    return held_out.split_triplets(triplets, held_out_share, seed)


def take_queries(queries: pl.DataFrame, limit: int | None) -> pl.DataFrame:
    """The first queries of a table; galleries (FashionIQ's categories) share the number evenly.

    Args:
        queries: A ``tables.QUERIES`` frame.
        limit: How many to take; None for all.

    Returns:
        Their rows, in the order of ``queries``.
    """
    if limit is None or limit >= queries.height:
        return queries
    import polars as pl

    turns = pl.int_range(pl.len()).over("gallery")
    return (
        queries.with_row_index("_row")
        .with_columns(turns.alias("_turn"))
        .sort("_turn", "_row")
        .head(limit)
        .sort("_row")
        .drop("_row", "_turn")
    )


def coverage(gallery: pl.DataFrame) -> float:
    """Share of a gallery's images that are present and readable.

    Args:
        gallery: A ``tables.GALLERY`` frame.

    Returns:
        0 to 1; 0 for an empty gallery.
    """
    return gallery.filter(status="ok").height / gallery.height if gallery.height else 0.0
