"""The job that rebuilds the miniature: its data sets and its two models. No asset depends on it.

What belongs here: what Dagster's UI shows of the miniature, and nothing else that names it.
"""

# No `from __future__ import annotations`: Dagster compares an op's annotations with the classes themselves.

import dagster as dg

from setr_assets.progress import throttled
from setr_lib.pipeline.context import PipelineContext

MINIATURE = "miniature_rebuild"


@dg.op(
    out=dg.Out(dg.Nothing),
    description=(
        "Draw the miniature's data sets in the official layouts; nothing happens where they are current."
    ),
)
def write_miniature_data(context: dg.OpExecutionContext, setr: dg.ResourceParam[PipelineContext]) -> None:
    """Draw the miniature's data sets."""
    from setr_lib.miniature.source import Miniature

    Miniature(setr.settings).prepare(throttled(context.log.info))


@dg.op(
    ins={"after": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
    description=(
        "Train the miniature's two small models from their own seed, where they are missing or `anew`; "
        "resumes where it was stopped."
    ),
    config_schema={
        "anew": dg.Field(bool, default_value=False, description="Both, instead of those that are there.")
    },
)
def train_miniature_models(context: dg.OpExecutionContext, setr: dg.ResourceParam[PipelineContext]) -> None:
    """Train the miniature's two models."""
    from setr_lib.miniature.train import train_configured

    progress = throttled(context.log.info)
    folder, trained = train_configured(setr.settings, progress, anew=context.op_config["anew"])
    context.log.info(f"trained {' and '.join(trained) or 'nothing: both are there already'} ({folder})")


@dg.graph(description="Draw the synthetic world and train its two models, where they are not there yet.")
def miniature_rebuild() -> None:
    train_miniature_models(after=write_miniature_data())


def miniature_job() -> dg.JobDefinition:
    """The job ``miniature_rebuild``."""
    return miniature_rebuild.to_job(MINIATURE)
