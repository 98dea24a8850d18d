"""The ladder on a materialised miniature: from chance to the oracle, with paired intervals, and ablations of
stage 2.

Run it from the repository root after `make demo`:

    .venv/bin/python -m benchmarks.ladder [--only ladder|ablations] [--quick]

The table goes to standard output and, with its explanation, to docs/ladder.md; the numbers themselves lie in
`ladder/*.json` under the storage root. Interrupted, it goes on where it was. `--quick` takes few queries and
short trainings, to see that all is there, and leaves page and numbers alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from benchmarks.ablations import DEPTHS, Laboratory, ablate, fusion_label
from benchmarks.comparison import (
    BROKEN,
    CLAIMS,
    RUNGS,
    UNCERTAIN,
    Break,
    Row,
    Section,
    as_json,
    beside,
    climb,
    from_json,
    markdown,
    name_of,
)
from benchmarks.material import (
    COLUMNS,
    KEYS,
    Material,
    column,
    configured_fusion,
    configured_judge,
    from_tables,
)
from setr_lib.commands.console import progress_on_terminal, quieten_libraries
from setr_lib.commands.env import apply
from setr_lib.datasets import evaluation_sets
from setr_lib.errors import SetrError
from setr_lib.evaluation.floor import expected_per_query, random_intervals
from setr_lib.evaluation.intervals import Interval
from setr_lib.pipeline.context import NotMadeYetError, PipelineContext, pipeline_context
from setr_lib.pipeline.reranking import ADAPTER, BASE, yes_no_judge
from setr_lib.settings import Settings, load_settings

if TYPE_CHECKING:
    from setr_lib.progress import Progress

PAGE = Path(__file__).parents[1] / "docs" / "ladder.md"
COARSE = ("image", "text", "sum", "product", "union_text", "intersection", "intersection_anchor")
QUICK_QUERIES, QUICK_EPOCHS = 60, 0.1
BY_HAND = ("<!-- by hand, kept when this page is made again -->", "<!-- end -->")

Measured = dict[str, dict[str, pl.DataFrame]]
"""Rung -> column -> per-query values."""


def with_gold(material: Material, settings: Settings) -> Material:
    """The set with the compositions that a perfect reader of both pictures would write.

    Args:
        material: An evaluation set of the miniature.
        settings: The settings of its world.

    Returns:
        The same set with other target captions.

    Raises:
        SetrError: The set was drawn by other settings.
    """
    from setr_lib.miniature.gold import gold_caption, planned_pictures, require_current_world

    require_current_world(settings.miniature_root, material.kind, settings.miniature)
    pictures = planned_pictures(material.kind, settings.miniature)
    files = {
        image: Path(path).name for image, path in material.gallery.select("image_id", "path").iter_rows()
    }
    rows = material.queries.select("query_id", "modification", "target_ids").iter_rows()
    return material.composed_as(
        {query: gold_caption(pictures[files[targets[0]]], text) for query, text, targets in rows}
    )


def rungs_of(context: PipelineContext, material: Material, gold: Material, progress: Progress) -> Measured:
    """The values of every rung of one evaluation set.

    Args:
        context: The pipeline context.
        material: The set.
        gold: The set with true compositions.
        progress: Told how far it is.

    Returns:
        Rung -> column -> PER_QUERY frame.

    Raises:
        NotMadeYetError: No adapter was promoted yet.
    """
    k = material.depth
    version = context.champion_version()
    if version is None:
        raise NotMadeYetError("no adapter was promoted yet: run `make demo` first")
    rankings = {method: material.coarse(method, max(DEPTHS)) for method in COARSE}
    for stage, judge in ((BASE, None), (ADAPTER, version)):
        rankings[stage] = material.judged(
            context, rankings["intersection"], configured_judge(context, judge), k, progress
        )
    rankings["oracle"] = material.perfectly_judged(gold.coarse("intersection", max(DEPTHS)), k)
    chance = material.measured(expected_per_query(material.kind, material.queries, material.gallery))
    return {"random": chance, **{rung: material.per_query(frame) for rung, frame in rankings.items()}}


def chance_intervals(material: Material, seed: int) -> dict[str, Interval]:
    """Where 95 % of random orders land.

    Args:
        material: The set.
        seed: Of the orders.

    Returns:
        Column -> interval, in percent.
    """
    found = random_intervals(material.kind, material.queries, material.gallery, seed=seed)
    return {
        column(material.kind, metric): Interval(100 * interval.low, 100 * interval.high)
        for metric, interval in found.items()
    }


def ladder(
    context: PipelineContext,
    materials: Mapping[str, Material],
    gold: Mapping[str, Material],
    progress: Progress,
) -> tuple[list[Section], list[Break]]:
    """The table's first sections (all rungs; the pairs that the claims are about), and where the order
    breaks.

    Args:
        context: The pipeline context.
        materials: Evaluation set -> material.
        gold: The same with true compositions.
        progress: Told how far it is.

    Returns:
        Sections and breaks.
    """
    options = context.settings.evaluation
    rows = {rung: Row(name_of(rung), {}) for rung in RUNGS}
    claims = {(a, b): Row(f"{name_of(a)}, over {name_of(b)}", {}) for a, b in CLAIMS}
    breaks: list[Break] = []
    for key, material in materials.items():
        found = rungs_of(context, material, gold[key], progress)
        chance = chance_intervals(material, options.seed)
        for name in filter(found["random"].__contains__, COLUMNS):
            measured = {rung: values[name] for rung, values in found.items()}
            scores, broken = climb(
                name, measured, options.bootstrap_samples, options.seed, {"random": chance[name]}
            )
            breaks += broken
            for rung, score in scores.items():
                rows[rung].cells[name] = score
            for (a, b), row in claims.items():
                row.cells[name] = beside(measured[a], measured[b], b, options.bootstrap_samples, options.seed)
    sections = [Section("The ladder", list(rows.values())), Section("The claims", list(claims.values()))]
    return sections, breaks


# --- the page

INTRODUCTION = """# The ladder

Made by `python -m benchmarks.ladder` on the materialised miniature; not written by hand. Every number
is a percentage. A cell says the value and its bootstrap 95 % interval over queries; under it, the
difference to another row on the same queries with the interval of that paired difference. On the ladder
the other row is the better one of the level below (the base judge's: the intersection that it
re-ranks); there {broken} marks a value below a lower level's, {uncertain} a difference whose interval
has zero in it. Under the claims it is the row that is named. In the ablations it is the adapter as
configured, and among the unions the union text."""

COLUMN_TEXTS = {
    "CIRR R@1": (
        "how often the one target comes first, in a gallery of look-alikes from which the reference is taken "
        "out. What stage 2 is about: most of what stands above the target differs from it in one respect."
    ),
    "CIRR R@10": (
        "how often the target is among the first ten: what stage 1 is about, as ten places leave room for "
        "near misses but not for pictures that only share the reference's background."
    ),
    "FashionIQ R@10": (
        "how often the target is among the first ten of its category's gallery, averaged over dresses, "
        "shirts and tops with equal weight. The reference stays in the gallery. The headline of both stages."
    ),
    "CIRCO mAP@5": (
        "mean average precision at five: a query has several right answers, each on a background of its "
        "own, and all of them count. Stage 2's headline."
    ),
    "CIRCO mAP@10": "the same at ten: stage 1's headline.",
}


def page(
    sections: Sequence[Section], breaks: Sequence[Break], made_by: Mapping[str, Any], by_hand: str
) -> str:
    """The text of docs/ladder.md.

    Args:
        sections: The sections of the table.
        breaks: Where the order breaks.
        made_by: What made the numbers.
        by_hand: What a person wrote about the breaks.

    Returns:
        Markdown.
    """
    columns = "\n\n".join(f"**{name}**: {COLUMN_TEXTS[name]}" for name in COLUMNS)
    parts = [
        INTRODUCTION.format(broken=BROKEN, uncertain=UNCERTAIN),
        markdown(sections, COLUMNS),
        "## The columns",
        columns,
        "## The rows",
        _ROWS,
        "## Where the order breaks",
        breaks_in_words(breaks),
        f"{BY_HAND[0]}\n{by_hand}\n{BY_HAND[1]}",
        "## What made these numbers",
        "\n".join(f"- {name}: {value}" for name, value in made_by.items()),
    ]
    return "\n\n".join(parts) + "\n"


_ROWS = """*Random order* is the expectation in closed form, its interval where 95 % of random orders land.
*Oracle* searches the target captions that a perfect reader of both pictures would compose, with the
same CLIP, and puts every annotated target among the first K in front: no judge can do better on those
candidates, and what is missing to 100 is stage 1's. Its two halves alone are the last section. Fusions,
w included, are chosen on held-out synthesised queries and never on these sets.

*Ablations of the training.* Every variant is trained anew, for as many passes over its pairs: fewer
pairs are fewer steps, too. The ratio of LoRA's alpha to its rank is the same for all ranks. Intervals
are over queries; how much another training of the very same kind would differ is the row of another
training seed, and a difference no larger than that one says nothing."""


def breaks_in_words(breaks: Sequence[Break]) -> str:
    """One line for each place where a rung is below a lower level's.

    Args:
        breaks: Where the order breaks.

    Returns:
        Markdown.
    """
    if not breaks:
        return "Nowhere: on every column each level is above all levels below it."
    return "\n".join(f"- {broken.sentence}" for broken in breaks)


def written_by_hand(path: Path) -> str:
    """What a person wrote about the breaks; kept when the page is made again.

    Args:
        path: The page as it was made before; it need not exist.

    Returns:
        The text between the two marks; empty without one.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, begin, rest = text.partition(BY_HAND[0])
    return rest.partition(BY_HAND[1])[0].strip("\n") if begin else ""


def provenance(context: PipelineContext) -> dict[str, Any]:
    """What made the numbers; parts of the page that were made by something else are left out.

    Args:
        context: The pipeline context.

    Returns:
        What -> its id or settings.
    """
    from setr_lib.miniature.worlds import WORLD_VERSION

    settings = context.settings
    options, stages = settings.miniature, settings.reranking
    return {
        "miniature": f"version {WORLD_VERSION}, {options.model_dump_json()}",
        "encoder": context.models.space().id,
        "judge": context.models.multimodal().id,
        "adapter": context.models.multimodal(context.champion_version()).id,
        "prompts": _prompts_in_words(context),
        "fusion of the base judge": _fusion_in_words(context, None),
        "fusion of the adapter": _fusion_in_words(context, context.champion_version()),
        "K": ", ".join(
            f"{settings.rerank_depth(evaluation_set.dataset)} ({evaluation_set.key})"
            for evaluation_set in evaluation_sets(settings)
            if evaluation_set.key in KEYS
        ),
        "pairs": stages.pairs.model_dump_json(),
        "LoRA": stages.adapter.model_dump_json(),
        "bootstrap": (
            f"{context.settings.evaluation.bootstrap_samples} samples, seed "
            f"{context.settings.evaluation.seed}"
        ),
    }


def _prompts_in_words(context: PipelineContext) -> str:
    """A digest per task: of tasks that have a prompt of a data set's own, one per data set; of judges, one
    per prompt.
    """
    prompts = context.prompts()
    found = {
        task: dict.fromkeys(prompts.hash(task, key.partition("-")[0])[:8] for key in KEYS)
        for task in ("describe", "compose")
    }
    judges = [yes_no_judge(context, version) for version in (None, context.champion_version())]
    found["judge"] = dict.fromkeys(judge.prompt_hash[:8] for judge in judges)
    return ", ".join(f"{task} {' '.join(digests)}" for task, digests in found.items())


def _fusion_in_words(context: PipelineContext, version: str | None) -> str:
    fused = configured_fusion(context, version)
    return f"{fusion_label(fused.fusion, fused.weight)}, {fused.how}"


def store(path: Path, part: Mapping[str, Any]) -> None:
    """Write a part's numbers, whole or not at all.

    Args:
        path: The file.
        part: The numbers.
    """
    from setr_lib.files import write_json

    write_json(path, part)


def stored(path: Path, made_by: Mapping[str, Any]) -> dict[str, Any] | None:
    """A part's numbers, if they are of the present world, models and settings.

    Args:
        path: The file; it need not exist.
        made_by: What makes numbers now.

    Returns:
        The numbers, or None.
    """
    from setr_lib.files import read_json

    part = read_json(path)
    return part if part is not None and part["made_by"] == json.loads(json.dumps(made_by)) else None


def measure(
    context: PipelineContext, only: str | None, quick: bool, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Measure the wanted parts.

    Args:
        context: The pipeline context.
        only: ``ladder`` or ``ablations``; None for both.
        quick: Whether to take few queries and short trainings.
        progress: Told how far it is.

    Returns:
        Part -> its numbers, as they are stored.
    """
    limit, epochs = (QUICK_QUERIES, QUICK_EPOCHS) if quick else (None, None)
    configured = {each.key for each in evaluation_sets(context.settings)}
    keys = [key for key in KEYS if key in configured]
    materials = {key: from_tables(context, key, limit) for key in keys}
    gold = {key: with_gold(each, context.settings) for key, each in materials.items()}
    parts: dict[str, dict[str, Any]] = {}
    if only != "ablations":
        sections, breaks = ladder(context, materials, gold, progress)
        parts["ladder"] = {"sections": as_json(sections), "breaks": [asdict(each) for each in breaks]}
    if only != "ladder":
        laboratory = Laboratory(context, materials, epochs, progress)
        parts["ablations"] = {"sections": as_json(ablate(laboratory, gold)), "breaks": []}
    return parts


def run(settings: Settings, only: str | None, quick: bool) -> None:
    """Measure, print, and write the page.

    Args:
        settings: The settings.
        only: ``ladder`` or ``ablations``; None for both.
        quick: Whether to take few queries and short trainings, and write nothing.

    Raises:
        SetrError: Something is not made yet.
    """
    context = pipeline_context(settings)
    made_by = provenance(context)
    folder = settings.storage_root / "ladder"
    with progress_on_terminal() as progress:
        parts = measure(context, only, quick, progress)
    if not quick:
        for name, part in parts.items():
            store(folder / f"{name}.json", {"made_by": made_by, **part})
        found = (stored(folder / f"{name}.json", made_by) for name in ("ladder", "ablations"))
        parts = {str(number): part for number, part in enumerate(found) if part is not None}
    sections = [section for part in parts.values() for section in from_json(part["sections"])]
    breaks = [Break.from_json(broken) for part in parts.values() for broken in part["breaks"]]
    print(markdown(sections, COLUMNS), breaks_in_words(breaks), sep="\n\n")
    if not quick:
        PAGE.write_text(page(sections, breaks, made_by, written_by_hand(PAGE)), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status: 1 where something is not made yet.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ladder", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", choices=("ladder", "ablations"), help="this part alone")
    parser.add_argument("--quick", action="store_true", help="few queries, short trainings, no page")
    options = parser.parse_args(arguments)
    quieten_libraries()
    try:
        settings = load_settings()
        apply(settings)
        run(settings, options.only, options.quick)
    except SetrError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
