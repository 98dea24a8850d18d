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
from setr_lib.runners import LastRun, ProjectState, StepState, runner
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
        if status.state == "missing" and not made_by_a_run and _lacks_data(each):
            status.state = "no data"
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
    return StepState(step.step, "missing", f"{table} is gone")


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
    scored = [each for each in sets if not each.hidden]
    due = [each for each in scored if each.is_due] or [
        each for each in sets if each.hidden and _is_begun(each)
    ]
    if due:
        names = [] if due == scored else [each.key for each in due]
        until = f" --until {_EMBEDDED}" if not any(each.has_queries for each in due) else ""
        why = "goes on where the last run ended" if last is not None and last.failed else "makes what is due"
        return typed(" ".join(["run", *names]) + until), why
    if lacking := [each for each in sets if each.state == "no data"]:
        return typed(f"doctor {lacking[0].key}"), f"says what of {lacking[0].key} is missing"
    if not any(each.has_queries for each in sets):
        return typed('search IMAGE "TEXT"'), "searches the pictures"
    if stale := [step for step in known.shared if step.state != "current"]:
        return typed("run"), f"makes what is due of the training ({stale[0].step})"
    return typed("leaderboard"), "everything is current"


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
    try:
        files = evaluation_set.benchmark.files(evaluation_set)
    except SetrError:
        return True
    return not evaluation_set.root.exists() or (bool(files) and not any(file.path.exists() for file in files))


def _best(context: PipelineContext, evaluation_set: EvaluationSet) -> dict[str, Any] | None:
    """The best row of a set's report by its headline metric; None without one."""
    import polars as pl

    from setr_lib.evaluation.leaderboard import headline_metrics
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
    best = rows.filter(metric=metric).sort("value", descending=True).row(0, named=True)
    trial = f"{taken.kept:,} of {taken.of:,} queries" if taken.kept < taken.of else ""
    found = {"metric": metric, "value": best["value"], "queries": best["n_queries"], "trial": trial}
    return {"row": Row.of(best).title, **found}


def _lines(
    settings: Settings, sets: Sequence[SetStatus], known: ProjectState, champions: dict[str, str] | None
) -> list[str]:
    width = max([*(len(each.key) for each in sets), len("last run")]) + 2
    lines = [f"{'project':{width}}{settings.base_dir}"]
    for each in sets:
        lines.append(f"{each.key:{width}}{_set_words(each)}")
        lines += [f"{'':{width}}{words}" for words in _details(each)]
    if known.shared:
        lines.append(f"{'training':{width}}{_steps_words(known.shared)}")
    if champions is None:
        address = shown_address(settings.tracking_uri)
        lines.append(f"{'champions':{width}}asked for at {address} by each run")
    elif champions or known.shared:
        words = ", ".join(f"{model} v{version}" for model, version in champions.items())
        lines.append(f"{'champions':{width}}{words or 'none is promoted yet'}")
    lines.append(f"{'last run':{width}}{_run_words(known.last_run)}")
    lines += [f"{'':{width}}{step}: {reason}" for step, reason in _failed(known.last_run)]
    return lines


def _failed(last: LastRun | None) -> list[tuple[str, str]]:
    return [] if last is None else list(last.failed.items())


def _set_words(status: SetStatus) -> str:
    if status.state == "no data":
        return "no data yet"
    if not status.has_queries:
        words = {"current": "embedded: can be searched; no queries, so nothing is measured"}
        return words.get(status.state, _steps_words(status.steps))
    if status.state == "missing":
        return "nothing yet" + (" (hidden targets: ranked where it is named)" if status.hidden else "")
    best = status.best
    if best is None:
        return _steps_words(status.steps)
    trial = f", a trial on {best['trial']}" if best["trial"] else ""
    scores = f"; {best['metric']} {best['value']:.1f} ({best['row']}{trial})"
    return _steps_words(status.steps) + scores


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


def _details(status: SetStatus) -> list[str]:
    """Why a set is stale: of each reason the first step that has it; and what of its files has changed."""
    reasons: dict[str, str] = {}
    for step in status.steps:
        for reason in filter(None, step.why.split("; ")):
            if not reason.endswith("is stale"):
                reasons.setdefault(reason, step.step)
    lines = [f"{step}: {reason}" for reason, step in reasons.items()]
    lines += [f"since it was read: {words}" for words in status.changed]
    if status.looked < status.pictures and status.looked:
        lines.append(f"{status.looked:,} of {status.pictures:,} pictures' files were looked at")
    return lines


def _run_words(last: LastRun | None) -> str:
    if last is None:
        return "none"
    when = "" if last.begun is None else f"{last.begun:%Y-%m-%d %H:%M}, "
    of = f" of {', '.join(last.sets)}" if last.sets else ""
    return f"{when}{last.status}{of} (run {last.id})"


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
