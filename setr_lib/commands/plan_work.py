"""What a run over everything would ask for, for ``setr plan``: counted from settings, annotation files and
the captions or triplets of training; and what it costs at given speeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from setr_lib.errors import SetrError
from setr_lib.pipeline.context import PipelineContext
from setr_lib.settings import DEFAULT_SPACE, Settings

if TYPE_CHECKING:
    from setr_lib.commands.plan_speeds import Speeds
    from setr_lib.reranking.reranker import Reranker

CAPTIONS, COMPOSITIONS = "captions", "compositions"
"""The generated texts that a plan counts."""
START = "start, and load the models"
"""A step of a run, and of the fresh process that tries out what is registered."""


@dataclass(frozen=True)
class SetPlan:
    """The work of one evaluation set, counted from its annotation files."""

    key: str
    queries: int
    references: int
    images: int
    gallery_key: str
    pairs: int
    """(query, candidate) pairs per method and re-ranker, CIRR's subset members included."""
    problem: str = ""


@dataclass(frozen=True)
class TrainingPlan:
    """The work of training a new adapter, at most."""

    images: int
    calibrated: int
    """Held-out queries that the choice of fusion composes, and scores for each method and re-ranker."""
    taught: int
    """Pairs in all epochs."""
    held_out: int
    """Judgements of held-out pairs: before, in the training's course, and after."""
    problem: str = ""


def count_training(settings: Settings) -> TrainingPlan:
    """Count the work of the adapter's training, from the settings and the captions or triplets file.

    Args:
        settings: The settings.

    Returns:
        The counts; zero, with the reason, where there is nothing to train on.
    """
    from setr_lib.datasets import load_training_images
    from setr_lib.pipeline.fusion_calibration import MOST_QUERIES

    options = settings.reranking
    per_group = 1 + sum(options.pairs.negatives_per_group.values())
    held_out = round(options.pairs.groups * options.pairs.held_out_share)
    taught = (options.pairs.groups - held_out) * per_group * options.adapter.epochs
    calibrated = min(held_out, MOST_QUERIES) if options.fusion == "auto" and options.rerankers else 0
    try:
        images, problem = load_training_images(settings).height, ""
    except SetrError as error:
        images, problem = 0, str(error)
        if not settings.training.is_named:
            return TrainingPlan(0, 0, 0, 0, problem)
    judged = (1 + options.adapter.held_out_points) * held_out * per_group
    return TrainingPlan(images, calibrated, round(taught), judged, problem)


def run_sets(settings: Settings, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The evaluation sets that `setr run` takes with these names, and those that it takes only by name.

    Args:
        settings: The settings.
        names: Evaluation sets, or data sets for all of their sets; none for all sets with known targets.

    Returns:
        Their keys, and those of the sets that are left out because their targets are hidden.

    Raises:
        DatasetError: A name is not known.
    """
    from setr_lib.datasets import evaluation_sets, named_sets

    every = evaluation_sets(settings)
    if names:
        chosen = {evaluated.key for name in names for evaluated in named_sets(settings, name)}
        return [evaluated.key for evaluated in every if evaluated.key in chosen], []
    known = [evaluated.key for evaluated in every if not evaluated.hidden]
    hidden = [evaluated.key for evaluated in every if evaluated.hidden]
    return (known, hidden) if known else (hidden, [])


def count_work(settings: Settings, keys: Sequence[str] | None = None) -> list[SetPlan]:
    """Count the queries, images and pairs of evaluation sets.

    Args:
        settings: The settings.
        keys: The sets; by default every configured one.

    Returns:
        One plan per set; that of a set that cannot be read says why.
    """
    from setr_lib.benchmarks.image_ids import check_image_ids
    from setr_lib.datasets import evaluation_sets, load_gallery, load_queries, take_queries
    from setr_lib.evaluation.pools import pools_of

    plans: list[SetPlan] = []
    for evaluated in evaluation_sets(settings):
        if keys is not None and evaluated.key not in keys:
            continue
        try:
            every, gallery = load_queries(settings, evaluated.key), load_gallery(settings, evaluated.key)
            check_image_ids(evaluated, every, gallery)
            gallery_key = evaluated.gallery_key
        except SetrError as error:
            plans.append(SetPlan(evaluated.key, 0, 0, 0, evaluated.key, 0, str(error)))
            continue
        queries, images = take_queries(every, settings.evaluation.limit), gallery.height
        # A query's own gallery may be smaller than what is re-ranked of others (GeneCIS: 10 or 15 images).
        sizes = pools_of(gallery).sizes(evaluated.benchmark, queries)
        candidates = sizes.clip(max=settings.rerank_depth(evaluated.dataset))
        pairs = int(candidates.sum()) + int(queries["subset_ids"].list.len().sum())
        references = queries["reference_id"].n_unique()
        plans.append(SetPlan(evaluated.key, queries.height, references, images, gallery_key, pairs))
    return plans


def planned_rerankers(context: PipelineContext, trains: bool) -> list[Reranker]:
    """The configured re-rankers, less those that no version of their weights is promoted of.

    Args:
        context: Settings and champions.
        trains: Whether the run trains: it promotes the adapter itself.

    Returns:
        The re-rankers, not opened.
    """
    from setr_lib.reranking.yes_no_judge import BUILT_IN

    rerankers = context.rerankers
    return [
        named
        for named in rerankers.configured
        if (trains and named in BUILT_IN) or named.trained is None or rerankers.version(named) is not None
    ]


def training_spaces(context: PipelineContext) -> list[str]:
    """The embedding spaces that training images are embedded in; none where none are named."""
    return context.methods.training_spaces if context.settings.training.is_named else []


def added_texts(context: PipelineContext) -> dict[str, Literal["image", "query"]]:
    """The texts that configured methods bring and that have a prompt; those without are derived from others.

    Args:
        context: Settings, methods and prompts.

    Returns:
        By name, what each is written of.
    """
    from setr_lib.pipeline.texts import text_kinds

    prompts = context.prompts()
    kinds = text_kinds(context.methods.configured.values())
    return {kind.name: kind.per for kind in kinds if kind.template(prompts) is not None}


def gallery_images(plans: Sequence[SetPlan]) -> int:
    """Images of all galleries, one that sets share counted once."""
    return sum({plan.gallery_key: plan.images for plan in plans}.values())


@dataclass(frozen=True)
class Costs:
    """What a full run asks for: (step, items, seconds per item), and what is kept of it."""

    lines: list[tuple[str, int, float]]
    vectors: int
    """Numbers of all vectors."""
    texts: int
    scores: int


@dataclass(frozen=True)
class Configured:
    """By name: the spaces that galleries and training images are embedded in, and the re-rankers."""

    spaces: Sequence[str]
    training_spaces: Sequence[str]
    rerankers: Sequence[str]
    texts: frozenset[str] = frozenset({CAPTIONS, COMPOSITIONS})
    """The texts that configured methods read."""
    added: Mapping[str, Literal["image", "query"]] = field(default_factory=dict)
    """The texts that configured methods bring and the multimodal LLM is asked for, and of what each is."""


def costs(
    settings: Settings,
    configured: Configured,
    plans: Sequence[SetPlan],
    training: TrainingPlan,
    speeds: Speeds,
) -> Costs:
    """The cost of each step, as if nothing was kept.

    Args:
        settings: They say how many methods are re-ranked, and how deep.
        configured: The embedding spaces and re-rankers.
        plans: What the evaluation sets ask for.
        training: What the adapter asks for.
        speeds: Seconds per item.

    Returns:
        The costs; pairs count for each method and re-ranker.
    """
    images, queries = gallery_images(plans), sum(plan.queries for plan in plans)
    embedded = [("embed the galleries", images, space) for space in configured.spaces]
    embedded += [
        ("embed the training images", training.images, space) for space in configured.training_spaces
    ]
    methods, composes = len(settings.reranked_methods), COMPOSITIONS in configured.texts
    of = {"image": sum(plan.references for plan in plans), "query": queries}
    references = of["image"] if CAPTIONS in configured.texts else 0
    added = [(f"write {name}", of[per]) for name, per in configured.added.items()]
    composed, composed_to_choose = (queries, training.calibrated) if composes else (0, 0)
    pairs = methods * sum(plan.pairs for plan in plans)
    calibrated = methods * training.calibrated * settings.rerank_depth()
    seconds = {name: speeds.rerankers.get(name, speeds.judge) for name in configured.rerankers}
    references_seen, taught_seen, candidates_seen = _seen(configured, plans, training, speeds)
    lines = [
        (START, 1 + (training.taught > 0), speeds.start),
        ("look at the images", images + training.images, speeds.inspect),
        *(
            (what if space == DEFAULT_SPACE else f"{what} ({space})", items, speeds.embed[space])
            for what, items, space in embedded
        ),
        ("see the references", references_seen, speeds.see),
        ("describe the references", references, speeds.describe),
        ("compose the queries", composed, speeds.compose),
        *((what, items, speeds.compose) for what, items in added),
        ("see the training images", taught_seen, speeds.see),
        ("train the adapter", training.taught, speeds.train),
        ("judge held-out pairs, before, in between and after", training.held_out, speeds.few),
        ("choose the fusion: compose", composed_to_choose, speeds.compose),
        *((f"choose the fusion: {name}", calibrated, per_pair) for name, per_pair in seconds.items()),
        ("see the candidates", candidates_seen, speeds.see),
        *((f"re-rank: {name}", pairs, per_pair) for name, per_pair in seconds.items()),
    ]
    return Costs(
        lines,
        vectors=sum(items * speeds.dimensions[space] for _, items, space in embedded),
        texts=references + composed + sum(items for _, items in added) + composed_to_choose,
        scores=len(seconds) * (pairs + calibrated),
    )


def _seen(
    configured: Configured, plans: Sequence[SetPlan], training: TrainingPlan, speeds: Speeds
) -> tuple[int, int, int]:
    """Images that go through the multimodal LLM's vision tower: references, training images and candidates.

    Each goes through it once; those of a gallery that does not fit in the memory of what was made of them
    again, as often as the next query asks for one that is not there any more.
    """
    if not speeds.see:
        return 0, 0, 0
    judges = sum(name not in speeds.rerankers for name in configured.rerankers)
    references = sum(plan.references for plan in plans) if configured.texts or configured.added else 0
    taught = training.images if training.taught else 0
    if not judges:
        return references, taught, 0
    held = speeds.seen_limit / max(speeds.seen_bytes, 1)
    galleries: dict[str, tuple[int, int]] = {}
    for plan in plans:
        images, pairs = galleries.get(plan.gallery_key, (plan.images, 0))
        galleries[plan.gallery_key] = (images, pairs + plan.pairs)
    # How many of a gallery's images are among so many candidates, were these drawn at random.
    once = round(sum(images * -math.expm1(-pairs / max(images, 1)) for images, pairs in galleries.values()))
    again = judges * sum(plan.pairs * max(0.0, 1 - held / max(plan.images, 1)) for plan in plans)
    return references, taught, max(max(once - references, 0), round(again))
