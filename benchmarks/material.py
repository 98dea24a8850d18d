"""One evaluation set, ready to be ranked in any way by the library's own stages: what the ladder and the
dials measure with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from setr_lib.benchmarks import benchmark_of
from setr_lib.datasets import evaluation_set, inspect_gallery, load_gallery, load_queries, take_queries
from setr_lib.evaluation.metrics import evaluate
from setr_lib.methods.inputs import (
    CAPTIONS,
    COMPOSITIONS,
    TARGET,
    UNION,
    EncodedQueries,
    GalleryIndex,
    union_text,
)
from setr_lib.methods.method import get_method
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.embedding import embed
from setr_lib.pipeline.query_set import QuerySet, encode
from setr_lib.pipeline.removals import gallery_rule
from setr_lib.pipeline.reranking import (
    ADAPTER,
    BASE,
    FusionInUse,
    OpenReranker,
    fusion_in_use,
    open_reranker,
    rerank_candidates,
)
from setr_lib.pipeline.retrieval import encoded_queries
from setr_lib.pipeline.texts import texts_for
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    from setr_lib.reranking.fusion import Fusion
    from setr_lib.reranking.reranker import Reranker

KEYS = ("cirr-val", "fashioniq-val", "circo-val")
_BENCHMARKS = [benchmark_of(kind) for kind in ("cirr", "fashioniq", "circo")]
TITLES = {each.kind: each.name for each in _BENCHMARKS}
MEASURED = {each.kind: tuple(dict.fromkeys(reversed(each.compared_metrics))) for each in _BENCHMARKS}
"""By kind of data set, the metrics that are compared: stage 2's own, and stage 1's."""
STAGE_2 = {kind: metrics[0] for kind, metrics in MEASURED.items()}
STAGE_1 = {kind: metrics[-1] for kind, metrics in MEASURED.items()}


@dataclass(frozen=True)
class Judge:
    """A re-ranker together with how its score and stage 1's become one order."""

    reranker: Reranker
    fusion: Fusion
    weight: float

    @property
    def opened(self) -> OpenReranker:
        """The re-ranker as the pipeline takes it."""
        return OpenReranker(self.reranker)

    @property
    def fused(self) -> FusionInUse:
        """The fusion as the pipeline takes it."""
        return FusionInUse(self.fusion, self.weight, "as it is measured")


@dataclass(frozen=True)
class Material:
    """An evaluation set with its vectors and with everything that its queries were read as."""

    kind: str
    ready: QuerySet
    depth: int
    """How many candidates stage 2 re-orders here, as configured."""

    @property
    def queries(self) -> pl.DataFrame:
        """The QUERIES table."""
        return self.encoded.frame

    @property
    def gallery(self) -> pl.DataFrame:
        """The GALLERY table."""
        return self.ready.images

    @property
    def encoded(self) -> EncodedQueries:
        """The queries as methods read them."""
        return self.ready.queries

    def coarse(self, name: str, k: int) -> pl.DataFrame:
        """Stage 1.

        Args:
            name: The method's name.
            k: Images of each ranking.

        Returns:
            A RANKINGS frame.
        """
        return self.ready.ranked(get_method(name), k)

    def _with(self, name: str, texts: Sequence[str]) -> Material:
        queries = self.encoded.with_vectors(name, self.encoded.encode(texts))
        return replace(self, ready=replace(self.ready, queries=queries))

    def composed_as(self, captions: Mapping[str, str]) -> Material:
        """The same queries with other target captions, encoded by the same CLIP.

        Args:
            captions: Query id -> caption.

        Returns:
            The set.
        """
        return self._with(TARGET, [captions[query] for query in self.queries["query_id"]])

    def described_as(self, captions: Sequence[str]) -> Material:
        """The same queries with other captions of their references in the union's text.

        Args:
            captions: A caption for each query, in their order.

        Returns:
            The set.
        """
        return self._with(UNION, list(map(union_text, captions, self.queries["modification"])))

    def judged(
        self,
        context: PipelineContext,
        rankings: pl.DataFrame,
        judge: Judge,
        k: int,
        progress: Progress = silent,
    ) -> pl.DataFrame:
        """Stage 2; scores are kept in the cache, by content.

        Args:
            context: The context whose cache keeps the scores.
            rankings: A RANKINGS frame of stage 1.
            judge: The judge with its fusion.
            k: Candidates that are re-ranked.
            progress: Told how many pairs are scored.

        Returns:
            A RANKINGS frame.
        """
        return rerank_candidates(
            context,
            judge.opened,
            rankings,
            self.queries,
            self.gallery,
            k=k,
            fused=judge.fused,
            progress=progress,
        )

    def perfectly_judged(self, rankings: pl.DataFrame, k: int) -> pl.DataFrame:
        """Stage 2 by a perfect judge: the annotated targets among the candidates come first.

        Args:
            rankings: A RANKINGS frame of stage 1.
            k: Candidates that are re-ranked.

        Returns:
            A RANKINGS frame.
        """
        targets = self.queries.select("query_id", image_id="target_ids").explode("image_id")
        marked = rankings.join(
            targets.with_columns(hit=pl.lit(True)),
            on=["query_id", "image_id"],
            how="left",
            maintain_order="left",
        )
        found = pl.col("hit").fill_null(False) & ((pl.col("rank") <= k) | (pl.col("pool") == "subset"))
        last = int(rankings["rank"].max() or 0)  # pyright: ignore[reportArgumentType]
        order = pl.col("rank") + pl.when(found).then(0).otherwise(last)
        new_rank = order.rank("ordinal").over("query_id", "pool")
        return marked.with_columns(rank=new_rank.cast(pl.Int32)).select(rankings.columns)

    def per_query(self, rankings: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """The compared metrics of a ranking.

        Args:
            rankings: A RANKINGS frame.

        Returns:
            Column -> PER_QUERY frame of one metric.
        """
        return self.measured(
            evaluate(self.kind, self.queries, rankings, self.gallery, unranked="miss").per_query
        )

    def measured(self, per_query: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """The compared metrics of a PER_QUERY frame; those that could not be computed are left out.

        Args:
            per_query: The frame.

        Returns:
            Column -> PER_QUERY frame of one metric.
        """
        frames = {metric: per_query.filter(metric=metric) for metric in MEASURED[self.kind]}
        return {column(self.kind, metric): frame for metric, frame in frames.items() if frame.height}


def column(kind: str, metric: str) -> str:
    """The heading of a metric: ``CIRR R@1``.

    Args:
        kind: The kind of data set.
        metric: The metric.

    Returns:
        The heading.
    """
    return f"{TITLES[kind]} {metric}"


COLUMNS = tuple(column(kind, metric) for kind, metrics in MEASURED.items() for metric in metrics)


def from_tables(context: PipelineContext, key: str, limit: int | None = None) -> Material:
    """The evaluation set as the pipeline has materialised it.

    Args:
        context: The pipeline context.
        key: The evaluation set.
        limit: Queries to take; None for all.

    Returns:
        The set.

    Raises:
        NotMadeYetError: Something is not materialised; the message names it.
    """
    import numpy as np

    ready, _ = encoded_queries(context, key)
    every = ready.queries
    kept = take_queries(every.frame, limit)["query_id"].implode()
    rows = np.flatnonzero(every.frame["query_id"].is_in(kept).to_numpy())
    found = evaluation_set(context.settings, key)
    depth = context.settings.rerank_depth(found.dataset)
    return Material(found.kind, replace(ready, queries=every.rows(rows)), depth)


def from_files(
    context: PipelineContext, world: PipelineContext, key: str, progress: Progress = silent
) -> Material:
    """An evaluation set of another world, read from its files with models and caches of this one.

    Captions, compositions and vectors are kept, so a killed run goes on where it was.

    Args:
        context: The context with models and caches.
        world: The context of the world, which shares the models.
        key: The evaluation set.
        progress: Told how far it is.

    Returns:
        The set.
    """
    evaluated = evaluation_set(world.settings, key)
    queries = load_queries(world.settings, key)
    gallery = inspect_gallery(load_gallery(world.settings, key), progress, evaluated.pixels)
    rule = gallery_rule(world, evaluated, "gallery_embeddings")
    report = embed(world, evaluated.gallery_key, gallery, world.models.space(), progress, rule)
    ready = encode(
        context,
        queries,
        gallery,
        GalleryIndex(*world.gallery_store.read(report.table, report.version)),
        texts=texts_for(
            context,
            [],
            queries,
            gallery,
            also=(CAPTIONS, COMPOSITIONS),
            dataset=evaluated.kind,
            progress=progress,
        ),
        benchmark=evaluated.benchmark,
    )
    return Material(evaluated.kind, ready, context.settings.rerank_depth(evaluated.dataset))


def configured_judge(context: PipelineContext, version: str | None) -> Judge:
    """The base judge or an adapter of the registry, with the fusion that was chosen for it.

    Args:
        context: The pipeline context.
        version: The adapter's version; None for the base judge.

    Returns:
        The judge.
    """
    fused = configured_fusion(context, version)
    reranker = open_reranker(context, BASE if version is None else ADAPTER, version)
    return Judge(reranker.scorer, fused.fusion, fused.weight)


def configured_fusion(context: PipelineContext, version: str | None) -> FusionInUse:
    """How the default method's scores and a judge's become one order, as configured."""
    method = context.methods.get(context.settings.coarse.default)
    reranker = context.rerankers.get(BASE if version is None else ADAPTER)
    return fusion_in_use(context, method, reranker, version)
