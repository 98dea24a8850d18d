"""The jobs: named selections of the graph, and the rebuilding of the miniature (which is no part of it).

All run in one process. A job over evaluation sets takes one of them, or a range of them as a single run.
"""

# No `from __future__ import annotations`: Dagster compares an op's annotations with the classes themselves.

from typing import Any

import dagster as dg

from setr_assets.champion import CHAMPION, FUSION
from setr_lib.workbench import Workbench

FULL_PIPELINE = "full_pipeline"
EVALUATION = "evaluation"
TRAINING = "reranker_training"
MINIATURE = "miniature_rebuild"

RERANKED = "reranked_rankings"
TRAINED = "reranking_fusion"
TRAINING_MAX_RUNTIME = {"dagster/max_runtime": str(7 * 24 * 3600)}


def build_jobs() -> list[Any]:
    """Every job of the code location (of two kinds, which Dagster has no public common name for)."""
    trained = dg.AssetSelection.assets(TRAINED).upstream()
    observed = dg.AssetSelection.assets(CHAMPION, FUSION)
    everything = dg.AssetSelection.all() | observed
    return [
        dg.define_asset_job(
            FULL_PIPELINE,
            everything,
            description=(
                "Everything: embed, compose, rank, train, register, promote, re-rank, report. The training steps go "
                "first where they can, so that a first run already re-ranks with its own champion."
            ),
            tags=TRAINING_MAX_RUNTIME,
        ),
        dg.define_asset_job(
            EVALUATION,
            everything - trained,
            description="Rank, re-rank with the current champion and report; trains nothing.",
        ),
        dg.define_asset_job(
            TRAINING,
            trained,
            description="Synthesise pairs, train an adapter, register it, promote it if it is better.",
            tags=TRAINING_MAX_RUNTIME,
        ),
        miniature_rebuild.to_job(MINIATURE),
    ]


@dg.op(
    out=dg.Out(dg.Nothing),
    description="Draw the miniature's data sets in the official layouts; nothing happens where they are current.",
)
def write_miniature_data(context: dg.OpExecutionContext, setr: dg.ResourceParam[Workbench]) -> None:
    setr.write_miniature(_logged(context))


@dg.op(
    ins={"after": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
    description="Train the miniature's two small models from their own seed, where they are missing or `anew`; "
    "resumes where it was stopped.",
    config_schema={
        "anew": dg.Field(bool, default_value=False, description="Both, in the place of those that are there.")
    },
)
def train_miniature_models(context: dg.OpExecutionContext, setr: dg.ResourceParam[Workbench]) -> None:
    folder, trained = setr.train_miniature_models(_logged(context), anew=context.op_config["anew"])
    context.log.info(f"trained {' and '.join(trained) or 'nothing: both are there already'} ({folder})")


@dg.graph(description="Draw the synthetic world and train its two models, where they are not there yet.")
def miniature_rebuild() -> None:
    train_miniature_models(after=write_miniature_data())


def _logged(context: dg.OpExecutionContext):
    from setr_assets.progress import throttled

    return throttled(context.log.info)
