"""Assets of the vector store: every gallery's and the training images' vectors, one LanceDB table each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import evaluation_asset, single_asset
from setr_assets.checks import no_lost_or_doubled_images, unique_ids
from setr_assets.data_versions import PartitionResults
from setr_assets.progress import reporter, say
from setr_lib.hashing import digest_strings, fingerprint_bytes
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import EmbeddingsRecord, content_digest

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.spaces.vector_store import SyncReport

GROUP = "gallery"
POOL = "lancedb_write"


@evaluation_asset(
    group=GROUP,
    number="1",
    reads=("model:encoder",),
    kinds={"lancedb", "pytorch"},
    deps=["gallery_images"],
    pool=POOL,
    check_specs=[unique_ids("gallery_embeddings")],
)
def gallery_embeddings(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> PartitionResults:
    """CLIP vectors of a gallery, one LanceDB table per gallery, encoder and preprocessing; sets that share a
    gallery share the table. Only new or changed images are embedded; what is gone is removed; a killed run
    goes on where it stopped. Where the images have captions, these lie beside the vectors with a full-text
    index; captions without any image are stored alone, and no model is loaded."""
    from setr_lib.datasets import evaluation_set
    from setr_lib.tables import GALLERY

    faults: dict[str, str] = {}
    embedded, results = 0, PartitionResults()
    for key in context.partition_keys:
        gallery = setr.tables.read("gallery_images", GALLERY, key)
        gallery_key = evaluation_set(setr.settings, key).gallery_key
        stated, content = _store_captions(context, setr, key, gallery_key, gallery.height)
        if setr.is_caption_proxy(key):
            metadata: dict[str, Any] = {"embedded": 0}
        else:
            report = _synchronise(context, setr, gallery_key, gallery, key)
            faults |= no_lost_or_doubled_images(setr, report, gallery, key)
            embedded += report.embedded
            metadata, stated = _metadata(report, setr), {**_stated(report, setr), **stated}
            content = content_digest(_content(report, setr), content)
        record = EmbeddingsRecord(**stated, content=content)
        setr.tables.write_record("gallery_embeddings", record, key)
        results.add(key, content_digest(record), {**metadata, **stated})
    results.metadata["images embedded by this run"] = embedded
    results.check_results = [_check(faults)]
    return results


@single_asset(
    group=GROUP,
    number="1",
    reads=("model:encoder",),
    kinds={"lancedb", "pytorch"},
    deps=["training_images"],
    pool=POOL,
    check_specs=[unique_ids("training_embeddings")],
)
def training_embeddings(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """CLIP vectors of the training images, in a LanceDB table of their own: hard negatives are mined here,
    never in a benchmark's gallery."""
    from setr_lib.tables import TRAINING_IMAGES

    images = setr.tables.read("training_images", TRAINING_IMAGES)
    report = _synchronise(context, setr, "training", images)
    faults = no_lost_or_doubled_images(setr, report, images, "training images")
    record = EmbeddingsRecord(**_stated(report, setr), content=_content(report, setr))
    setr.tables.write_record("training_embeddings", record)
    return dg.MaterializeResult(
        metadata=_metadata(report, setr),
        data_version=dg.DataVersion(content_digest(record)),
        check_results=[_check(faults)],
    )


def _store_captions(
    context: dg.AssetExecutionContext, setr: PipelineContext, key: str, gallery_key: str, images: int
) -> tuple[dict[str, Any], str]:
    """Index the captions of the images of ``key``; what the record says of them, nothing where there are
    none.
    """
    from setr_lib.datasets import load_image_captions

    captions = load_image_captions(setr.settings, key)
    if captions is None:
        return {}, ""
    report = setr.caption_store.write(setr.caption_store.table_name(gallery_key), captions)
    without = images - report.rows
    done = "indexed now" if report.written else "kept"
    say(context, f"{key}: captions of {report.rows:,} images {done}, {without:,} images without")
    stated = {
        "captions_table": report.table,
        "captions_version": report.version,
        "images_with_captions": report.rows,
        "images_without_captions": without,
    }
    return stated, content_digest(captions)


def _synchronise(
    context: dg.AssetExecutionContext,
    setr: PipelineContext,
    gallery_key: str,
    images: pl.DataFrame,
    partition: str = "",
) -> SyncReport:
    encoder = setr.models.space()
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


def _content(report: SyncReport, setr: PipelineContext) -> str:
    """Digest of the ids and vectors, wherever they lie."""
    ids, vectors = setr.gallery_store.read(report.table, report.version)
    return digest_strings([*ids, fingerprint_bytes(vectors.tobytes())])


def _stated(report: SyncReport, setr: PipelineContext) -> dict[str, Any]:
    encoder = setr.models.space()
    return {
        "table": report.table,
        "version": report.version,
        "rows": report.rows,
        "encoder": encoder.id,
        "preprocessing": encoder.preprocessing_id,
    }


def _metadata(report: SyncReport, setr: PipelineContext) -> dict[str, Any]:
    metadata = {
        **_stated(report, setr),
        "embedded": report.embedded,
        "kept": report.kept,
        "removed": report.removed,
        "failed": len(report.failed),
        "dagster/uri": setr.settings.lancedb_uri,
        "device": str(setr.models.space().device),
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
