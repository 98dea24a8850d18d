"""What a version of a trained system was trained on: its images and triplets, kept in its bundle.

An evaluation compares them with what it ranks (``setr_lib.evaluation.overlap``), and rows are labelled by
what is found (``setr_lib.evaluation.labels``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from setr_lib.damage import damaged, told
from setr_lib.errors import SetrError
from setr_lib.faults import json_fault
from setr_lib.files import read_json, write_json
from setr_lib.tables import conform, write_parquet_atomically

TRAINED_ON = "trained_on"
"""The folder of a bundle that holds it; bundles of earlier versions of SETR have none."""
USERS_OWN = "training"
"""The namespace of the images that ``[training]`` names: ids of the user's own."""
SOURCE_TAG, IMAGES_TAG, TRIPLETS_TAG = "setr.trained_on", "setr.trained_images", "setr.trained_triplets"
"""The tags of a version that tell it: in words, and how many images and triplets."""

TRAINED_IMAGES = pl.Schema({"namespace": pl.String(), "image_id": pl.String(), "fingerprint": pl.String()})
"""Training images: an id means something within its namespace only; a fingerprint is of the file's bytes."""
TRAINED_TRIPLETS = pl.Schema(
    {
        "namespace": pl.String(),
        "reference_id": pl.String(),
        "modification": pl.String(),
        "target_id": pl.String(),
    }
)
"""Training triplets; the namespace is that of their images."""

TripletKind = Literal["none", "synthesised", "benchmark", "file"]
"""Where triplets come from: there are none; made from captions; annotated by people for a benchmark; a file
whose makers are not known, which counts as annotated by people."""
_KINDS: tuple[TripletKind, ...] = ("none", "synthesised", "benchmark", "file")
_RECORD, _IMAGES, _TRIPLETS = "trained_on.json", "images.parquet", "triplets.parquet"


class TrainedOnError(SetrError):
    """What a version was trained on cannot be read from its bundle, or is no such record."""


@dataclass(frozen=True)
class TrainedOn:
    """What a version of a trained system was trained on.

    Attributes:
        source: In words, as labels name it: ``"cirr's train triplets"``, ``"triplets synthesised from
            captions"``, ``"images without captions"``.
        images: A TRAINED_IMAGES table, each image once, also those that only triplets name; a fingerprint is
            null where no file was read.
        triplets: A TRAINED_TRIPLETS table, each once; without rows where no triplets were used.
        triplet_kind: Where the triplets come from.
        benchmarks: The kinds of the benchmarks whose triplets they are, e.g. ``("cirr",)``; also of those
            whose images synthesised triplets were made of.
    """

    source: str
    images: pl.DataFrame
    triplets: pl.DataFrame = field(default_factory=TRAINED_TRIPLETS.to_frame)
    triplet_kind: TripletKind = "none"
    benchmarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.triplet_kind not in _KINDS:
            raise TrainedOnError(f"triplet_kind {self.triplet_kind!r} is none of {', '.join(_KINDS)}")
        if not self.source.strip() or ";" in self.source:
            raise TrainedOnError(f"source {self.source!r}: some words are needed, without a semicolon")
        if (self.triplet_kind == "none") != self.triplets.is_empty():
            raise TrainedOnError(
                f"triplet_kind {self.triplet_kind!r} with {self.triplets.height:,} triplets: it is 'none' "
                "where there are none, and only there"
            )
        images = conform(self.images, TRAINED_IMAGES, "training images")
        triplets = conform(self.triplets, TRAINED_TRIPLETS, "training triplets")
        object.__setattr__(self, "images", _with_images_of(triplets, images))
        object.__setattr__(self, "triplets", triplets.unique(maintain_order=True))

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a version: its source in words, the number of images and of triplets."""
        return {
            SOURCE_TAG: self.source,
            IMAGES_TAG: str(self.images.select("namespace", "image_id").n_unique()),
            TRIPLETS_TAG: str(self.triplets.height),
        }

    def joined(self, other: TrainedOn) -> TrainedOn:
        """All that two systems were trained on, for one that builds on the other's weights.

        Args:
            other: What the other was trained on.

        Returns:
            Images and triplets of both, and the kind of triplets that says most.
        """
        more = _KINDS.index(other.triplet_kind) > _KINDS.index(self.triplet_kind)
        return TrainedOn(
            source=" and ".join(dict.fromkeys((self.source, other.source))),
            images=pl.concat([self.images, other.images]),
            triplets=pl.concat([self.triplets, other.triplets]),
            triplet_kind=other.triplet_kind if more else self.triplet_kind,
            benchmarks=tuple(dict.fromkeys((*self.benchmarks, *other.benchmarks))),
        )

    def write(self, folder: Path) -> Path:
        """Write it as Parquet and JSON.

        Args:
            folder: Where; created.

        Returns:
            The folder.
        """
        write_parquet_atomically(self.images, folder / _IMAGES)
        write_parquet_atomically(self.triplets, folder / _TRIPLETS)
        record = {
            "source": self.source,
            "triplet_kind": self.triplet_kind,
            "benchmarks": list(self.benchmarks),
        }
        write_json(folder / _RECORD, record)
        return folder

    @classmethod
    def read(cls, folder: Path) -> TrainedOn:
        """Read what :meth:`write` wrote.

        Args:
            folder: The folder.

        Returns:
            What was trained on.

        Raises:
            TrainedOnError: A file is missing or is no such table or record; the message names the folder.
        """
        if (fault := json_fault(folder / _RECORD)) is not None:
            raise damaged("registry", folder / _RECORD, fault, TrainedOnError)
        tables = [folder / _IMAGES, folder / _TRIPLETS]
        frames: list[pl.DataFrame] = []
        for path in tables:
            with told("registry", path, TrainedOnError):
                frames.append(pl.read_parquet(path))
        record = read_json(folder / _RECORD) or {}
        try:
            return cls(
                source=str(record["source"]),
                images=frames[0],
                triplets=frames[1],
                triplet_kind=record["triplet_kind"],
                benchmarks=tuple(record["benchmarks"]),
            )
        except (KeyError, TypeError, SetrError) as error:
            fault = "does not say what the version was trained on"
            raise damaged("registry", folder / _RECORD, fault, TrainedOnError) from error


def trained_images(images: pl.DataFrame, namespace: str) -> pl.DataFrame:
    """The images of a table as training images.

    Args:
        images: ``image_id`` and, where files were read, ``fingerprint``: a TRAINING_IMAGES or GALLERY table.
        namespace: Within which the ids mean something: ``USERS_OWN`` for ``[training]``, a benchmark's
            ``image_namespace`` for its images.

    Returns:
        A TRAINED_IMAGES table.
    """
    known = images if "fingerprint" in images.columns else images.with_columns(fingerprint=None)
    named = known.select(pl.lit(namespace).alias("namespace"), "image_id", "fingerprint")
    return conform(named, TRAINED_IMAGES, "training images").unique(maintain_order=True)


def trained_triplets(triplets: pl.DataFrame, namespace: str) -> pl.DataFrame:
    """The triplets of a table as training triplets.

    Args:
        triplets: ``reference_id``, ``modification`` and ``target_id``.
        namespace: That of their images.

    Returns:
        A TRAINED_TRIPLETS table.
    """
    columns = ("reference_id", "modification", "target_id")
    named = triplets.select(pl.lit(namespace).alias("namespace"), *columns)
    return conform(named, TRAINED_TRIPLETS, "training triplets").unique(maintain_order=True)


def _with_images_of(triplets: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """Training images, with those that only triplets name."""
    named = pl.concat([triplets.select("namespace", image_id=name) for name in ("reference_id", "target_id")])
    missing = named.join(images, on=["namespace", "image_id"], how="anti")
    return pl.concat([images, missing.with_columns(fingerprint=pl.lit(None, pl.String))]).unique(
        maintain_order=True
    )
