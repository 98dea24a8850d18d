"""The asset that the re-ranker learns from: Yes/No pairs, made from the training images alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import single_asset
from setr_assets.code_versions import when
from setr_assets.progress import reporter, say
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import PairsRecord

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from setr_lib.reranking.pairs import ModificationWriter


@single_asset(
    group="reranker",
    number="1",
    reads=(
        "model:encoder",
        "training.triplets",
        "reranking.pairs.groups",
        "reranking.pairs.held_out_share",
        "reranking.pairs.negatives_per_group",
        "reranking.pairs.near_duplicate_cosine",
        "reranking.pairs.writer",
        "reranking.pairs.seed",
        when(
            lambda settings: settings.reranking.pairs.writer == "model",
            "model:judge",
            "prompts:write_modification",
        ),
    ),
    kinds={"polars", "parquet"},
    deps=["training_images", "training_embeddings"],
)
def reranker_pairs(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """Yes/No pairs: two training images whose captions differ in a phrase give a reference, a target and a
    modification text; negatives of four kinds teach the judge to read both. No benchmark image or annotation
    is used, and held-out groups share no image with the training ones."""
    from setr_lib.datasets import load_training_triplets
    from setr_lib.pipeline.retrieval import vectors_of
    from setr_lib.reranking.pairs import pair_summary, pairs_digest, synthesise_pairs
    from setr_lib.tables import PAIRS, TRAINING_IMAGES

    images = setr.tables.read("training_images", TRAINING_IMAGES)
    stored = vectors_of(setr, "training_embeddings", "the training images' table")
    ids, vectors = setr.gallery_store.read(stored.table, stored.version)
    options = setr.settings.reranking.pairs
    pairs = synthesise_pairs(
        images,
        ids,
        vectors,
        options,
        embed_texts=setr.models.space().embed_texts,
        triplets=load_training_triplets(setr.settings),
        writer=_writer(context, setr),
        progress=reporter(context),
    )
    digest = pairs_digest(pairs)
    record = PairsRecord(
        digest=digest, seed=options.seed, writer=options.writer, rows=len(ids), **stored._asdict()
    )
    setr.tables.write("reranker_pairs", pairs, PAIRS, made_by=record)
    held_out = pairs.filter(split="held_out").height
    say(
        context,
        f"{pairs.height:,} pairs in {pairs['group'].n_unique():,} groups, {held_out:,} pairs held out",
    )
    paths = dict(images.select("image_id", "path").iter_rows())
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest),
        metadata={
            "dagster/row_count": pairs.height,
            "dagster/column_schema": previews.columns(pairs),
            "digest": digest,
            "counts": previews.rows(pair_summary(pairs)),
            "groups with their pairs": previews.picture(_groups_sheet(pairs, paths), "pairs"),
            "first rows": previews.rows(
                pairs.select("split", "modification", "kind", "label", "candidate_id"), 20
            ),
            "table": dg.MetadataValue.path(setr.settings.table_path("reranker_pairs")),
        },
    )


def _writer(context: dg.AssetExecutionContext, setr: PipelineContext) -> ModificationWriter | None:
    """Who phrases the modifications: the multimodal LLM where the settings say so, else templates."""
    from setr_lib.reranking.writer import CACHE_KIND, model_writer

    if setr.settings.reranking.pairs.writer == "templates":
        return None
    return model_writer(setr.models.multimodal(), setr.cache(CACHE_KIND), reporter(context))


def _groups_sheet(pairs: pl.DataFrame, paths: dict[str, str], groups: int = 4) -> Image.Image:
    """A line per group: the reference, then each candidate with its label."""
    from setr_lib.evaluation.contact_sheet import Tile, draw_grid, stack

    lines = []
    for name in pairs["group"].unique(maintain_order=True).head(groups):
        rows = pairs.filter(group=name).to_dicts()
        tiles = [Tile(paths.get(rows[0]["reference_id"]), caption=rows[0]["modification"], is_reference=True)]
        for row in rows:
            shown = f"{'yes' if row['label'] else 'no'}: {row['kind'].removesuffix('_negative')}"
            tiles.append(Tile(paths.get(row["candidate_id"]), caption=shown, is_target=row["label"]))
        lines.append(draw_grid(tiles, columns=8, tile=110))
    return stack(lines)
