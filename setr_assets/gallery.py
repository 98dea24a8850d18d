"""Assets of the vector store: every gallery's and the training images' vectors, one LanceDB table each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import evaluation_asset, single_asset
from setr_assets.checks import no_lost_or_doubled_images, unique_ids
from setr_assets.progress import reporter, say
from setr_lib.workbench import Workbench

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.spaces.vector_store import SyncReport

GROUP = "gallery"
POOL = "lancedb_write"


@evaluation_asset(
    group=GROUP,
    code_version="1",
    kinds={"lancedb", "pytorch"},
    deps=["gallery_images"],
    pool=POOL,
    check_specs=[unique_ids("gallery_embeddings")],
)
def gallery_embeddings(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[Workbench]
) -> dg.MaterializeResult:
    """CLIP vectors of a gallery, one LanceDB table per gallery, encoder and preprocessing; sets that share a gallery
    share the table. Only new or changed images are embedded; what is gone is removed; a killed run goes on where it
    stopped. Where the images have captions, these lie beside the vectors with a full-text index; captions without any
    image are stored alone, and no model is loaded."""
    from setr_lib.datasets import evaluation_set
    from setr_lib.tables import GALLERY

    faults: dict[str, str] = {}
    embedded = 0
    for key in context.partition_keys:
        gallery = setr.read_table("gallery_images", GALLERY, key)
        gallery_key = evaluation_set(setr.settings, key).gallery_key
        note = _store_captions(context, setr, key, gallery_key, gallery.height)
        if setr.is_caption_proxy(key):
            metadata: dict[str, Any] = {"embedded": 0}
        else:
            report = _synchronise(context, setr, gallery_key, gallery, key)
            faults |= no_lost_or_doubled_images(setr, report, gallery, key)
            embedded += report.embedded
            metadata, note = _metadata(report, setr), {**_note(report, setr), **note}
        context.add_asset_metadata({**metadata, **note}, partition_key=key)
        setr.write_note("gallery_embeddings", note, key)
    return dg.MaterializeResult(
        metadata={"images embedded by this run": embedded}, check_results=[_check(faults)]
    )


@single_asset(
    group=GROUP,
    code_version="1",
    kinds={"lancedb", "pytorch"},
    deps=["training_images"],
    pool=POOL,
    check_specs=[unique_ids("training_embeddings")],
)
def training_embeddings(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[Workbench]
) -> dg.MaterializeResult:
    """CLIP vectors of the training images, in a LanceDB table of their own: hard negatives are mined here, never in a
    benchmark's gallery."""
    from setr_lib.tables import TRAINING_IMAGES

    images = setr.read_table("training_images", TRAINING_IMAGES)
    report = _synchronise(context, setr, "training", images)
    faults = no_lost_or_doubled_images(setr, report, images, "training images")
    setr.write_note("training_embeddings", _note(report, setr))
    return dg.MaterializeResult(metadata=_metadata(report, setr), check_results=[_check(faults)])


def _store_captions(
    context: dg.AssetExecutionContext, setr: Workbench, key: str, gallery_key: str, images: int
) -> dict[str, Any]:
    """Index the captions of the images of ``key``; what the note says of them, nothing where there are none."""
    from setr_lib.datasets import load_image_captions

    captions = load_image_captions(setr.settings, key)
    if captions is None:
        return {}
    report = setr.caption_store.write(setr.caption_store.table_name(gallery_key), captions)
    without = images - report.rows
    done = "indexed now" if report.written else "kept"
    say(context, f"{key}: captions of {report.rows:,} images {done}, {without:,} images without")
    return {
        "captions_table": report.table,
        "captions_version": report.version,
        "images_with_captions": report.rows,
        "images_without_captions": without,
    }


def _synchronise(
    context: dg.AssetExecutionContext,
    setr: Workbench,
    gallery_key: str,
    images: pl.DataFrame,
    partition: str = "",
) -> SyncReport:
    encoder = setr.encoder()
    report = setr.gallery_store.synchronise(
        setr.gallery_store.table_name(gallery_key, encoder),
        images,
        encoder,
        progress=reporter(context, partition),
    )
    done = {"embedded now": report.embedded, "kept": report.kept, "removed": report.removed}
    words = previews.counts({**done, "failed": len(report.failed)})
    say(context, f"{partition or 'training images'}: {words}", warning=bool(report.failed))
    return report


def _note(report: SyncReport, setr: Workbench) -> dict[str, Any]:
    encoder = setr.encoder()
    return {
        "table": report.table,
        "version": report.version,
        "rows": report.rows,
        "encoder": encoder.id,
        "preprocessing": encoder.preprocessing_id,
    }


def _metadata(report: SyncReport, setr: Workbench) -> dict[str, Any]:
    metadata = {
        **_note(report, setr),
        "embedded": report.embedded,
        "kept": report.kept,
        "removed": report.removed,
        "failed": len(report.failed),
        "dagster/uri": setr.settings.lancedb_uri,
        "device": str(setr.encoder().device),
    }
    if report.failed:
        metadata["failed images"] = previews.table(
            ["image", "why", "path"], [(each.image_id, each.reason, each.path) for each in report.failed[:20]]
        )
    if report.halved:
        metadata["batches halved for memory"] = ", ".join(
            f"{large} -> {small}" for large, small in report.halved
        )
    return metadata


def _check(faults: dict[str, str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not faults,
        check_name="every_image_once",
        description="; ".join(faults.values()) or "every readable image is in its table exactly once",
        metadata=dict(faults),
    )
