"""``setr faults``: every image, query and text of evaluation sets with which something went wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl


def run(settings: Settings, *, dataset: str | None, as_json: bool) -> int:
    """Print the faults of one evaluation set, or of all.

    Args:
        settings: The settings.
        dataset: A data set or evaluation set; None for all.
        as_json: Print one JSON array, and nothing else on standard output.

    Returns:
        The exit status, 0.

    Raises:
        SetrError: There is no such set, or a table cannot be read.
    """
    import polars as pl

    from setr_lib.datasets import named_sets
    from setr_lib.pipeline.comparison import FOLDER
    from setr_lib.pipeline.faults import faults_of, training_faults

    contexts = (pipeline_context(settings), PipelineContext(settings, tables=FOLDER))
    found: dict[str, pl.DataFrame] = {}
    for chosen in named_sets(settings, dataset):
        frames = [faults_of(context, chosen.key) for context in contexts]
        found[chosen.key] = pl.concat(frames).unique(maintain_order=True)
    if dataset is None and not (training := training_faults(contexts[0])).is_empty():
        found["training"] = training
    if as_json:
        rows = [{"set": key, **row} for key, frame in found.items() for row in frame.to_dicts()]
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return 0
    for key, frame in found.items():
        if frame.is_empty():
            print(f"{key}: none known; images are looked at by `setr doctor` and by a run")
        for (kind,), rows in frame.group_by("kind", maintain_order=True):
            print(f"{key}: {rows.height:,} {kind}")
            for item, detail in rows.select("item", "detail").iter_rows():
                print(f"  {' '.join(item.split())}{f': {detail}' if detail else ''}")
    return 0


def keys_of(frame: pl.DataFrame, settings: Settings) -> list[str]:
    """The evaluation sets that scores are of.

    Args:
        frame: METRICS rows.
        settings: The settings that name the sets.

    Returns:
        Their keys.
    """
    from setr_lib.datasets import evaluation_sets

    there = set(frame.select("dataset", "split").iter_rows())
    return [known.key for known in evaluation_sets(settings) if (known.dataset, known.split) in there]


def board_lines(context: PipelineContext, sets: Sequence[str]) -> list[str]:
    """What a leaderboard's reader should know of single items, a line for each kind and set.

    Args:
        context: The tables.
        sets: The evaluation sets that are on the board.

    Returns:
        The lines; a table that cannot be read is told in its line.
    """
    from setr_lib.pipeline.faults import fault_lines

    lines: list[str] = []
    for key in sets:
        try:
            lines += [f"{key}: {line}" for line in fault_lines(context, key)]
        except SetrError as error:
            lines.append(f"{key}: {error}")
    return lines
