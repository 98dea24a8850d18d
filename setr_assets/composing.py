"""Assets that the multimodal LLM writes: a caption per reference image, a composition per query."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import evaluation_asset
from setr_assets.code_versions import RANKED_TEXTS, text_needed, texts_of, when
from setr_assets.data_versions import PartitionResults
from setr_assets.progress import reporter, say
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import TextRecord, content_digest

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.texts.imported import Filled
    from setr_lib.texts.kind import TextKind

GROUP = "composing"
POOL = "accelerator"
UNFIT = "imported, but left aside: the picture or query has changed"


@evaluation_asset(
    group=GROUP,
    number="1",
    reads=(when(text_needed("captions"), "model:judge", "models.judge.max_new_tokens", "prompts:describe"),),
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
    from setr_lib.datasets import evaluation_set
    from setr_lib.tables import CAPTIONS, GALLERY, QUERIES
    from setr_lib.texts.imported import describe_with

    results = PartitionResults()
    for key in context.partition_keys:
        if setr.is_caption_proxy(key):
            _captions_from_words(context, setr, key, results)
            continue
        if "captions" not in setr.methods.texts_needed:
            _none_needed(context, setr, key, "reference_captions", CAPTIONS, results)
            continue
        references = setr.tables.read("queries", QUERIES, key).select(image_id="reference_id").unique()
        images = setr.tables.read("gallery_images", GALLERY, key)
        images = images.join(references, on="image_id", how="semi", maintain_order="left")
        progress, described = CallCounter(reporter(context, key)), evaluation_set(setr.settings, key)
        describe = partial(_describe, setr, described.kind, progress)
        filled = describe_with(setr.imported_captions(described.dataset), images, describe)
        captions = filled.frame
        setr.tables.write("reference_captions", captions, CAPTIONS, key, made_by=_record(captions))
        failed = captions.filter(captions["status"] != "ok")
        metadata = _metadata(filled, failed, progress)
        paths = images.select("image_id", "path").join(captions, on="image_id", how="inner").head(8)
        metadata["captions"] = previews.pictures(paths["path"].to_list(), paths["caption"].to_list())
        metadata["first rows"] = previews.rows(captions.select("image_id", "caption"), 10)
        results.add(key, _data_version("reference_captions", captions), metadata)
        _report(context, key, "images described", failed, progress, filled)
    return results


@evaluation_asset(
    group=GROUP,
    number="1",
    reads=(
        when(text_needed("compositions"), "model:judge", "models.judge.max_new_tokens", "prompts:compose"),
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
    from setr_lib.datasets import evaluation_set
    from setr_lib.tables import COMPOSITIONS, GALLERY, QUERIES
    from setr_lib.texts.imported import compose_with

    results = PartitionResults()
    for key in context.partition_keys:
        if setr.is_caption_proxy(key):
            _compositions_from_words(context, setr, key, results)
            continue
        if "compositions" not in setr.methods.texts_needed:
            _none_needed(context, setr, key, "query_compositions", COMPOSITIONS, results)
            continue
        queries = setr.tables.read("queries", QUERIES, key)
        gallery = setr.tables.read("gallery_images", GALLERY, key)
        progress = CallCounter(reporter(context, key))
        compose = partial(_compose, setr, evaluation_set(setr.settings, key).kind, gallery, progress)
        filled = compose_with(setr.imported_compositions(key), queries, gallery, compose)
        compositions = filled.frame
        setr.tables.write(
            "query_compositions", compositions, COMPOSITIONS, key, made_by=_record(compositions)
        )
        fallen = compositions.filter(compositions["status"] != "ok")
        metadata = _metadata(filled, fallen, progress)
        shown = queries.select("query_id", "modification").join(compositions, on="query_id", how="left")
        metadata["first rows"] = previews.rows(
            shown.select("query_id", "modification", "keep", "add", "remove", "drop", "target_caption"), 10
        )
        results.add(key, _data_version("query_compositions", compositions), metadata)
        _report(context, key, "queries composed", fallen, progress, filled)
    return results


@evaluation_asset(
    group=GROUP,
    number="1",
    reads=(texts_of(RANKED_TEXTS),),
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
    from setr_lib.datasets import evaluation_set
    from setr_lib.pipeline.retrieval import built_in_texts
    from setr_lib.pipeline.texts import make_texts, text_kinds
    from setr_lib.tables import GALLERY, QUERIES

    results = PartitionResults()
    for key in context.partition_keys:
        kinds = [] if setr.is_caption_proxy(key) else text_kinds(setr.methods.of(key))
        made: dict[str, Filled] = {}
        if kinds:
            queries, gallery = (
                setr.tables.read("queries", QUERIES, key),
                setr.tables.read("gallery_images", GALLERY, key),
            )
            described = evaluation_set(setr.settings, key)
            texts = built_in_texts(setr, key)
            imported = {kind.name: setr.imported_texts(kind, described.dataset, key) for kind in kinds}
            made = make_texts(
                setr, kinds, queries, gallery, texts, described.kind, reporter(context, key), imported
            )
        frames = [filled.frame for filled in made.values()]
        metadata: dict[str, Any] = {"dagster/partition_row_count": sum(frame.height for frame in frames)}
        for kind in kinds:
            metadata |= _store_texts(context, setr, key, kind, made[kind.name])
        results.add(key, content_digest(*frames), metadata)
    return results


def _store_texts(
    context: dg.AssetExecutionContext, setr: PipelineContext, key: str, kind: TextKind, filled: Filled
) -> dict[str, Any]:
    """Store the texts of one kind; what Dagster shows of them."""
    frame = filled.frame
    setr.tables.write(setr.tables.method_texts(key, kind.name), frame, kind.schema, made_by=_record(frame))
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


def _describe(setr: PipelineContext, kind: str, progress: CallCounter, images: pl.DataFrame) -> pl.DataFrame:
    from setr_lib.texts.generation import CACHE_KIND, describe_images

    return describe_images(
        setr.models.multimodal(), setr.prompts(), images, setr.cache(CACHE_KIND), progress, kind
    )


def _compose(
    setr: PipelineContext, kind: str, gallery: pl.DataFrame, progress: CallCounter, queries: pl.DataFrame
) -> pl.DataFrame:
    from setr_lib.texts.generation import CACHE_KIND, compose_queries

    cache = setr.cache(CACHE_KIND)
    return compose_queries(setr.models.multimodal(), setr.prompts(), queries, gallery, cache, kind, progress)


def _captions_from_words(
    context: dg.AssetExecutionContext, setr: PipelineContext, key: str, results: PartitionResults
) -> None:
    from setr_lib.datasets import load_image_captions
    from setr_lib.tables import CAPTIONS, QUERIES
    from setr_lib.texts.from_image_captions import caption_rows

    references = setr.tables.read("queries", QUERIES, key)["reference_id"].unique(maintain_order=True)
    captions = caption_rows(references, load_image_captions(setr.settings, key))
    _write_words(context, setr, key, "reference_captions", captions, CAPTIONS, results)


def _compositions_from_words(
    context: dg.AssetExecutionContext, setr: PipelineContext, key: str, results: PartitionResults
) -> None:
    from setr_lib.datasets import load_image_captions
    from setr_lib.tables import COMPOSITIONS, QUERIES
    from setr_lib.texts.from_image_captions import composition_rows

    queries = setr.tables.read("queries", QUERIES, key)
    composed = composition_rows(queries, load_image_captions(setr.settings, key))
    _write_words(context, setr, key, "query_compositions", composed, COMPOSITIONS, results)


def _write_words(
    context: dg.AssetExecutionContext,
    setr: PipelineContext,
    key: str,
    asset: str,
    frame: pl.DataFrame,
    schema: pl.Schema,
    results: PartitionResults,
) -> None:
    """Store rows that took no model, as those of a model are stored."""
    failed = _store_without_calls(setr, key, asset, frame, schema, results)
    say(context, f"{key}: {frame.height:,} rows of {asset} from captions alone, {failed:,} without any")


def _none_needed(
    context: dg.AssetExecutionContext,
    setr: PipelineContext,
    key: str,
    asset: str,
    schema: pl.Schema,
    results: PartitionResults,
) -> None:
    """Store a table without rows, and say why it has none."""
    _store_without_calls(setr, key, asset, schema.to_frame(), schema, results)
    say(
        context, f"{key}: no {asset}, because no configured method reads any: the multimodal LLM is not asked"
    )


def _store_without_calls(
    setr: PipelineContext,
    key: str,
    asset: str,
    frame: pl.DataFrame,
    schema: pl.Schema,
    results: PartitionResults,
) -> int:
    """Store rows that no model was asked for; how many of them are not good."""
    record = _record(frame)
    setr.tables.write(asset, frame, schema, key, made_by=record)
    failed = frame.filter(frame["status"] != "ok")
    metadata = {
        "dagster/partition_row_count": frame.height,
        "dagster/column_schema": previews.columns(frame),
        "failed": failed.height,
        "model calls": 0,
        **record.stated(),
        "first rows": previews.rows(frame.drop("status", "detail", "model", "prompt_hash"), 10),
    }
    results.add(key, _data_version(asset, frame), metadata)
    return failed.height


class CallCounter:
    """A ``Progress`` that tells new results from kept ones: the first report of a step is of those kept."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener
        self.kept: int | None = None
        self.total = 0

    def __call__(self, done: int, total: int, what: str) -> None:
        if self.kept is None:
            self.kept = done
        self.total = total
        self._listener(done, total, what)

    @property
    def new(self) -> int:
        """Results that took a call of the model."""
        return self.total - (self.kept or 0)


def _record(frame: pl.DataFrame) -> TextRecord:
    """The models and prompts of a table: one each, or more where rows were imported."""
    models, prompts = (
        ", ".join(frame[name].unique(maintain_order=True)) for name in ("model", "prompt_hash")
    )
    return TextRecord(model=models, prompt_hash=prompts)


def _data_version(asset: str, frame: pl.DataFrame) -> str:
    """Digest of what is read of a table below: the records of rankings name a composition's prompt, not a
    caption's.
    """
    if asset == "reference_captions":
        return content_digest(frame.drop("model", "prompt_hash"))
    return content_digest(frame, _record(frame))


def _metadata(filled: Filled, failed: pl.DataFrame, calls: CallCounter) -> dict[str, Any]:
    frame = filled.frame
    metadata = {
        "dagster/partition_row_count": frame.height,
        "dagster/column_schema": previews.columns(frame),
        "failed": failed.height,
        "distinct inputs": calls.total,
        "model calls": calls.new,
        "kept from before": calls.kept or 0,
        "imported": filled.imported,
        **_record(frame).stated(),
    }
    if filled.unfit:
        metadata[UNFIT] = filled.unfit
    if failed.height:
        metadata["failures"] = previews.rows(failed.select(failed.columns[0], "status", "detail"))
    return metadata


def _report(
    context: dg.AssetExecutionContext,
    key: str,
    what: str,
    failed: pl.DataFrame,
    calls: CallCounter,
    filled: Filled,
) -> None:
    text = f"{key}: {calls.total:,} {what}: {calls.new:,} now, {calls.kept or 0:,} kept"
    text += f", {filled.imported:,} imported" if filled.imported else ""
    text += f", {filled.unfit:,} imported for what has changed since" if filled.unfit else ""
    text += f", {failed.height:,} failed" if failed.height else ""
    say(context, text, warning=bool(failed.height or filled.unfit))
