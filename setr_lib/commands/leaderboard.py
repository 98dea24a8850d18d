"""``setr leaderboard``: the latest scores of every evaluation set, as tables or as JSON."""

from __future__ import annotations

import sys

from setr_lib.commands.console import terminal
from setr_lib.pipeline.context import pipeline_context
from setr_lib.settings import Settings


def run(settings: Settings, *, as_json: bool) -> int:
    """Print the leaderboard.

    Args:
        settings: The settings.
        as_json: Whether to print one JSON array, and nothing else on standard output.

    Returns:
        The exit status, 0.
    """
    from setr_lib.benchmarks import averages, headlines
    from setr_lib.commands.faults import board_lines, keys_of
    from setr_lib.evaluation import leaderboard
    from setr_lib.pipeline.evaluation import latest_scores
    from setr_lib.pipeline.storage import or_run_everything

    context = pipeline_context(settings)
    frame = latest_scores(context)
    if as_json:
        print(leaderboard.as_json(frame))
    else:
        table = leaderboard.leaderboard_table(frame, headlines(settings), averages(settings))
        terminal().print(table)
        for line in board_lines(context, keys_of(frame, settings)):
            print(line)
    if frame.is_empty():
        print(
            f"setr: nothing is evaluated yet: materialize evaluation_report, {or_run_everything(settings)}",
            file=sys.stderr,
        )
    return 0
