"""The overlap of a training with an evaluation set: which of its images, queries and triplets were seen.

Two images are the same where their files have the same bytes, or where they have the same id within one
namespace: ``0001.jpg`` of two folders is no overlap, the same file under another name is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from setr_lib.training.trained_on import TrainedOn


@dataclass(frozen=True)
class Overlap:
    """How much of an evaluation set a training has seen; each image and query counts once.

    Attributes:
        images: Gallery images among the training images; a reference outside of the gallery is none.
        of_images: Gallery images.
        queries: Queries whose reference or a target is among the training images.
        triplets: Queries of which a training triplet has the reference with the text, or with a target.
        of_queries: Queries.
    """

    images: int
    of_images: int
    queries: int
    triplets: int
    of_queries: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the set was seen."""
        return not (self.images or self.queries or self.triplets)

    @property
    def words(self) -> str:
        """The counts: ``0 of 1,950 gallery images, 0 of 4,181 queries, 0 of their triplets``."""
        return (
            f"{self.images:,} of {self.of_images:,} gallery images, {self.queries:,} of {self.of_queries:,} "
            f"queries, {self.triplets:,} of their triplets"
        )


def overlap_of(
    trained_on: TrainedOn, gallery: pl.DataFrame, queries: pl.DataFrame, namespace: str
) -> Overlap:
    """Compare what was trained on with what is evaluated.

    Args:
        trained_on: Training images and triplets.
        gallery: A GALLERY table, with the references outside of the gallery; fingerprints are null where no
            file was read.
        queries: A QUERIES table; hidden targets are empty.
        namespace: Within which the set's image ids mean something (``Benchmark.image_namespace``).

    Returns:
        The counts.
    """
    same = _same_images(trained_on.images, gallery, queries, namespace)
    seen = same.select("image_id").unique()
    asked = queries.select("query_id", "reference_id", pl.col("target_ids").alias("target_id"))
    pairs = asked.explode("target_id", empty_as_null=True)
    touched = pl.concat(
        [pairs.select("query_id", image_id=name) for name in ("reference_id", "target_id")]
    ).join(seen, on="image_id", how="semi")
    ranked = gallery.filter(pl.col("galleries").list.len() > 0).select("image_id").unique()
    return Overlap(
        images=ranked.join(seen, on="image_id", how="semi").height,
        of_images=ranked.height,
        queries=touched["query_id"].n_unique(),
        triplets=_seen_triplets(trained_on.triplets, same, queries, pairs),
        of_queries=queries["query_id"].n_unique(),
    )


def _same_images(
    trained: pl.DataFrame, gallery: pl.DataFrame, queries: pl.DataFrame, namespace: str
) -> pl.DataFrame:
    """Which training image is which image of the set: ``namespace``, ``trained_id``, ``image_id``."""
    mentioned = pl.concat(
        [
            gallery.select("image_id"),
            queries.select(image_id="reference_id"),
            queries.select(image_id=pl.col("target_ids")).explode("image_id").drop_nulls(),
        ]
    ).unique()
    named = trained.select("namespace", "fingerprint", trained_id="image_id")
    by_id = named.filter(namespace=namespace).join(
        mentioned, left_on="trained_id", right_on="image_id", how="semi"
    )
    files = (
        gallery.select("image_id", "fingerprint").drop_nulls().filter(pl.col("fingerprint") != "").unique()
    )
    by_bytes = named.drop_nulls("fingerprint").join(files, on="fingerprint")
    columns = ("namespace", "trained_id", "image_id")
    return pl.concat(
        [by_id.with_columns(image_id="trained_id").select(columns), by_bytes.select(columns)]
    ).unique()


def _seen_triplets(
    triplets: pl.DataFrame, same: pl.DataFrame, queries: pl.DataFrame, pairs: pl.DataFrame
) -> int:
    """Queries whose reference a training triplet has, with their text or with one of their targets."""
    references = triplets.join(
        same.rename({"trained_id": "reference_id", "image_id": "reference"}), on=["namespace", "reference_id"]
    )
    targets = references.join(
        same.rename({"trained_id": "target_id", "image_id": "target"}), on=["namespace", "target_id"]
    )
    texts = pl.concat(
        [
            queries.select("query_id", "reference_id", text="modification"),
            queries.select("query_id", "reference_id", text="captions").explode("text"),
        ]
    ).drop_nulls()
    by_text = texts.with_columns(_plain("text")).join(
        references.select(reference_id="reference", text="modification").with_columns(_plain("text")),
        on=["reference_id", "text"],
        how="semi",
    )
    by_target = pairs.drop_nulls().join(
        targets.select(reference_id="reference", target_id="target"),
        on=["reference_id", "target_id"],
        how="semi",
    )
    return pl.concat([by_text.select("query_id"), by_target.select("query_id")])["query_id"].n_unique()


def _plain(column: str) -> pl.Expr:
    """A text without case, and with single spaces."""
    return pl.col(column).str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
