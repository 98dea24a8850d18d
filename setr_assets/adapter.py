"""Assets of the adapter's life: trained, registered once a fresh process could reload it, promoted where it
is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import champion, previews
from setr_assets.blueprints import single_asset
from setr_assets.checks import better_than_champion, round_trip
from setr_assets.code_versions import reranked_need, when
from setr_assets.composing import POOL
from setr_assets.progress import reporter, say, warn_of_unused_prompts
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import AdapterRecord, PairsRecord, PromotedRecord, RegisteredRecord, content_digest
from setr_lib.settings import AdapterSettings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.registry.bundle import Bundle
    from setr_lib.reranking.held_out import HeldOutReport
    from setr_lib.reranking.training_result import AdapterResult

GROUP = "reranker"
ADAPTER_SETTINGS = tuple(
    f"reranking.adapter.{name}" for name in AdapterSettings.model_fields if name != "checkpoint_every"
)
"""What a training depends on, as in ``training_run_digest``."""


@single_asset(
    group=GROUP,
    number="1",
    reads=("model:judge", "prompts:judge", *ADAPTER_SETTINGS),
    kinds={"pytorch", "huggingface", "mlflow"},
    deps=["training_images", "reranker_pairs"],
    pool=POOL,
)
def reranker_adapter(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """A LoRA adapter of the judge's language model, trained on the Yes/No pairs, and its held-out scores
    before and after. Killed, it goes on from its last checkpoint; where model, prompt, pairs and settings are
    as before, nothing is trained."""
    from setr_lib.pipeline.reranking import yes_no_judge
    from setr_lib.registry.bundle import base_reference
    from setr_lib.reranking.checkpoint import only_trainer
    from setr_lib.reranking.held_out import pictures_of
    from setr_lib.reranking.training import train_adapter, training_run_digest
    from setr_lib.reranking.training_result import load_result
    from setr_lib.tables import PAIRS, TRAINING_IMAGES

    pairs = setr.tables.read("reranker_pairs", PAIRS)
    pictures = pictures_of(setr.tables.read("training_images", TRAINING_IMAGES))
    warn_of_unused_prompts(context, setr)
    judge, options = yes_no_judge(setr), setr.settings.reranking.adapter
    run_digest = training_run_digest(judge, pairs, options)
    folder = setr.settings.checkpoint_root / run_digest[:16]
    # Held until MLflow has it too: a second run of the same training then finds it there.
    with only_trainer(folder, run_digest, reporter(context)):
        model_uri = setr.registry.find_logged(run_digest)
        result = load_result(folder, run_digest)
        if model_uri is None:
            tags = {
                "dagster.run_id": context.run.run_id,
                "dagster.asset": "reranker_adapter",
                "setr.run": run_digest,
            }
            with setr.registry.training_run(
                f"adapter {run_digest[:8]}", _parameters(setr, judge.model.id), tags
            ) as run:
                result = train_adapter(
                    judge,
                    pairs,
                    pictures,
                    options,
                    folder,
                    progress=reporter(context),
                    on_metrics=run.log,
                )
                reference = base_reference(judge.model, setr.settings.models.judge, setr.settings.judge_name)
                model_uri = setr.registry.log_adapter(run, result, reference, judge.template, pictures)
    record = AdapterRecord(run=run_digest, model_uri=model_uri, checkpoints=str(folder), label=_label(pairs))
    setr.tables.write_record("reranker_adapter", record)
    say(
        context,
        "the same training is in MLflow already: nothing trained" if result is None else _in_words(result),
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(content_digest(record)),
        metadata={
            "model": model_uri,
            "run": run_digest,
            **({} if result is None else _metadata(result)),
        },
    )


@single_asset(
    group=GROUP,
    number="1",
    reads=("registry.model",),
    kinds={"mlflow"},
    deps=["reranker_adapter"],
    check_specs=[round_trip("registered_reranker")],
)
def registered_reranker(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """The adapter as a version of MLflow's registered model, after a fresh process has loaded it and given
    the very scores of the training process. An adapter that fails this is not registered, and nothing is
    promoted."""
    adapter = setr.tables.read_record("reranker_adapter", AdapterRecord)
    registry = setr.registry
    known = next((info for info in registry.versions() if info.tags.get("setr.run") == adapter.run), None)
    if known is not None:
        record = RegisteredRecord(**adapter.stated(), version=known.version)
        setr.tables.write_record("registered_reranker", record)
        say(context, f"version {known.version} was registered before: its round trip is not repeated")
        return _registered(record, True, f"passed when version {known.version} was registered")
    report = registry.round_trip(adapter.model_uri)
    if not report.ok:
        problems = "; ".join(report.problems)
        say(context, f"not registered: {problems}", warning=True)
        return _registered(adapter, False, problems)
    version = registry.register(adapter.model_uri, report)
    registry.client.set_model_version_tag(registry.model, version, LABEL_TAG, adapter.label)
    record = RegisteredRecord(**adapter.stated(), version=version)
    setr.tables.write_record("registered_reranker", record)
    say(context, f"registered as version {version}; reloaded in a fresh process in {report.seconds:.0f} s")
    return _registered(record, True, f"{len(report.scores)} scores were the same in a fresh process")


LABEL_TAG = "setr.label"
"""What a leaderboard row of this version must say: zero-shot, or trained on triplets."""


def _registered(record: AdapterRecord, passed: bool, words: str) -> dg.MaterializeResult:
    version = record.version if isinstance(record, RegisteredRecord) else "not registered"
    return dg.MaterializeResult(
        metadata={"version": version, "model": record.model_uri, "run": record.run},
        data_version=dg.DataVersion(content_digest(record)),
        check_results=[
            dg.AssetCheckResult(
                passed=passed,
                check_name="reloads_in_a_fresh_process",
                description=words,
                metadata={"model": record.model_uri},
            )
        ],
    )


@single_asset(
    group=GROUP,
    number="1",
    reads=("registry.model", "model:judge"),
    kinds={"mlflow"},
    deps=["registered_reranker", "reranker_pairs", "training_images"],
    check_specs=[better_than_champion("promoted_reranker")],
    pool=POOL,
)
def promoted_reranker(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """The champion alias: moved to the newest version if it is the first, or better than the champion on
    held-out synthesised pairs, or has another base or judge prompt than the champion. No benchmark has a say
    in it. Otherwise the version becomes the challenger, with the reason."""
    version = setr.tables.read_record("registered_reranker", RegisteredRecord).version
    promotion = setr.registry.promote(version, lambda bundle: _held_out_report(context, setr, bundle))
    record = PromotedRecord(champion=promotion.champion, reason=promotion.reason)
    setr.tables.write_record("promoted_reranker", record)
    champion.report(context, setr)
    say(context, f"champion: version {promotion.champion} ({promotion.reason})")
    return dg.MaterializeResult(
        metadata={
            "champion": promotion.champion,
            "before": promotion.previous or "none",
            "newest version": promotion.version,
            "reason": promotion.reason,
            **_auc_by_version(setr),
        },
        data_version=dg.DataVersion(content_digest(record)),
        check_results=[
            dg.AssetCheckResult(
                passed=promotion.promoted,
                check_name="newest_version_is_champion",
                severity=dg.AssetCheckSeverity.WARN,
                description=promotion.reason,
            )
        ],
    )


@single_asset(
    group=GROUP,
    number="2",
    reads=(
        "model:judge",
        "model:encoder",
        "prompts:judge",
        when(lambda settings: settings.reranking.methods is None, "coarse.default"),
        "reranking.methods",
        "reranking.rerankers",
        "reranking.top_k",
        when(lambda settings: settings.rerank_depth() < settings.rerank_asked(), "coarse.top_k"),
        when(reranked_need("captions"), "prompts:describe", "models.judge.max_new_tokens"),
        when(reranked_need("compositions"), "prompts:compose", "models.judge.max_new_tokens"),
        when(reranked_need("anchor_share"), "coarse.anchor_share"),
    ),
    kinds={"polars", "parquet"},
    deps=["reranker_pairs", "training_images", "training_embeddings", "promoted_reranker"],
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
    table = calibrate(
        setr,
        setr.champion_version(),
        reporter(context),
        lambda words, is_warning: say(context, words, warning=is_warning),
    )
    path = setr.tables.write("reranking_fusion", table, FUSIONS)
    champion.report(context, setr)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(content_digest(table)),
        metadata={
            "dagster/row_count": table.height,
            "dagster/column_schema": previews.columns(table),
            "trials": previews.rows(table, 40),
            "queries": 0 if table.is_empty() else int(table["queries"].to_numpy().max()),
            "table": dg.MetadataValue.path(path),
        },
    )


def _held_out_report(
    context: dg.AssetExecutionContext, setr: PipelineContext, bundle: Bundle
) -> HeldOutReport:
    """How the champion does on the held-out pairs of today, under its own prompt."""
    from setr_lib.reranking.held_out import judge_pair_frame, measure, pictures_of
    from setr_lib.reranking.yes_no_judge import YesNoJudge
    from setr_lib.tables import PAIRS, TRAINING_IMAGES

    pairs = setr.tables.read("reranker_pairs", PAIRS).filter(split="held_out")
    pictures = pictures_of(setr.tables.read("training_images", TRAINING_IMAGES))
    judge = YesNoJudge(setr.models.fresh_multimodal(bundle.adapter), bundle.judge_prompt)
    return measure(pairs, judge_pair_frame(judge, pairs, pictures, progress=reporter(context)))


def _auc_by_version(setr: PipelineContext) -> dict[str, Any]:
    lines = [
        (info.version, info.held_out_auc, ", ".join(setr.registry.version(info.version).aliases))
        for info in setr.registry.versions()[:20]
    ]
    return {"held-out AUC by version": previews.table(["version", "held-out AUC", "aliases"], lines)}


def _parameters(setr: PipelineContext, base_id: str) -> dict[str, object]:
    """What MLflow shows of a training: the settings, the base, the pairs and what these were made from."""
    made = setr.tables.read_record("reranker_pairs", PairsRecord)
    options = setr.settings.reranking.adapter.model_dump()
    pairs = setr.settings.reranking.pairs.model_dump()
    return {
        **{name: str(value) for name, value in options.items()},
        **{f"pairs.{name}": str(value) for name, value in pairs.items()},
        "base": base_id,
        "pairs_digest": made.digest,
        "encoder": made.encoder,
        "training_table": made.table,
        "training_table_version": made.version,
    }


def _label(pairs: pl.DataFrame) -> str:
    """What a score of this adapter must say: triplets may be a benchmark's, synthesised pairs never are."""
    return "supervised by triplets" if pairs["source"].eq("triplets").any() else "zero-shot"


def _in_words(result: AdapterResult) -> str:
    if result.reused:
        done = "the same training was finished before: nothing trained"
    elif result.resumed_from:
        done = f"trained on from step {result.resumed_from:,} to {result.steps:,}"
    else:
        done = f"trained {result.steps:,} steps in {result.seconds:.0f} s"
    return f"{done}; held-out AUC {result.before.auc:.3f} -> {result.after.auc:.3f}"


def _metadata(result: AdapterResult) -> dict[str, Any]:
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
