"""The observed sources of rankings: the champions of trained systems, and how scores are fused.

Evaluation runs with the champions of the day, without anything being trained, so none is an ordinary
dependency. They are observed: their data versions say what they are now, and after a promotion the partitions
that were ranked or re-ranked with another version look stale.
"""

# No `from __future__ import annotations`: Dagster compares the function's annotations with the classes
# themselves.

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import dagster as dg
from pydantic import Field

from setr_assets.code_versions import needed_systems, reranker_systems
from setr_assets.data_versions import DATA_VERSION_TAG, INPUT_TAG
from setr_assets.failures import failing_in_words
from setr_lib.hashing import digest_json
from setr_lib.pipeline.adapter_system import AdapterSystem
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.trained_weights import CHAMPIONS
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


Systems = Callable[[Settings], list[str]]
"""Gives the trained systems that an asset works with, e.g. ``code_versions.ranked_systems``."""


def sources_of(systems: Systems) -> Systems:
    """The sources that tell which weights an asset works with.

    Args:
        systems: Gives the trained systems.

    Returns:
        Gives the names of the sources, each once.
    """
    return lambda settings: [*dict.fromkeys(map(champion_of, systems(settings)))]


def weights_in_use(
    setr: PipelineContext, systems: Systems, versions: Mapping[str, str | None] = CHAMPIONS
) -> dict[str, str]:
    """The data versions of the champions' sources where an asset works with certain versions.

    Args:
        setr: The pipeline context.
        systems: Gives the trained systems.
        versions: Version by registered model, None where nothing is promoted; the champion of the moment for
            one that is not named.

    Returns:
        Data version by the name of the source.
    """
    named = systems(setr.settings)
    return {champion_of(system): setr.weights.version(system, versions) or NONE for system in named}


@dataclass(frozen=True)
class Chosen:
    """The versions of trained systems that a step works with, looked up once.

    Attributes:
        versions: Version by registered model; None where nothing is promoted.
        tags: Those of its materialisations.
    """

    versions: dict[str, str | None]
    tags: dict[str, str]


def choose(
    context: dg.AssetExecutionContext,
    setr: PipelineContext,
    systems: Systems,
    pinned: Mapping[str, str] = MappingProxyType({}),
) -> Chosen:
    """Look up the versions that a step works with, and tell Dagster of champions that it has not
    observed yet.

    Args:
        context: The running step.
        setr: The pipeline context.
        systems: Gives the trained systems.
        pinned: Version by registered model; the champion for one that is not named.

    Returns:
        The versions.

    Raises:
        TrainedSystemError: ``pinned`` names a model that is not known.
    """
    versions = setr.weights.in_use(systems(setr.settings), pinned)
    tell(context, weights_in_use(setr, systems))
    return Chosen(versions, input_tags(weights_in_use(setr, systems, versions)))


def in_use(setr: PipelineContext, versions: Mapping[str, str | None]) -> dict[str, str]:
    """The data versions of the sources of re-ranking.

    Args:
        setr: The pipeline context.
        versions: Version by registered model, that of the adapter among them; None where nothing is promoted.

    Returns:
        Data version by source.
    """
    from setr_lib.pipeline.reranking import fusion_in_use

    fusions = {}
    for method in map(setr.methods.get, setr.settings.reranked_methods):
        for reranker in setr.rerankers.configured:
            fused = fusion_in_use(setr, method, reranker, setr.rerankers.version(reranker, versions))
            fusions[f"{method.name} · {reranker.name}"] = (fused.fusion, fused.weight)
    return {
        **weights_in_use(setr, reranker_systems, versions),
        CHAMPION: versions[setr.settings.registry.model] or NONE,
        FUSION: digest_json(fusions)[:12],
    }


def _of_the_moment(setr: PipelineContext) -> dict[str, str]:
    return in_use(setr, {setr.settings.registry.model: setr.champion_version()})


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
    tell(context, {**weights_in_use(setr, needed_systems), **_of_the_moment(setr)})


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
    of each trained system that configured methods, embedding spaces and re-rankers need.

    Args:
        owners: Their owners in Dagster's UI.
        settings: They name these.

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
            "none: methods, embedding spaces or re-rankers work with it. Observed, not made: promotion "
            "moves the alias, and so may a person."
        ),
    )

    @dg.multi_observable_source_asset(name=f"{name}_in_use", specs=[spec])
    def observe(
        context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
    ) -> Iterator[dg.ObserveResult]:
        with failing_in_words(setr):
            version = setr.weights.version(system) or NONE
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
        with failing_in_words(setr):
            found = _of_the_moment(setr)
        for source in (CHAMPION, FUSION):
            yield dg.ObserveResult(asset_key=source, data_version=dg.DataVersion(found[source]))

    return observe
