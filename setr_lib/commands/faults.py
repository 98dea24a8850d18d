"""``setr faults``: every image, query and text of evaluation sets with which something went wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.fault_places import Fault


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
    from setr_lib.datasets import named_sets
    from setr_lib.pipeline.comparison import FOLDER
    from setr_lib.pipeline.fault_places import faults_with_places, training_faults_with_places

    contexts = (pipeline_context(settings), PipelineContext(settings, tables=FOLDER))
    sets = named_sets(settings, dataset)
    found = [fault for chosen in sets for fault in faults_with_places(contexts, chosen.key)]
    if dataset is None:
        found += training_faults_with_places(contexts[0])
    if as_json:
        print(json.dumps([asdict(fault) for fault in found], ensure_ascii=False, indent=1))
    else:
        _print(found, [chosen.key for chosen in sets])
    return 0


def _print(found: Sequence[Fault], sets: Sequence[str]) -> None:
    from setr_lib.pipeline.fault_places import by_set_and_kind
    from setr_lib.pipeline.faults import counted

    grouped = by_set_and_kind(found)
    for key in dict.fromkeys([*sets, *grouped]):
        if key not in grouped:
            print(f"{key}: none known; images are looked at by `setr doctor` and by a run")
        for kind, faults in grouped.get(key, {}).items():
            print(f"{key}: {counted(len(faults), kind)}")
            for fault in faults:
                print(f"  {_line(fault)}")


def _line(fault: Fault) -> str:
    """``broken.png: no image file [/data/broken.png]``; of a text, the queries that it is of."""
    where = [fault.file] if fault.file else []
    if fault.queries and fault.queries != [fault.item]:
        more = f" and {len(fault.queries) - 1:,} more" if len(fault.queries) > 1 else ""
        where.insert(0, f"query {fault.queries[0]}{more}")
    detail = f": {fault.detail}" if fault.detail else ""
    return " ".join(fault.item.split()) + detail + (f" [{', '.join(where)}]" if where else "")


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
