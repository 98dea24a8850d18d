"""The sections of ``setr.toml`` about data: storage, data sets, image files, training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from setr_lib.pixel_rules import MAX_PIXELS
from setr_lib.settings.values import Background, Count, LocalPath, Section


class StorageSettings(Section):
    """The folder of everything that SETR makes."""

    root: LocalPath = Path("var")
    """The folder of everything that runs make: tables, vectors, generated texts, MLflow's store, checkpoints
    and reports."""
    removable_share: float = Field(default=0.2, ge=0, le=1)
    """The share of a gallery's stored vectors that a run may remove because their images are gone. Where more
    would go, and 10 at least, the run stops and asks for ``--accept-removals``. 1: it never asks."""


class DatasetSettings(Section):
    """A data set, by a name that you choose: a benchmark in its official layout, or a folder of your own."""

    kind: str
    """What the data set is: ``cirr``, ``fashioniq``, ``circo``, ``genecis``, ``icir``, ``lasco`` (a benchmark
    in its official layout), ``folder`` (pictures of your own), the name of an installed benchmark, or
    ``package.module:NAME`` of one. A section with the name of a kind may leave it out."""
    root: LocalPath
    """The folder of the data set: its annotation files and, where ``image_root`` names no other, its
    images."""
    image_root: LocalPath | None = None
    """The folder of the images, where they are not in the official place under ``root``."""
    train_root: LocalPath | None = None
    """The folder of the train split's files and images, laid out as ``root``, when they are not there;
    ``image_root`` is then for the other splits."""
    splits: list[str] = Field(default_factory=list)
    """Which splits are evaluated; each is an evaluation set, ``NAME-SPLIT``. Left out: ``val``; of a
    benchmark of your own, every split whose targets are known. A split without targets (``test1`` of CIRR)
    may be named: it is ranked for ``setr submit`` and not scored."""
    gallery: str | None = None
    """How the gallery is chosen, by default as the benchmark usually does. Of FashionIQ: ``original``, all
    images of the split (what zero-shot papers report), or ``val``, references and targets only."""
    queries: LocalPath | None = None
    """For ``kind = "folder"``: the file of queries (CSV, TSV, JSON, JSON Lines or Parquet). Left out:
    ``queries.csv`` (``.tsv``, ``.jsonl``, ``.json``, ``.parquet``) under ``root``, where there is one."""
    reference_root: LocalPath | None = None
    """For ``kind = "folder"``: a folder of reference images that are not in the gallery. Queries name them by
    their paths inside it."""
    outside_links: bool = False
    """Whether a link is followed that leads to a folder outside of ``root``, ``image_root`` and
    ``reference_root``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the kind. Of those that come with SETR, ``circo`` has one: ``{ query =
    "with_shared_concept" }``. What the options of a benchmark of your own mean is up to it."""
    image_captions: LocalPath | None = None
    """A file with captions of the gallery's images, which are then searched as text, too. Left out:
    ``image_captions.json`` under ``root``, where there is one."""
    rerank_top_k: Count | None = None
    """How many of stage 1's candidates per query a re-ranker re-orders in this data set. Left out:
    ``[reranking] top_k``."""
    background: Background | None = None
    """The colour behind transparent pixels, as ``#rrggbb``; ``none`` drops transparency and shows the colours
    that it hid. Left out: ``none`` for benchmarks, as their own pipelines do; white for ``folder``."""
    upright: bool | None = None
    """Whether a picture is turned as its EXIF data say. Left out: no for benchmarks, as their own pipelines
    do; yes for ``folder``."""


class ImageSettings(Section):
    """What holds for the image files of all data sets."""

    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=2**33)
    """The largest picture that is read, in pixels (width times height). A larger one counts as broken.
    Decoding takes up to four bytes for each pixel."""


class TrainingSettings(Section):
    """What the re-ranker's Yes/No pairs are made from: captioned images, ready triplets, or the train split
    of a data set.
    """

    captions: LocalPath | None = None
    """A file of captioned images: JSON Lines of ``{"image": "folder/name.png", "caption": "one sentence"}``.
    Not read where ``triplets`` is named. Without ``captions``, ``triplets`` and ``dataset`` no adapter is
    trained."""
    image_root: LocalPath | None = None
    """The folder that image names in ``captions`` or ``triplets`` start from. Left out: that file's own
    folder."""
    triplets: LocalPath | None = None
    """A file of triplets: JSON Lines of ``{"reference": ..., "modification": ..., "target": ...}``, images by
    name as above."""
    dataset: str | None = None
    """A data set of ``[datasets]`` whose train split is trained on (``cirr``, ``fashioniq``, ``lasco``), in
    place of files of your own. What learns from it is labelled *supervised*, not zero-shot."""
    background: Background | None = None
    """The colour behind transparent pixels of your own training images, as ``#rrggbb``, or ``none``. Left
    out: white. A data set's images are read as its own section says."""
    upright: bool | None = None
    """Whether your own training images are turned as their EXIF data say. Left out: yes."""

    @property
    def is_named(self) -> bool:
        """Whether there is anything to train on; the base re-ranker needs nothing."""
        return self.captions is not None or self.triplets is not None or self.dataset is not None

    @model_validator(mode="after")
    def _files_or_a_data_set(self) -> TrainingSettings:
        keys = ("captions", "triplets", "image_root", "background", "upright")
        files = [key for key in keys if self.dataset and getattr(self, key) is not None]
        if files:
            raise ValueError(
                f"dataset = {self.dataset!r} is a data set's train split, and {' and '.join(files)} "
                "would be files of your own: keep one of the two"
            )
        return self
