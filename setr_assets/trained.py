"""The three assets of a trained system: trained, registered once a fresh process could reload it, promoted
where it is better.

The steps are ``setr_lib.pipeline.training_steps``; here is what Dagster should know of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dagster as dg

from setr_assets import champion, previews
from setr_assets.blueprints import Blueprint, single_asset
from setr_assets.checks import better_than_champion, round_trip
from setr_assets.code_versions import Reads
from setr_assets.composing import POOL
from setr_assets.progress import reporter, say
from setr_lib.escaping import markdown
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.trained_system import TrainedSystem
from setr_lib.records import PromotedRecord, RegisteredRecord, TrainedRecord, content_digest

STEP_TAG, PROMOTION = "setr/step", "promotion"
"""The tag by which jobs know what belongs to a training: all that is upstream of a promotion."""


class Names(NamedTuple):
    """What the three assets are called."""

    trained: str
    registered: str
    promoted: str


@dataclass(frozen=True)
class Inputs:
    """What the assets of a trained system depend on.

    Attributes:
        reads: What the training reads of the settings.
        model: The settings key that names the registered model; None where no setting does.
        measured_with: What measuring a champion again reads of the settings.
        deps: Assets with the training data.
        held_out: Those of them with the held-out data.
    """

    reads: Reads
    model: str | None
    measured_with: Reads
    deps: Sequence[str]
    held_out: Sequence[str]


def trained_system_assets(
    system: type[TrainedSystem[Any]],
    names: Names,
    inputs: Inputs,
    *,
    group: str,
    kinds: set[str],
    facts: Callable[[Any], dict[str, Any]] = lambda _: {},
) -> tuple[Blueprint, Blueprint, Blueprint]:
    """The assets that train, register and promote a system.

    Args:
        system: The system; its docstring describes the first asset.
        names: Of the assets; their records are stored under them.
        inputs: What they depend on.
        group: Dagster's group.
        kinds: Of the training, as Dagster shows them.
        facts: Metadata of a finished training.

    Returns:
        The three, in the order of the data.

    Raises:
        ValueError: The promotion is not called what the system says of itself.
    """
    if names.promoted != system.promoted_by:
        raise ValueError(
            f"{system.name} says promoted_by = {system.promoted_by!r}, the asset is {names.promoted!r}"
        )
    named = (inputs.model,) if inputs.model else ()
    trained = single_asset(
        group=group, number="1", reads=inputs.reads, kinds=kinds, deps=inputs.deps, pool=POOL
    )
    registered = single_asset(
        group=group,
        number="1",
        reads=named,
        kinds={"mlflow"},
        deps=[names.trained],
        check_specs=[round_trip(names.registered)],
    )
    promoted = single_asset(
        group=group,
        number="1",
        reads=(*named, *inputs.measured_with),
        kinds={"mlflow"},
        deps=[names.registered, *inputs.held_out],
        check_specs=[better_than_champion(names.promoted)],
        pool=POOL,
        tags={STEP_TAG: PROMOTION},
    )
    return (
        trained(_training(system, names, facts)),
        registered(_registration(system, names)),
        promoted(_promotion(system, names)),
    )


def _training(
    system: type[TrainedSystem[Any]], names: Names, facts: Callable[[Any], dict[str, Any]]
) -> Callable[..., dg.MaterializeResult]:
    def asset(
        context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
    ) -> dg.MaterializeResult:
        from setr_lib.pipeline.mlflow_links import dagster_tags, training_page
        from setr_lib.pipeline.training_steps import train

        this = system(setr)
        for notice in this.notices():
            say(context, notice, warning=True)
        tags = dagster_tags(setr.settings, context.run.run_id, names.trained)
        training = train(this, tags, reporter(context))
        setr.tables.write_record(names.trained, training.record)
        say(context, training.words)
        told = {} if training.result is None else facts(training.result)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(content_digest(training.record)),
            metadata={
                "model": training.record.model_uri,
                "run": training.record.run,
                "MLflow run": dg.MetadataValue.url(training_page(setr, training.record.model_uri)),
                **told,
            },
        )

    return _named(asset, names.trained, inspect.getdoc(system) or "")


def _registration(system: type[TrainedSystem[Any]], names: Names) -> Callable[..., dg.MaterializeResult]:
    def asset(
        context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
    ) -> dg.MaterializeResult:
        from setr_lib.pipeline.mlflow_links import version_page
        from setr_lib.pipeline.training_steps import register

        done = register(system(setr), setr.tables.read_record(names.trained, TrainedRecord))
        if done.version is not None:
            setr.tables.write_record(names.registered, done.record)
        say(context, done.words, warning=done.version is None)
        record, model = done.record, system.registered_model(setr.settings)
        page = None if done.version is None else version_page(setr.settings, model, done.version)
        check = dg.AssetCheckResult(
            passed=done.version is not None,
            check_name="reloads_in_a_fresh_process",
            description=markdown(done.check),
            metadata={"model": record.model_uri},
        )
        return dg.MaterializeResult(
            metadata={
                "registered model": model,
                "version": done.version or "not registered",
                "model": record.model_uri,
                "run": record.run,
                **({} if page is None else {"MLflow version": dg.MetadataValue.url(page)}),
            },
            data_version=dg.DataVersion(content_digest(record)),
            check_results=[check],
        )

    return _named(
        asset,
        names.registered,
        f"The trained {system.name} as a version of its registered model in MLflow, after a fresh process "
        "has loaded it and given what the training process gave. One that fails this is not registered, and "
        "nothing is promoted.",
    )


def _promotion(system: type[TrainedSystem[Any]], names: Names) -> Callable[..., dg.MaterializeResult]:
    def asset(
        context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
    ) -> dg.MaterializeResult:
        from setr_lib.pipeline.training_steps import promote

        this = system(setr)
        done = promote(
            this, setr.tables.read_record(names.registered, RegisteredRecord).version, reporter(context)
        )
        record = PromotedRecord(champion=done.champion, reason=done.reason)
        setr.tables.write_record(names.promoted, record)
        champion.report(context, setr)
        say(context, f"champion: version {done.champion} ({done.reason})")
        check = dg.AssetCheckResult(
            passed=done.promoted,
            check_name="newest_version_is_champion",
            severity=dg.AssetCheckSeverity.WARN,
            description=markdown(done.reason),
        )
        return dg.MaterializeResult(
            metadata={
                "champion": done.champion,
                "before": done.previous or "none",
                "newest version": done.version,
                "reason": done.reason,
                **_figures(this),
            },
            data_version=dg.DataVersion(content_digest(record)),
            check_results=[check],
        )

    incomparable = "".join(f", or the champion {words}" for words in system.must_equal.values())
    return _named(
        asset,
        names.promoted,
        f"The champion alias of the trained {system.name}: moved to the newest version if that is the "
        f"first, or has the better {system.measure.name} on held-out data{incomparable}. No benchmark has a "
        "say in it. Otherwise the version becomes the challenger, with the reason.",
    )


def _named(
    asset: Callable[..., dg.MaterializeResult], name: str, description: str
) -> Callable[..., dg.MaterializeResult]:
    asset.__name__ = asset.__qualname__ = name
    asset.__doc__ = description
    return asset


def _figures(system: TrainedSystem[Any]) -> dict[str, Any]:
    from setr_lib.pipeline.training_steps import registered_model

    figure = f"held-out {system.measure.name}"
    lines = [
        (info.version, system.measure.of(info.tags), ", ".join(info.aliases))
        for info in registered_model(system).versions()[:20]
    ]
    return {f"{figure} by version": previews.table(["version", figure, "aliases"], lines)}
