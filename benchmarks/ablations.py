"""What each part of stage 2 is worth: depth, kinds of negatives, amount of pairs, LoRA rank, fusion, and the
ceilings.

Adapters are trained as the pipeline trains its own. Everything is resumable: a training goes on from its
checkpoint, a finished one is taken as it is, and every judgement is kept by content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from benchmarks.comparison import Row, Section, beside
from benchmarks.material import COLUMNS, Judge, Material
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.fusion_calibration import Calibration, calibration_set, rerank_calibration
from setr_lib.pipeline.reranking import yes_no_judge
from setr_lib.pipeline.training_pairs import MadePairs, make_pairs
from setr_lib.progress import Progress
from setr_lib.reranking.fusion_choice import FusionChoice, choose_fusion
from setr_lib.reranking.pairs import NEGATIVE_KINDS
from setr_lib.settings import AdapterSettings, PairSettings

if TYPE_CHECKING:
    from setr_lib.reranking.training_result import AdapterResult

DEPTHS = (10, 20, 50, 100)
SHARES = (0.25, 0.5)
"""Of the configured number of training groups."""
RANKS = (4, 16, 64)
BASE_WEIGHTS = (0.2, 0.5, 1.0, 2.0, 4.0)
CONFIGURED = "as configured"


@dataclass(frozen=True)
class Variant:
    """A training that differs from the configured one in what these say."""

    label: str
    pairs: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)


def variants(pairs: PairSettings, adapter: AdapterSettings) -> dict[str, list[Variant]]:
    """The trainings by section of the table; what is as configured is left out.

    Args:
        pairs: The configured pairs.
        adapter: The configured training.

    Returns:
        Heading -> trainings.
    """
    negatives = pairs.negatives_per_group
    kinds = [kind for kind in NEGATIVE_KINDS if negatives.get(kind)]
    counts = [round(pairs.groups * share) for share in SHARES]
    learnt = 1 - pairs.held_out_share
    ranks = [rank for rank in RANKS if rank != adapter.rank]
    return {
        "The same training again": [Variant("another training seed", adapter={"seed": adapter.seed + 1})],
        "Kinds of negatives": [
            Variant(f"without {_plainly(kind)}", pairs={"negatives_per_group": {**negatives, kind: 0}})
            for kind in kinds
        ],
        "Groups of training pairs": [
            Variant(
                f"{count * learnt:,.0f} of {pairs.groups * learnt:,.0f} groups to learn from",
                pairs={"groups": count},
            )
            for count in counts
        ],
        # The ratio of alpha to rank scales the adapter's effect: it stays the same.
        "LoRA rank": [
            Variant(f"rank {rank}", adapter={"rank": rank, "alpha": _alpha(adapter, rank)}) for rank in ranks
        ],
    }


def _plainly(kind: str) -> str:
    return kind.replace("_negative", "").replace("_", "-") + " negatives"


def _alpha(adapter: AdapterSettings, rank: int) -> int:
    return max(1, round(adapter.alpha * rank / adapter.rank))


class Laboratory:
    """Trains variants, chooses their fusion, and measures them on every evaluation set.

    Args:
        context: The pipeline context.
        materials: Evaluation set -> material.
        epochs: Passes over the pairs, in place of the configured ones; None for those.
        progress: Told how far it is.
    """

    def __init__(
        self,
        context: PipelineContext,
        materials: Mapping[str, Material],
        epochs: float | None,
        progress: Progress,
    ) -> None:
        self.context, self.materials, self.progress = context, materials, progress
        self._epochs = {} if epochs is None else {"epochs": epochs}
        self._coarse = {
            key: material.coarse("intersection", max(DEPTHS)) for key, material in materials.items()
        }

    @cached_property
    def calibration(self) -> Calibration:
        """The held-out synthesised queries on which fusions are chosen: the same for every variant."""
        return calibration_set(self.context, self.progress)

    def pairs(self, variant: Variant) -> MadePairs:
        """The training pairs of a variant, and the images that they are made from; the same images are held
        out for all.

        Args:
            variant: The variant.

        Returns:
            Pairs and images.
        """
        options = self.context.settings.reranking.pairs.model_copy(update=dict(variant.pairs))
        return make_pairs(self.context, options=options)

    def trained(self, variant: Variant) -> AdapterResult:
        """The adapter of a variant; a finished one, the pipeline's own included, is not trained again.

        Args:
            variant: The variant.

        Returns:
            Adapter and training.
        """
        from setr_lib.reranking.held_out import pictures_of
        from setr_lib.reranking.training import train_adapter, training_run_digest
        from setr_lib.reranking.training_result import load_result

        context, made = self.context, self.pairs(variant)
        base, pairs = yes_no_judge(context), made.pairs
        options = context.settings.reranking.adapter.model_copy(update={**variant.adapter, **self._epochs})
        pictures = pictures_of(made.images)
        run = training_run_digest(base, pairs, pictures, options)
        finished = load_result(context.settings.checkpoint_root / run[:16], run)
        if finished is not None:
            return finished
        folder = context.settings.storage_root / "ablations" / run[:16]
        return train_adapter(base, pairs, pictures, options, folder, progress=self.progress)

    def choice(self, judge: Judge) -> FusionChoice:
        """How the fusions do with a judge on the held-out queries.

        Args:
            judge: The judge; its own fusion is not used.

        Returns:
            Every trial, and the best of them.
        """
        judged = rerank_calibration(self.context, self.calibration, judge.opened, self.progress)
        return choose_fusion(judged, self.calibration.targets)

    def judge(self, variant: Variant) -> tuple[Judge, FusionChoice]:
        """The trained judge of a variant with its best fusion, unless the settings name one.

        Args:
            variant: The variant.

        Returns:
            The judge, and how the fusions did.
        """
        from setr_lib.reranking.yes_no_judge import YesNoJudge

        adapter, template = self.trained(variant).folder, yes_no_judge(self.context).template
        reranker = YesNoJudge(self.context.models.fresh_multimodal(adapter), template)
        options = self.context.settings.reranking
        choice = self.choice(Judge(reranker, "judge", 1.0))
        if options.fusion != "auto":
            return Judge(reranker, options.fusion, options.judge_weight), choice
        return Judge(reranker, choice.fusion, choice.weight), choice

    def base_judges(self) -> Iterator[tuple[str, Judge]]:
        """The base judge with every fusion: it must not owe its distance from the adapter to the one that was
        chosen.
        """
        base = yes_no_judge(self.context)
        yield "base judge, " + fusion_label("judge", 1.0), Judge(base, "judge", 1.0)
        for weight in BASE_WEIGHTS:
            yield "base judge, " + fusion_label("cosine_judge", weight), Judge(base, "cosine_judge", weight)
        yield "base judge, " + fusion_label("reciprocal_rank", 1.0), Judge(base, "reciprocal_rank", 1.0)

    def measured(self, judge: Judge, k: int | None = None) -> dict[str, pl.DataFrame]:
        """Per-query values of re-ranking every evaluation set.

        Args:
            judge: The judge with its fusion.
            k: Candidates that are re-ranked; by default as configured.

        Returns:
            Column -> PER_QUERY frame.
        """
        found: dict[str, pl.DataFrame] = {}
        for key, material in self.materials.items():
            rankings = material.judged(
                self.context, self._coarse[key], judge, k or material.depth, self.progress
            )
            found |= material.per_query(rankings)
        return found

    def ceilings(self, gold: Mapping[str, Material]) -> Iterator[tuple[str, dict[str, pl.DataFrame]]]:
        """The two halves of the oracle, each alone.

        Args:
            gold: Evaluation set -> the same with true compositions.

        Returns:
            (label, column -> PER_QUERY frame) of each.
        """
        without: dict[str, pl.DataFrame] = {}
        perfect: dict[str, pl.DataFrame] = {}
        for key, material in self.materials.items():
            without |= material.per_query(gold[key].coarse("intersection", max(DEPTHS)))
            perfect |= material.per_query(material.perfectly_judged(self._coarse[key], material.depth))
        yield "true composition, no judge", without
        yield "intersection + perfect judge", perfect

    def unions(self) -> Iterator[tuple[str, dict[str, pl.DataFrame]]]:
        """The union's text as it is, and with the reference's caption less its place."""
        from setr_lib.miniature.pictures import BACKGROUNDS

        whole: dict[str, pl.DataFrame] = {}
        placeless: dict[str, pl.DataFrame] = {}
        for material in self.materials.values():
            captions = [
                without_ending(caption, BACKGROUNDS.values())
                for caption in material.encoded.reference_captions or []
            ]
            whole |= material.per_query(material.coarse("union_text", max(DEPTHS)))
            placeless |= material.per_query(material.described_as(captions).coarse("union_text", max(DEPTHS)))
        yield "union text", whole
        yield "union text without the reference's place", placeless


def without_ending(caption: str, endings: Iterable[str]) -> str:
    """A caption without its background.

    Args:
        caption: The caption.
        endings: The words of the backgrounds.

    Returns:
        The caption less the ending that it has, if any.
    """
    return next(
        (caption.removesuffix(f" {ending}") for ending in endings if caption.endswith(f" {ending}")), caption
    )


def ablate(laboratory: Laboratory, gold: Mapping[str, Material]) -> list[Section]:
    """All ablations; every difference is to the adapter as configured, or to a section's first row where that
    is one.

    Args:
        laboratory: Trains and measures.
        gold: Evaluation set -> the same with true compositions.

    Returns:
        The sections of the table.
    """
    settings = laboratory.context.settings
    judge, choice = laboratory.judge(Variant(CONFIGURED))
    reference = laboratory.measured(judge)
    options = (settings.evaluation.bootstrap_samples, settings.evaluation.seed)

    def row(
        label: str,
        found: Mapping[str, pl.DataFrame],
        against: Mapping[str, pl.DataFrame] | None,
        over: str = CONFIGURED,
    ) -> Row:
        cells = {
            name: beside(found[name], None if against is None else against[name], over, *options)
            for name in COLUMNS
            if name in found
        }
        return Row(label, cells)

    def section(title: str, rows: Iterator[tuple[str, Mapping[str, pl.DataFrame]]]) -> Section:
        return Section(title, [row(label, found, reference) for label, found in rows])

    def section_by_itself(title: str, rows: Iterator[tuple[str, Mapping[str, pl.DataFrame]]]) -> Section:
        first, whole = next(rows)
        return Section(
            title, [row(first, whole, None), *(row(label, found, whole, first) for label, found in rows)]
        )

    trainings = variants(settings.reranking.pairs, settings.reranking.adapter)
    return [
        Section("The adapter as configured", [row(_described(laboratory, judge), reference, None)]),
        section("Depth K", ((f"K = {depth}", laboratory.measured(judge, depth)) for depth in DEPTHS)),
        *(
            section(
                title,
                ((each.label, laboratory.measured(laboratory.judge(each)[0])) for each in chosen),
            )
            for title, chosen in trainings.items()
        ),
        section("Fusion", ((label, laboratory.measured(each)) for label, each in fusions(judge, choice))),
        section(
            "The base judge under any fusion",
            ((label, laboratory.measured(each)) for label, each in laboratory.base_judges()),
        ),
        section_by_itself("What the union is about", laboratory.unions()),
        section("Ceilings", laboratory.ceilings(gold)),
    ]


def _described(laboratory: Laboratory, judge: Judge) -> str:
    options = laboratory.context.settings.reranking
    fused = fusion_label(judge.fusion, judge.weight)
    depths = " / ".join(str(each.depth) for each in laboratory.materials.values())
    return f"K = {depths}, {options.pairs.groups:,} groups, rank {options.adapter.rank}, {fused}"


def fusion_label(fusion: str, weight: float) -> str:
    """A fusion as the table names it.

    Args:
        fusion: Its name in settings.
        weight: w of ``cosine + w * P(Yes)``.

    Returns:
        The words.
    """
    names = {"judge": "the judge alone", "reciprocal_rank": "reciprocal rank"}
    return names.get(fusion, f"cosine + {weight:g} P(Yes)")


def fusions(judge: Judge, choice: FusionChoice) -> Iterator[tuple[str, Judge]]:
    """The fusions with the same judge; w is the calibration's choice, or where that is another fusion its
    best.

    Args:
        judge: The judge.
        choice: How the fusions did on the calibration.

    Returns:
        (label, judge with that fusion).
    """
    cosine = choice.trials.filter(fusion="cosine_judge").sort("mean_reciprocal_rank", descending=True)
    yield fusion_label("judge", 1.0), Judge(judge.reranker, "judge", 1.0)
    weight = choice.weight if choice.fusion == "cosine_judge" else float(cosine["weight"][0])
    yield fusion_label("cosine_judge", weight), Judge(judge.reranker, "cosine_judge", weight)
    yield fusion_label("reciprocal_rank", 1.0), Judge(judge.reranker, "reciprocal_rank", 1.0)
