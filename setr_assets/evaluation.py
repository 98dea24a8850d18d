"""Assets of stage 2 and of measurement: re-ranked candidates, a report per evaluation set, the
leaderboard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from setr_assets import champion, previews
from setr_assets.blueprints import evaluation_asset, single_asset
from setr_assets.code_versions import OWN_BENCHMARKS, QWEN, reranker_systems, when
from setr_assets.composing import POOL
from setr_assets.data_versions import PartitionResults
from setr_assets.progress import reporter, say, warn_of_unused_prompts
from setr_assets.queryless import passed_over
from setr_lib.evaluation.row import COLUMNS, RANDOM, Row
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import content_digest
from setr_lib.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set
    from pathlib import Path

    import polars as pl

    from setr_lib.pipeline.evaluation import EvaluationResult
    from setr_lib.pipeline.reranking_run import RerankingRun

GROUP = "evaluation"


def _is_cut(settings: Settings) -> bool:
    """Whether some data set asks for more candidates to be re-ranked than stage 1 keeps."""
    return any(
        settings.rerank_depth(name) < settings.rerank_asked(name) for name in (None, *settings.datasets)
    )


class RerankingConfig(champion.VersionsConfig):
    """The versions of trained systems that re-ranking uses."""

    champion_version: str | None = Field(
        default=None,
        description="The re-ranker's version by an earlier key: use `versions`.",
    )

    def chosen_versions(self, setr: PipelineContext) -> dict[str, str | None]:
        """The versions to re-rank with: those pinned to, else the champions.

        Args:
            setr: The pipeline context.

        Returns:
            Version by registered model, that of the built-in adapter among them; None where nothing was
            promoted yet.
        """
        from setr_lib.pipeline.trained_system import pinned_version

        model = setr.settings.registry.model
        pinned = pinned_version(setr.settings, model, self.versions, self.champion_version)
        own = setr.weights.in_use(reranker_systems(setr.settings), self.versions)
        return {**own, model: pinned or setr.champion_version()}


@evaluation_asset(
    group=GROUP,
    number="4",
    reads=(
        "model:judge",
        "prompts:judge",
        QWEN,
        "coarse.default",
        "coarse.caption_default",
        "reranking.methods",
        "reranking.rerankers",
        "reranking.top_k",
        "datasets.*.rerank_top_k",
        when(_is_cut, "coarse.top_k"),
        "reranking.fusion",
        when(lambda settings: settings.reranking.fusion == "cosine_judge", "reranking.judge_weight"),
    ),
    kinds={"huggingface", "polars"},
    deps=["queries", "gallery_images", "coarse_rankings", champion.CHAMPION, champion.FUSION],
    more_deps=champion.sources_of(reranker_systems),
    pool=POOL,
)
def reranked_rankings(
    context: dg.AssetExecutionContext, config: RerankingConfig, setr: dg.ResourceParam[PipelineContext]
) -> PartitionResults:
    """The candidates of the methods that settings name (the default one), in the order of each re-ranker: the
    base judge, and the champion of the adapter, and of other trained re-rankers, where there is one. Every
    score is kept by content, so a killed or repeated run scores no pair twice."""
    from setr_lib.pipeline.reranking_run import RerankingRun

    versions = config.chosen_versions(setr)
    if not all(map(setr.is_caption_proxy, context.partition_keys)):
        _warn_of_missing_weights(context, setr, versions)
        warn_of_unused_prompts(context, setr)
    champion.report(context, setr)
    results = PartitionResults(
        metadata={"champion": versions[setr.settings.registry.model] or "none yet"},
        tags=champion.input_tags(champion.in_use(setr, versions)),
    )
    run = RerankingRun(setr, versions)
    for key in context.partition_keys:
        if passed_over(context, setr, key, results):
            continue
        if setr.is_caption_proxy(key):
            _leave_out(context, run, key, results)
        else:
            _rerank(context, run, key, results)
    return results


def _warn_of_missing_weights(
    context: dg.AssetExecutionContext, setr: PipelineContext, versions: Mapping[str, str | None]
) -> None:
    usable = [reranker.name for reranker in setr.rerankers.usable(versions)]
    rest = f"only the {' and the '.join(usable)} re-ranks" if usable else "nothing is re-ranked"
    missing: dict[str, list[str]] = {}
    for reranker in setr.rerankers.configured:
        if reranker.name not in usable and reranker.trained is not None:
            missing.setdefault(setr.weights.model(reranker.trained), []).append(reranker.name)
    for model, names in missing.items():
        unpromoted = f"no version of {model} is promoted yet"
        say(context, f"left out: {', '.join(names)} ({unpromoted}); {rest}", warning=True)


def _rerank(
    context: dg.AssetExecutionContext, run: RerankingRun, key: str, results: PartitionResults
) -> None:
    """Re-rank one evaluation set, and say of each row what was done."""
    done = run.rerank(key, reporter(context, key), lambda words: say(context, f"{key}: {words}"))
    results.add(
        key,
        done.data_version,
        {
            "dagster/partition_row_count": sum(table.rankings.height for table in done.tables),
            "champion": run.versions[run.context.settings.registry.model] or "none yet",
            "methods": done.methods,
            "K": done.record.rerank_top_k,
            **done.facts,
        },
    )


def _leave_out(
    context: dg.AssetExecutionContext, run: RerankingRun, key: str, results: PartitionResults
) -> None:
    """Without images there is nothing for a re-ranker to look at: stage 1 is then all there is."""
    record = run.leave_out(key)
    metadata = {"dagster/partition_row_count": 0, "methods": "none", "stage 2": record.stage_2}
    results.add(key, content_digest(record), metadata)
    say(context, f"{key}: not re-ranked: there are captions, and no image to judge")


@evaluation_asset(
    group=GROUP,
    number="5",
    reads=(
        OWN_BENCHMARKS,
        "coarse.strategies",
        "coarse.caption_strategies",
        "datasets.*.gallery",
        "evaluation.bootstrap_samples",
        "evaluation.seed",
        "evaluation.contact_sheet_queries",
        "evaluation.baselines",
        "evaluation.caption_baselines",
        "evaluation.shown",
        "coarse.caption_default",
    ),
    kinds={"polars", "html"},
    deps=[
        "queries",
        "gallery_images",
        "gallery_embeddings",
        "reference_captions",
        "query_compositions",
        "coarse_rankings",
        "reranked_rankings",
    ],
)
def evaluation_report(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> PartitionResults:
    """Official metrics with 95 % intervals and a random floor, paired comparisons, and an HTML page with
    contact sheets. Hidden splits get the page without scores."""
    from setr_lib.evaluation.cautions import small_set_of
    from setr_lib.evaluation.metrics import left_out_sentences
    from setr_lib.pipeline.evaluation import assess
    from setr_lib.pipeline.evaluation_runs import tell_mlflow
    from setr_lib.pipeline.mlflow_links import dagster_tags
    from setr_lib.pipeline.report_page import write_page
    from setr_lib.tables import METRICS

    results = PartitionResults()
    for key in context.partition_keys:
        if passed_over(context, setr, key, results):
            continue
        result = assess(setr, key)
        page = write_page(setr, key, result, run_id=context.run.run_id, coming=context.partition_keys)
        setr.tables.write("evaluation_report", result.rows, METRICS, key, made_by=result.note)
        told = tell_mlflow(
            setr,
            key,
            result,
            dagster_tags(setr.settings, context.run.run_id, context.asset_key.to_user_string(), key),
        )
        metadata = {**_report_metadata(setr, key, result, page), **previews.mlflow_run(told)}
        results.add(key, content_digest(result.rows, result.note), metadata)
        headline = result.evaluation_set.benchmark.headline_metrics
        say(context, f"{key}: {_best(result.rows, headline, page)}")
        if small := small_set_of(result.rows):
            say(context, f"{key}: {small}")
        for sentence in left_out_sentences(result.left_out):
            say(context, f"{key}: {sentence}", warning=True)
        if told.words:
            say(context, f"{key}: {told.words}", warning=told.failed)
    return results


def _report_metadata(setr: PipelineContext, key: str, result: EvaluationResult, page: Path) -> dict[str, Any]:
    from setr_lib.evaluation.failures import counted
    from setr_lib.pipeline.learned import learned_lines
    from setr_lib.pipeline.report_page import contact_sheet
    from setr_lib.tables import FAILURES

    headline = result.evaluation_set.benchmark.headline_metrics
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": result.rows.height,
        "dagster/column_schema": previews.columns(result.rows),
        "report": dg.MetadataValue.path(page.absolute()),
        "all reports": dg.MetadataValue.path(setr.settings.report_root.absolute() / "index.html"),
        "champion": result.note.champion or "none yet",
        **_scores(result.rows, headline, {result.note.method, *(row.method for row in result.note.rows)}),
    }
    if lines := learned_lines(result.learned):
        columns = ["row", "label", "of this set, seen in training"]
        metadata["what trained rows have learned from"] = previews.table(columns, lines)
    if result.comparisons:
        metadata["paired comparisons (percentage points, 95 %)"] = previews.table(
            ["a", "b", "metric", "a - b", "low", "high"],
            [
                (c.a, c.b, c.metric, c.difference, *((c.alike, "") if c.alike else (c.low, c.high)))
                for c in result.comparisons
            ],
            digits=1,
        )
    if kinds := counted(setr.tables.read("query_failures", FAILURES, key)):
        metadata["why targets are not in first place"] = previews.table(["kind", "queries"], kinds)
    if (sheet := contact_sheet(setr, key, result)) is not None:
        metadata["a query, before and after"] = previews.picture(sheet, "contact sheet")
    return metadata


def _best(rows: pl.DataFrame, headline: Sequence[str], page: Path) -> str:
    from setr_lib.evaluation.leaderboard import headline_metrics, order_lines

    if rows.is_empty():
        return f"no public targets, no scores; {page}"
    measured = rows.filter(rows["method"] != RANDOM.method)
    if measured.is_empty():
        return f"no metric could be computed, the page says why; {page}"
    metric = headline_metrics(measured["metric"], headline)[0]
    first = order_lines(measured, metric)[0]  # of equal ones, the table's first
    lines = measured.filter(metric=metric).iter_rows(named=True)
    value = next(line["value"] for line in lines if Row.of(line) == first)
    return f"best {metric} {value:.1f} % ({first.title}); {page}"


def _scores(rows: pl.DataFrame, headline: Sequence[str], methods: Set[str]) -> dict[str, Any]:
    """The headline metrics as numbers (Dagster plots them over time), of ``methods`` before and after each
    re-ranker, and the whole table to read.
    """
    from setr_lib.evaluation.leaderboard import headline_metrics, measured_metrics

    if rows.is_empty():
        return {"scores": "none: the targets of this split are not public"}
    chosen = rows.filter(rows["metric"].is_in(headline_metrics(measured_metrics(rows), headline)))
    numbers = {
        f"{line['metric']} {Row.of(line).title}": round(line["value"], 1)
        for line in chosen.iter_rows(named=True)
        if line["value"] is not None and (line["reranker"] or line["method"] in methods)
    }
    shown = chosen.select(*COLUMNS, "metric", "value", "ci_low", "ci_high")
    return {**numbers, "scores": previews.rows(shown, 50, digits=1)}


@single_asset(
    group=GROUP,
    number="2",
    reads=(),
    kinds={"polars", "json"},
    deps=["evaluation_report"],
)
def leaderboard(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """The latest scores of every evaluation set, one row per set, method, re-ranker and metric: what `setr
    leaderboard` prints."""
    from setr_lib.benchmarks import headlines
    from setr_lib.pipeline.evaluation import latest_scores
    from setr_lib.tables import METRICS

    frame = latest_scores(setr)
    path = setr.tables.write("leaderboard", frame, METRICS)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(content_digest(frame)),
        metadata={
            "dagster/row_count": frame.height,
            "dagster/column_schema": previews.columns(frame),
            "table": dg.MetadataValue.path(path),
            **_best_of_each_set(frame, headlines(setr.settings)),
        },
    )


def _best_of_each_set(frame: pl.DataFrame, headlines: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    from setr_lib.evaluation.leaderboard import headline_metrics, measured_metrics

    shown: dict[str, Any] = {}
    for (dataset, split), rows in frame.group_by("dataset", "split", maintain_order=True):
        metric = headline_metrics(measured_metrics(rows), headlines.get(str(dataset), ()))[0]
        ordered = rows.filter(metric=metric).sort("value", descending=True)
        shown[f"{dataset} {split}"] = previews.rows(
            ordered.select(*COLUMNS, "metric", "value", "ci_low", "ci_high", "comparable"), 20, digits=1
        )
    return shown
