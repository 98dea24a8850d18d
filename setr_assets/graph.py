"""The graph: every asset, job, schedule and resource, assembled from one settings object.

Nothing is read here but what the settings name for digests: prompt files and the small files of a local
model. No data set, store or model is opened.
"""

from __future__ import annotations

import warnings

import dagster as dg

from setr_assets import (
    adapter,
    automation,
    champion,
    coarse,
    composing,
    datasets,
    evaluation,
    gallery,
    jobs,
    pairs,
    systems,
)
from setr_assets.blueprints import OWNERS, Blueprint
from setr_assets.code_versions import CodeVersions
from setr_assets.partitions import evaluation_set_partitions
from setr_assets.resources import context_resource
from setr_lib.settings import Settings

FAMILIES = (datasets, gallery, composing, coarse, pairs, adapter, evaluation)
"""One module per asset family, in the order in which data flows.

Evaluation comes last: a first full run trains its champion before it re-ranks, although evaluation is not
*downstream* of promotion (it must run, with the champion of the day, without anything being trained).
"""


def blueprints(settings: Settings | None = None) -> list[Blueprint]:
    """Every asset, in the order of the data.

    Args:
        settings: Their trained retrieval systems come before what is ranked with them; none by default.

    Returns:
        The assets of :data:`FAMILIES` in that order; where there are trained retrieval systems, these and
        what they learn from come first.
    """
    found = [
        declared
        for family in FAMILIES
        for declared in vars(family).values()
        if isinstance(declared, Blueprint)
    ]
    trained = [] if settings is None else systems.system_blueprints(settings)
    first = systems.LEARNED_FROM if trained else ()
    return [
        *(each for each in found if each.name in first),
        *trained,
        *(each for each in found if each.name not in first),
    ]


def build_definitions(settings: Settings) -> dg.Definitions:
    """Assets, checks, jobs, schedules and resources of a settings object.

    Args:
        settings: The settings.

    Returns:
        A fresh object on every call.
    """
    partitions = evaluation_set_partitions(settings)
    with warnings.catch_warnings():
        # Backfill policies and observable sources are "beta" to Dagster; a person who starts it can do
        # nothing about that.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return _assemble(settings, partitions)


def _assemble(settings: Settings, partitions: dg.PartitionsDefinition) -> dg.Definitions:
    versions = CodeVersions(settings)
    return dg.Definitions(
        assets=[
            *champion.build_sources(OWNERS, settings),
            *(
                asset.build(partitions, position, versions)
                for position, asset in enumerate(blueprints(settings))
            ),
        ],
        jobs=jobs.build_jobs(settings),
        schedules=automation.build_schedules(settings),
        resources={"setr": context_resource(settings)},
        # One process per run: the models are loaded once, not once per step.
        executor=dg.in_process_executor,
    )
