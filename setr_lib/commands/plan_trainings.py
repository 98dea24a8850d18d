"""What ``setr plan`` says of the trainings of retrieval systems: which there are, which MLflow has, and how
long a step of the others takes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from setr_lib.commands.plan_speeds import fastest
from setr_lib.errors import SetrError
from setr_lib.pipeline.storage import NotMadeYetError
from setr_lib.pipeline.system_checks import named_systems, option_faults, system_options
from setr_lib.systems.recipe import RECIPES

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.systems.objective import SystemObjective
    from setr_lib.systems.options import SystemOptions


@dataclass(frozen=True)
class PlannedTraining:
    """The training of a retrieval system.

    Attributes:
        name: The system.
        steps: Optimiser steps that it takes now; 0 where MLflow has it, or it cannot be trained.
        words: How many steps it has, and whether it would run.
    """

    name: str
    steps: int
    words: str


def planned_trainings(context: PipelineContext, *, loads: bool) -> list[PlannedTraining]:
    """The trainings of the retrieval systems that settings name.

    Args:
        context: Settings, tables and the registry.
        loads: Whether encoders may be loaded: their identity decides whether MLflow has a training already.

    Returns:
        One for each; one that another builds on comes before it.
    """
    settings, found = context.settings, list[PlannedTraining]()
    for name in named_systems(settings):
        recipe = RECIPES[name]
        options = system_options(settings, name)
        if faults := option_faults(settings, recipe, options):
            found.append(PlannedTraining(name, 0, f"train {name}: cannot be trained: {'; '.join(faults)}"))
            continue
        is_kept, state = _state(context, name) if loads else (False, "")
        words = f"train {name}: {options.steps:,} steps of {options.batch_size:,} {recipe.learns_from}{state}"
        found.append(PlannedTraining(name, 0 if is_kept else options.steps, words))
    return found


def _state(context: PipelineContext, name: str) -> tuple[bool, str]:
    """Whether MLflow has the training, and that as the end of a line."""
    from setr_lib.pipeline.retrieval_system import retrieval_system

    try:
        digest = retrieval_system(RECIPES[name])(context).digest()
    except NotMadeYetError:  # what it learns from
        return False, "; it was not trained yet"
    except SetrError as error:  # what it builds on, say
        return False, f"; it was not trained yet ({error})"
    is_kept = bool(context.registry.runs.find_logged(digest))
    return is_kept, "; MLflow has it: nothing is trained" if is_kept else "; it is trained anew"


def seconds_per_step(
    context: PipelineContext, name: str, images: pl.DataFrame, texts: Sequence[str]
) -> float | None:
    """How long an optimiser step of a retrieval system takes here, nothing of it kept.

    Pictures and texts are any: what a step costs depends on how many there are.

    Args:
        context: Settings and encoders.
        name: The system.
        images: Readable images: ``image_id``, ``path``, ``fingerprint``, ``pixels``.
        texts: Modification texts; captions, where it learns from captioned images.

    Returns:
        Seconds; None where its encoder cannot be had, or it cannot be built on it.
    """
    options = system_options(context.settings, name)
    try:
        objective = _objective(context, name, options, images, texts)
    except SetrError:
        return None
    objective.gradients(0)  # makes the features of the images, once in a training
    return fastest(lambda steps: lambda: [objective.gradients(step) for step in range(steps)], 1, 2)


def _objective(
    context: PipelineContext, name: str, options: SystemOptions, images: pl.DataFrame, texts: Sequence[str]
) -> SystemObjective:
    import polars as pl

    from setr_lib.pipeline.retrieval_system import retrieval_system
    from setr_lib.pixels import picture_files
    from setr_lib.systems.bundle import make_model
    from setr_lib.systems.data import Features
    from setr_lib.systems.objective import SystemObjective

    recipe = RECIPES[name]
    encoder: Any = retrieval_system(recipe)(context, options).encoder
    below: dict[str, Tensor] | None = None
    if recipe.builds_on is not None:
        first = RECIPES[recipe.builds_on]
        below = make_model(first, encoder, system_options(context.settings, first.name)).state_dict()
    model = make_model(recipe, encoder, options, below)
    count = options.batch_size
    images = images.head(2 * count)
    ids = images["image_id"].to_list()
    files = picture_files(images)
    vectors = encoder.embed_images([files[image].read() for image in ids])
    features = Features(encoder, files, ids, vectors, frozenset(model.reads))
    shown, said = list(islice(cycle(ids), 2 * count)), list(islice(cycle(texts), count))
    if recipe.learns_from == "triplets":
        columns = {"reference_id": shown[:count], "modification": said, "target_id": shown[count:]}
    else:
        columns = {"image_id": shown[:count], "caption": said}
    mined = [list(islice(cycle(ids), row + 1, row + 1 + model.negatives)) for row in range(count)]
    return SystemObjective(name, model, pl.DataFrame(columns), features, mined if model.negatives else ())
