"""``setr plan``: calls, time (measured on a sample), disk and memory of a full run, before it is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from setr_lib.commands.console import quieten_libraries, size_words, talk, terminal
from setr_lib.commands.plan_speeds import Speeds, first_images, measure
from setr_lib.commands.plan_trainings import PlannedTraining, planned_trainings, seconds_per_step
from setr_lib.commands.plan_work import (
    CAPTIONS,
    COMPOSITIONS,
    Configured,
    Costs,
    SetPlan,
    TrainingPlan,
    added_texts,
    costs,
    count_training,
    count_work,
    gallery_images,
    planned_rerankers,
    run_sets,
    training_spaces,
)
from setr_lib.errors import SetrError
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.settings import Settings

_BYTES_PER_KEPT_SCORE = 120  # a SQLite row: key, value, time, index
_BYTES_PER_KEPT_TEXT = 700
NOT_TIMED = ("ranking of stage 1 and reports: seconds for each evaluation set",)
NOT_TIMED_OF_TRAINING = ("training pairs are mined, and what is promoted is compared with the champion",)
"""What a run does and a plan does not time."""
_CAPTIONS_ONLY = (
    "{}: captions of the pictures and no picture that can be read: until there are pictures a run ranks the "
    "captions, which needs no model. Nothing is timed; what is counted here is a run with pictures"
)


def run(
    settings: Settings, *, sample: int, counts_only: bool, as_json: bool = False, sets: Sequence[str] = ()
) -> int:
    """Print the plan.

    Args:
        settings: The settings.
        sample: Items that each kind of model call is timed on first.
        counts_only: Count without loading a model.
        as_json: Print one JSON document.
        sets: Evaluation sets, or data sets; those of `setr run` by default: all with known targets.

    Returns:
        The exit status.

    Raises:
        SetrError: No evaluation set can be counted.
    """
    quieten_libraries()
    context = pipeline_context(settings)
    keys, hidden = run_sets(settings, sets)
    plans = count_work(settings, keys)
    present = [plan for plan in plans if not plan.problem]
    training = count_training(settings)
    trainings = planned_trainings(context, loads=not counts_only)
    trains = settings.training.is_named
    if not as_json:
        _print_counts(plans, context)
        if hidden:
            print(f"not planned: {', '.join(hidden)}: targets are hidden, so a run takes them only by name")
        if not training.images:
            print(f"training images: {training.problem}")
        for planned in trainings:
            print(planned.words)
    if not present:
        where = "`setr doctor` says why" if as_json else "see the reasons above"
        raise SetrError(f"no evaluation set can be read: {where}")
    speeds = found = None
    pictured = [each for each in present if not _has_captions_only(context, each.key, sample)]
    if not pictured:
        (talk if as_json else print)(_CAPTIONS_ONLY.format(", ".join(plan.key for plan in present)))
    elif not counts_only:
        present = pictured
        speeds = measure(context, present[0].key, sample, trains=trains)
        found = _costs(context, present, training, speeds, trains=trains)
        found.lines.extend(_system_lines(context, present[0].key, sample, trainings, speeds))
    trains = trains or bool(trainings)
    if as_json:
        print(json.dumps(_document(plans, training, trainings, speeds, found, trains=trains), indent=1))
    elif speeds is not None and found is not None:
        _print_costs(context, found, speeds, present[0].key, trains=trains)
    return 0


def _system_lines(
    context: PipelineContext, key: str, sample: int, trainings: Sequence[PlannedTraining], speeds: Speeds
) -> list[tuple[str, int, float]]:
    """The steps of the trainings of retrieval systems, as lines of the costs; one whose step cannot be timed,
    because its encoder cannot be had, has no time.
    """
    from setr_lib.datasets import load_queries

    due = [planned for planned in trainings if planned.steps]
    if not due:
        return []
    images, _ = first_images(context, key, sample)
    texts = load_queries(context.settings, key).head(1000)["modification"].to_list() or ["another"]
    lines = [
        (f"train {each.name}", each.steps, seconds_per_step(context, each.name, images, texts) or 0.0)
        for each in due
    ]
    return [("start: a fresh process for each system", len(due), speeds.start), *lines]


def _document(
    plans: Sequence[SetPlan],
    training: TrainingPlan,
    trainings: Sequence[PlannedTraining],
    speeds: Speeds | None,
    found: Costs | None,
    *,
    trains: bool,
) -> dict[str, Any]:
    """The plan as one JSON object; seconds are ``null`` where nothing was measured."""
    steps = [] if found is None else found.lines
    return {
        "sets": [vars(plan) for plan in plans],
        "training": vars(training),
        "trained_systems": [vars(planned) for planned in trainings],
        "device": None if speeds is None else speeds.device,
        "busy": None if speeds is None else speeds.load,
        "steps": [
            {"step": what, "items": items, "seconds_each": each or None, "seconds": _known(items, each)}
            for what, items, each in steps
        ],
        "seconds": None if found is None else sum(items * each for _, items, each in found.lines),
        "not_timed": _not_timed(trains),
        "vectors_bytes": None if found is None else 4 * found.vectors,
        "kept_bytes": None if found is None else _kept_bytes(found),
        "memory": None if speeds is None else speeds.memory,
    }


def _known(items: int, each: float) -> float | None:
    """Seconds of a step; None for an endpoint's, whose time is not known."""
    return items * each if each or not items else None


def print_estimate(context: PipelineContext, sample: int) -> None:
    """Print how long an evaluation takes, nothing trained and nothing kept, from a measured sample.

    Args:
        context: Settings and models.
        sample: Items that each kind of model call is timed on.

    Raises:
        SetrError: No evaluation set can be counted, or none of the images of any can be read where captions
            do not stand in for them.
    """
    plans = [plan for plan in count_work(context.settings) if not plan.problem]
    if not plans:
        raise SetrError("no evaluation set can be read: `setr plan` says why")
    with_images = [plan for plan in plans if not _has_captions_only(context, plan.key, sample)]
    if len(with_images) < len(plans):
        captioned = ", ".join(plan.key for plan in plans if plan not in with_images)
        print(
            f"{captioned}: captions and no images, so there is little to wait for, and nothing is estimated"
        )
    if not with_images or not context.methods.spaces:
        return  # captions are searched by words, or by vectors of texts: what costs is little
    plans = with_images
    calibrates = context.tables.exists("reranker_pairs")
    calibrated = count_training(context.settings).calibrated if calibrates else 0
    speeds = measure(context, plans[0].key, sample, trains=False)
    found = _costs(context, plans, TrainingPlan(0, calibrated, 0, 0), speeds, trains=False)
    _print_costs(context, found, speeds, plans[0].key, trains=False)


def _has_captions_only(context: PipelineContext, key: str, sample: int) -> bool:
    """Whether a set has captions of its gallery's images, and none of the first images can be read."""
    from setr_lib.benchmarks.image_captions import captions_file
    from setr_lib.datasets import evaluation_set

    if captions_file(evaluation_set(context.settings, key)) is None:
        return False
    return first_images(context, key, sample)[0].is_empty()


def _endpoint_writes(context: PipelineContext) -> bool:
    return context.settings.models.judge.endpoint.url is not None


def _embedded(context: PipelineContext, spaces: Sequence[str]) -> list[str]:
    """Of embedding spaces those that are not left out for want of trained weights."""
    left_out = context.weights.lacking(spaces)
    return [space for space in spaces if space not in left_out]


def _gallery_captions(context: PipelineContext, plans: Sequence[SetPlan]) -> int:
    """Distinct captions of the images of every gallery, one that sets share counted once."""
    from setr_lib.datasets import load_image_captions

    galleries = {plan.gallery_key: plan.key for plan in plans if not plan.problem}
    found = [load_image_captions(context.settings, key) for key in galleries.values()]
    return sum(captions["captions"].explode().n_unique() for captions in found if captions is not None)


def _print_counts(plans: list[SetPlan], context: PipelineContext) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    table = Table(box=box.SIMPLE_HEAD, title="What a run would do", title_justify="left")
    texts, added = context.methods.texts_needed, added_texts(context)
    of_methods = ("other texts",) if added else ()
    for column in (
        "evaluation set",
        "gallery images",
        "captions",
        "compositions",
        *of_methods,
        "pairs per re-ranker",
    ):
        table.add_column(column, justify="left" if column == "evaluation set" else "right")
    for plan in plans:
        described, composed = (
            plan.references * (CAPTIONS in texts),
            plan.queries * (COMPOSITIONS in texts),
        )
        written = sum(plan.references if per == "image" else plan.queries for per in added.values())
        numbers = (plan.images, described, composed, *((written,) if added else ()), plan.pairs)
        table.add_row(plan.key, *("-" if plan.problem else f"{number:,}" for number in numbers))
    console.print(table)
    for plan in plans:
        if plan.problem:
            console.print(Text(f"{plan.key}: {plan.problem}", style="yellow"))
    images = gallery_images(plans)
    for space in _embedded(context, context.methods.spaces):
        console.print(Text(f"images to embed in {space}: {images:,}"))
    for space in _embedded(context, context.methods.caption_spaces):
        console.print(Text(f"captions to embed in {space}: {_gallery_captions(context, plans):,}"))
    for why in context.weights.lacking([*context.methods.spaces, *context.methods.caption_spaces]).values():
        console.print(Text(f"left out: {why}", style="yellow"))
    limit = context.settings.evaluation.limit
    if limit is not None:
        console.print(f"only the first {limit:,} queries of each set (evaluation.limit)")


def _costs(
    context: PipelineContext,
    plans: Sequence[SetPlan],
    training: TrainingPlan,
    speeds: Speeds,
    *,
    trains: bool,
) -> Costs:
    configured = Configured(
        _embedded(context, context.methods.spaces),
        _embedded(context, training_spaces(context)) if trains else [],
        [reranker.name for reranker in planned_rerankers(context, trains)],
        context.methods.texts_needed,
        added_texts(context),
    )
    return costs(context.settings, configured, plans, training, speeds)


def _print_costs(
    context: PipelineContext, found: Costs, speeds: Speeds, key: str, *, trains: bool = True
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=f"Time on {speeds.device}, from a sample", title_justify="left")
    table.add_column("step")
    for column in ("items", "per second", "time"):
        table.add_column(column, justify="right")
    for what, items, seconds in (line for line in found.lines if line[1] or trains):
        rate = f"{1 / max(seconds, 1e-9):,.1f}" if seconds else "-"
        takes = "-" if (known := _known(items, seconds)) is None else _duration(known)
        table.add_row(what, f"{items:,}", rate, takes)
    table.add_row("together", "", "", _duration(sum(items * seconds for _, items, seconds in found.lines)))
    console = terminal()
    console.print(table)
    for line in _how_measured(speeds, key, trains):
        console.print(Text(line), soft_wrap=True)
    console.print(
        f"disk: {size_words(4 * found.vectors)} of vectors, about {size_words(_kept_bytes(found))} of kept "
        "answers and scores"
    )
    console.print(f"memory: {speeds.memory} at the peak of the sample (models included)")
    if found.texts and _endpoint_writes(context):
        console.print(_endpoint_words(context.settings, found.texts))
    console.print("what earlier runs have stored is counted here, too; a run does not make it again")


def _not_timed(trains: bool) -> list[str]:
    return [*NOT_TIMED, *(NOT_TIMED_OF_TRAINING if trains else ())]


def _how_measured(speeds: Speeds, key: str, trains: bool) -> list[str]:
    """How the times were found, and what is not in them."""
    lines = [
        f"measured just now on pictures and texts of {key}, by the code of a run and in its batches, one "
        "kind of work after the other; a step's time is its items times that of one",
        f"not timed: {'; '.join(_not_timed(trains))}",
    ]
    if speeds.load:
        lines.append(f"the machine was busy ({speeds.load}): on an idle one it takes less")
    return lines


def _kept_bytes(found: Costs) -> int:
    return found.scores * _BYTES_PER_KEPT_SCORE + found.texts * _BYTES_PER_KEPT_TEXT


def _endpoint_words(settings: Settings, texts: int) -> str:
    from setr_lib.models.multimodal.endpoint import endpoint_host, endpoint_id

    judge = settings.models.judge
    return (
        f"texts: {texts:,} requests with pictures to {endpoint_host(judge)} ({endpoint_id(judge)}), "
        f"{judge.endpoint.concurrency} at once; their time is not measured and not in the time above"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
