"""The observed sources of rankings: the champions of trained systems, and how scores are fused.

Evaluation runs with the champions of the day, without anything being trained, so none is an ordinary
dependency. They are observed: their data versions say what they are now, and after a promotion the partitions
that were ranked or re-ranked with another version look stale.
"""

# No `from __future__ import annotations`: Dagster compares the function's annotations with the classes
# themselves.

import re
from collections.abc import Iterator, Mapping

import dagster as dg
from pydantic import Field

from setr_assets.code_versions import needed_systems
from setr_assets.data_versions import DATA_VERSION_TAG, INPUT_TAG
from setr_lib.hashing import digest_json
from setr_lib.pipeline.adapter_system import AdapterSystem
from setr_lib.pipeline.context import PipelineContext
from setr_lib.settings import Settings

CHAMPION = "champion_reranker"
FUSION = "fusion_in_use"
NONE = "none"
"""The data version of a champion before anything is promoted."""


class VersionsConfig(dg.Config):
    """The versions of trained systems that a run is pinned to."""

    versions: dict[str, str] = Field(
        default={},
        description=(
            "Version by registered model, e.g. {'setr-reranker': '3'}. By default the version that holds "
            "the champion alias when this step starts; looked up once, for all evaluation sets of the run."
        ),
    )


def champion_of(system: str) -> str:
    """The source that tells the champion of a trained system.

    Args:
        system: The system's name.

    Returns:
        The name of the asset.
    """
    return CHAMPION if system == AdapterSystem.name else f"champion_{re.sub('[^A-Za-z0-9_]', '_', system)}"


def method_sources(settings: Settings) -> list[str]:
    """The sources that tell which weights configured methods rank with.

    Args:
        settings: The settings.

    Returns:
        The names of the assets, each once.
    """
    return [champion_of(system) for system in needed_systems(settings)]


def weights_in_use(setr: PipelineContext, versions: Mapping[str, str | None]) -> dict[str, str]:
    """The data versions of the champions' sources where methods rank with certain versions.

    Args:
        setr: The pipeline context.
        versions: Version by registered model; None where nothing is promoted.

    Returns:
        Data version by the name of the source.
    """
    found: dict[str, str] = {}
    for method in setr.methods.configured.values():
        system = setr.weights.system(method)
        if system is not None and method.trained is not None:
            found[champion_of(method.trained)] = versions[system.registered_model(setr.settings)] or NONE
    return found


def in_use(setr: PipelineContext, version: str | None) -> dict[str, str]:
    """The data versions of both sources for an adapter.

    Args:
        setr: The pipeline context.
        version: The registry version of the adapter to judge with; None for the base model.

    Returns:
        Data version by source.
    """
    from setr_lib.pipeline.reranking import fusion_in_use

    fusions = {}
    for method in map(setr.methods.get, setr.settings.reranked_methods):
        for reranker in setr.rerankers.configured:
            fused = fusion_in_use(setr, method, reranker, version if reranker.trained else None)
            fusions[f"{method.name} · {reranker.name}"] = (fused.fusion, fused.weight)
    return {CHAMPION: version or NONE, FUSION: digest_json(fusions)[:12]}


def input_tags(used: dict[str, str]) -> dict[str, str]:
    """The tags of a materialisation that was made with these sources, whatever was observed last (a run may
    be pinned).

    Args:
        used: Data version by source, as :func:`in_use` gives it.

    Returns:
        Value by tag.
    """
    return {INPUT_TAG + source: version for source, version in used.items()}


def report(context: dg.AssetExecutionContext, setr: PipelineContext) -> None:
    """Tell Dagster which champions and fusion are in use now, where that is not what it observed last.

    Args:
        context: The running step.
        setr: The pipeline context.
    """
    tell(context, {**weights_in_use(setr, setr.weights.in_use()), **in_use(setr, setr.champion_version())})


def tell(context: dg.AssetExecutionContext, used: Mapping[str, str]) -> None:
    """Tell Dagster the data versions of sources, where they are not those that it observed last.

    Args:
        context: The running step.
        used: Data version by source.
    """
    for source, version in used.items():
        last = context.instance.fetch_observations(dg.AssetKey(source), limit=1).records
        seen = last[0].asset_observation if last else None
        if seen is None or (seen.tags or {}).get(DATA_VERSION_TAG) != version:
            context.log_event(dg.AssetObservation(source, tags={DATA_VERSION_TAG: version}))


def build_sources(owners: list[str], settings: Settings) -> list[dg.AssetsDefinition]:
    """The observable sources: the champion that re-ranks and the fusion, looked up together, and the champion
    of each trained system that configured methods need.

    Args:
        owners: Their owners in Dagster's UI.
        settings: They name the methods.

    Returns:
        The sources.
    """
    others = [system for system in needed_systems(settings) if champion_of(system) != CHAMPION]
    return [_reranking_sources(owners), *(_method_source(system, owners) for system in others)]


def _method_source(system: str, owners: list[str]) -> dg.AssetsDefinition:
    name = champion_of(system)
    spec = dg.AssetSpec(
        name,
        group_name="coarse_retrieval",
        owners=owners,
        kinds={"mlflow"},
        description=(
            f"The version of the trained system {system} that holds the champion alias now, or "
            "none: retrieval methods rank with it. Observed, not made: promotion moves the alias, and so "
            "may a person."
        ),
    )

    @dg.multi_observable_source_asset(name=f"{name}_in_use", specs=[spec])
    def observe(
        context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
    ) -> Iterator[dg.ObserveResult]:
        version = weights_in_use(setr, setr.weights.in_use())[name]
        yield dg.ObserveResult(asset_key=name, data_version=dg.DataVersion(version))

    return observe


def _reranking_sources(owners: list[str]) -> dg.AssetsDefinition:
    specs = [
        dg.AssetSpec(
            CHAMPION,
            group_name="reranker",
            owners=owners,
            kinds={"mlflow"},
            description=(
                "The version of MLflow's registered model that holds the champion alias now, or none. "
                "Observed, not made: promotion moves the alias, and so may a person."
            ),
        ),
        dg.AssetSpec(
            FUSION,
            group_name="reranker",
            owners=owners,
            kinds={"polars"},
            description=(
                "How stage 1's score and a re-ranker's become one order now, for each method and re-ranker "
                "that settings name: by the settings, or as reranking_fusion last chose. Observed, not made."
            ),
        ),
    ]

    @dg.multi_observable_source_asset(name="in_use", specs=specs)
    def observe(
        context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
    ) -> Iterator[dg.ObserveResult]:
        for source, version in in_use(setr, setr.champion_version()).items():
            yield dg.ObserveResult(asset_key=source, data_version=dg.DataVersion(version))

    return observe
