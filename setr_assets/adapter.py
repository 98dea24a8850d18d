"""The judge's adapter: its training, registration and promotion, and the choice of fusion for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import champion, previews
from setr_assets.blueprints import single_asset
from setr_assets.code_versions import (
    QWEN,
    RERANKED_OPTIONS,
    RERANKED_TEXTS,
    calibrated_systems,
    is_own_name,
    options_of,
    reads_key,
    reranked_need,
    reranked_spaces,
    search_of,
    texts_of,
    when,
    written_with,
)
from setr_assets.composing import POOL
from setr_assets.progress import reporter, say, warn_of_unused_prompts
from setr_assets.trained import Inputs, Names, trained_system_assets
from setr_lib.pipeline.adapter_system import AdapterSystem
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import content_digest
from setr_lib.settings import AdapterSettings

if TYPE_CHECKING:
    from setr_lib.reranking.training_result import AdapterResult

GROUP = "reranker"
ADAPTER_SETTINGS = tuple(
    f"reranking.adapter.{name}"
    for name in AdapterSettings.model_fields
    if name not in ("checkpoint_every", "held_out_points")
)
"""What a training depends on, as in ``training_run_digest``."""


def _facts(result: AdapterResult) -> dict[str, Any]:
    """What Dagster shows of a finished training."""
    return {
        "held-out AUC": result.after.auc,
        "held-out AUC of the base": result.before.auc,
        "held-out accuracy": result.after.accuracy,
        "held-out accuracy of the base": result.before.accuracy,
        "AUC by kind of negative": previews.table(
            ["kind", "base", "adapter"],
            [(kind, result.before.auc_by_kind[kind], auc) for kind, auc in result.after.auc_by_kind.items()],
        ),
        "loss": previews.line_chart(result.curve["step"].to_list(), result.curve["loss"].to_list(), "loss"),
        "steps": result.steps,
        "seconds": result.seconds,
        "trained now": not result.reused,
        "resumed from step": result.resumed_from,
        "trainable parameters": result.trainable_parameters,
        "base": result.base_id,
        "prompt": result.prompt_hash,
        "pairs": result.pairs_digest,
        "adapter": dg.MetadataValue.path(result.folder),
    }


reranker_adapter, registered_reranker, promoted_reranker = trained_system_assets(
    AdapterSystem,
    Names("reranker_adapter", "registered_reranker", "promoted_reranker"),
    Inputs(
        reads=("model:judge", "prompts:judge", *ADAPTER_SETTINGS),
        model="registry.model",
        measured_with=("model:judge",),
        deps=["training_images", "reranker_pairs"],
        held_out=["reranker_pairs", "training_images"],
    ),
    group=GROUP,
    kinds={"pytorch", "huggingface", "mlflow"},
    facts=_facts,
)


@single_asset(
    group=GROUP,
    number="2",
    reads=(
        "model:judge",
        *search_of(reranked_spaces),
        "prompts:judge",
        QWEN,
        when(lambda settings: settings.reranking.methods is None, "coarse.default"),
        "reranking.methods",
        when(
            lambda settings: any(is_own_name(settings, method) for method in settings.reranked_methods),
            "coarse.strategies",  # whose code one of them is
        ),
        "reranking.rerankers",
        "reranking.top_k",
        when(lambda settings: settings.rerank_depth() < settings.rerank_asked(), "coarse.top_k"),
        when(reranked_need("captions"), "prompts:describe", "models.judge.max_new_tokens"),
        when(reranked_need("compositions"), "prompts:compose", "models.judge.max_new_tokens"),
        when(reads_key("coarse.anchor_share", reranked=True), "coarse.anchor_share"),
        written_with(reranked_need("captions")),
        written_with(reranked_need("compositions")),
        *texts_of(RERANKED_TEXTS),
        options_of(RERANKED_OPTIONS),
    ),
    kinds={"polars", "parquet"},
    deps=["reranker_pairs", "training_images", "training_embeddings", "promoted_reranker"],
    more_deps=champion.sources_of(calibrated_systems),
    pool=POOL,
)
def reranking_fusion(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """How stage 1's score and a re-ranker's become one order, for each method and re-ranker that settings
    name: what orders held-out synthesised queries, searched in the training images' own table, best. No
    benchmark has a say in it."""
    from setr_lib.pipeline.fusion_calibration import calibrate
    from setr_lib.tables import FUSIONS

    warn_of_unused_prompts(context, setr)
    chosen = champion.choose(context, setr, calibrated_systems)
    table = calibrate(
        setr,
        chosen.versions,
        reporter(context),
        lambda words, is_warning: say(context, words, warning=is_warning),
    )
    path = setr.tables.write("reranking_fusion", table, FUSIONS)
    champion.report(context, setr)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(content_digest(table)),
        tags=chosen.tags,
        metadata={
            "dagster/row_count": table.height,
            "dagster/column_schema": previews.columns(table),
            "trials": previews.rows(table, 40),
            "queries": 0 if table.is_empty() else int(table["queries"].to_numpy().max()),
            "table": dg.MetadataValue.path(path),
        },
    )
