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
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import CoarseRecord, SourceRecord, content_digest

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.benchmarks import Benchmark
    from setr_lib.methods.inputs import EncodedQueries, GalleryIndex
    from setr_lib.methods.method import Method


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
    deps=[
        "queries",
        "gallery_images",
        "gallery_embeddings",
        "reference_captions",
        "query_compositions",
        "method_texts",
    ],
)
def coarse_rankings(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> PartitionResults:
    """The K nearest images of every query by every configured strategy (``[coarse] strategies``), found by
    exact search over the frozen CLIP vectors; CIRR's six-image subsets too. The default strategy's K go to
    the judge. Where the gallery has captions, ``[coarse] caption_strategies`` rank it by these."""
    from setr_lib.methods.method import ranks_captions

    results = PartitionResults()
    for key in context.partition_keys:
        methods = setr.methods(key)
        by_vectors = [each for each in methods if not ranks_captions(each)]
        by_captions = [each for each in methods if ranks_captions(each)]
        shown: dict[str, pl.DataFrame] = {}
        records: dict[str, CoarseRecord] = {}
        facts: dict[str, Any] = {}
        if by_vectors:
            encoded, index, source = setr.encoded_queries(key)
            _rank(context, setr, key, by_vectors, (encoded, index, source), shown, records)
            facts |= {
                "queries without a reference vector": len(encoded.missing_references),
                "texts cut at the encoder's context": encoded.encode.truncated,
                **{name: str(value) for name, value in source.stated().items()},
            }
        if by_captions:
            # Every image is ranked, those without a caption last.
            queries, index, source = setr.captioned_queries(key)
            _rank(context, setr, key, by_captions, (queries, index, source), shown, records)
            facts |= {name: str(value) for name, value in source.stated().items()}
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


def _rank(
    context: dg.AssetExecutionContext,
    setr: PipelineContext,
    key: str,
    methods: Sequence[Method],
    material: tuple[EncodedQueries, GalleryIndex, SourceRecord],
    shown: dict[str, pl.DataFrame],
    records: dict[str, CoarseRecord],
) -> None:
    """Rank by each method and store; ``shown`` and ``records`` get the rankings and what made them, by
    method.
    """
    from setr_lib.methods.ranking import rank

    benchmark, top_k, gallery = _benchmark(setr, key), setr.settings.coarse.top_k, _gallery(setr, key)
    queries, index, source = material
    for method in methods:
        options = setr.method_options(method)
        shown[method.name] = rank(
            method,
            queries,
            gallery,
            index,
            top_k,
            remove_reference=benchmark.removes_reference,
            options=options,
            progress=reporter(context, key),
        )
        records[method.name] = CoarseRecord(
            **{
                **source.stated(),
                "strategy": method.name,
                "top_k": top_k,
                "dataset_kind": benchmark.kind,
                **options,
            }
        )
        _store(setr, key, method.name, shown[method.name], records[method.name])


def _benchmark(setr: PipelineContext, key: str) -> Benchmark:
    from setr_lib.datasets import evaluation_set

    return evaluation_set(setr.settings, key).benchmark


def _gallery(setr: PipelineContext, key: str) -> pl.DataFrame:
    from setr_lib.tables import GALLERY

    return setr.read_table("gallery_images", GALLERY, key)


def _store(
    setr: PipelineContext, key: str, strategy: str, rankings: pl.DataFrame, record: CoarseRecord
) -> None:
    from setr_lib.tables import RANKINGS

    setr.write_table(setr.coarse_table(key, strategy), rankings, RANKINGS, made_by=record)


def _hits(setr: PipelineContext, key: str, rankings: dict[str, pl.DataFrame]) -> list[tuple[str, float]]:
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
