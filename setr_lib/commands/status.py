"""``setr status``: what is there and what is stale of each evaluation set, what failed in the last run, which
champions there are, and the command to type next.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from setr_lib.damage import COMMAND
from setr_lib.errors import SetrError
from setr_lib.files import shown_address, sqlite_path
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.runners import INTERRUPTED, OTHERS, LastRun, ProjectState, StepState, runner
from setr_lib.settings import Settings
from setr_lib.typed import typed

if TYPE_CHECKING:
    from setr_lib.benchmarks import EvaluationSet

_SECONDS = 1.0
"""How long pictures' files are looked at, of all sets together."""
_EMBEDDED = "gallery_embeddings"
_UNDER_WAY = ("queued", "not_started", "starting", "started")
_WITHOUT_TABLE = frozenset({"method_texts", "training_triplets"})
"""Steps that store something only where settings ask for it."""


@dataclass
class SetStatus:
    """Where an evaluation set stands."""

    key: str
    hidden: bool
    state: str
    """``current``, ``stale``, ``partly``, ``missing`` or ``no data``."""
    steps: Sequence[StepState]
    changed: list[str] = field(default_factory=list)
    """What of its files has changed since they were read."""
    looked: int = 0
    """Pictures whose files were looked at for that, of ``pictures``."""
    pictures: int = 0
    best: dict[str, Any] | None = None
    """The best row of its report: ``row``, ``metric``, ``value``, ``queries``, and ``trial``: of a trial how
    many of the set's queries it took, in words, else empty.
    """
    has_queries: bool = True
    lacks_data: bool = False
    """Whether none of its files is there, and no run makes them."""
    faults: list[str] = field(default_factory=list)
    """How many pictures, queries and texts something went wrong with, by kind, in words."""

    @property
    def is_due(self) -> bool:
        """Whether a run would make something of it."""
        return self.state in ("stale", "partly", "missing") or (
            bool(self.changed) and self.state == "current"
        )


def run(settings: Settings, *, as_json: bool) -> int:
    """Print where the project stands.

    Args:
        settings: The settings.
        as_json: Print one JSON object, and nothing else on standard output.

    Returns:
        The exit status, 0.

    Raises:
        SetrError: The notes of earlier runs cannot be read.
    """
    context, known = pipeline_context(settings), runner().state(settings)
    shared = [_if_there(settings, step, None) for step in known.shared]
    known = ProjectState(shared, known.sets, known.last_run)
    sets = statuses(context, known)
    champions = champions_of(context)
    following = next_command(settings, sets, known)
    if as_json:
        print(json.dumps(_plain(settings, sets, known, champions, following), ensure_ascii=False, indent=1))
        return 0
    for line in _lines(settings, sets, known, champions):
        print(line)
    print(f"next: {following[0]}   {following[1]}")
    return 0


def statuses(context: PipelineContext, known: ProjectState) -> list[SetStatus]:
    """Where each evaluation set stands.

    Args:
        context: Settings and tables.
        known: What the runner knows.

    Returns:
        The sets, in the order of the settings, hidden ones last.
    """
    from setr_lib.benchmarks import evaluation_sets
    from setr_lib.commands.faults import board_lines
    from setr_lib.pipeline.changed_files import changed_files
    from setr_lib.sources import data_sources

    makers = data_sources(context.settings)
    until = time.monotonic() + _SECONDS
    found: list[SetStatus] = []
    for each in evaluation_sets(context.settings):
        has_queries = each.has_queries
        steps = [_if_there(context.settings, step, each.key) for step in known.sets.get(each.key, ())]
        if not has_queries:
            steps = [step for step in steps if step.step in ("gallery_images", _EMBEDDED)]
        status = SetStatus(each.key, each.hidden, _state(steps), steps, has_queries=has_queries)
        made_by_a_run = any(source.owns(each.root) for source in makers)
        status.lacks_data = not made_by_a_run and _lacks_data(each)
        if status.state == "missing" and status.lacks_data:
            status.state = "no data"
        elif status.state != "missing":
            lines = board_lines(context, [each.key])
            status.faults = [line.removeprefix(f"{each.key}: ").partition(": ")[0] for line in lines]
        changed = changed_files(context, each, until)
        status.changed, status.looked, status.pictures = changed.words, changed.looked, changed.pictures
        status.best = _best(context, each)
        found.append(status)
    return found


def _if_there(settings: Settings, step: StepState, key: str | None) -> StepState:
    """The state of a step, ``missing`` where its table is gone from the storage."""
    if step.state == "missing" or step.step in _WITHOUT_TABLE:
        return step
    table = settings.table_path(step.step, key)
    if table.exists() or table.with_suffix(".json").exists() or table.with_suffix("").is_dir():
        return step
    return StepState(step.step, "missing", f"its table is gone from {settings.storage_root}")


def champions_of(context: PipelineContext) -> dict[str, str] | None:
    """The versions that hold the champion alias, by registered model.

    Args:
        context: The pipeline context.

    Returns:
        The versions; None where a server would have to be asked.
    """
    from setr_lib.pipeline.trained_system import champions

    return None if sqlite_path(context.settings.tracking_uri) is None else champions(context)


def next_command(settings: Settings, sets: Sequence[SetStatus], known: ProjectState) -> tuple[str, str]:
    """What to type next, and why.

    Args:
        settings: The settings.
        sets: Where the sets stand.
        known: What the runner knows.

    Returns:
        The command as it can be typed here, and the reason.
    """
    if not sets:
        return typed("init PHOTOS"), "the settings name no data set: this gives the section of a folder"
    last = known.last_run
    if last is not None and last.status in _UNDER_WAY:
        return typed("status"), "a run is under way: look again when it is done"
    for reason in () if last is None else last.failed.values():
        for command in COMMAND.findall(reason):
            return typed(command.strip("`").removeprefix("setr ")), "mends what the last run found damaged"
    if gone := [each.key for each in sets if each.lacks_data and each.is_due]:
        return typed(f"doctor {gone[0]}"), f"says what of {gone[0]} is gone"
    scored = [each for each in sets if not each.hidden]
    due = [each for each in scored if each.is_due] or [
        each for each in sets if each.hidden and _is_begun(each)
    ]
    if due:
        names = [] if due == scored else [each.key for each in due]
        until = f" --until {_EMBEDDED}" if not any(each.has_queries for each in due) else ""
        why = "goes on where the last run ended" if last is not None and last.failed else "makes what is due"
        if (trial := _trial(settings, last)) is not None:
            why = f"all queries: the last run was {trial}"
        return typed(" ".join(["run", *names]) + until), why
    if lacking := [each for each in sets if each.state == "no data"]:
        return typed(f"doctor {lacking[0].key}"), f"says what of {lacking[0].key} is missing"
    if not any(each.has_queries for each in sets):
        return typed('search IMAGE "TEXT"'), "searches the pictures"
    if stale := [step for step in known.shared if step.state != "current"]:
        return typed("run"), f"makes what is due of the training ({stale[0].step})"
    return typed("leaderboard"), "everything is current"


def _trial(settings: Settings, last: LastRun | None, of: SetStatus | None = None) -> str | None:
    """What the last run was, where it took fewer queries than the settings say; None where it did not.

    Args:
        settings: The settings.
        last: The last run.
        of: Ask of this set, which the run may not have named.
    """
    if last is None or last.limit is None or last.limit == settings.evaluation.limit:
        return None
    if of is not None and last.sets and of.key not in last.sets:
        return None
    return f"a trial on {last.limit:,} {'query' if last.limit == 1 else 'queries'} of each set"


def _is_begun(status: SetStatus) -> bool:
    """Whether a hidden set, which is ranked where it is named only, was ranked once and is due."""
    return status.is_due and status.state != "missing"


def _state(steps: Sequence[StepState]) -> str:
    states = {step.state for step in steps}
    if "stale" in states:
        return "stale"
    if "missing" in states:
        return "partly" if "current" in states else "missing"
    return "current" if states else "missing"


def _lacks_data(evaluation_set: EvaluationSet) -> bool:
    """Whether nothing of a set's data is there."""
    from setr_lib.benchmarks.annotations import is_there

    try:
        files = evaluation_set.benchmark.files(evaluation_set)
    except SetrError:
        return True
    if not is_there(evaluation_set.root):
        return True
    return bool(files) and not any(is_there(file.path) for file in files)


def _best(context: PipelineContext, evaluation_set: EvaluationSet) -> dict[str, Any] | None:
    """The best row of a set's report by its headline metric; None without one."""
    import polars as pl

    from setr_lib.evaluation.leaderboard import headline_metrics, order_lines
    from setr_lib.evaluation.row import RANDOM, Row
    from setr_lib.records import QueriesRecord
    from setr_lib.tables import METRICS

    try:
        rows = context.tables.read("evaluation_report", METRICS, evaluation_set.key)
        taken = context.tables.read_record("queries", QueriesRecord, evaluation_set.key)
    except SetrError:
        return None
    rows = rows.filter(pl.col("method") != RANDOM.method)
    if rows.is_empty():
        return None
    metric = headline_metrics(rows["metric"], evaluation_set.benchmark.headline_metrics)[0]
    first = order_lines(rows, metric)[0]
    lines = rows.filter(metric=metric).iter_rows(named=True)
    if (best := next((line for line in lines if Row.of(line) == first), None)) is None:
        return None
    trial = f"{taken.kept:,} of {taken.of:,} queries" if taken.kept < taken.of else ""
    found = {"metric": metric, "value": best["value"], "queries": best["n_queries"], "trial": trial}
    return {"row": first.title, **found}


def _lines(
    settings: Settings, sets: Sequence[SetStatus], known: ProjectState, champions: dict[str, str] | None
) -> list[str]:
    width = max([*(len(each.key) for each in sets), len("last run")]) + 2
    lines = [f"{'project':{width}}{settings.base_dir}"]
    for each in sets:
        lines.append(f"{each.key:{width}}{_set_words(each)}")
        lines += [f"{'':{width}}{words}" for words in _details(each, _trial(settings, known.last_run, each))]
    if known.shared:
        lines.append(f"{'training':{width}}{_steps_words(known.shared)}")
        lines += [f"{'':{width}}{step}: {reason}" for reason, step in _reasons(known.shared).items()]
    if champions is None:
        address = shown_address(settings.tracking_uri)
        lines.append(f"{'champions':{width}}asked for at {address} by each run")
    elif champions or known.shared:
        words = ", ".join(f"{model} v{version}" for model, version in champions.items())
        lines.append(f"{'champions':{width}}{words or 'none is promoted yet'}")
    lines.append(f"{'last run':{width}}{_run_words(known.last_run, _trial(settings, known.last_run))}")
    failed = {} if known.last_run is None else known.last_run.failed
    lines += [f"{'':{width}}{step}: {reason}" for step, reason in failed.items()]
    return lines


def _set_words(status: SetStatus) -> str:
    if status.state == "no data":
        return "no data yet"
    if not status.has_queries:
        words = {"current": "embedded: can be searched; no queries, so nothing is measured"}
        if status.changed and status.state == "current":
            return "embedded: can be searched; its files have changed since"
        return words.get(status.state, _steps_words(status.steps))
    if status.state == "missing" and status.best is not None:
        return (
            f"{_best_words(status.best)}, but Dagster has no note of the run that made it (is dagster_home "
            "gone, or another one?): whether it is current is not known"
        )
    if status.state == "missing":
        by_name = f" (its targets are hidden: `{typed(f'run {status.key}')}` ranks it)"
        return "nothing yet" + (by_name if status.hidden else "")
    best = status.best
    words = _steps_words(status.steps)
    words = "made, but its files have changed" if words == "current" and status.changed else words
    return words if best is None else f"{words}; {_best_words(best)}"


def _best_words(best: dict[str, Any]) -> str:
    trial = f", a trial on {best['trial']}" if best["trial"] else ""
    return f"{best['metric']} {best['value']:.1f} ({best['row']}{trial})"


def _steps_words(steps: Sequence[StepState]) -> str:
    missing = [step.step for step in steps if step.state == "missing"]
    stale = [step.step for step in steps if step.state == "stale"]
    if len(missing) == len(steps):
        return "nothing yet"
    parts = [
        *([f"stale: {', '.join(stale)}"] if stale else []),
        *([f"not made: {', '.join(missing)}"] if missing else []),
    ]
    return "; ".join(parts) or "current"


def _details(status: SetStatus, trial: str | None) -> list[str]:
    """Why a set is stale: of each reason the first step that has it; and what of its files has changed.

    Args:
        status: The set.
        trial: What its last run was, if that took fewer queries than the settings say.
    """
    reasons = _reasons(status.steps)
    if trial is not None and reasons.get(OTHERS) == "queries":
        reasons = {
            f"made by {trial}" if reason == OTHERS else reason: step for reason, step in reasons.items()
        }
    lines = [f"{step}: {reason}" for reason, step in reasons.items()]
    lines += [f"since it was read: {words}" for words in status.changed]
    if status.faults:
        lines.append(f"{'; '.join(status.faults)}: `{typed(f'faults {status.key}')}` lists them")
    if status.looked < status.pictures and status.looked:
        lines.append(f"{status.looked:,} of {status.pictures:,} pictures' files were looked at")
    return lines


def _reasons(steps: Sequence[StepState]) -> dict[str, str]:
    """Why steps are not current, and of each reason the first step that has it; not that another is stale."""
    reasons: dict[str, str] = {}
    for step in steps:
        for reason in filter(None, step.why.split("; ")):
            if not reason.endswith("is stale"):
                reasons.setdefault(reason, step.step)
    return reasons


def _run_words(last: LastRun | None, trial: str | None) -> str:
    if last is None:
        return "none"
    when = "" if last.begun is None else f"{last.begun:%Y-%m-%d %H:%M}, "
    of = f"{', '.join(last.sets)}: " if last.sets else ""
    state = {"success": "finished", "failure": "failed", "started": "under way"}.get(last.status, last.status)
    if set(last.failed.values()) == {INTERRUPTED}:
        state = "interrupted"
    return f"{when}{of}{state}{f', {trial}' if trial else ''} (run {last.id})"


def _plain(
    settings: Settings,
    sets: Sequence[SetStatus],
    known: ProjectState,
    champions: dict[str, str] | None,
    following: tuple[str, str],
) -> dict[str, Any]:
    last = known.last_run
    return {
        "project": str(settings.base_dir),
        "sets": [
            {
                "set": each.key,
                "hidden": each.hidden,
                "state": each.state,
                "due": each.is_due,
                "steps": [asdict(step) for step in each.steps],
                "changed": each.changed,
                "faults": each.faults,
                "pictures": each.pictures,
                "pictures_looked_at": each.looked,
                "best": each.best,
            }
            for each in sets
        ],
        "training": [asdict(step) for step in known.shared],
        "champions": champions,
        "last_run": None
        if last is None
        else {**asdict(last), "begun": None if last.begun is None else last.begun.isoformat()},
        "next": following[0],
        "why": following[1],
    }
