"""Assets of the vector store: every gallery's and the training images' vectors, one LanceDB table for each
and embedding space.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import champion, previews
from setr_assets.blueprints import evaluation_asset, single_asset
from setr_assets.checks import no_lost_or_doubled_images, unique_ids
from setr_assets.code_versions import (
    embedded_systems,
    ranked_spaces,
    reranked_spaces,
    search_of,
    training_systems,
)
from setr_assets.data_versions import PartitionResults, readable
from setr_assets.progress import reporter, say
from setr_assets.removals import EmbeddingsConfig, RemovalsConfig, accepts
from setr_lib.escaping import markdown
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import content_digest
from setr_lib.settings import DEFAULT_SPACE

if TYPE_CHECKING:
    from setr_lib.pipeline.embedding import EmbeddedImages
    from setr_lib.spaces.vector_store import SyncReport

GROUP = "gallery"
POOL = "lancedb_write"


@evaluation_asset(
    group=GROUP,
    number="1",
    reads=search_of(ranked_spaces),
    kinds={"lancedb", "pytorch"},
    deps=["gallery_images"],
    more_deps=champion.sources_of(embedded_systems),
    pool=POOL,
    check_specs=[unique_ids("gallery_embeddings")],
)
def gallery_embeddings(
    context: dg.AssetExecutionContext,
    config: EmbeddingsConfig,
    setr: dg.ResourceParam[PipelineContext],
) -> PartitionResults:
    """A gallery's vectors in every embedding space that a configured method searches, one LanceDB table per
    gallery, model and preprocessing; sets that share a gallery share the table. Only new or changed images
    are embedded; what is gone is removed; a killed run goes on where it stopped. Where the images have
    captions, these lie beside the vectors with a full-text index, and their own vectors where a configured
    method needs them; captions without any image are stored alone, and no model of images is loaded. A
    trained space has a table for each version of its weights, and is left out while none is promoted."""
    from setr_lib.pipeline.embedding import embed_gallery

    chosen = champion.choose(context, setr, embedded_systems, config.versions)
    log, results = EmbeddingLog(context, setr), PartitionResults(tags=chosen.tags)
    embedded = 0
    for key in context.partition_keys:
        made = embed_gallery(
            setr,
            key,
            reporter(context, key),
            partial(log.embedded, key),
            partial(log.captioned, key),
            chosen.versions,
            accept_removals=accepts(context, config),
        )
        record = made.record
        setr.tables.write_record("gallery_embeddings", record, key)
        results.add(key, content_digest(record), _metadata(made))
        log.check(made, key)
        embedded += made.embedded
    log.warn_of_left_out()
    results.metadata["images embedded by this run"] = embedded
    results.check_results = [log.result]
    return results


@single_asset(
    group=GROUP,
    number="1",
    reads=("model:encoder", search_of(reranked_spaces)[1]),
    kinds={"lancedb", "pytorch"},
    deps=["training_images"],
    more_deps=champion.sources_of(training_systems),
    pool=POOL,
    check_specs=[unique_ids("training_embeddings")],
)
def training_embeddings(
    context: dg.AssetExecutionContext, config: RemovalsConfig, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """The training images' vectors, in LanceDB tables of their own: by CLIP, as hard negatives are mined
    here, never in a benchmark's gallery; and in the embedding spaces of the methods whose candidates are
    re-ranked."""
    from setr_lib.pipeline.embedding import embed_training_images

    chosen, log = champion.choose(context, setr, training_systems), EmbeddingLog(context, setr)
    what = "training images"
    made = embed_training_images(
        setr,
        reporter(context),
        partial(log.embedded, what),
        chosen.versions,
        accept_removals=config.accept_removals,
    )
    record = made.record
    setr.tables.write_record("training_embeddings", record)
    log.check(made, what)
    log.warn_of_left_out()
    return dg.MaterializeResult(
        metadata=_metadata(made),
        tags=chosen.tags,
        data_version=dg.DataVersion(content_digest(record)),
        check_results=[log.result],
    )


class EmbeddingLog:
    """Says in the UI what is embedded, and collects what is wrong with tables.

    Args:
        context: The running step.
        setr: The pipeline context.
    """

    def __init__(self, context: dg.AssetExecutionContext, setr: PipelineContext) -> None:
        self.context, self.setr = context, setr
        self.faults: dict[str, str] = {}
        """What is wrong with a table, by what was embedded."""
        self.left_out: dict[str, str] = {}
        """Why embedding spaces are left out, by name."""

    def embedded(self, what: str, space: str, report: SyncReport) -> None:
        """Say what was done in an embedding space.

        Args:
            what: The evaluation set, or ``training images``.
            space: The embedding space.
            report: What was done.
        """
        done = {"embedded now": report.embedded, "kept": report.kept, "removed": report.removed}
        words = previews.counts({**done, "failed": len(report.failed)})
        say(self.context, f"{_in(what, space)}: {words}", warning=bool(report.failed))

    def captioned(self, what: str, words: str) -> None:
        """Say what was done with a gallery's captions.

        Args:
            what: The evaluation set.
            words: What was done.
        """
        say(self.context, f"{what}: {words}")

    def check(self, made: EmbeddedImages, what: str) -> None:
        """Look for lost and doubled images in every table, and remember which spaces were left out.

        Args:
            made: What was embedded.
            what: The evaluation set, or ``training images``.
        """
        self.left_out |= made.left_out
        for space, report in made.reports.items():
            self.faults |= no_lost_or_doubled_images(self.setr, report, made.images, _in(what, space))

    def warn_of_left_out(self) -> None:
        """Say which embedding spaces were left out, once each."""
        for sentence in dict.fromkeys(self.left_out.values()):
            say(self.context, f"left out: {sentence}", warning=True)

    @property
    def result(self) -> dg.AssetCheckResult:
        """Whether every table is whole."""
        return dg.AssetCheckResult(
            passed=not self.faults,
            check_name="every_image_once",
            description=markdown("; ".join(self.faults.values()))
            or "every readable image is in its table exactly once",
            metadata=readable(self.faults),
        )


def _in(what: str, space: str) -> str:
    return what if space == DEFAULT_SPACE else f"{what} ({space})"


def _metadata(made: EmbeddedImages) -> dict[str, Any]:
    """What Dagster shows; of a space besides ``clip`` under its name."""
    captions = made.captions.stated if made.captions else {}
    left_out = {f"{space}: left out": why for space, why in made.left_out.items()}
    if not made.reports:
        return {"embedded": 0, **captions, **left_out}
    metadata: dict[str, Any] = {}
    for space in made.reports:
        of_space = "" if space == DEFAULT_SPACE else f"{space}: "
        metadata |= {f"{of_space}{name}": value for name, value in _of_space(made, space).items()}
    uri = made.context.settings.lancedb_uri
    return {**metadata, "embedded": made.embedded, "dagster/uri": uri, **captions, **left_out}


def _of_space(made: EmbeddedImages, space: str) -> dict[str, Any]:
    report, model = made.reports[space], made.spaces[space]
    metadata = {
        **made.stated(space),
        "embedded": report.embedded,
        "kept": report.kept,
        "removed": report.removed,
        "failed": len(report.failed),
        "device": str(getattr(model, "device", made.context.settings.models.device)),
        "batch size": model.batch_size,
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
