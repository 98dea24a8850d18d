"""``setr run``: the pipeline on evaluation sets, as runs of the persistent Dagster instance, then its scores.

Dagster's UI shows such a run afterwards. A second run finds its work done: vectors, captions, compositions,
judgements and trainings are kept by content. Sets that are no range of the partitions take several runs, one
after another; what is made once for all sets is made by the first.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import dagster as dg

from setr_assets.course import Course
from setr_assets.instance import (
    COMMAND,
    LIMIT,
    OURS,
    PROCESS,
    RUN_BY,
    SETS,
    earlier_seconds,
    end_lost_runs,
    persistent_instance,
    process_tag,
    reason_of,
)
from setr_assets.interrupts import keep_from_helpers
from setr_assets.jobs import FULL_PIPELINE
from setr_assets.partitions import range_tags
from setr_assets.progress import listening
from setr_assets.removals import STEPS, consent
from setr_assets.selection import (
    EMBEDDED,
    LEADERBOARD,
    Selection,
    named_evaluation_sets,
    observed_by,
    ranges,
    selected,
)
from setr_assets.watching import Watcher, tell_failures, watcher
from setr_assets.where_next import tell_what_failed, tell_where_next
from setr_lib.benchmarks import evaluation_sets
from setr_lib.commands import env
from setr_lib.commands.console import quieten_libraries
from setr_lib.errors import SetrError
from setr_lib.pipeline.toy_models import toy_models_note
from setr_lib.runners import INTERRUPTED
from setr_lib.sources import sources_in_use
from setr_lib.typed import typed

if TYPE_CHECKING:
    from setr_lib.benchmarks import EvaluationSet
    from setr_lib.benchmarks.source import DataSource
    from setr_lib.runners import ProjectState, RunRequest
    from setr_lib.settings import Settings


class DagsterRunner:
    """Carries out runs with Dagster, and reads what they have left there."""

    def __call__(self, request: RunRequest) -> int:
        """Prepare the data, run the steps, print the scores; or print the steps."""
        selection = selected(request.settings, request.until)
        if request.steps:
            _print_steps(_steps_made(request, selection))
            return 0
        return _carry_out(request, selection)

    def state(self, settings: Settings) -> ProjectState:
        """What Dagster has noted of earlier runs."""
        from setr_assets.state import project_state

        return project_state(settings)


run = DagsterRunner()
"""The entry point ``dagster`` of the group ``setr.runners``."""


@dataclass
class Outcome:
    """What became of a run."""

    ids: list[str] = field(default_factory=list)
    """Dagster's names of its runs."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why steps failed, by step."""
    seconds: float = 0.0

    @property
    def interrupted(self) -> bool:
        """Whether a person stopped it."""
        return INTERRUPTED in self.reasons.values()


@dataclass(frozen=True)
class _Part:
    """A part of a run that is one run of Dagster."""

    keys: list[str]
    """Evaluation sets, a range of the partitions."""
    steps: list[str]


def _carry_out(request: RunRequest, selection: Selection) -> int:
    settings = request.settings
    sets = named_evaluation_sets(settings, request.sets)
    wrote = _environment(settings)
    quieten_libraries()
    parts = _parts(settings, sets, selection)
    course, begun = Course([part.steps for part in parts]), time.monotonic()
    with watcher(course, quiet=request.quiet) as watching, listening(watching):
        for note in (*wrote, *notes_before(settings, sets, selection)):
            watching.note(note)
        for source in sources_in_use(settings):
            _prepare(source, watching)
        outcome = _materialize(request, parts, course, watching)
    outcome.seconds = time.monotonic() - begun
    if outcome.reasons:
        tell_what_failed(request, outcome.reasons, outcome.ids, outcome.seconds)
        if outcome.interrupted:
            raise KeyboardInterrupt
        return 1
    tell_where_next(request, sets, selection, outcome.ids, outcome.seconds)
    return 0


def _environment(settings: Settings) -> list[str]:
    """Apply what ``setr env --write`` writes, and write it where it is not written yet."""
    file = env.write_once(settings)
    env.apply(settings)
    if file is None:
        return []
    return [f"wrote {file}: `dagster` and `mlflow` commands that are started here find this project by it"]


def notes_before(settings: Settings, sets: Sequence[EvaluationSet], selection: Selection) -> Iterator[str]:
    """What a person should know before a run.

    Args:
        settings: The settings.
        sets: The evaluation sets of the run.
        selection: Its steps.

    Yields:
        Sentences without their full stop.
    """
    for dataset in dict.fromkeys(each.dataset for each in sets):
        if (toys := toy_models_note(settings, dataset)) is not None:
            yield f"WARNING {toys}"
            break
    for each in sets:
        if not each.has_queries:
            yield f"{each.key} has no queries: its pictures are embedded, to be searched; nothing is measured"
    if selection.left_out:
        yield f"left out, for the settings have no [training]: {', '.join(selection.left_out)}"


def _parts(settings: Settings, sets: Sequence[EvaluationSet], selection: Selection) -> list[_Part]:
    """The runs of Dagster that a run takes, one at least.

    Raises:
        SetrError: There are none: the steps are of queries, and no set has any.
    """
    parts = [part for part in _every_part(settings, sets, selection) if part.steps]
    if not parts:
        names = f"{', '.join(each.key for each in sets)} {'has' if len(sets) == 1 else 'have'}"
        raise SetrError(
            f"nothing to do up to {selection.names[-1]}: {names} no queries; "
            f"`{typed(f'run --until {EMBEDDED}')}` embeds the pictures, to be searched"
        )
    return parts


def _every_part(settings: Settings, sets: Sequence[EvaluationSet], selection: Selection) -> Iterator[_Part]:
    """The runs of Dagster, also those without steps. The first makes what is no set's; the last one of sets
    with queries makes the leaderboard. Sets without queries are embedded.
    """
    each = [step.name for step in selection.steps if step.of_each_set]
    once = {step.name for step in selection.steps if not step.of_each_set}
    if not each:
        yield _Part([], selection.names)
        return
    embedded = [name for name in selected(settings, EMBEDDED).names if name in each]
    measured = ranges(settings, [chosen.key for chosen in sets if chosen.has_queries])
    searched = ranges(settings, [chosen.key for chosen in sets if not chosen.has_queries])
    found = [*((keys, set(each)) for keys in measured), *((keys, set(embedded)) for keys in searched)]
    for number, (keys, wanted) in enumerate(found):
        wanted |= once - {LEADERBOARD} if number == 0 else set()
        wanted |= once & {LEADERBOARD} if number == len(measured) - 1 else set()
        yield _Part(keys, [name for name in selection.names if name in wanted])


def _prepare(source: DataSource, watching: Watcher) -> None:
    """Bring the data of ``source`` up to date, as a step of its own."""
    step, begun, succeeded = f"{source.name} data", time.monotonic(), False
    watching.started(step)
    try:
        source.prepare(lambda done, total, what: watching.progressed(step, "", done, total, what))
        succeeded = True
    finally:
        watching.finished(step, time.monotonic() - begun, succeeded)


def _materialize(request: RunRequest, parts: Sequence[_Part], course: Course, watching: Watcher) -> Outcome:
    """Run the parts one after another, in this process; one that fails does not keep the others back."""
    outcome, command = Outcome(), secrets.token_hex(8)
    with persistent_instance() as instance:
        end_lost_runs(instance)
        keep_from_helpers(instance)
        for part in parts:
            tags = {**_tags(request.settings, part), COMMAND: command}
            course.enter(part.steps, earlier_seconds(instance, tags))
            if len(parts) > 1:
                watching.note(f"{', '.join(part.keys)}:")
            result = _execute(request, part, tags, instance)
            outcome.ids.append(result.run_id)
            failed = result.filter_events(lambda step_event: step_event.is_step_failure)
            for event in failed:
                where = f" of {', '.join(part.keys)}" if len(parts) > 1 else ""
                outcome.reasons[f"{event.step_key}{where}"] = reason_of(event)
            if not failed and not result.success:
                outcome.reasons["run"] = "no reason was recorded"
            if outcome.interrupted:
                break
        tell_failures(watching, outcome.reasons)
    return outcome


def _tags(settings: Settings, part: _Part) -> dict[str, str]:
    return {
        **(range_tags(part.keys) if part.keys else {}),
        RUN_BY: OURS,
        PROCESS: process_tag(),
        SETS: ",".join(part.keys),
        LIMIT: str(settings.evaluation.limit or "") if "queries" in part.steps else "",
    }


def _execute(
    request: RunRequest, part: _Part, tags: dict[str, str], instance: dg.DagsterInstance
) -> dg.ExecuteInProcessResult:
    """One run of Dagster, in this process."""
    from setr_assets.graph import build_definitions

    job = build_definitions(request.settings).resolve_job_def(FULL_PIPELINE)
    wanted = {*part.steps, *observed_by(request.settings, part.steps)}
    every = {key.to_user_string() for key in job.asset_layer.selected_asset_keys}
    config = {"ops": consent(step for step in STEPS if step in part.steps)} if request.accept_removals else {}
    return job.execute_in_process(
        instance=instance,
        raise_on_error=False,
        tags=tags,
        asset_selection=None if wanted == every else [dg.AssetKey(name) for name in sorted(wanted)],
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **config},
    )


def _steps_made(request: RunRequest, selection: Selection) -> Selection:
    """What of a selection a run would make: of sets without queries, their vectors alone."""
    if request.sets:
        sets = named_evaluation_sets(request.settings, request.sets)
    else:
        sets = [each for each in evaluation_sets(request.settings) if not each.hidden]
    if not sets:
        return selection
    made = {name for part in _parts(request.settings, sets, selection) for name in part.steps}
    return replace(selection, steps=tuple(step for step in selection.steps if step.name in made))


def _print_steps(selection: Selection) -> None:
    """The steps in their order, a line each."""
    width = max((len(step.name) for step in selection.steps), default=0)
    for number, step in enumerate(selection.steps, 1):
        print(
            f"{number:>2}  {step.name:{width}}  {'each set' if step.of_each_set else 'once':8}  {step.makes}"
        )
    if selection.left_out:
        print(f"left out, for the settings have no [training]: {', '.join(selection.left_out)}")
    print(f"`{typed('run --until STEP')}` stops after a step, and runs only what it depends on")
