"""The asset of stage 1: the top K of every evaluation set by every configured method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import champion, previews
from setr_assets.blueprints import evaluation_asset
from setr_assets.code_versions import (
    OWN_BENCHMARKS,
    RANKED_OPTIONS,
    options_of,
    ranked_spaces,
    ranked_systems,
    reads_key,
    search_of,
    when,
)
from setr_assets.data_versions import PartitionResults
from setr_assets.progress import reporter, say
from setr_assets.queryless import passed_over
from setr_lib.pipeline.context import PipelineContext

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.retrieval import RankedSet


@evaluation_asset(
    group="coarse_retrieval",
    number="1",
    reads=(
        OWN_BENCHMARKS,
        *search_of(ranked_spaces),
        "coarse.strategies",
        "coarse.caption_strategies",
        "coarse.top_k",
        when(reads_key("coarse.anchor_share"), "coarse.anchor_share"),
        options_of(RANKED_OPTIONS),
    ),
    kinds={"polars", "numpy"},
    deps=[
        "queries",
        "gallery_images",
        "gallery_embeddings",
        "reference_captions",
        "query_compositions",
        "method_texts",
    ],
    more_deps=champion.sources_of(ranked_systems),
)
def coarse_rankings(
    context: dg.AssetExecutionContext,
    config: champion.VersionsConfig,
    setr: dg.ResourceParam[PipelineContext],
) -> PartitionResults:
    """The K nearest images of every query by every configured method (``[coarse] strategies``), found by
    exact search over the frozen vectors of the embedding space that a method names; CIRR's six-image
    subsets too. The default method's K go to the re-rankers. Where the gallery has captions, ``[coarse]
    caption_strategies`` rank it by these. A method with trained weights ranks with the champion, as does
    one whose space is trained, and is left out while there is none.
    """
    from setr_lib.pipeline.retrieval import rank_set, store_rankings

    chosen = champion.choose(context, setr, ranked_systems, config.versions)
    results = PartitionResults(tags=chosen.tags)
    left_out: dict[str, str] = {}
    for key in context.partition_keys:
        if passed_over(context, setr, key, results):
            continue
        found = rank_set(setr, key, reporter(context, key), chosen.versions)
        store_rankings(setr, key, found)
        results.add(key, found.data_version, _metadata(setr, key, found))
        left_out |= found.left_out
    for sentence in dict.fromkeys(left_out.values()):
        say(context, f"left out: {sentence}", warning=True)
    return results


def _metadata(setr: PipelineContext, key: str, found: RankedSet) -> dict[str, Any]:
    shown = found.by_method
    return {
        "dagster/partition_row_count": sum(frame.height for frame in shown.values()),
        "methods": ", ".join(shown),
        "K": setr.settings.coarse.top_k,
        "R@10": previews.table(["method", "a target in the first 10, %"], _hits(setr, key, shown)),
        **found.facts,
    }


def _hits(setr: PipelineContext, key: str, rankings: dict[str, pl.DataFrame]) -> list[tuple[str, float]]:
    """A first look, not the official metric: the share of queries with any target among the first ten."""
    import polars as pl

    from setr_lib.tables import QUERIES

    queries = setr.tables.read("queries", QUERIES, key)
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
