"""The jobs: named selections of the graph, and those that make data sets (which are no part of it).

All run in one process. A job over evaluation sets takes one of them, or a range of them as a single run.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from setr_assets.champion import CHAMPION, FUSION, sources_of
from setr_assets.code_versions import needed_systems
from setr_assets.miniature import miniature_job
from setr_assets.systems import systems_in_use
from setr_assets.trained import PROMOTION, STEP_TAG
from setr_lib.settings import Settings

FULL_PIPELINE = "full_pipeline"
EVALUATION = "evaluation"
TRAINING = "reranker_training"
SYSTEMS_TRAINING = "systems_training"

EMBEDDED, RANKED, RERANKED = "gallery_embeddings", "coarse_rankings", "reranked_rankings"
TRAINED = "reranking_fusion"
TRAINING_MAX_RUNTIME = {"dagster/max_runtime": str(7 * 24 * 3600)}


def build_jobs(settings: Settings) -> list[Any]:
    """Every job of the code location.

    Args:
        settings: The settings.

    Returns:
        Asset jobs and op jobs; Dagster has no public name for both.
    """
    trained = dg.AssetSelection.assets(TRAINED).upstream()
    every_training = trained | dg.AssetSelection.tag(STEP_TAG, PROMOTION).upstream()
    observed = dg.AssetSelection.assets(CHAMPION, FUSION, *sources_of(needed_systems)(settings))
    everything = dg.AssetSelection.all() | observed
    return [
        dg.define_asset_job(
            FULL_PIPELINE,
            everything,
            description=(
                "Everything: embed, compose, rank, train, register, promote, re-rank, report. The training "
                "steps go first where they can, so that a first run already re-ranks with its own champion."
            ),
            tags=TRAINING_MAX_RUNTIME,
        ),
        dg.define_asset_job(
            EVALUATION,
            (everything - every_training) | observed,
            description="Rank, re-rank with the current champion and report; trains nothing.",
        ),
        dg.define_asset_job(
            TRAINING,
            trained,
            description="Synthesise pairs, train an adapter, register it, promote it if it is better.",
            tags=TRAINING_MAX_RUNTIME,
        ),
        *_systems_jobs(systems_in_use(settings)),
        miniature_job(),
    ]


def _systems_jobs(names: Sequence[str]) -> list[Any]:
    """The job that trains the retrieval systems of these names; none where there are none."""
    if not names:
        return []
    from setr_lib.pipeline.retrieval_system import known_system

    return [
        dg.define_asset_job(
            SYSTEMS_TRAINING,
            dg.AssetSelection.assets(*(known_system(name).promoted_by for name in names)).upstream(),
            description=(
                "Train the retrieval systems that settings name, register each, promote those that are "
                "better: all that they learn from is made, too. What MLflow has is not trained again."
            ),
            tags=TRAINING_MAX_RUNTIME,
        )
    ]
