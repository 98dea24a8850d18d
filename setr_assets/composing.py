"""Assets that the multimodal LLM writes: a caption per reference image, a composition per query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import evaluation_asset
from setr_assets.code_versions import RANKED_TEXTS, text_needed, texts_of, when, written_with
from setr_assets.data_versions import PartitionResults
from setr_assets.progress import reporter, say
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import content_digest

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.set_texts import MadeTexts
    from setr_lib.texts.imported import Filled
    from setr_lib.texts.kind import TextKind

GROUP = "composing"
POOL = "accelerator"
UNFIT = "imported, but left aside: the picture or query has changed"


@evaluation_asset(
    group=GROUP,
    number="1",
    reads=(
        when(text_needed("captions"), "model:judge", "models.judge.max_new_tokens", "prompts:describe"),
        written_with(text_needed("captions")),
    ),
    kinds={"huggingface", "polars"},
    deps=["queries", "gallery_images"],
    pool=POOL,
)
def reference_captions(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> PartitionResults:
    """What the multimodal LLM sees in each reference image, in one sentence: one call per distinct image,
    kept by image content, model and prompt. Imported captions (`setr captions import`) come first. Feeds the
    union-of-texts baseline; none are made where no configured method reads them. Where captions stand in for
    the images, theirs."""
    from setr_lib.pipeline.set_texts import captions_of_references
    from setr_lib.tables import CAPTIONS

    results = PartitionResults()
    for key in context.partition_keys:
        made = captions_of_references(setr, key, reporter(context, key))
        setr.tables.write("reference_captions", made.frame, CAPTIONS, key, made_by=made.record)
        shown = {} if made.calls is None else _described_pictures(setr, key, made.frame)
        results.add(key, made.data_version, {**_metadata(made), **shown})
        say(context, f"{key}: {made.words}", warning=made.is_worrying)
    return results


@evaluation_asset(
    group=GROUP,
    number="1",
    reads=(
        when(text_needed("compositions"), "model:judge", "models.judge.max_new_tokens", "prompts:compose"),
        written_with(text_needed("compositions")),
    ),
    kinds={"huggingface", "polars"},
    deps=["queries", "gallery_images"],
    pool=POOL,
)
def query_compositions(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> PartitionResults:
    """What each query asks for, as JSON from the multimodal LLM: phrases to keep, add, remove and drop, and
    the target caption that stage 1 encodes. Imported ones (`setr compositions import`) come first. An answer
    that cannot be read falls back to the modification text, and is counted. Where no configured method reads
    them, none are made; where captions stand in for the images, no model is asked."""
    from setr_lib.pipeline.set_texts import compositions_of_queries
    from setr_lib.tables import COMPOSITIONS

    results = PartitionResults()
    for key in context.partition_keys:
        made = compositions_of_queries(setr, key, reporter(context, key))
        setr.tables.write("query_compositions", made.frame, COMPOSITIONS, key, made_by=made.record)
        shown = {} if made.calls is None else _composed_queries(setr, key, made.frame)
        results.add(key, made.data_version, {**_metadata(made), **shown})
        say(context, f"{key}: {made.words}", warning=made.is_worrying)
    return results


@evaluation_asset(
    group=GROUP,
    number="1",
    reads=texts_of(RANKED_TEXTS),
    kinds={"huggingface", "polars"},
    deps=["queries", "gallery_images", "reference_captions", "query_compositions"],
    pool=POOL,
)
def method_texts(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> PartitionResults:
    """The texts that configured retrieval methods bring themselves, beyond captions and compositions: a table
    for each kind, made by the multimodal LLM or derived. Imported ones (`setr texts import`) come first.
    Nothing to do where no method brings any."""
    from setr_lib.pipeline.set_texts import texts_of_methods

    results = PartitionResults()
    for key in context.partition_keys:
        made = texts_of_methods(setr, key, reporter(context, key))
        frames = [filled.frame for _, filled in made]
        metadata: dict[str, Any] = {"dagster/partition_row_count": sum(frame.height for frame in frames)}
        for kind, filled in made:
            metadata |= _store_texts(context, setr, key, kind, filled)
        results.add(key, content_digest(*frames), metadata)
    return results


def _store_texts(
    context: dg.AssetExecutionContext, setr: PipelineContext, key: str, kind: TextKind, filled: Filled
) -> dict[str, Any]:
    """Store the texts of one kind; what Dagster shows of them."""
    from setr_lib.pipeline.set_texts import text_record

    frame, table = filled.frame, setr.tables.method_texts(key, kind.name)
    setr.tables.write(table, frame, kind.schema, made_by=text_record(frame))
    counts = previews.counts(dict(frame["status"].value_counts(sort=True).iter_rows()))
    metadata: dict[str, Any] = {
        kind.name: previews.rows(frame, 10),
        f"{kind.name}: status": counts,
        f"{kind.name}: imported": filled.imported,
    }
    words = f"{key}: {frame.height:,} {kind.name}: {counts}"
    if filled.unfit:
        metadata[f"{kind.name}: {UNFIT}"] = filled.unfit
        words += f", {filled.unfit:,} imported for what has changed since"
    say(context, words, warning=bool(filled.unfit))
    return metadata


def _described_pictures(setr: PipelineContext, key: str, captions: pl.DataFrame) -> dict[str, Any]:
    from setr_lib.pixels import picture_files
    from setr_lib.tables import GALLERY

    shown = captions.head(8)
    images = setr.tables.read("gallery_images", GALLERY, key)
    files = picture_files(images.filter(images["image_id"].is_in(shown["image_id"].implode())))
    return {
        "captions": previews.pictures(
            [files.get(image) for image in shown["image_id"]], shown["caption"].to_list()
        ),
        "first rows": previews.rows(captions.select("image_id", "caption"), 10),
    }


def _composed_queries(setr: PipelineContext, key: str, compositions: pl.DataFrame) -> dict[str, Any]:
    from setr_lib.tables import QUERIES

    queries = setr.tables.read("queries", QUERIES, key).select("query_id", "modification")
    shown = queries.join(compositions, on="query_id", how="left", maintain_order="left")
    columns = ("query_id", "modification", "keep", "add", "remove", "drop", "target_caption")
    return {"first rows": previews.rows(shown.select(columns), 10)}


def _metadata(made: MadeTexts) -> dict[str, Any]:
    """What Dagster shows of every table of texts; of one that took no model, its first rows, too."""
    frame, calls = made.frame, made.calls
    metadata = {
        "dagster/partition_row_count": frame.height,
        "dagster/column_schema": previews.columns(frame),
        "failed": made.failed.height,
        "model calls": 0,
        **made.record.stated(),
    }
    if calls is None:
        first = frame.drop("status", "detail", "model", "prompt_hash")
        return {**metadata, "first rows": previews.rows(first, 10)}
    metadata |= {
        "distinct inputs": calls.total,
        "model calls": calls.new,
        "kept from before": calls.kept or 0,
        "imported": made.imported,
    }
    if made.unfit:
        metadata[UNFIT] = made.unfit
    if made.failed.height:
        metadata["failures"] = previews.rows(made.failed.select(frame.columns[0], "status", "detail"))
    return metadata
