"""The asset of stage 1: the top K of every evaluation set by every configured strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import evaluation_asset
from setr_assets.code_versions import needs, when
from setr_assets.data_versions import PartitionResults
from setr_assets.progress import reporter
from setr_lib.records import CoarseRecord, content_digest
from setr_lib.workbench import Workbench

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.coarse.strategies import Strategy


@evaluation_asset(
    group="coarse_retrieval",
    number="1",
    reads=(
        "model:encoder",
        "coarse.strategies",
        "coarse.caption_strategies",
        "coarse.top_k",
        when(
            lambda settings: any(needs(each, "anchor_share") for each in settings.coarse.strategies),
            "coarse.anchor_share",
        ),
    ),
    kinds={"polars", "numpy"},
    deps=["queries", "gallery_images", "gallery_embeddings", "reference_captions", "query_compositions"],
)
def coarse_rankings(context: dg.AssetExecutionContext, setr: dg.ResourceParam[Workbench]) -> PartitionResults:
    """The K nearest images of every query by every configured strategy (``[coarse] strategies``), found by exact search
    over the frozen CLIP vectors; CIRR's six-image subsets too. The default strategy's K go to the judge. Where the
    gallery has captions, ``[coarse] caption_strategies`` rank it by these."""
    from setr_lib.coarse.strategies import ranks_captions

    results = PartitionResults()
    for key in context.partition_keys:
        strategies = setr.coarse_strategies(key)
        by_vectors = [each for each in strategies if not ranks_captions(each)]
        by_captions = [each for each in strategies if ranks_captions(each)]
        shown: dict[str, pl.DataFrame] = {}
        records: dict[str, CoarseRecord] = {}
        facts: dict[str, Any] = {}
        if by_vectors:
            facts |= _rank_by_vectors(context, setr, key, by_vectors, shown, records)
        if by_captions:
            facts |= _rank_by_captions(context, setr, key, by_captions, shown, records)
        parts = [part for name in sorted(shown) for part in (name, shown[name], records[name])]
        results.add(
            key,
            content_digest(*parts),
            {
                "dagster/partition_row_count": sum(each.height for each in shown.values()),
                "strategies": ", ".join(shown),
                "K": setr.settings.coarse.top_k,
                "R@10": previews.table(["strategy", "a target in the first 10, %"], _hits(setr, key, shown)),
                **facts,
            },
        )
    return results


def _rank_by_vectors(
    context: dg.AssetExecutionContext,
    setr: Workbench,
    key: str,
    strategies: Sequence[Strategy],
    shown: dict[str, pl.DataFrame],
    records: dict[str, CoarseRecord],
) -> dict[str, Any]:
    """Rank and store; what the materialisation says of it. ``shown`` and ``records`` get the rankings and what made
    them, by strategy."""
    from setr_lib.coarse.ranking import rank, removes_reference

    options, kind = setr.settings.coarse, _kind(setr, key)
    encoded, ids, vectors, source = setr.encoded_queries(key)
    gallery = _gallery(setr, key)
    for strategy in strategies:
        shown[strategy.name] = rank(
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
        stated = {**source.stated(), "strategy": strategy.name, "top_k": options.top_k, "dataset_kind": kind}
        if strategy.name == "intersection_anchor":
            stated["anchor_share"] = options.anchor_share
        records[strategy.name] = CoarseRecord(**stated)
        _store(setr, key, strategy.name, shown[strategy.name], records[strategy.name])
    return {
        "queries without a reference vector": len(encoded.missing_references),
        "texts cut at the encoder's context": encoded.encode.truncated,
        **{name: str(value) for name, value in source.stated().items()},
    }


def _rank_by_captions(
    context: dg.AssetExecutionContext,
    setr: Workbench,
    key: str,
    strategies: Sequence[Strategy],
    shown: dict[str, pl.DataFrame],
    records: dict[str, CoarseRecord],
) -> dict[str, Any]:
    """As :func:`_rank_by_vectors`, over the captions: every image is ranked, those without a caption last."""
    from setr_lib.coarse.ranking import rank, removes_reference

    options, kind = setr.settings.coarse, _kind(setr, key)
    queries, ids, vectors, captions, source = setr.captioned_queries(key)
    gallery = _gallery(setr, key)
    for strategy in strategies:
        shown[strategy.name] = rank(
            queries,
            gallery,
            ids,
            vectors,
            strategy,
            options.top_k,
            remove_reference=removes_reference(kind),
            progress=reporter(context, key),
            captions=captions,
        )
        records[strategy.name] = CoarseRecord(
            **{**source.stated(), "strategy": strategy.name, "top_k": options.top_k, "dataset_kind": kind}
        )
        _store(setr, key, strategy.name, shown[strategy.name], records[strategy.name])
    return {name: str(value) for name, value in source.stated().items()}


def _kind(setr: Workbench, key: str) -> str:
    from setr_lib.datasets import evaluation_set

    return evaluation_set(setr.settings, key).kind


def _gallery(setr: Workbench, key: str) -> pl.DataFrame:
    from setr_lib.tables import GALLERY

    return setr.read_table("gallery_images", GALLERY, key)


def _store(setr: Workbench, key: str, strategy: str, rankings: pl.DataFrame, record: CoarseRecord) -> None:
    from setr_lib.tables import RANKINGS

    setr.write_table(setr.coarse_table(key, strategy), rankings, RANKINGS, made_by=record)


def _hits(setr: Workbench, key: str, rankings: dict[str, pl.DataFrame]) -> list[tuple[str, float]]:
    """A first look, not the official metric: the share of queries with any target among the first ten."""
    import polars as pl

    from setr_lib.tables import QUERIES

    queries = setr.read_table("queries", QUERIES, key)
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
