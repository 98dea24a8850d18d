"""``setr leaderboard``: the latest scores of every evaluation set, as tables, JSON, CSV or Markdown."""

from __future__ import annotations

import sys

from setr_lib.commands.console import talk, terminal
from setr_lib.pipeline.context import pipeline_context
from setr_lib.settings import Settings
from setr_lib.typed import typed


def run(settings: Settings, *, dataset: str | None, form: str | None) -> int:
    """Print the leaderboard.

    Args:
        settings: The settings.
        dataset: A data set or evaluation set; None for all.
        form: ``json``, ``csv`` or ``markdown``, and nothing else on standard output; None for tables.

    Returns:
        The exit status, 0.

    Raises:
        DatasetError: There is no such set.
    """
    from setr_lib.benchmarks import averages, headlines, named_sets
    from setr_lib.commands.faults import board_lines, keys_of
    from setr_lib.evaluation import leaderboard
    from setr_lib.pipeline.evaluation import latest_scores
    from setr_lib.pipeline.storage import or_run_everything

    sets = named_sets(settings, dataset)
    named = [chosen.key for chosen in sets]
    context = pipeline_context(settings)
    frame = latest_scores(context, named)
    if form == "json":
        print(leaderboard.as_json(frame))
    elif form == "csv":
        sys.stdout.write(leaderboard.as_csv(frame))
    elif form == "markdown":
        print(leaderboard.as_markdown(frame, headlines(settings)))
    else:
        table = leaderboard.leaderboard_table(frame, headlines(settings), averages(settings))
        terminal().print(table)
        for line in board_lines(context, keys_of(frame, settings)):
            print(line)
    if frame.is_empty() and sets and not any(chosen.has_queries for chosen in sets):
        talk(
            f"nothing is measured, for there are no queries in {', '.join(named)}: write queries with known "
            f"answers (queries.csv among the pictures: reference, modification, targets), then "
            f"`{typed('run')}`"
        )
    elif frame.is_empty():
        of = "" if dataset is None else f" of {dataset}"
        talk(f"nothing{of} is evaluated yet: materialize evaluation_report, {or_run_everything(settings)}")
    return 0
