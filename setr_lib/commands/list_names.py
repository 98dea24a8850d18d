"""``setr list``: what settings can name, with label, source and needs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from setr_lib.commands.console import terminal
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.pipeline.listing import KINDS, Listed, listed
from setr_lib.settings import Settings

if TYPE_CHECKING:
    from rich.text import Text

_PLAIN_WIDTH = 120  # of tables in a file, where no terminal says how wide it is
_TITLES = {
    "methods": "retrieval methods: [coarse] strategies, --method",
    "rerankers": "re-rankers: [reranking] rerankers, --reranker",
    "systems": "trained systems: [systems.NAME], versions of a run; champion is the version that serves",
    "benchmarks": "benchmarks: [datasets.NAME] kind",
    "spaces": "embedding spaces: [spaces.NAME], a method's space",
    "texts": "generated texts: setr texts export KIND",
}


def run(settings: Settings, *, what: str | None, as_json: bool) -> int:
    """Print what can be named.

    Args:
        settings: The settings.
        what: One of ``listing.KINDS``; None for all.
        as_json: One JSON array, and nothing else on standard output; each object says of which ``kind`` it
            is.

    Returns:
        The exit status, 0.
    """
    context, kinds = pipeline_context(settings), KINDS if what is None else (what,)
    if as_json:
        rows = [{"kind": kind, **one.as_json()} for kind in kinds for one in listed(context, kind)]
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return 0
    _print_tables(context, kinds)
    return 0


def _print_tables(context: PipelineContext, kinds: tuple[str, ...]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = terminal() if sys.stdout.isatty() else terminal(width=_PLAIN_WIDTH)
    for kind in kinds:
        table = Table(box=box.SIMPLE_HEAD, title=Text(_TITLES[kind]), title_justify="left", pad_edge=False)
        found = listed(context, kind)
        labelled = any(one.label for one in found)
        table.add_column("name", no_wrap=True)
        promoted = ["champion"] if kind == "systems" else []
        needs = "learns from" if promoted else "needs"
        for column in (*(["label"] if labelled else []), *promoted, "source", needs):
            table.add_column(column)
        for one in found:
            cells = [
                Text(("* " if one.configured else "  ") + one.name, style="bold" if one.configured else "")
            ]
            cells += [Text(one.label)] if labelled else []
            cells += [Text(one.champion or "none yet")] if promoted else []
            table.add_row(*cells, Text(one.source), _needs(one))
        console.print(table)
        for remedy in dict.fromkeys(one.remedy for one in found if one.remedy):
            console.print(Text(remedy, style="yellow"))
    console.print(Text("* used by these settings", style="dim"))


def _needs(one: Listed) -> Text:
    from rich.text import Text

    words = Text("; ".join(one.needs))
    if one.problem:
        words.append(("; " if one.needs else "") + one.problem, style="yellow")
    return words
