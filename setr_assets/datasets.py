"""Assets read from disk as they are: queries, gallery images, training images. No model is needed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import evaluation_asset, single_asset
from setr_assets.code_versions import OWN_BENCHMARKS, when
from setr_assets.data_versions import PartitionResults
from setr_assets.progress import reporter, say
from setr_assets.removals import RemovalsConfig, accepts
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import QueriesRecord, content_digest

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.set_data import InspectedImages

GROUP = "datasets"


@evaluation_asset(
    group=GROUP, number="1", reads=("evaluation.limit", OWN_BENCHMARKS), kinds={"polars", "parquet"}
)
def queries(context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]) -> PartitionResults:
    """The queries of an evaluation set, one row each: reference image, modification text, targets (none on
    hidden splits), subset members (CIRR). Read from the official annotation files; no image is opened."""
    from setr_lib.pipeline.set_data import queries_of
    from setr_lib.tables import QUERIES

    total, results = 0, PartitionResults()
    for key in context.partition_keys:
        read = queries_of(setr, key)
        for warning in read.warnings:
            say(context, f"{key}: {warning}", warning=True)
        setr.tables.write("queries", read.frame, QUERIES, key, made_by=read.record)
        total += read.frame.height
        metadata = _query_metadata(setr, key, read.frame, read.record)
        results.add(key, content_digest(read.frame, read.record), metadata)
    results.metadata["queries of this run"] = total
    return results


@evaluation_asset(
    group=GROUP,
    number="2",
    reads=(
        "datasets.*.gallery",
        "datasets.*.background",
        "datasets.*.upright",
        "images.max_pixels",
        OWN_BENCHMARKS,
    ),
    kinds={"polars", "parquet"},
)
def gallery_images(
    context: dg.AssetExecutionContext, config: RemovalsConfig, setr: dg.ResourceParam[PipelineContext]
) -> PartitionResults:
    """The images that an evaluation set ranks: path, size, content fingerprint and a status per image.
    Missing and broken images stay in the table, counted; they make every later number "not comparable".
    Where a large part of the images that have vectors is gone, a person must consent: `accept_removals`."""
    from setr_lib.pipeline.set_data import images_of
    from setr_lib.tables import GALLERY

    faults, results = 0, PartitionResults()
    for key in context.partition_keys:
        accepted = accepts(context, config)
        found = images_of(setr, key, reporter(context, key), accept_removals=accepted)
        for sentence in found.warnings:
            say(context, f"{key}: {sentence}", warning=True)
        setr.tables.write("gallery_images", found.frame, GALLERY, key, made_by=found.record)
        metadata = _image_metadata(context, found.frame, key) | _listing_metadata(found)
        results.add(key, content_digest(found.frame, found.record), metadata)
        faults += found.faulty
    results.metadata["missing or broken images of this run"] = faults
    return results


@single_asset(
    group=GROUP,
    number="2",
    reads=(
        "training.captions",
        "training.image_root",
        "training.triplets",
        "training.dataset",
        "training.background",
        "training.upright",
        when(
            lambda settings: settings.training.dataset is not None,
            "datasets.*.background",
            "datasets.*.upright",
        ),
        "images.max_pixels",
    ),
    kinds={"polars", "parquet"},
)
def training_images(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """The images that the re-ranker learns from: captioned ones, those of ready triplets, or those of a data
    set's train split. Rows say how many of an evaluation set's images are among them; with any, they are not
    called zero-shot."""
    from setr_lib.datasets import inspect_training_images, load_training_images, training_pixels
    from setr_lib.tables import TRAINING_IMAGES

    listed, rules = load_training_images(setr.settings), training_pixels(setr.settings)
    images = inspect_training_images(listed, reporter(context), rules)
    setr.tables.write("training_images", images, TRAINING_IMAGES)
    metadata = _image_metadata(context, images, "training images")
    metadata["captions"] = previews.rows(images.select("image_id", "caption"), 10)
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(content_digest(images)))


def _query_metadata(
    setr: PipelineContext, key: str, kept: pl.DataFrame, record: QueriesRecord
) -> dict[str, Any]:
    shown = kept.select("query_id", "reference_id", "modification", "target_ids")
    return {
        "dagster/partition_row_count": kept.height,
        "dagster/column_schema": previews.columns(kept),
        "queries in the annotation file": record.of,
        "references": kept["reference_id"].n_unique(),
        "digest": record.digest,
        "first rows": previews.rows(shown, 10),
        "table": dg.MetadataValue.path(setr.settings.table_path("queries", key)),
    }


def _listing_metadata(found: InspectedImages) -> dict[str, Any]:
    """What of the image folders is not in the gallery."""
    faults = [fault for listing in found.listings for fault in listing.faults]
    notes = [note for listing in found.listings for note in listing.notes]
    references = found.frame.filter(found.frame["galleries"].list.len() == 0).height
    return {
        **({"not whole": "; ".join(faults)} if faults else {}),
        **({"passed over": "; ".join(notes)} if notes else {}),
        **({"references outside of the gallery": references} if references else {}),
    }


def _image_metadata(context: dg.AssetExecutionContext, images: pl.DataFrame, what: str) -> dict[str, Any]:
    from setr_lib.datasets import coverage
    from setr_lib.pixels import picture_files

    partitioned = context.has_partition_key or context.has_partition_key_range
    status = dict(images["status"].value_counts(sort=True).iter_rows())
    faulty = images.filter(images["status"] != "ok")
    shown = images.filter(images["status"] == "ok").head(previews.PICTURES)
    metadata = {
        "dagster/partition_row_count" if partitioned else "dagster/row_count": images.height,
        "dagster/column_schema": previews.columns(images),
        "status": previews.counts(status),
        "missing": status.get("missing", 0),
        "broken": status.get("broken", 0),
        "coverage": coverage(images),
        "pictures": previews.pictures([*picture_files(shown).values()]),
    }
    if faulty.height:
        metadata["faulty images"] = previews.rows(faulty.select("image_id", "status", "detail", "path"))
        say(context, f"{what}: {previews.counts(status)}; see the metadata 'faulty images'", warning=True)
    return metadata
