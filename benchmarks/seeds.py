"""Both stages' headlines on several worlds: what `make demo` found with other seeds, side by side in
docs/seeds.md.

    .venv/bin/python -m benchmarks.seeds SETTINGS_FILE...
    .venv/bin/python -m benchmarks.seeds --keep SETTINGS_FILE...   # add worlds to those of the page

Each settings file is that of a finished demo: a copy of `setr.toml` in a folder of its own, with another
`[miniature] seed` and the models' paths made absolute, run by `setr run` with `SETR_CONFIG`
and `DAGSTER_HOME` in that folder (as tests/assets/test_headlines.py does).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.comparison import CLAIMS, name_of
from benchmarks.material import STAGE_1, STAGE_2, TITLES
from setr_lib.errors import SetrError
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.evaluation import latest_scores
from setr_lib.pipeline.reranking import ADAPTER, BASE
from setr_lib.records import RegisteredRecord
from setr_lib.reranking.training_result import load_result
from setr_lib.settings import Settings, load_settings

PAGE = Path(__file__).parents[1] / "docs" / "seeds.md"
SHOWN = (("sum", "union_text", "intersection"), ("intersection", BASE, ADAPTER))
"""The rungs of a cell, of stage 1 and of stage 2."""
COLUMNS = tuple(
    (kind, metrics[kind], SHOWN[metrics is STAGE_2]) for metrics in (STAGE_1, STAGE_2) for kind in metrics
)
"""(kind of data set, metric, rungs) of each cell of a line."""

INTRODUCTION = """# The headlines on other worlds

Made by `python -m benchmarks.seeds`; not written by hand. Each line is a `make demo` of its own with
another `[miniature] seed`: other queries, galleries and training images, another adapter; CLIP and base
judge are the committed ones, trained on pictures of their own. A cell has three percentages: of stage 1
`sum` / `union_text` / **`intersection`**, of stage 2 `intersection` / + base judge / **+ adapter**.
AUC: how well the judge tells held-out pairs apart, before and after its training (0.5 is guessing).

The worlds of the first table were looked at while the miniature was made, so their least gains say what it
was made to show. A world of the second table was drawn by a seed that nobody had looked at before it was
measured: it says more of what to expect of the next one."""
LOOKED_AT = frozenset({0, 1, 2, 3, 4, 42, 123})
"""The seeds of the worlds that the miniature was made on."""


@dataclass(frozen=True)
class World:
    """What one demo found. ``values``: (kind of data set, rung, metric) -> percent."""

    seed: int
    made_by: str
    before: float
    after: float
    values: Mapping[tuple[str, str, str], float]

    def gain(self, kind: str, claim: tuple[str, str]) -> float:
        """The first rung of a claim less the second, in the metric of its stage, as the page prints both.

        Args:
            kind: The kind of data set.
            claim: The two rungs.

        Returns:
            Percentage points.
        """
        metric = (STAGE_1 if claim[0] == "intersection" else STAGE_2)[kind]
        first, second = (round(self.values[kind, rung, metric], 1) for rung in claim)
        return first - second


def world_of(settings: Settings) -> World:
    """What a finished demo found.

    Args:
        settings: The demo's settings.

    Returns:
        Its numbers.

    Raises:
        SetrError: There is no finished demo, or one of another world.
    """
    from setr_lib.miniature.gold import require_current_world
    from setr_lib.miniature.worlds import WORLD_VERSION

    for kind in TITLES:
        require_current_world(settings.miniature_root, kind, settings.miniature)
    context = PipelineContext(settings)
    trained = load_result(
        Path(context.tables.read_record("registered_reranker", RegisteredRecord).checkpoints)
    )
    if trained is None:
        raise SetrError(
            f"{settings.checkpoint_root}: the adapter's training has left no result; run the demo again"
        )
    rows = latest_scores(context).select("dataset", "method", "reranker", "metric", "value").iter_rows()
    values = {
        (kind, reranker or method, metric): value
        for kind, method, reranker, metric, value in rows
        if not reranker or method == "intersection"
    }
    options = settings.miniature.model_dump(exclude={"seed"})
    made_by = f"miniature version {WORLD_VERSION}, {json.dumps(options)}; judge {trained.base_id}"
    return World(settings.miniature.seed, made_by, trained.before.auc, trained.after.auc, values)


def page(worlds: Sequence[World]) -> str:
    """The text of docs/seeds.md.

    Args:
        worlds: One per demo.

    Returns:
        Markdown.

    Raises:
        SetrError: The worlds differ in more than their seed.
    """
    made_by = {world.made_by for world in worlds}
    if len(made_by) != 1:
        raise SetrError("these demos differ in more than the seed: " + " / ".join(sorted(made_by)))
    parts = [INTRODUCTION]
    for title, chosen in (
        ("Worlds that were looked at", [world for world in worlds if world.seed in LOOKED_AT]),
        ("Worlds that were not looked at before", [world for world in worlds if world.seed not in LOOKED_AT]),
    ):
        if chosen:
            parts += [f"## {title}", _markdown(_table(chosen)), _markdown(_least(chosen))]
    return "\n\n".join([*parts, f"Made with {made_by.pop()}."]) + "\n"


def _table(worlds: Sequence[World]) -> list[list[str]]:
    heads = [f"{TITLES[kind]} {metric}" for kind, metric, _ in COLUMNS]
    table = [["seed", "AUC", *heads], ["---"] * (len(heads) + 2)]
    for world in sorted(worlds, key=lambda world: world.seed):
        cells = [_cell(world, kind, metric, rungs) for kind, metric, rungs in COLUMNS]
        table.append([str(world.seed), f"{world.before:.3f} → {world.after:.3f}", *cells])
    return table


def _least(worlds: Sequence[World]) -> list[list[str]]:
    kinds = list(TITLES)
    least = [
        ["the least gain of all these worlds, in points, from the figures above", *TITLES.values()],
        ["---"] * (len(kinds) + 1),
    ]
    for claim in CLAIMS:
        gains = [f"{min(world.gain(kind, claim) for world in worlds):.1f}" for kind in kinds]
        least.append([f"{name_of(claim[0])}, over {name_of(claim[1])}", *gains])
    return least


def worlds_of(text: str) -> list[World]:
    """The worlds of a page, to the tenth of a percent that it prints.

    Args:
        text: The text of docs/seeds.md.

    Returns:
        The worlds.

    Raises:
        SetrError: It is no such page.
    """
    made_by = re.search(r"^Made with (.*)\.$", text, re.MULTILINE)
    lines = re.findall(r"^\| (\d+) \| ([\d.]+) → ([\d.]+) \| (.*) \|$", text, re.MULTILINE)
    if made_by is None or not lines:
        raise SetrError(f"{PAGE}: no worlds can be read from it")
    worlds: list[World] = []
    for seed, before, after, cells in lines:
        values: dict[tuple[str, str, str], float] = {}
        for (kind, metric, rungs), cell in zip(COLUMNS, cells.split(" | "), strict=True):
            numbers = [float(number) for number in cell.replace("*", "").split(" / ")]
            values |= {(kind, rung, metric): number for rung, number in zip(rungs, numbers, strict=True)}
        worlds.append(World(int(seed), made_by.group(1), float(before), float(after), values))
    return worlds


def _cell(world: World, kind: str, metric: str, rungs: Sequence[str]) -> str:
    *lower, best = (f"{world.values[kind, rung, metric]:.1f}" for rung in rungs)
    return " / ".join([*lower, f"**{best}**"])


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status: 1 where a demo is not finished.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.seeds", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("settings", nargs="+", type=Path, help="the settings file of a finished demo")
    parser.add_argument("--keep", action="store_true", help="keep the page's worlds of other seeds")
    options = parser.parse_args(arguments)
    try:
        worlds = (
            {world.seed: world for world in worlds_of(PAGE.read_text(encoding="utf-8"))}
            if options.keep
            else {}
        )
        worlds |= {
            world.seed: world for world in (world_of(load_settings(path)) for path in options.settings)
        }
        text = page(list(worlds.values()))
    except SetrError as error:
        print(error, file=sys.stderr)
        return 1
    print(text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
