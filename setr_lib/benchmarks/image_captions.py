"""Captions of a gallery's images, made by anyone: a JSON list of ``{"candidate": image, "captions": [text,
...]}``.

The layout is that of the caption files that go with CIRR (three captions an image; a few images have many
more, of which the first three count). Images of other splits are passed over. That a data set has captions
changes nothing of its protocol: they are one more thing to search, never a query input.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from setr_lib.benchmarks.annotations import Row, Unique, read_rows, shown
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.loading import read_gallery
from setr_lib.benchmarks.near_ids import meant
from setr_lib.benchmarks.sets import EvaluationSet
from setr_lib.paths import kind_of

CAPTIONS_FILE = "image_captions.json"
"""Captions of gallery images, under a data set's root: a list of ``{"candidate": image id, "captions": [text,
...]}``."""
CAPTIONS_USED = 3
"""Of each image, in the file's order."""

_PURPOSE = "captions of the gallery's images"
_SCHEMA = pl.Schema({"image_id": pl.String(), "captions": pl.List(pl.String())})


def captions_file(evaluation_set: EvaluationSet) -> Path | None:
    """The file of captions of a gallery's images.

    Args:
        evaluation_set: The set: its ``image_captions``, else its root.

    Returns:
        The path that settings name, or that of a file that exists; else None.
    """
    if evaluation_set.image_captions is not None:
        return evaluation_set.image_captions
    usual = evaluation_set.root / CAPTIONS_FILE
    return usual if kind_of(usual) == "file" else None


def _captions(row: Row) -> list[str]:
    texts = [" ".join(text.split()) for text in row.texts("captions", blank=True)]
    return [text for text in texts if text][:CAPTIONS_USED]


def read_image_captions(evaluation_set: EvaluationSet) -> pl.DataFrame | None:
    """The captions of a gallery's images, from the data set's caption file.

    Args:
        evaluation_set: The set that searches the gallery.

    Returns:
        ``image_id`` and ``captions`` (at most three) of the images that have any, in the gallery's order;
        None without a file.

    Raises:
        DatasetError: The file is malformed, names an image twice, or knows none of the images.
    """
    file = captions_file(evaluation_set)
    if file is None:
        return None
    names, found = Unique("image"), {}
    for row in read_rows(file, _PURPOSE):
        found[names.claim(row, row.text("candidate"))] = _captions(row)
    images = read_gallery(evaluation_set)["image_id"].to_list()
    rows = [(image, found[image]) for image in images if found.get(image)]
    folder = evaluation_set.benchmark.image_folder(evaluation_set)
    if images and not rows:
        raise DatasetError(
            (
                f"has a caption of none of the {len(images):,} images of {evaluation_set.key}: is it another "
                f"data set's? It names e.g. {shown(next(iter(found), ''))}"
                f"{meant(next(iter(found), ''), images, folder)}"
            ),
            file=file,
        )
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")
