"""The resource that steps are given: the library's pipeline context, a plain object that knows nothing of
Dagster.

Runs use one process (the in-process executor), and the context is cached there: each model is loaded at most
once.
"""

from __future__ import annotations

import dagster as dg

from setr_lib.pipeline.context import pipeline_context
from setr_lib.settings import Settings


def context_resource(settings: Settings) -> dg.ResourceDefinition:
    """The resource ``setr``: tables, caches and models of a settings object.

    Args:
        settings: The settings.

    Returns:
        The resource.
    """
    return dg.ResourceDefinition(
        resource_fn=lambda _: pipeline_context(settings),
        description=(
            "SETR's pipeline context: settings, tables, caches, and the models, each loaded once per process."
        ),
    )
