"""Difficulty as a dial: each stage, in its own metric, on worlds that differ in one setting of [miniature].

Run it from the repository root after `make demo`:

    .venv/bin/python -m benchmarks.dials [--dial NAME] [--size 0.5] [--quick]

For each value of a dial it draws small worlds under the storage root, ranks them by the coarse stages and by
both judges (the adapter is the champion of the main world, as is the fusion), and then draws
docs/figures/NAME.svg. Interrupted, it goes on where it was. `--quick` takes tiny worlds and two values, and
leaves its figures under the storage root.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.charts import Line, Panel, Point, draw
from benchmarks.comparison import interval_of, value_of
from benchmarks.material import (
    COLUMNS,
    KEYS,
    STAGE_1,
    STAGE_2,
    TITLES,
    Judge,
    column,
    configured_judge,
    from_files,
)
from setr_lib.commands.console import progress_on_terminal, quieten_libraries
from setr_lib.commands.env import apply
from setr_lib.errors import SetrError
from setr_lib.miniature.source import Miniature
from setr_lib.pipeline.context import NotMadeYetError, PipelineContext, pipeline_context
from setr_lib.pipeline.reranking import ADAPTER, BASE
from setr_lib.settings import Settings, StorageSettings, load_settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.progress import Progress

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
SIZE, QUICK_SIZE = 0.5, 0.05
TRAINING_IMAGES = 16
"""Drawn with every world and never looked at; this is the least."""


@dataclass(frozen=True)
class Dial:
    """A setting of ``[miniature]``, the values to try, and how the figure names it."""

    setting: str
    values: tuple[float, ...]
    title: str
    axis: str
    kinds: tuple[str, ...] = tuple(TITLES)
    """The data sets that depend on it."""


DIALS = (
    Dial(
        "background_correlation",
        (0.0, 0.25, 0.5, 0.75, 1.0),
        "What shares the reference's background",
        "background correlation: the chance that a distractor stands on its query's reference's background",
    ),
    Dial(
        "near_misses",
        (0.0, 0.5, 1.0, 2.0),
        "How many near misses there are",
        "near misses per query, as a multiple of the documented world's",
    ),
    Dial(
        "objects_per_scene",
        (1.0, 1.25, 1.5, 1.75, 2.0),
        "How much a scene shows",
        "different objects in a query's reference, on average",
        kinds=("cirr", "circo"),
    ),
)
STAGES = {
    "sum": ("sum", "#8a8a8a", True),
    "union_text": ("union text", "#d55e00", False),
    "intersection": ("intersection", "#0072b2", False),
    BASE: ("+ base judge", "#b07aa1", False),
    ADAPTER: ("+ adapter", "#007a5a", False),
}
"""Stage -> its name in the figure, its colour, and whether its line is dashed."""

ROWS = (
    ("stage 1", STAGE_1, ("sum", "union_text", "intersection")),
    ("stage 2", STAGE_2, ("intersection", BASE, ADAPTER)),
)
"""The rows of a figure: each stage in the metric that it is about, with what it is to be better than."""

Scores = dict[str, dict[str, dict[str, float]]]
"""Column -> stage -> value, low, high; percent."""


def world_of(settings: Settings, dial: Dial, value: float, size: float) -> Settings:
    """The settings of one world. All share a folder: what a dial does not concern is not drawn or embedded
    again.

    Args:
        settings: The settings of the main world.
        dial: The dial that is turned.
        value: Its value.
        size: ``[miniature] size`` of the world.

    Returns:
        The settings.
    """
    folder = settings.storage_root / "dials" / "world"
    datasets = {
        name: dataset.model_copy(update={"root": folder / "miniature" / dataset.kind})
        for name, dataset in settings.datasets.items()
        if dataset.kind in TITLES
    }
    turned = {"size": size, "training_images": TRAINING_IMAGES, dial.setting: value}
    return settings.model_copy(
        update={
            "storage": StorageSettings(root=folder),
            "datasets": datasets,
            "miniature": settings.miniature.model_copy(update=turned),
        }
    )


def measured_world(
    context: PipelineContext,
    world: Settings,
    kinds: Sequence[str],
    judges: Mapping[str, Judge],
    progress: Progress,
) -> Scores:
    """Draw a world and rank it by every stage.

    Args:
        context: The main world's context, with models and caches.
        world: The settings of the world.
        kinds: The kinds of data set to measure.
        judges: Stage -> judge with its fusion.
        progress: Told how far it is.

    Returns:
        The scores, in percent.
    """
    world_context = PipelineContext(world, context.models)
    Miniature(world).prepare(progress)
    options = (context.settings.evaluation.bootstrap_samples, context.settings.evaluation.seed)
    scores: Scores = {}
    for key in [key for key in KEYS if key.partition("-")[0] in kinds]:
        material = from_files(context, world_context, key, progress)
        k = material.depth
        rankings = {stage: material.coarse(stage, k) for stage in STAGES if stage not in judges}
        for stage, judge in judges.items():
            rankings[stage] = material.judged(context, rankings["intersection"], judge, k, progress)
        for stage, frame in rankings.items():
            for name, values in material.per_query(frame).items():
                scores.setdefault(name, {})[stage] = _numbers(values, *options)
    return scores


def _numbers(per_query: pl.DataFrame, samples: int, seed: int) -> dict[str, float]:
    low, high = interval_of(per_query, samples, seed)
    return {"value": value_of(per_query), "low": low, "high": high}


def kept_world(
    context: PipelineContext,
    dial: Dial,
    value: float,
    size: float,
    judges: Mapping[str, Judge],
    progress: Progress,
) -> Scores:
    """The scores of one world; those that were measured before, where world and models are the same.

    Args:
        context: The main world's context, with models and caches.
        dial: The dial that is turned.
        value: Its value.
        size: ``[miniature] size`` of the world.
        judges: Stage -> judge with its fusion.
        progress: Told how far it is.

    Returns:
        The scores, in percent.
    """
    from setr_lib.files import read_json, write_json

    world = world_of(context.settings, dial, value, size)
    made_by = _made_by(context, world, judges)
    path = context.settings.storage_root / "dials" / f"{dial.setting}-{value:g}-at-{size:g}.json"
    known = read_json(path)
    if known is not None and known["made_by"] == made_by:
        return known["scores"]
    scores = measured_world(context, world, dial.kinds, judges, progress)
    write_json(path, {"made_by": made_by, "scores": scores})
    return scores


def _made_by(context: PipelineContext, world: Settings, judges: Mapping[str, Judge]) -> dict[str, Any]:
    from setr_lib.miniature.worlds import WORLD_VERSION

    prompts = context.prompts()
    return {
        "version": WORLD_VERSION,
        "miniature": json.loads(world.miniature.model_dump_json()),
        "encoder": context.models.space().id,
        "composer": context.models.multimodal().id,
        "prompts": [prompts.hash(task, kind) for task in ("describe", "compose") for kind in TITLES],
        "judges": {stage: [judge.reranker.id, judge.fusion, judge.weight] for stage, judge in judges.items()},
        "K": {name: context.settings.rerank_depth(name) for name in world.datasets},
        "evaluation": json.loads(context.settings.evaluation.model_dump_json()),
    }


def panels_of(dial: Dial, worlds: Mapping[float, Scores]) -> list[list[Panel]]:
    """The panels of a figure: a row per stage, a panel per data set that the dial concerns.

    Args:
        dial: The dial.
        worlds: Value of the dial -> scores.

    Returns:
        Rows of panels.
    """
    return [
        [
            _panel(f"{TITLES[kind]}, {title}", column(kind, metrics[kind]), stages, worlds)
            for kind in dial.kinds
        ]
        for title, metrics, stages in ROWS
    ]


def _panel(title: str, name: str, stages: Sequence[str], worlds: Mapping[float, Scores]) -> Panel:
    found = {value: scores.get(name, {}) for value, scores in sorted(worlds.items())}
    lines = [
        Line(
            label,
            colour,
            [Point(value, **scores[stage]) for value, scores in found.items() if stage in scores],
            dashed,
        )
        for stage, (label, colour, dashed) in STAGES.items()
        if stage in stages
    ]
    return Panel(title, f"{name.split()[-1]}, %", lines)


def both_judges(context: PipelineContext) -> dict[str, Judge]:
    """The base judge and the champion, each with the fusion that was chosen for it.

    Args:
        context: The main world's context.

    Returns:
        Stage -> judge.

    Raises:
        NotMadeYetError: No adapter was promoted yet.
    """
    version = context.champion_version()
    if version is None:
        raise NotMadeYetError("no adapter was promoted yet: run `make demo` first")
    # The base first: of adapted models the context keeps one only.
    return {BASE: configured_judge(context, None), ADAPTER: configured_judge(context, version)}


def table(dial: Dial, worlds: Mapping[float, Scores]) -> str:
    """The numbers behind a figure, all compared metrics, in Markdown.

    Args:
        dial: The dial.
        worlds: Value of the dial -> scores.

    Returns:
        Title and table.
    """
    values = sorted(worlds)
    lines = [["", "", *(f"{value:g}" for value in values)], ["---", "---", *["---:"] * len(values)]]
    for name in COLUMNS:
        for stage, (label, *_) in STAGES.items():
            cells = [worlds[value].get(name, {}).get(stage) for value in values]
            if any(cells):
                lines.append(
                    [name, label, *("" if cell is None else f"{cell['value']:.1f}" for cell in cells)]
                )
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{dial.title} ({dial.axis})\n\n{rows}"


def run(settings: Settings, names: Sequence[str], size: float, quick: bool) -> None:
    """Measure every world of the named dials, print the numbers, draw the figures.

    Args:
        settings: The settings of the main world.
        names: Settings of dials.
        size: ``[miniature] size`` of the worlds.
        quick: Whether to take two values only, and leave the figures under the storage root.

    Raises:
        SetrError: Something is not made yet, or a world cannot be drawn.
    """
    context = pipeline_context(settings)
    judges = both_judges(context)
    folder = settings.storage_root / "dials" / "figures" if quick else FIGURES
    for dial in DIALS:
        if dial.setting not in names:
            continue
        values = (dial.values[0], dial.values[-1]) if quick else dial.values
        worlds: dict[float, Scores] = {}
        with progress_on_terminal() as progress:
            for value in values:
                print(f"{dial.setting} = {value:g}", file=sys.stderr)
                worlds[value] = kept_world(context, dial, value, size, judges, progress)
        path = folder / f"{dial.setting}.svg"
        draw(panels_of(dial, worlds), dial.title, f"{dial.axis}; worlds of size {size:g}", path)
        print(table(dial, worlds), f"{path}", sep="\n\n", end="\n\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and draw the figures.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status: 1 where something is not made yet, or a world cannot be drawn.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dials", description=(__doc__ or "").splitlines()[0]
    )
    names = [dial.setting for dial in DIALS]
    parser.add_argument("--dial", choices=names, action="append", help="this one alone (may be repeated)")
    parser.add_argument("--size", type=float, help=f"of the worlds, {SIZE} by default ([miniature] size)")
    parser.add_argument("--quick", action="store_true", help="tiny worlds, two values, figures elsewhere")
    options = parser.parse_args(arguments)
    quieten_libraries()
    try:
        settings = load_settings()
        apply(settings)
        size = options.size or (QUICK_SIZE if options.quick else SIZE)
        run(settings, options.dial or names, size, options.quick)
    except SetrError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
