"""The asset of stage 1: the top K of every evaluation set by every configured strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import evaluation_asset
from setr_assets.progress import reporter
from setr_lib.workbench import Workbench

if TYPE_CHECKING:
    import polars as pl


@evaluation_asset(
    group="coarse_retrieval",
    code_version="1",
    kinds={"polars", "numpy"},
    deps=["queries", "gallery_images", "gallery_embeddings", "reference_captions", "query_compositions"],
)
def coarse_rankings(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[Workbench]
) -> dg.MaterializeResult:
    """The K nearest images of every query by every configured strategy (``[coarse] strategies``), found by exact search
    over the frozen CLIP vectors; CIRR's six-image subsets too. The default strategy's K go to the judge."""
    from setr_lib.coarse.ranking import rank, removes_reference
    from setr_lib.coarse.strategies import get_strategy
    from setr_lib.datasets import evaluation_set
    from setr_lib.tables import GALLERY, RANKINGS

    options = setr.settings.coarse
    for key in context.partition_keys:
        gallery = setr.read_table("gallery_images", GALLERY, key)
        encoded, ids, vectors, source = setr.encoded_queries(key)
        kind = evaluation_set(setr.settings, key).kind
        shown = {}
        for name in options.strategies:
            strategy = get_strategy(name)
            rankings = rank(
                encoded,
                gallery,
                ids,
                vectors,
                strategy,
                options.top_k,
                remove_reference=removes_reference(kind),
                anchor_share=options.anchor_share,
                progress=reporter(context, key),
            )
            shown[strategy.name] = rankings
            note = {**source, "strategy": strategy.name, "top_k": options.top_k, "dataset_kind": kind}
            if strategy.name == "intersection_anchor":
                note["anchor_share"] = options.anchor_share
            setr.write_table(setr.coarse_table(key, strategy.name), rankings, RANKINGS, made_by=note)
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": sum(each.height for each in shown.values()),
                "strategies": ", ".join(shown),
                "K": options.top_k,
                "queries without a reference vector": len(encoded.missing_references),
                "texts cut at the encoder's context": encoded.encode.truncated,
                "R@10": previews.table(
                    ["strategy", "a target in the first 10, %"], _hits(encoded.frame, shown)
                ),
                **{name: str(value) for name, value in source.items()},
            },
            partition_key=key,
        )
    return dg.MaterializeResult()


def _hits(queries: pl.DataFrame, rankings: dict[str, pl.DataFrame]) -> list[tuple[str, float]]:
    """A first look, not the official metric: the share of queries with any target among the first ten."""
    import polars as pl

    targets = queries.select("query_id", image_id="target_ids").explode("image_id").drop_nulls()
    scored = targets["query_id"].n_unique()
    return [
        (
            name,
            100
            * frame.filter((pl.col("pool") == "gallery") & (pl.col("rank") <= 10))
            .join(targets, on=["query_id", "image_id"], how="semi")["query_id"]
            .n_unique()
            / scored,
        )
        for name, frame in rankings.items()
        if scored
    ]
