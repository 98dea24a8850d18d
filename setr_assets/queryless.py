"""Galleries without queries: they are embedded, to be searched; there is nothing to rank or to measure."""

from __future__ import annotations

import dagster as dg

from setr_assets.data_versions import PartitionResults
from setr_assets.progress import say
from setr_lib.datasets import evaluation_set
from setr_lib.pipeline.context import PipelineContext


def passed_over(
    context: dg.AssetExecutionContext, setr: PipelineContext, key: str, results: PartitionResults
) -> bool:
    """Report an empty result of a set without queries.

    Args:
        context: The running step.
        setr: The pipeline context.
        key: The evaluation set.
        results: Told of the set, if it has no queries.

    Returns:
        Whether it has none.
    """
    if evaluation_set(setr.settings, key).has_queries:
        return False
    results.add(key, "no queries", {"queries": "none: the gallery can be searched, nothing is measured"})
    say(context, f"{key}: passed over, for it has no queries")
    return True
