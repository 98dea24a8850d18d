"""The observed sources of re-ranking: the champion adapter, and how scores are fused.

Evaluation runs with the champion of the day, without anything being trained, so neither is an ordinary
dependency. They are observed: their data versions say what they are now, and after a promotion the re-ranked
partitions look stale.
"""

# No `from __future__ import annotations`: Dagster compares the function's annotations with the classes
# themselves.

from collections.abc import Iterator

import dagster as dg

from setr_assets.data_versions import DATA_VERSION_TAG, INPUT_TAG
from setr_lib.hashing import digest_json
from setr_lib.pipeline.context import PipelineContext

CHAMPION = "champion_reranker"
FUSION = "fusion_in_use"
NONE = "none"
"""The data version of :data:`CHAMPION` before anything is promoted."""


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
    """Tell Dagster what is in use now, where that is not what it observed last.

    Args:
        context: The running step.
        setr: The pipeline context.
    """
    for source, version in in_use(setr, setr.champion_version()).items():
        last = context.instance.fetch_observations(dg.AssetKey(source), limit=1).records
        seen = last[0].asset_observation if last else None
        if seen is None or (seen.tags or {}).get(DATA_VERSION_TAG) != version:
            context.log_event(dg.AssetObservation(source, tags={DATA_VERSION_TAG: version}))


def build_sources(owners: list[str]) -> dg.AssetsDefinition:
    """The two observable sources, looked up together.

    Args:
        owners: Their owners in Dagster's UI.

    Returns:
        The sources.
    """
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
