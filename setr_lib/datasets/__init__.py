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
)
from setr_lib.progress import Progress, silent
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

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
    "take_queries",
]


def load_queries(settings: Settings, key: str) -> pl.DataFrame:
    """The queries of evaluation set ``key``, in the official files' order: a ``tables.QUERIES`` frame.

    Annotation files only: no image is touched. CIRCO's ids are checked against COCO's image list where that
    is present. Raises ``DatasetError`` naming file, row and reason.
    """
    from setr_lib.benchmarks.loading import read_queries

    return read_queries(evaluation_set(settings, key))


def load_gallery(settings: Settings, key: str) -> pl.DataFrame:
    """The gallery of ``key``: one row per image with ``image_id``, ``path`` (absolute) and ``galleries``.

    From the annotation files; no image is opened (a folder's, and FashionIQ's image folder, are listed).
    Raises ``DatasetError`` naming file, row and reason, also where CIRCO's image list is missing.
    """
    from setr_lib.benchmarks.loading import read_gallery

    return read_gallery(evaluation_set(settings, key))


def load_image_captions(settings: Settings, key: str) -> pl.DataFrame | None:
    """The captions of the gallery of ``key``, at most three an image: ``image_id``, ``captions``; None
    without a file.

    Images without a caption have no row. Raises ``DatasetError`` naming file, row and reason.
    """
    from setr_lib.benchmarks.image_captions import read_image_captions

    return read_image_captions(evaluation_set(settings, key))


def inspect_gallery(gallery: pl.DataFrame, progress: Progress = silent) -> pl.DataFrame:
    """Open every image of a :func:`load_gallery` frame: a ``tables.GALLERY`` frame in the same order.

    ``status`` is ``ok``, ``missing`` or ``broken`` (``detail`` says why); never raises because of an image.
    """
    from setr_lib.datasets.images import inspect_images
    from setr_lib.tables import GALLERY, conform

    return conform(inspect_images(gallery, progress), GALLERY, "gallery images")


def load_training_images(settings: Settings) -> pl.DataFrame:
    """The captioned training images: ``image_id`` (the name in the file), ``path`` (absolute), ``caption``.

    With ``[training] triplets`` set, the images that the triplets name, with empty captions. Raises
    ``DatasetError`` naming file, line and reason.
    """
    from setr_lib.datasets.training import read_training_images

    return read_training_images(settings)


def inspect_training_images(images: pl.DataFrame, progress: Progress = silent) -> pl.DataFrame:
    """:func:`inspect_gallery` for a :func:`load_training_images` frame: a ``tables.TRAINING_IMAGES`` frame."""
    from setr_lib.datasets.images import inspect_images
    from setr_lib.tables import TRAINING_IMAGES, conform

    return conform(inspect_images(images, progress), TRAINING_IMAGES, "training images")


def load_training_triplets(settings: Settings) -> pl.DataFrame | None:
    """``[training] triplets`` as ``reference_id``, ``modification``, ``target_id``; ``None`` where none is
    set.

    Ids are those of :func:`load_training_images`. Raises ``DatasetError`` naming file, line and reason.
    """
    from setr_lib.datasets.training import read_training_triplets

    return read_training_triplets(settings)


def take_queries(queries: pl.DataFrame, limit: int | None) -> pl.DataFrame:
    """The first ``limit`` queries (all for ``None``) in their order; FashionIQ's categories share the number
    evenly.
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
    """Share (0 to 1) of a ``tables.GALLERY`` frame's images that are present and readable; 0 for an empty
    one.
    """
    return gallery.filter(status="ok").height / gallery.height if gallery.height else 0.0
