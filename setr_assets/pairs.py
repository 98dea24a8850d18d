"""The asset that the re-ranker learns from: Yes/No pairs, made from the training images alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import single_asset
from setr_assets.code_versions import when
from setr_assets.progress import reporter, say
from setr_lib.pipeline.context import PipelineContext

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from PIL import Image

    from setr_lib.pixels import PictureFile


@single_asset(
    group="reranker",
    number="2",
    reads=(
        "model:encoder",
        "training.triplets",
        "training.dataset",
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
    from setr_lib.pipeline.training_pairs import make_pairs
    from setr_lib.reranking.pairs import pair_summary
    from setr_lib.tables import PAIRS

    made = make_pairs(setr, reporter(context))
    pairs, digest = made.pairs, made.record.digest
    setr.tables.write("reranker_pairs", pairs, PAIRS, made_by=made.record)
    say(context, made.words)
    shown = pairs.select("split", "modification", "kind", "label", "candidate_id")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest),
        metadata={
            "dagster/row_count": pairs.height,
            "dagster/column_schema": previews.columns(pairs),
            "digest": digest,
            "counts": previews.rows(pair_summary(pairs)),
            "groups with their pairs": previews.picture(_groups_sheet(pairs, made.files), "pairs"),
            "first rows": previews.rows(shown, 20),
            "table": dg.MetadataValue.path(setr.settings.table_path("reranker_pairs")),
        },
    )


def _groups_sheet(pairs: pl.DataFrame, files: Mapping[str, PictureFile], groups: int = 4) -> Image.Image:
    """A line per group: the reference, then each candidate with its label."""
    from setr_lib.evaluation.contact_sheet import Tile, draw_grid, stack

    lines = []
    for name in pairs["group"].unique(maintain_order=True).head(groups):
        rows = pairs.filter(group=name).to_dicts()
        tiles = [Tile(files.get(rows[0]["reference_id"]), caption=rows[0]["modification"], is_reference=True)]
        for row in rows:
            shown = f"{'yes' if row['label'] else 'no'}: {row['kind'].removesuffix('_negative')}"
            if row["modification"] != rows[0]["modification"]:  # the text is what makes it a No
                shown += f": “{row['modification']}”"
            tiles.append(Tile(files.get(row["candidate_id"]), caption=shown, is_target=row["label"]))
        lines.append(draw_grid(tiles, columns=8, tile=110))
    return stack(lines)
