"""What ``setr run`` prints at its end: the scores, where to look and what to type next, or what failed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from setr_assets.selection import REPORT
from setr_lib.commands.console import terminal
from setr_lib.damage import COMMAND
from setr_lib.pipeline.context import pipeline_context
from setr_lib.runners import INTERRUPTED
from setr_lib.typed import explained_commands, typed

if TYPE_CHECKING:
    from setr_assets.selection import Selection
    from setr_lib.benchmarks import EvaluationSet
    from setr_lib.runners import RunRequest
    from setr_lib.settings import Settings


def tell_what_failed(
    request: RunRequest, reasons: Mapping[str, str], ids: Sequence[str], seconds: float
) -> None:
    """Say that a run failed and what to do; the reasons were told just before.

    Args:
        request: What was asked for.
        reasons: Why steps failed, by step.
        ids: Dagster's names of its runs.
        seconds: How long it took.
    """
    out = sys.stderr
    failed = f"{len(reasons)} {'step' if len(reasons) == 1 else 'steps'} failed, as told above"
    if all(reason == INTERRUPTED for reason in reasons.values()):
        failed = "interrupted"
    print(
        f"\nnot finished after {_minutes(seconds)} (run {', '.join(ids)}): {failed}; "
        "everything finished is kept",
        file=out,
    )
    first = "" if failed == "interrupted" else "once that is mended, "
    print(f"{first}`{again(request)}` goes on from there; look closer with {_ui(request.settings)}", file=out)
    for command in dict.fromkeys(found for reason in reasons.values() for found in COMMAND.findall(reason)):
        print(f"mend what is damaged with {command}, then run this again", file=out)


def again(request: RunRequest) -> str:
    """The command that asks for the same once more.

    Args:
        request: What was asked for.

    Returns:
        The command as it can be typed here.
    """
    limit = request.settings.evaluation.limit
    options = [
        *(() if request.until is None else ("--until", request.until)),
        *(() if limit is None else ("--limit", str(limit))),
    ]
    return typed(" ".join(["run", *request.sets, *options]))


def tell_where_next(
    request: RunRequest,
    sets: Sequence[EvaluationSet],
    selection: Selection,
    ids: Sequence[str],
    seconds: float,
) -> None:
    """Print the scores of a finished run, and where to look next.

    Args:
        request: What was asked for.
        sets: The evaluation sets that were run.
        selection: What was run.
        ids: Dagster's names of its runs.
        seconds: How long it took.
    """
    evaluated = REPORT in selection.names and any(each.has_queries for each in sets)
    if evaluated:
        _show_scores(request, sets)
    if request.quiet:
        return
    print(f"\nfinished in {_minutes(seconds)} (run {', '.join(ids)})")
    print("where to look next:")
    lines = list(_of_evaluation(request, sets) if evaluated else _of_a_part(request, sets, selection))
    lines.append((_ui(request.settings).strip("`"), "Dagster: the graph, this run, every table's metadata"))
    if any(name.startswith("registered_") for name in selection.names):
        lines.append((typed("--env-file .env ui", "mlflow"), "trainings, evaluations, registered models"))
    for line in explained_commands(lines):
        print(line)


def _of_evaluation(request: RunRequest, sets: Sequence[EvaluationSet]) -> list[tuple[str, str]]:
    settings = request.settings
    scored = [each for each in sets if not each.hidden]
    pages = settings.report_root / (sets[0].key if len(sets) == 1 else "") / "index.html"
    dataset = f" --dataset {sets[0].key}" if request.sets else ""
    words = "scores, kinds of failure, every query, contact sheets" if scored else "the page of the set"
    if (limit := settings.evaluation.limit) is not None:
        trial = f"all queries; this was a trial on the first {limit:,} of each set"
        return [(str(pages), words), (typed(" ".join(["run", *request.sets])), trial)]
    search = (typed(f'search IMAGE "TEXT"{dataset}'), "a query of your own")
    return [
        (str(pages), words),
        *([search] if _has_pictures(settings, sets[:1] if request.sets else sets) else []),
        *(
            (typed(f"submit {each.dataset} --split {each.split}"), "the files that its test server takes")
            for each in sets
            if each.hidden and each.benchmark.server
        ),
    ]


def _of_a_part(
    request: RunRequest, sets: Sequence[EvaluationSet], selection: Selection
) -> list[tuple[str, str]]:
    rest = request.sets[0] if len(request.sets) == 1 else " ".join(each.key for each in sets)
    found = []
    if any(each.has_queries for each in sets):
        found.append((typed(f"run {rest}" if request.sets else "run"), "the steps that are left"))
    if "gallery_embeddings" in selection.names and _has_pictures(request.settings, sets[:1]):
        found.insert(0, (typed(f'search IMAGE "TEXT" --dataset {sets[0].key}'), "a query of your own"))
    return found


def _has_pictures(settings: Settings, sets: Sequence[EvaluationSet]) -> bool:
    """Whether one of the sets can be searched: captions may stand in for all pictures of a set."""
    context = pipeline_context(settings)
    return any(not context.is_caption_proxy(each.key) for each in sets)


def _show_scores(request: RunRequest, sets: Sequence[EvaluationSet]) -> None:
    """The leaderboard of the sets that were run, and what went wrong with single items of them."""
    import polars as pl
    from rich.text import Text

    from setr_lib.benchmarks import headlines
    from setr_lib.commands.faults import board_lines, keys_of
    from setr_lib.evaluation.leaderboard import leaderboard_table
    from setr_lib.pipeline.evaluation import latest_scores

    settings, console = request.settings, terminal()
    context, frame = pipeline_context(settings), latest_scores(pipeline_context(settings))
    if request.sets:
        run = {f"{each.dataset}\n{each.split}" for each in sets}
        frame = frame.filter((pl.col("dataset") + "\n" + pl.col("split")).is_in(run))
    if not frame.is_empty():
        console.print()
        console.print(leaderboard_table(frame, headlines(settings)))
    elif not request.quiet:
        print(f"\nno scores: {_why_no_scores(sets)}")
    for line in board_lines(context, keys_of(frame, settings)):
        console.print(Text(line))


def _why_no_scores(sets: Sequence[EvaluationSet]) -> str:
    if all(each.hidden for each in sets):
        return "the targets of these sets are known to their servers only"
    return "no query names a target"


def _ui(settings: Settings) -> str:
    """The command that opens Dagster's UI."""
    makefile = settings.base_dir / "Makefile"
    if makefile.is_file() and "\ndev:" in makefile.read_text(encoding="utf-8", errors="replace"):
        return "`make dev`"
    return f"`{typed('dev -m setr_assets.definitions', 'dagster')}`"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.0f} s"
