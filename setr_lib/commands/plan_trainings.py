"""What ``setr plan`` says of the trainings of retrieval systems: which there are, and which MLflow has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.pipeline.system_checks import named_systems, option_faults, system_options
from setr_lib.systems.recipe import RECIPES

if TYPE_CHECKING:
    from setr_lib.pipeline.context import PipelineContext


def planned_trainings(context: PipelineContext, *, loads: bool) -> Iterator[str]:
    """A line for each training of the retrieval systems that settings name.

    Args:
        context: Settings, tables and the registry.
        loads: Whether encoders may be loaded: their identity decides whether MLflow has a training already.

    Yields:
        How many steps it has, and whether it would run.
    """
    settings = context.settings
    for name in named_systems(settings):
        recipe = RECIPES[name]
        options = system_options(settings, name)
        faults = option_faults(settings, recipe, options)
        if faults:
            yield f"train {name}: cannot be trained: {'; '.join(faults)}"
            continue
        state = _state(context, name) if loads else ""
        yield f"train {name}: {options.steps:,} steps of {options.batch_size:,} {recipe.learns_from}{state}"


def _state(context: PipelineContext, name: str) -> str:
    """Whether MLflow has the training, as the end of a line."""
    from setr_lib.pipeline.retrieval_system import retrieval_system

    try:
        digest = retrieval_system(RECIPES[name])(context).digest()
    except SetrError as error:  # what it learns from, or builds on, was not made yet
        return f"; it was not trained yet ({error})"
    found = context.registry.runs.find_logged(digest)
    return "; MLflow has it: nothing is trained" if found else "; it is trained anew"
