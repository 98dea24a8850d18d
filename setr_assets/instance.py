"""The persistent Dagster instance of a project, and the runs that ``setr run`` has left in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from setr_lib.damage import damaged
from setr_lib.errors import SetrError
from setr_lib.repairs.dagster_home import dagster_home_fault
from setr_lib.runners import INTERRUPTED

RUN_BY, OURS = "setr/run_by", "setr run"
PROCESS = "setr/process"
"""The process that a run lives in: when that is gone and the run still says "started", the run was lost."""
SETS, LIMIT = "setr/sets", "setr/limit"
"""The evaluation sets of a run, and its ``[evaluation] limit``."""
COMMAND = "setr/command"
"""An id of the command that began a run: a command over sets that are no range begins several."""
_OURS = (OURS, "make demo")
"""Who has started runs in this way; the second by its earlier name."""


def persistent_instance(home: str | None = None) -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME.

    Args:
        home: Its folder, where the variable does not have to be set.

    Returns:
        The instance, to be entered and left.

    Raises:
        SetrError: It cannot be used.
    """
    named, home = home, home or os.environ.get("DAGSTER_HOME")
    try:
        return dg.DagsterInstance.get() if named is None else dg.DagsterInstance.from_config(named)
    except Exception as error:
        if home and (fault := dagster_home_fault(Path(home))) is not None:
            raise damaged("dagster", *fault) from error
        if not isinstance(error, (dg.DagsterError, OSError)):
            raise
        raise SetrError(
            f"DAGSTER_HOME = {home!r} cannot be used: {error}; unset it, or name a folder"
        ) from error


def process_tag() -> str:
    """An id of this process that a later process of the same number does not have."""
    import psutil

    return f"{os.getpid()}@{psutil.Process().create_time():.0f}"


def is_alive(process: str) -> bool:
    """Whether the process of a run is still there.

    Args:
        process: Its id, as :func:`process_tag` gives it.
    """
    import psutil

    number, _, started = process.partition("@")
    try:
        return f"{psutil.Process(int(number)).create_time():.0f}" == started
    except (psutil.Error, ValueError):
        return False


def is_lost(run: dg.DagsterRun) -> bool:
    """Whether a run says that it goes on, and the process that it was in is gone.

    Args:
        run: The run.
    """
    goes_on = run.status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING)
    return goes_on and run.tags.get(RUN_BY) in _OURS and not is_alive(run.tags.get(PROCESS, ""))


def end_lost_runs(instance: dg.DagsterInstance) -> None:
    """Mark earlier runs of ``setr run`` whose process was killed as failed; each would hold its place in the
    queue for ever.

    Args:
        instance: The Dagster instance.
    """
    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]
    for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
        if is_lost(run):
            instance.report_run_failed(run, "its process was killed; what it had finished is kept")


def earlier_seconds(instance: dg.DagsterInstance, tags: Mapping[str, str]) -> dict[str, float]:
    """How long the steps of the last finished run took that had the same sets and the same limit.

    Args:
        instance: The Dagster instance.
        tags: Of the run that is about to begin.

    Returns:
        Seconds by step; empty where there was no such run.
    """
    same = {name: tags[name] for name in (RUN_BY, SETS, LIMIT)}
    wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS], tags=same)
    found = instance.get_runs(wanted, limit=1)
    if not found:
        return {}
    seconds: dict[str, float] = {}
    for step in instance.get_run_step_stats(found[0].run_id):
        if step.start_time is not None and step.end_time is not None:
            seconds[step.step_key] = step.end_time - step.start_time
    return seconds


def reason_of(event: dg.DagsterEvent) -> str:
    """Why a step failed, as a person is told.

    Args:
        event: Its failure.

    Returns:
        The message of the innermost error.
    """
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    if event.step_failure_data.user_failure_data is not None:
        return str(event.step_failure_data.user_failure_data.description)
    if error is None:
        return "no reason was recorded"
    if error.cls_name == "DagsterExecutionInterruptedError":
        return INTERRUPTED
    return error.message.strip()
