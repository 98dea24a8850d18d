"""Assets of the vector store: every gallery's and the training images' vectors, one LanceDB table for each
and embedding space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import evaluation_asset, single_asset
from setr_assets.checks import no_lost_or_doubled_images, unique_ids
from setr_assets.code_versions import ranked_spaces, reranked_spaces, search_of
from setr_assets.data_versions import PartitionResults
from setr_assets.progress import reporter, say
from setr_lib.hashing import digest_strings, fingerprint_bytes
from setr_lib.pipeline.caption_embedding import embed_captions, stated_vectors
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import EmbeddingsRecord, SpaceRecord, content_digest
from setr_lib.settings import DEFAULT_SPACE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from setr_lib.spaces.vector_store import SyncReport

GROUP = "gallery"
POOL = "lancedb_write"


@evaluation_asset(
    group=GROUP,
    number="1",
    reads=search_of(ranked_spaces),
    kinds={"lancedb", "pytorch"},
    deps=["gallery_images"],
    pool=POOL,
    check_specs=[unique_ids("gallery_embeddings")],
)
def gallery_embeddings(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> PartitionResults:
    """A gallery's vectors in every embedding space that a configured method searches, one LanceDB table per
    gallery, model and preprocessing; sets that share a gallery share the table. Only new or changed images
    are embedded; what is gone is removed; a killed run goes on where it stopped. Where the images have
    captions, these lie beside the vectors with a full-text index; captions without any image are stored
    alone, and no model is loaded."""
    from setr_lib.datasets import evaluation_set
    from setr_lib.methods.references import check_space_gives
    from setr_lib.tables import GALLERY

    faults: dict[str, str] = {}
    embedded, results = 0, PartitionResults()
    for key in context.partition_keys:
        gallery = setr.tables.read("gallery_images", GALLERY, key)
        gallery_key = evaluation_set(setr.settings, key).gallery_key
        captions, content = _store_captions(context, setr, key, gallery_key, gallery.height)
        if captions:
            captions |= _embed_captions(context, setr, key, gallery_key, captions)
        if setr.is_caption_proxy(key):
            record = EmbeddingsRecord(**captions, content=content)
            metadata: dict[str, Any] = {"embedded": 0, **captions}
        else:
            reports = Reports(setr)
            for space in setr.methods.spaces:
                for method in setr.methods.ranked_in(space):  # told before hours of embedding, not after
                    check_space_gives(method, setr.models.space(space))
                reports.synchronise(context, space, gallery_key, gallery, key)
            faults |= reports.faults
            embedded += reports.embedded
            record = reports.record(captions, content)
            metadata = {**reports.metadata(), **captions}
        setr.tables.write_record("gallery_embeddings", record, key)
        results.add(key, content_digest(record), metadata)
    results.metadata["images embedded by this run"] = embedded
    results.check_results = [_check(faults)]
    return results


@single_asset(
    group=GROUP,
    number="1",
    reads=("model:encoder", search_of(reranked_spaces)[1]),
    kinds={"lancedb", "pytorch"},
    deps=["training_images"],
    pool=POOL,
    check_specs=[unique_ids("training_embeddings")],
)
def training_embeddings(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """The training images' vectors, in LanceDB tables of their own: by CLIP, as hard negatives are mined
    here, never in a benchmark's gallery; and in the embedding spaces of the methods whose candidates are
    re-ranked."""
    from setr_lib.tables import TRAINING_IMAGES

    images = setr.tables.read("training_images", TRAINING_IMAGES)
    reports = Reports(setr)
    for space in setr.methods.training_spaces:
        reports.synchronise(context, space, "training", images)
    record = reports.record()
    setr.tables.write_record("training_embeddings", record)
    return dg.MaterializeResult(
        metadata=reports.metadata(),
        data_version=dg.DataVersion(content_digest(record)),
        check_results=[_check(reports.faults)],
    )


class Reports:
    """The synchronisations of the same images in one embedding space after the other.

    Args:
        setr: The pipeline context.
    """

    def __init__(self, setr: PipelineContext) -> None:
        self.setr = setr
        self.faults: dict[str, str] = {}
        """What is wrong with a table, by what was embedded."""
        self._reports: dict[str, SyncReport] = {}

    @property
    def embedded(self) -> int:
        """Images embedded now, in all spaces."""
        return sum(report.embedded for report in self._reports.values())

    def synchronise(
        self,
        context: dg.AssetExecutionContext,
        space: str,
        gallery_key: str,
        images: pl.DataFrame,
        partition: str = "",
    ) -> None:
        """Embed images in a space, as far as its table does not hold them.

        Args:
            context: The running step.
            space: The embedding space.
            gallery_key: The key of the images' origin.
            images: The gallery: ``image_id``, ``path``, ``fingerprint``, ``status``.
            partition: The evaluation set, for messages.
        """
        model, store = self.setr.models.space(space), self.setr.gallery_store
        table = store.table_name(gallery_key, model)
        report = store.synchronise(table, images, model, progress=reporter(context, partition))
        self._reports[space] = report
        what = (partition or "training images") + ("" if space == DEFAULT_SPACE else f" ({space})")
        done = {"embedded now": report.embedded, "kept": report.kept, "removed": report.removed}
        words = previews.counts({**done, "failed": len(report.failed)})
        say(context, f"{what}: {words}", warning=bool(report.failed))
        self.faults |= no_lost_or_doubled_images(self.setr, report, images, what)

    def record(
        self, captions: Mapping[str, Any] | None = None, captions_digest: str = ""
    ) -> EmbeddingsRecord:
        """The record of the vectors, and of captions stored beside them.

        Args:
            captions: What the record says of the captions.
            captions_digest: Digest of their content.

        Returns:
            The record.
        """
        content = self._content(DEFAULT_SPACE) if DEFAULT_SPACE in self._reports else ""
        stated: dict[str, Any] = self._stated(DEFAULT_SPACE) if DEFAULT_SPACE in self._reports else {}
        if others := [space for space in self._reports if space != DEFAULT_SPACE]:
            stated["spaces"] = {
                space: SpaceRecord(**self._stated(space), content=self._content(space)) for space in others
            }
        if captions is None:
            return EmbeddingsRecord(**stated, content=content)
        return EmbeddingsRecord(**stated, **captions, content=content_digest(content, captions_digest))

    def metadata(self) -> dict[str, Any]:
        """What Dagster shows; of a space besides ``clip`` under its name."""
        metadata: dict[str, Any] = {}
        for space in self._reports:
            of_space = "" if space == DEFAULT_SPACE else f"{space}: "
            metadata |= {f"{of_space}{name}": value for name, value in self._metadata(space).items()}
        return {**metadata, "embedded": self.embedded, "dagster/uri": self.setr.settings.lancedb_uri}

    def _content(self, space: str) -> str:
        """Digest of the ids and vectors, wherever they lie."""
        report = self._reports[space]
        ids, vectors = self.setr.gallery_store.read(report.table, report.version)
        return digest_strings([*ids, fingerprint_bytes(vectors.tobytes())])

    def _stated(self, space: str) -> dict[str, Any]:
        report, model = self._reports[space], self.setr.models.space(space)
        return {
            "table": report.table,
            "version": report.version,
            "rows": report.rows,
            "encoder": model.id,
            "preprocessing": model.preprocessing_id,
        }

    def _metadata(self, space: str) -> dict[str, Any]:
        report = self._reports[space]
        metadata = {
            **self._stated(space),
            "embedded": report.embedded,
            "kept": report.kept,
            "removed": report.removed,
            "failed": len(report.failed),
            "device": str(getattr(self.setr.models.space(space), "device", self.setr.settings.models.device)),
        }
        if report.failed:
            metadata["failed images"] = previews.table(
                ["image", "why", "path"],
                [(failed.image_id, failed.reason, failed.path) for failed in report.failed[:20]],
            )
        if report.halved:
            metadata["batches halved for memory"] = ", ".join(
                f"{large} -> {small}" for large, small in report.halved
            )
        return metadata


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


def _embed_captions(
    context: dg.AssetExecutionContext,
    setr: PipelineContext,
    key: str,
    gallery_key: str,
    captions: Mapping[str, Any],
) -> dict[str, Any]:
    """Embed the captions of ``key`` where a method needs their vectors; what the record says of these."""
    if not setr.methods.caption_spaces:
        return {}
    index = setr.caption_store.open(captions["captions_table"], captions["captions_version"])
    reports = embed_captions(setr, gallery_key, index, reporter(context, key))
    for space, report in reports.items():
        counted = {"embedded now": report.embedded, "removed": report.removed}
        say(context, f"{key} (captions in {space}): {previews.counts(counted)}")
    return stated_vectors(setr, reports)


def _check(faults: dict[str, str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not faults,
        check_name="every_image_once",
        description="; ".join(faults.values()) or "every readable image is in its table exactly once",
        metadata=dict(faults),
    )
