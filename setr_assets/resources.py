"""The resource that steps are given: the library's pipeline context, a plain object that knows nothing of
Dagster.

Runs use one process (the in-process executor), and the context is cached there: each model is loaded at most
once.
"""

from __future__ import annotations

import dagster as dg

from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.pipeline.storage_format import stamp_before_writing, use_format
from setr_lib.settings import Settings


def context_resource(settings: Settings) -> dg.ResourceDefinition:
    """The resource ``setr``: tables, caches and models of a settings object.

    Args:
        settings: The settings.

    Returns:
        The resource.
    """
    return dg.ResourceDefinition(
        resource_fn=lambda _: _opened(settings),
        description=(
            "SETR's pipeline context: settings, tables, caches, and the models, each loaded once per process."
        ),
    )


def _opened(settings: Settings) -> PipelineContext:
    """The context, of a storage that is of this SETR's format: a run is refused before its first step."""
    use_format(settings)
    stamp_before_writing(settings.storage_root)
    return pipeline_context(settings)
