"""Both stages' headlines on several worlds: what `make demo` found with other seeds, side by side in
docs/seeds.md.

    .venv/bin/python -m benchmarks.seeds SETTINGS_FILE...

Each settings file is that of a finished demo: a copy of `setr.toml` in a folder of its own, with another
`[miniature] seed` and the models' paths made absolute, run by `python -m setr_assets.demo` with `SETR_CONFIG`
and `DAGSTER_HOME` in that folder (as tests/assets/test_headlines.py does).
"""

from __future__ import annotations

import argparse
import json
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

INTRODUCTION = """# The headlines on other worlds

Made by `python -m benchmarks.seeds`; not written by hand. Each line is a `make demo` of its own with
another `[miniature] seed`: other queries, galleries and training images, another adapter; CLIP and base
judge are the committed ones, trained on pictures of their own. A cell has three percentages: of stage 1
`sum` / `union_text` / **`intersection`**, of stage 2 `intersection` / + base judge / **+ adapter**.
AUC: how well the judge tells held-out pairs apart, before and after its training (0.5 is guessing)."""


@dataclass(frozen=True)
class World:
    """What one demo found. ``values``: (kind of data set, rung, metric) -> percent."""

    seed: int
    made_by: str
    before: float
    after: float
    values: Mapping[tuple[str, str, str], float]

    def gain(self, kind: str, claim: tuple[str, str]) -> float:
        """The first rung of a claim less the second, in the metric of its stage.

        Args:
            kind: The kind of data set.
            claim: The two rungs.

        Returns:
            Percentage points.
        """
        metric = (STAGE_1 if claim[0] == "intersection" else STAGE_2)[kind]
        return self.values[kind, claim[0], metric] - self.values[kind, claim[1], metric]


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
    columns = [(kind, metrics) for metrics in (STAGE_1, STAGE_2) for kind in metrics]
    heads = [f"{TITLES[kind]} {metrics[kind]}" for kind, metrics in columns]
    table = [["seed", "AUC", *heads], ["---"] * (len(heads) + 2)]
    for world in sorted(worlds, key=lambda world: world.seed):
        cells = [_cell(world, kind, metrics[kind], SHOWN[metrics is STAGE_2]) for kind, metrics in columns]
        table.append([str(world.seed), f"{world.before:.3f} → {world.after:.3f}", *cells])
    kinds = list(TITLES)
    least = [["the least gain of all these worlds, in points", *TITLES.values()], ["---"] * (len(kinds) + 1)]
    least += [
        [
            f"{name_of(claim[0])}, over {name_of(claim[1])}",
            *(f"{min(world.gain(kind, claim) for world in worlds):.1f}" for kind in kinds),
        ]
        for claim in CLAIMS
    ]
    return (
        "\n\n".join([INTRODUCTION, _markdown(table), _markdown(least), f"Made with {made_by.pop()}."]) + "\n"
    )


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
    options = parser.parse_args(arguments)
    try:
        text = page([world_of(load_settings(path)) for path in options.settings])
    except SetrError as error:
        print(error, file=sys.stderr)
        return 1
    print(text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
