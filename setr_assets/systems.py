"""Trained retrieval systems: their triplets, and the training, registration and promotion of each that
settings name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets import previews
from setr_assets.blueprints import Blueprint, single_asset
from setr_assets.code_versions import SYSTEM, needed_systems
from setr_assets.progress import reporter, say
from setr_assets.trained import Inputs, Names, trained_system_assets
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import content_digest
from setr_lib.settings import Settings

if TYPE_CHECKING:
    from setr_lib.systems.training import SystemResult

GROUP = "trained_systems"
LEARNED_FROM = ("training_images", "training_embeddings", "reranker_pairs")
"""What synthesised triplets come from."""


def systems_in_use(settings: Settings) -> list[str]:
    """The trained retrieval systems that settings name: by a section ``[systems.NAME]``, by a method or an
    embedding space that needs one, or because another builds on it.

    Args:
        settings: The settings.

    Returns:
        Their names; one that another builds on comes before it.
    """
    needed = needed_systems(settings)
    if not needed and not settings.systems:
        return []  # what trains them takes its time to import
    from setr_lib.pipeline.system_checks import named_systems

    return named_systems(settings, needed)


def sources_in_use(settings: Settings) -> list[str]:
    """Where the triplets of these systems come from.

    Args:
        settings: The settings.

    Returns:
        ``synthesised``, or names of data sets, each once.

    Raises:
        SettingsError: The settings of a system are at fault.
    """
    names = systems_in_use(settings)
    if not names:
        return []
    from setr_lib.pipeline.system_checks import system_options

    found = [system_options(settings, name).triplets for name in names]
    return [*dict.fromkeys(found)]


def system_blueprints(settings: Settings) -> list[Blueprint]:
    """The assets of the trained retrieval systems that settings name.

    Args:
        settings: The settings.

    Returns:
        The triplets, and three assets for each system; nothing where no system is named.

    Raises:
        SettingsError: The settings of a system cannot be followed.
    """
    names = systems_in_use(settings)
    if names or settings.systems:
        from setr_lib.pipeline.system_checks import check_systems

        check_systems(settings)  # a graph that cannot be run is not shown
    if not names:
        return []
    return [_triplets(settings, names), *(asset for name in names for asset in _assets(name))]


def _triplets(settings: Settings, names: list[str]) -> Blueprint:
    from setr_lib.systems.options import SYNTHESISED

    sources = sources_in_use(settings)
    declare = single_asset(
        group=GROUP,
        number="1",
        reads=(
            *(f"{SYSTEM}:{name}" for name in names),
            "reranking.pairs.held_out_share",
            "reranking.pairs.seed",
            "datasets.*.background",
            "datasets.*.upright",
            "images.max_pixels",
        ),
        kinds={"polars", "parquet"},
        deps=["training_images", "reranker_pairs"] if SYNTHESISED in sources else [],
    )
    return declare(training_triplets)


def training_triplets(
    context: dg.AssetExecutionContext, setr: dg.ResourceParam[PipelineContext]
) -> dg.MaterializeResult:
    """The triplets that trained retrieval systems learn from, one table for each source: synthesised ones
    (the groups behind the re-ranker's pairs), or a data set's train split. Held-out triplets share no image
    with the training ones."""
    from setr_lib.pipeline.system_data import make_triplets

    digests: list[str] = []
    lines: list[tuple[str, int, int, int]] = []
    for source in sources_in_use(setr.settings):
        data = make_triplets(setr, source, reporter(context))
        digests += [source, data.digest]
        split = dict(data.triplets["split"].value_counts().iter_rows())
        lines.append((source, split.get("train", 0), split.get("held_out", 0), len(data.gallery)))
        say(context, "{}: {:,} training and {:,} held-out triplets, {:,} held-out images".format(*lines[-1]))
    columns = ["source", "training triplets", "held-out triplets", "held-out images"]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(train + held for _, train, held, _ in lines),
            "triplets": previews.table(columns, lines),
        },
        data_version=dg.DataVersion(content_digest(*digests)),
    )


def _assets(name: str) -> tuple[Blueprint, Blueprint, Blueprint]:
    from setr_lib.pipeline.retrieval_system import known_system
    from setr_lib.pipeline.system_data import ASSET
    from setr_lib.systems.recipe import RECIPES

    recipe = RECIPES[name]
    below = [] if recipe.builds_on is None else [known_system(recipe.builds_on).promoted_by]
    return trained_system_assets(
        known_system(name),
        Names(f"trained_{name}", f"registered_{name}", known_system(name).promoted_by),
        Inputs(
            reads=(f"{SYSTEM}:{name}",),
            model=None,
            measured_with=(f"{SYSTEM}:{name}",),
            deps=[ASSET, *below],
            held_out=[ASSET],
        ),
        group=GROUP,
        kinds={"pytorch", "mlflow"},
        facts=_facts,
    )


def _facts(result: SystemResult) -> dict[str, Any]:
    """What Dagster shows of a finished training."""
    steps, losses = [step for step, _, _ in result.curve], [loss for _, loss, _ in result.curve]
    return {
        "held-out R@10": round(result.recall, 2),
        "held-out R@10 before": round(result.recall_before, 2),
        "held-out triplets": len(result.ranks),
        "held-out images": result.gallery,
        "training examples": result.rows,
        "loss": previews.line_chart(steps, losses, "loss"),
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "trained now": not result.reused,
        "resumed from step": result.resumed_from,
        "trained parameters": result.parameters,
        "weights": dg.MetadataValue.path(result.folder),
    }
