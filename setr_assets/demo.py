"""``python -m setr_assets.demo`` (``make demo``): the whole graph on every scored evaluation set, in one run,
then its scores.

The run is an ordinary run of the persistent Dagster instance: ``make dev`` shows it afterwards. A second run
finds its work done: embeddings, captions, compositions, judgements and the adapter are kept by content.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets.jobs import FULL_PIPELINE
from setr_assets.partitions import range_tags, scored_set_keys
from setr_assets.progress import listening
from setr_assets.removals import consent
from setr_assets.watching import Watcher, watcher
from setr_lib.commands import env
from setr_lib.commands.console import quieten_libraries, terminal
from setr_lib.commands.ending import end_process
from setr_lib.damage import COMMAND, damaged, explained
from setr_lib.errors import SetrError
from setr_lib.escaping import visible
from setr_lib.pipeline.context import pipeline_context
from setr_lib.pipeline.storage import places_of
from setr_lib.repairs.dagster_home import dagster_home_fault
from setr_lib.sources import sources_in_use

if TYPE_CHECKING:
    from setr_lib.benchmarks.source import DataSource
    from setr_lib.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status: 0 when every step succeeded.
    """
    options = _parser().parse_args(arguments)
    try:
        # Imported here because the module reads setr.toml, and a broken one is reported like any other error.
        from setr_assets.definitions import settings_of_this_checkout

        settings = settings_of_this_checkout()
        if options.limit is not None:
            evaluation = settings.evaluation.model_copy(update={"limit": options.limit})
            settings = settings.model_copy(update={"evaluation": evaluation})
        with explained(places_of(settings)):
            return run(settings, accept_removals=options.accept_removals)
    except SetrError as error:
        print(f"setr: {visible(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setr: interrupted; what was finished is kept: run it again to go on", file=sys.stderr)
        return 1


def run(settings: Settings, *, accept_removals: bool = False) -> int:
    """Prepare the data, materialise the graph, print the leaderboard.

    Args:
        settings: The settings.
        accept_removals: Whether any number of images that are gone may be removed from the vector store, in
            this run.

    Returns:
        The exit status: 0 when every step succeeded.

    Raises:
        SetrError: Nothing can be run at all.
    """
    env.apply(settings)
    keys = scored_set_keys(settings)
    if not keys:
        raise SetrError(
            "setr.toml: [datasets] names no evaluation set with targets: there is nothing to measure"
        )
    quieten_libraries()
    begun = time.monotonic()
    with watcher() as watching, listening(watching):
        for source in sources_in_use(settings):
            _prepare(source, watching)
        config = {"ops": consent()} if accept_removals else {}
        reasons, run_id = _materialize(settings, keys, watching, config)
    if not reasons:
        _show_leaderboard(settings)
    _where_next(settings, reasons, run_id, time.monotonic() - begun)
    return 1 if reasons else 0


def _prepare(source: DataSource, watching: Watcher) -> None:
    """Bring the data of ``source`` up to date, as a step of its own."""
    step, begun = f"{source.name} data", time.monotonic()
    watching.started(step)
    source.prepare(lambda done, total, what: watching.progressed(step, "", done, total, what))
    watching.finished(step, time.monotonic() - begun, True)


def _materialize(
    settings: Settings, keys: list[str], watching: Watcher, config: dict[str, Any]
) -> tuple[list[str], str]:
    """One run of the full pipeline over ``keys``, in this process: why steps failed, and the run's id."""
    from setr_assets.definitions import build_definitions

    job = build_definitions(settings).resolve_job_def(FULL_PIPELINE)
    with _instance() as instance:
        end_lost_runs(instance)
        result = job.execute_in_process(
            instance=instance,
            raise_on_error=False,
            tags={**range_tags(keys), RUN_BY: "make demo", PROCESS: process_tag()},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **config},
        )
        failed = result.filter_events(lambda step_event: step_event.is_step_failure)
        for event in failed:
            watching.failed(event.step_key or "", _reason(event))
    reasons = [_reason(event) for event in failed]
    return reasons if reasons or result.success else ["no reason was recorded"], result.run_id


def _instance() -> dg.DagsterInstance:
    """The persistent instance of DAGSTER_HOME.

    Raises:
        SetrError: It cannot be used.
    """
    home = os.environ.get("DAGSTER_HOME")
    try:
        return dg.DagsterInstance.get()
    except Exception as error:
        if home and (fault := dagster_home_fault(Path(home))) is not None:
            raise damaged("dagster", *fault) from error
        if not isinstance(error, (dg.DagsterError, OSError)):
            raise
        raise SetrError(
            f"DAGSTER_HOME = {home!r} cannot be used: {error}; unset it, or name a folder"
        ) from error


RUN_BY = "setr/run_by"
PROCESS = "setr/process"
"""The process that a run lives in: when that is gone and the run still says "started", the run was lost."""


def process_tag() -> str:
    """An id of this process that a later process of the same number does not have."""
    import psutil

    return f"{os.getpid()}@{psutil.Process().create_time():.0f}"


def end_lost_runs(instance: dg.DagsterInstance) -> None:
    """Mark earlier demo runs whose process was killed as failed; each would hold its place in the queue for
    ever.

    Args:
        instance: The Dagster instance.
    """
    import psutil

    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]
    for run in instance.get_runs(dg.RunsFilter(statuses=statuses, tags={RUN_BY: "make demo"})):
        number, _, started = run.tags.get(PROCESS, "").partition("@")
        try:
            alive = f"{psutil.Process(int(number)).create_time():.0f}" == started
        except (psutil.Error, ValueError):
            alive = False
        if not alive:
            instance.report_run_failed(run, "its process was killed; what it had finished is kept")


def _reason(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    if event.step_failure_data.user_failure_data is not None:
        return str(event.step_failure_data.user_failure_data.description)
    if error is None:
        return "no reason was recorded"
    if error.cls_name == "DagsterExecutionInterruptedError":
        return "interrupted"
    return error.message.strip()


def _show_leaderboard(settings: Settings) -> None:
    from rich.text import Text

    from setr_lib.benchmarks import headlines
    from setr_lib.commands.faults import board_lines, keys_of
    from setr_lib.evaluation.leaderboard import leaderboard_table
    from setr_lib.pipeline.evaluation import latest_scores

    console, context = terminal(), pipeline_context(settings)
    frame = latest_scores(context)
    console.print()
    console.print(leaderboard_table(frame, headlines(settings)))
    for line in board_lines(context, keys_of(frame, settings)):
        console.print(Text(line))


def _where_next(settings: Settings, reasons: list[str], run_id: str, seconds: float) -> None:
    minutes = f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if reasons:
        print(
            f"\nnot finished after {minutes} (run {run_id}); the reasons are above, everything finished is "
            "kept"
        )
        print("look closer with `make dev`: http://127.0.0.1:3000/runs")
        for command in dict.fromkeys(found for reason in reasons for found in COMMAND.findall(reason)):
            print(f"mend what is damaged with {command}, then run this again")
        return
    print(f"\nfinished in {minutes} (run {run_id})")
    print("where to look next:")
    print(f"  {settings.report_root}/*/index.html   a page per evaluation set: scores, contact sheets")
    print("  make dev                              the graph, this run, every table's metadata")
    print("  .venv/bin/mlflow --env-file .env ui   training runs and the registered re-ranker")
    print('  .venv/bin/setr search IMAGE "TEXT"    both stages on a query of your own')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make demo", description="The whole pipeline, then its leaderboard."
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first N queries of each set (a trial)"
    )
    parser.add_argument(
        "--accept-removals",
        action="store_true",
        help="remove the vectors of images that are gone, however many they are; for this run only",
    )
    return parser


if __name__ == "__main__":
    end_process(main())
