"""``setr score``: the official metrics of ranking files that any system made, from the annotation files
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.commands.console import talk, terminal
from setr_lib.errors import SetrError
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.datasets import EvaluationSet
    from setr_lib.evaluation.external import ExternalScores


def run(
    settings: Settings,
    *,
    dataset: str,
    split: str | None,
    files: Sequence[Path],
    gallery: str | None,
    labels: Sequence[str],
    caveats: Sequence[str],
    as_json: bool,
) -> int:
    """Print the metrics, one line each.

    Args:
        settings: The settings.
        dataset: The data set's name, or an evaluation set's key.
        split: The split that the files answer; None for the evaluation set's, or the only one of the data
            set that settings name.
        files: The ranking files.
        gallery: The protocol, in place of the settings' choice.
        labels: Files of labelled queries, each ``FILE`` or ``LABEL=FILE``.
        caveats: Why the rankings are not comparable with published numbers, as a person knows it.
        as_json: Whether to print one JSON array, and nothing else on standard output.

    Returns:
        The exit status, 0.

    Raises:
        RankingFileError: A ranking file is wrong.
        SetrError: A caveat is empty, or the split is not named and there are several.
        DatasetError: The set is not known, or an annotation file or a file of labels is wrong or missing.
    """
    from setr_lib.benchmarks.query_labels import LabelFile
    from setr_lib.evaluation import leaderboard
    from setr_lib.evaluation.external import score_files

    reasons = [" ".join(caveat.split()) for caveat in caveats]
    if not all(reasons):
        raise SetrError("--caveat is empty: say why the ranking is not comparable with published numbers")
    evaluation_set = _answered_set(settings, dataset, split, gallery)
    label_files = [LabelFile.named(text) for text in labels]
    found = score_files(evaluation_set, files, settings.evaluation, label_files, reasons)
    for note in found.notes:
        talk(note)
    if as_json:
        print(leaderboard.as_json(found.rows))
    elif found.rows.is_empty():
        _print_valid(evaluation_set, found)
        _print_reasons([*reasons, *evaluation_set.benchmark.caveats(evaluation_set)])
    else:
        _print_rows(evaluation_set, found.rows)
    return 0


def _answered_set(settings: Settings, dataset: str, split: str | None, gallery: str | None) -> EvaluationSet:
    """The evaluation set that ranking files answer."""
    from setr_lib.datasets import named_sets, set_of_split

    if split is None:
        sets = named_sets(settings, dataset)
        if len(sets) > 1:
            keys = " or ".join(each.key for each in sets)
            raise SetrError(f"{dataset} has several splits: which one do the files answer? Name {keys}")
        dataset, split = sets[0].dataset, sets[0].split
    return set_of_split(settings, dataset, split, gallery)


def _print_valid(evaluation_set: EvaluationSet, found: ExternalScores) -> None:
    why = "every metric is left out" if found.has_targets else "its targets are not public"
    server = evaluation_set.benchmark.server if evaluation_set.hidden else None
    where = f"; its server is {server}" if server else ""
    queries = f"{found.read.queries.height:,} queries"
    print(f"{evaluation_set.key}: valid, {queries}; nothing to score here: {why}{where}")


def _print_rows(evaluation_set: EvaluationSet, rows: pl.DataFrame) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from setr_lib.evaluation.cautions import lacks_interval, no_interval_words, small_set_of

    console = terminal()
    gallery = "" if len(evaluation_set.benchmark.galleries) == 1 else f" · gallery {evaluation_set.gallery}"
    console.print(Text(f"{evaluation_set.dataset} {evaluation_set.split}{gallery}", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("metric", "value, %", "95 % interval", "queries"):
        table.add_column(column, no_wrap=True, justify="left" if column == "metric" else "right")
    for row in rows.iter_rows(named=True):
        interval = "none" if lacks_interval(row) else f"{row['ci_low']:.2f}–{row['ci_high']:.2f}"
        table.add_row(Text(row["metric"]), f"{row['value']:.2f}", interval, f"{row['n_queries']:,}")
    console.print(table)
    for words in (small_set_of(rows), no_interval_words(rows, rows["metric"].unique(maintain_order=True))):
        if words:
            console.print(Text(words, style="yellow"))
    if not rows["comparable"].all():
        _print_reasons([rows["label"][0].partition("; ")[2]])


def _print_reasons(reasons: Sequence[str]) -> None:
    from rich.text import Text

    if reasons:
        words = f"not comparable with published numbers: {'; '.join(reasons)}"
        terminal().print(Text(words, style="yellow"))
