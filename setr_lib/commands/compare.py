"""``setr compare``: methods and re-rankers side by side, with what a query costs by each."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from setr_lib.commands.console import (
    is_quiet,
    progress_on_terminal,
    quieten_libraries,
    results_alone,
    talk,
    terminal,
)
from setr_lib.errors import SetrError
from setr_lib.escaping import markdown
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.comparison import ComparisonRecord
    from setr_lib.pipeline.context import PipelineContext

_PLAIN_WIDTH = 120  # of the table in a file, where no terminal says how wide it is
NONE = "none"
"""In place of methods: no candidates are re-ranked."""


def run(
    settings: Settings,
    *,
    methods: Sequence[str],
    sets: Sequence[str],
    reranked: Sequence[str],
    sample: int,
    plan_only: bool,
    accept_removals: bool = False,
) -> int:
    """Compare, and print the table; before that, what it will cost.

    Args:
        settings: The settings.
        methods: Names of methods, ``all``, or none for those that settings configure.
        sets: Evaluation sets or data sets; none for all with known targets.
        reranked: Names of methods whose candidates are re-ranked, ``all`` or ``none``; nothing for those that
            settings name.
        sample: Queries that costs are timed on.
        plan_only: Stop after the cost.
        accept_removals: Whether any number of images that are gone may be removed from the vector store, for
            this run.

    Returns:
        The exit status, 0.

    Raises:
        SetrError: A name is not known, or nothing could be compared.
    """
    from setr_lib.commands.plan import print_estimate
    from setr_lib.pipeline.comparison import LeftOut, choose, compare, left_out_sentences

    quieten_libraries()
    if NONE in reranked:
        if others := [name for name in reranked if name != NONE]:
            raise SetrError(f"--rerank {NONE} and --rerank {others[0]} contradict each other: leave one out")
        reranking = settings.reranking.model_copy(update={"rerankers": []})
        settings, reranked = settings.model_copy(update={"reranking": reranking}), []
    chosen = choose(settings, methods, reranked, sets)
    left_out = [LeftOut(what=name, why=why) for name, why in chosen.left_out.items()]
    if plan_only:
        print(f"comparing on {', '.join(chosen.sets)}", flush=True)
        for sentence in left_out_sentences(left_out):
            print(sentence, flush=True)
        print_estimate(chosen.context, sample)
        return 0
    talk(f"comparing on {', '.join(chosen.sets)}")
    for sentence in left_out_sentences(left_out):
        talk(sentence)
    if not is_quiet():
        _tell_estimate(chosen.context, sample)
    begun = time.monotonic()
    with progress_on_terminal() as progress:
        frame, record = compare(chosen, progress, sample, accept_removals=accept_removals)
    _print(settings, frame, record)
    minutes, seconds = divmod(time.monotonic() - begun, 60)
    talk(f"compared in {minutes:.0f} min {seconds:.0f} s; again: setr compare --markdown | --json | --csv")
    return 0


def _tell_estimate(context: PipelineContext, sample: int) -> None:
    """Say on standard error how long the comparison takes."""
    from setr_lib.commands.plan import print_estimate

    try:
        with results_alone():
            print_estimate(context, sample)
    except SetrError as error:  # what it is of is left out of the comparison, in words
        talk(f"how long it takes is not known: {error}")


def show(settings: Settings, form: str) -> int:
    """Print the rows of the last comparison.

    Args:
        settings: They say where it is stored.
        form: ``json``, ``csv`` or ``markdown``.

    Returns:
        The exit status, 0.

    Raises:
        SetrError: Nothing was compared yet.
    """
    from setr_lib.benchmarks import averages, headlines
    from setr_lib.evaluation.comparison import as_csv, as_json, as_markdown, average_lines, footnotes
    from setr_lib.pipeline.comparison import last_comparison

    frame, record = last_comparison(settings)
    if form == "json":
        print(as_json(frame))
    elif form == "csv":
        sys.stdout.write(as_csv(frame))
    else:
        print(as_markdown(frame, headlines(settings)))
        below = [*average_lines(frame, averages(settings)), *footnotes(frame, headlines(settings))]
        for sentence in (*below, *_notes(record)):
            print(f"\n- {markdown(sentence)}", end="")
        print()
    return 0


def _print(settings: Settings, frame: pl.DataFrame, record: ComparisonRecord) -> None:
    from rich.text import Text

    from setr_lib.benchmarks import averages, headlines
    from setr_lib.evaluation.comparison import average_lines, comparison_table, footnotes, source_lines

    console = terminal() if sys.stdout.isatty() else terminal(width=_PLAIN_WIDTH)
    console.print()
    console.print(comparison_table(frame, headlines(settings)))
    for line in average_lines(frame, averages(settings)):
        console.print(Text(line))
    for line in source_lines(frame):
        console.print(Text(line, style="dim"))
    for sentence in footnotes(frame, headlines(settings)):
        console.print(Text(sentence, style="dim"))
    for sentence in _notes(record):
        console.print(Text(sentence, style="yellow"))


def _notes(record: ComparisonRecord) -> list[str]:
    """What a reader of the table must know: how many queries it is of, and what is not in it."""
    limited = [] if record.limit is None else [f"only the first {record.limit} queries of each set"]
    stopped = [f"not compared yet: {', '.join(record.pending)}"] if record.pending else []
    return [*limited, *stopped, *record.left_out_sentences, *record.notes]
