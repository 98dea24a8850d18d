"""The section "Trained systems" of docs/compare.md, from what `make compare-trained` has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from benchmarks import trained_ablations as ablations
from benchmarks.comparison import interval_of, value_of
from benchmarks.material import MEASURED, STAGE_1, STAGE_2, TITLES
from benchmarks.trained_claims import (
    PAPER_2,
    PAPER_3,
    Claim,
    Key,
    Study,
    ablation,
    gap_words,
    row,
    verdict,
)
from benchmarks.trained_results import JUDGED, Measured
from setr_lib.pipeline.reranking import ADAPTER, BASE

if TYPE_CHECKING:
    from setr_lib.pipeline.context import PipelineContext

SECTION = "trained systems"
PICTURE, PSEUDO_WORDS = "pic2word.webp", "pic2word_image"
ROWS = (
    "text",
    "sum",
    "intersection",
    "prompt_tuned",
    "retrieval_dpo",
    "retrieval_dpo_fused",
    "pic2word",
    "pic2word_image",
    "mapping",
    "composing",
    "qformer",
)
BASELINES = ("text", "sum")
INTRODUCTION = """## Trained systems

Made by `make compare-trained`; not written by hand. The systems of "Zero Shot Composed Image Retrieval"
(arXiv 2506.06602) and "From Mapping to Composing" (arXiv 2504.17990), trained on the miniature
(`setr.trained.toml`), each a reconstruction: what the papers leave open is ours. A percentage is no rival of
a published one. Differences are paired, query by query, with 95 % intervals of the bootstrap; a claim *shows*
where the interval lies above zero on each of the three data sets."""
_SOFT = (
    "2026-11-28",
    "the two are all but the same training here: a caption's cosine with the nearest other one of a batch "
    "of 64 is 0.62 on average, and divided by the `caption_temperature` of 0.05 the soft target gives 99 % "
    "to the image's own caption.",
)
PAPER_2_PUBLISHED = (
    "Published on FashionIQ's val (gallery not said): an R@10 of 20 to 25 % for separate encoders, of 45.6, "
    "40.1 and 50.4 % (shirt, dress, top-tee) with the Q-Former, and of 0.02 % for Retrieval-DPO. Chance is "
    "0.16 to 0.26 % in the original galleries, so that 0.02 % is one hit in 6,016 queries where about 12 are "
    "expected: less than an order that knows nothing gets. Ids that were mixed up, a query space that "
    "collapsed, or a fraction printed as percent would explain it."
)
"""What arXiv 2506.06602 reports, and how we read it."""
OBSERVATIONS: dict[str, tuple[str, str]] = {
    "mapping": (
        "2026-11-28",
        "three things, looked at on CIRR's R@10 of seed 0 (`pic2word` 42 %, `mapping` 25 %). Its prompt, "
        "*a photo of $ that TEXT*: no text of the miniature has the word *that*, and its CLIP never saw it; "
        "with a comma in its place `mapping` has 30 %, and `pic2word` with *that* 35 %. Its training is "
        "shorter: with `pic2word`'s 300 steps 29 %. And *a photo of $* finds its own picture first for 92 "
        "and 91 % of the held-out training pictures, but for 93 and 79 % of CIRR's references (89 % after "
        "300 steps): a token learner that is trained on 1,280 pictures carries over less than an MLP over "
        "CLIP's own vector, which is what is searched; the paper trains on far more. The soft alignment is "
        "not to blame: without it 26 %.",
    ),
    "composing": (
        "2026-11-28",
        "adapters that begin at zero are trained too gently by these settings: the loss is still 2.9 after "
        "100 steps at 1e-3. At 5e-3 it is 2.1, held-out R@10 is 85 in place of 73 %, and CIRR's R@10 38 in "
        "place of 30 % (`mapping`: 25 %).",
    ),
    "injection II": (
        "2026-11-28",
        "what the injection gives stage I (10 points of held-out R@10) stage II largely makes up for: from "
        "57 % without it the adapters gain 13 points, from 67 % with it 6.",
    ),
    "soft I": _SOFT,
    "soft II": _SOFT,
    "hard negatives": (
        "2026-11-28",
        "most of it is the reference as a negative: without that alone, CIRR's R@10 is 35 and held-out R@10 "
        "77 % (30 and 73 with it; 36 and 78 without any hard negative). A query is pushed away from a "
        "picture that shares most of its target's things, and that CIRR takes out of the ranking anyway. "
        "With a learning rate of 5e-3 the two are level: 38 and 85 % with, 40 and 83 % without.",
    ),
    "adapters": (
        "2026-11-28",
        "the learning rate is not the reason alone: at 5e-3 in place of 1e-3 both are better, LoRA still "
        "first (held-out R@10 88 and 85 %, CIRR's R@10 50 and 38 %). LoRA changes attention, by which the "
        "pseudo-word and the text act on one another; the bottlenecks change each token for itself.",
    ),
    "qformer": (
        "2026-11-28",
        "it is trained on FashionIQ's train split, and its images have a space of their own that is "
        "learned from these 720 triplets alone: on held-out ones of the same kind R@10 rises from 34 "
        "to 98 %, and on CIRR's and CIRCO's scenes, which look otherwise, the frozen encoders know "
        "more. The row on CIRR's triplets below is the counter-check.",
    ),
    "dpo": (
        "2026-11-28",
        "neither a collapse nor a gain: the loss falls from 0.69 to 0.42, so margins between target "
        "and mined negative do widen, but the order of the first ten hardly changes (held-out R@10 "
        "45.7 and 46.3 %). What is published, 0.02 %, lies below chance, which this training does not "
        "come near: the query without its reference costs most, as `text` beside `sum` shows without "
        "any training.",
    ),
}
"""By the name of a claim that does not show on all sets: the date, and what was found by looking."""


def section(study: Study, took: str, limit: int) -> str:
    """The text of the section.

    Args:
        study: The measured rows.
        took: How long the run took, in words.
        limit: Queries of each set that the judge re-ranked.

    Returns:
        Markdown.
    """
    worlds = ", ".join(str(seed) for seed in study.worlds)
    first = next(iter(study.worlds))
    parts = [
        INTRODUCTION,
        f"Worlds: seeds {worlds}; rows of stage 1 are over the queries of all of them, ablations and the "
        f"judge over those of seed {first}, whose versions are named. {took}",
        "### All systems",
        _systems(study),
        "Paired differences from the two baselines, in points:",
        _differences(study),
        "### Paper 3: from mapping to composing",
        _claims(study, PAPER_3),
        _ablations(study, [*_shown(PAPER_3), *map(ablation, ablations.PAPER_3)]),
        _picture(study),
        "### Paper 2: fusion, and Retrieval-DPO",
        PAPER_2_PUBLISHED,
        _claims(study, PAPER_2),
        _floor(study),
        _ablations(study, [*_shown(PAPER_2), ablation(ablations.NONE_MENDED), *_mended(), _other()]),
        "What the paper says that it tuned: beta, the index that negatives are mined with, and which of the "
        "pool are negatives (held-out R@10, then the data sets).",
        _tuned(study),
        "### SETR's judge on top",
        _judged(study, limit),
        "### Costs",
        _costs(study),
    ]
    return "\n\n".join(part for part in parts if part)


def _picture(study: Study) -> str:
    if study.of(row(PSEUDO_WORDS)) is None:
        return ""
    return (
        f"![The nearest images of a pseudo-word](figures/{PICTURE})\n\n`{PSEUDO_WORDS}`: the images "
        "nearest to *a photo of $*, where $ is the pseudo-word of the image on the left; the modification "
        "text is not read."
    )


def _shown(claims: Sequence[Claim]) -> list[Key]:
    """The rows, not ablations, that claims are about, each once."""
    keys = [key for claim in claims for key in (claim.worse, claim.better) if key.kind == row("").kind]
    return list(dict.fromkeys(keys))


def _mended() -> list[Key]:
    return [ablation(one) for one in ablations.ONE_MENDED.values()]


def _other() -> Key:
    return ablation(ablations.OTHER_TRIPLETS)


def _systems(study: Study) -> str:
    """The values of every row on each data set."""
    columns = [(kind, metric) for kind, metrics in MEASURED.items() for metric in metrics]
    titles = [f"{TITLES[kind]} {metric}" for kind, metric in columns]
    lines = []
    for name in ROWS:
        if (found := study.of(row(name))) is not None:
            values = [study.words(row(name), kind, metric) for kind, metric in columns]
            lines.append([f"`{name}`", _version(found), _label(found), _held_out(found), *values])
    floor = (study.of(row("text")) or next(iter(study.own.values()))).facts.get("random", {})
    chance = [f"{floor[kind][metric]:.1f}" if kind in floor else "–" for kind, metric in columns]
    lines.append(["random order", "–", "chance, in closed form", "–", *chance])
    return _table(["system", "version", "label", "held-out R@10", *titles], lines, numbers=3)


def _differences(study: Study) -> str:
    """The paired differences of every row from the two baselines."""
    titles = [
        f"{TITLES[kind]} {metric}, over `{over}`" for over in BASELINES for kind, metric in STAGE_1.items()
    ]
    lines = [
        [
            f"`{name}`",
            *(
                gap_words(study.gap(row(name), row(over), kind)) if name != over else "–"
                for over in BASELINES
                for kind in TITLES
            ),
        ]
        for name in ROWS
        if study.of(row(name)) is not None
    ]
    return _table(["system", *titles], lines, numbers=1)


def _claims(study: Study, claims: Sequence[Claim]) -> str:
    head = ["claim", "on the miniature", "worlds", *TITLES.values()]
    lines, notes = [], []
    for claim in claims:
        gaps = study.gaps(claim.better, claim.worse)
        found = verdict(gaps)
        cells = [gap_words(gaps.get(kind)) for kind in TITLES]
        seeds = ", ".join(map(str, study.seeds(claim.better, claim.worse))) or "–"
        lines.append([claim.words, found, seeds, *cells])
        if gaps and found != "**shows**" and claim.name in OBSERVATIONS:
            date, words = OBSERVATIONS[claim.name]
            notes.append(f"- {claim.words}: *observation of {date}:* {words}")
    return "\n\n".join([_table(head, lines, numbers=3), *(["\n".join(notes)] if notes else [])])


def _ablations(study: Study, keys: Sequence[Key]) -> str:
    sets = [f"{TITLES[kind]} {metric}" for kind, metric in STAGE_1.items()]
    head = ["training", "trained on", "held-out R@10", *sets, "MLflow"]
    lines = []
    for key in keys:
        found = study.of(key)
        if found is None:
            continue
        values = [_own_words(study, found, kind) for kind in TITLES]
        trained = f"{found.facts['rows']:,}" if "rows" in found.facts else "–"
        lines.append([_code(found), trained, _held_out(found), *values, _run(found)])
    return _table(head, lines, numbers=1) if lines else ""


def _own_words(study: Study, found: Measured, kind: str) -> str:
    """The value of a row in the finished demo's world, where ablations are."""
    frame = found.per_query.filter(dataset=kind, metric=STAGE_1[kind]).drop("dataset")
    if frame.is_empty():
        return "–"
    interval = interval_of(frame, study.samples, study.seed)
    return f"{value_of(frame):.1f} ({interval.low:.0f}–{interval.high:.0f})"


def _code(found: Measured) -> str:
    name, _, rest = found.name.partition(":")
    return f"`{name}`{': as configured' if not rest else ':' + rest}"


def _floor(study: Study) -> str:
    """Where Retrieval-DPO stands beside chance."""
    key, found = row("retrieval_dpo"), study.of(row("retrieval_dpo"))
    if found is None:
        return ""
    words = [
        f"{TITLES[kind]} {metric} {study.words(key, kind)} (chance {found.facts['random'][kind][metric]:.1f})"
        for kind, metric in STAGE_1.items()
        if kind in found.facts.get("random", {})
    ]
    return (
        f"`retrieval_dpo` beside the random floor, below which the published 0.02 % lies: {'; '.join(words)}."
    )


def _tuned(study: Study) -> str:
    columns = [(index, choice) for index in ablations.INDEXES for choice in ablations.CHOICES]
    head = ["beta", *(f"{index}, {choice}" for index, choice in columns)]
    lines = []
    for beta in ablations.BETAS:
        cells = []
        for index, choice in columns:
            found = study.of(ablation(ablations.tuned(beta, index, choice)))
            cells.append("–" if found is None else _brief(found))
        lines.append([f"{beta:g}", *cells])
    return _table(head, lines, numbers=1)


def _brief(found: Measured) -> str:
    values = [
        f"{value_of(frame):.1f}"
        for kind, metric in STAGE_1.items()
        if not (frame := found.per_query.filter(dataset=kind, metric=metric).drop("dataset")).is_empty()
    ]
    return f"{found.facts['after']:.1f}; {' / '.join(values)}"


def _judged(study: Study, limit: int) -> str:
    rows = {
        (found.facts["method"], found.facts["reranker"]): key
        for key, found in study.own.items()
        if key.kind == JUDGED
    }
    methods = [name for name in ROWS if (name, "") in rows]
    if not methods:
        return "Not measured yet."
    columns = [f"{TITLES[kind]} {metric}" for kind, metric in STAGE_2.items()]
    head = ["stage 1", "stage 2", *columns, *(f"over stage 1, {TITLES[kind]}" for kind in TITLES)]
    lines = []
    for name in methods:
        alone = rows[name, ""]
        for reranker in ("", BASE, ADAPTER):
            key = rows.get((name, reranker))
            if key is None:
                continue
            gaps = [gap_words(study.gap(key, alone, kind)) if reranker else "–" for kind in TITLES]
            lines.append([f"`{name}`", reranker or "–", *(study.words(key, kind) for kind in TITLES), *gaps])
    words = f"The first {limit} queries of each set; base judge and adapter re-rank each system's candidates."
    return f"{words}\n\n{_table(head, lines, numbers=2)}"


def _costs(study: Study) -> str:
    head = ["system", "training, minutes", "parameters trained", "gallery", "ms per query", "trained"]
    lines = []
    for name in ROWS:
        if (found := study.of(row(name))) is None:
            continue
        facts, gallery = found.facts, found.facts["gallery"]
        shared = "shared with CLIP" if gallery["space"] == "clip" else "its own for each version"
        ms = list(facts["ms"].values())
        lines.append(
            [
                f"`{name}`",
                f"{facts['seconds'] / 60:.1f}" if "seconds" in facts else "–",
                f"{facts['parameters']:,}" if "parameters" in facts else "–",
                f"{gallery['bytes'] / 2**20:.2f} MiB, {shared}",
                f"{sum(ms) / len(ms):.1f}" if ms else "–",
                f"on {facts['rows']:,} of {facts['triplets']}, {facts['steps']:,} steps"
                if "rows" in facts
                else "–",
            ]
        )
    return _table(head, lines, numbers=1)


def _version(found: Measured) -> str:
    facts = found.facts
    return f"{facts['model']} v{facts['version']}" if "version" in facts else "–"


def _run(found: Measured) -> str:
    if "version" in found.facts:
        return _version(found)
    return f"run {found.facts['run_id'][:12]}" if "run_id" in found.facts else "–"


def _label(found: Measured) -> str:
    whole: Mapping[str, str] = found.facts["labels"]
    labels = {kind: label.split("; ")[0] for kind, label in whole.items()}  # without the sizes of the sets
    distinct = list(dict.fromkeys(labels.values()))
    if len(distinct) == 1:
        return distinct[0]
    return "; ".join(f"{TITLES[kind]}: {label}" for kind, label in labels.items())


def _held_out(found: Measured) -> str:
    facts = found.facts
    return f"{facts['before']:.1f} → {facts['after']:.1f}" if "after" in facts else "–"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], numbers: int) -> str:
    """Markdown; columns from the number ``numbers`` on are right-aligned."""
    rule = ["---" if column < numbers else "--:" for column in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def draw_pseudo_words(
    context: PipelineContext, key: str, path: Path, queries: int = 6, nearest: int = 7
) -> None:
    """Draw references and the images that are nearest to their pseudo-words alone.

    Args:
        context: Its tables have the ranking of ``pic2word_image``.
        key: The evaluation set.
        path: The WebP file; its folder is made.
        queries: Distinct references.
        nearest: Images of each.
    """
    from setr_lib.evaluation.contact_sheet import Tile, draw_grid, encode_webp, stack
    from setr_lib.pixels import picture_files
    from setr_lib.tables import GALLERY, QUERIES, RANKINGS

    tables = context.tables
    asked = tables.read("queries", QUERIES, key).unique("reference_id", keep="first", maintain_order=True)
    paths = picture_files(tables.read("gallery_images", GALLERY, key))
    rankings = tables.read(tables.coarse(key, PSEUDO_WORDS), RANKINGS).filter(pl.col("pool") != "subset")
    lines = []
    for query, reference in asked.head(queries).select("query_id", "reference_id").iter_rows():
        found = rankings.filter(query_id=query).sort("rank").head(nearest)
        tiles = [Tile(paths.get(reference), caption="a photo of $", is_reference=True)]
        tiles += [
            Tile(paths.get(image), rank=rank) for rank, image in found.select("rank", "image_id").iter_rows()
        ]
        lines.append(draw_grid(tiles, columns=nearest + 1, tile=96))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_webp(stack(lines), quality=85))
