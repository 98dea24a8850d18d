"""``setr plan``: calls, time (measured on a sample), disk and memory of a full run, before it is started."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from setr_lib.commands.console import quieten_libraries, size_words, terminal
from setr_lib.commands.plan_trainings import planned_trainings
from setr_lib.errors import SetrError
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.settings import DEFAULT_SPACE, Settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.models.multimodal import Picture
    from setr_lib.pixels import PictureFile
    from setr_lib.reranking.reranker import JudgedQuery, Reranker

_BYTES_PER_KEPT_SCORE = 120  # a SQLite row: key, value, time, index
_BYTES_PER_KEPT_TEXT = 700
CAPTIONS, COMPOSITIONS = "captions", "compositions"
"""The generated texts that a plan counts."""
_TRAINING_COST = 3.0
"""A training step against a judgement of the same pairs: forward and backward, roughly."""


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


@dataclass(frozen=True)
class Speeds:
    """Seconds per item on this machine, measured; and what the models took."""

    embed: dict[str, float]
    """By embedding space."""
    describe: float
    compose: float
    judge: float
    rerankers: dict[str, float]
    """Of re-rankers that are not the Yes/No judge, by name."""
    dimensions: dict[str, int]
    """By embedding space."""
    device: str
    memory: str


def run(settings: Settings, *, sample: int, counts_only: bool) -> int:
    """Print the plan.

    Args:
        settings: The settings.
        sample: Items that each kind of model call is timed on.
        counts_only: Count without loading a model.

    Returns:
        The exit status.

    Raises:
        SetrError: No evaluation set can be counted.
    """
    quieten_libraries()
    context = pipeline_context(settings)
    plans = count_work(settings)
    _print_counts(plans, context)
    present = [plan for plan in plans if not plan.problem]
    training = count_training(settings)
    if not training.images:
        print(f"training images: {training.problem}")
    for line in planned_trainings(context, loads=not counts_only):
        print(line)
    if not present:
        raise SetrError("no evaluation set can be read: see the reasons above")
    if counts_only:
        return 0
    _print_costs(context, present, training, measure(context, present[0].key, sample))
    return 0


def print_estimate(context: PipelineContext, sample: int) -> None:
    """Print how long an evaluation takes, nothing trained and nothing kept, from a measured sample.

    Args:
        context: Settings and models.
        sample: Items that each kind of model call is timed on.

    Raises:
        SetrError: No evaluation set can be counted, or none of the images of any can be read where captions
            do not stand in for them.
    """
    plans = [plan for plan in count_work(context.settings) if not plan.problem]
    if not plans:
        raise SetrError("no evaluation set can be read: `setr plan` says why")
    with_images = [plan for plan in plans if not _has_captions_only(context, plan.key, sample)]
    if len(with_images) < len(plans):
        captioned = ", ".join(plan.key for plan in plans if plan not in with_images)
        print(
            f"{captioned}: captions and no images, so there is little to wait for, and nothing is estimated"
        )
    if not with_images or not context.methods.spaces:
        return  # captions are searched by words, or by vectors of texts: what costs is little
    plans = with_images
    calibrates = context.tables.exists("reranker_pairs")
    calibrated = count_training(context.settings).calibrated if calibrates else 0
    speeds = measure(context, plans[0].key, sample, trains=False)
    _print_costs(context, plans, TrainingPlan(0, calibrated, 0, 0), speeds, trains=False)


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


def count_work(settings: Settings) -> list[SetPlan]:
    """Count the queries, images and pairs of every configured evaluation set.

    Args:
        settings: The settings.

    Returns:
        One plan per set; that of a set that cannot be read says why.
    """
    from setr_lib.benchmarks.image_ids import check_image_ids
    from setr_lib.datasets import evaluation_sets, load_gallery, load_queries, take_queries

    plans: list[SetPlan] = []
    for evaluated in evaluation_sets(settings):
        try:
            every, gallery = load_queries(settings, evaluated.key), load_gallery(settings, evaluated.key)
            check_image_ids(evaluated, every, gallery)
            gallery_key = evaluated.gallery_key
        except SetrError as error:
            plans.append(SetPlan(evaluated.key, 0, 0, 0, evaluated.key, 0, str(error)))
            continue
        queries, images = take_queries(every, settings.evaluation.limit), gallery.height
        depth = min(settings.rerank_depth(evaluated.dataset), images)
        pairs = depth * queries.height + int(queries["subset_ids"].list.len().sum())
        references = queries["reference_id"].n_unique()
        plans.append(SetPlan(evaluated.key, queries.height, references, images, gallery_key, pairs))
    return plans


def measure(context: PipelineContext, key: str, sample: int, *, trains: bool = True) -> Speeds:
    """Time every kind of model call that a run makes; nothing is stored.

    Only the models that a run needs are loaded: the multimodal LLM for texts that configured methods read,
    for the Yes/No judge, and for its training.

    Args:
        context: Settings and models.
        key: The evaluation set whose items are used.
        sample: Items of each kind.
        trains: Whether the run trains the adapter, where training images are named.

    Returns:
        Seconds per item; 0 for what no run needs.

    Raises:
        SetrError: None of the set's first images can be read.
    """
    from setr_lib.models.refusals import refusing
    from setr_lib.pixels import UnreadableImageError, picture_files
    from setr_lib.reranking.checked_scores import checked_scores
    from setr_lib.reranking.held_out import pictures_of
    from setr_lib.spaces.taken_images import embed_what_is_taken

    images, texts = _sample(context, key, sample)
    names = dict.fromkeys((*context.methods.spaces, *(_training_spaces(context) if trains else ())))
    spaces = {name: opened.model for name, opened in context.weights.spaces(names).spaces.items()}
    files, pictures = [*picture_files(images).values()], [*pictures_of(images).values()]
    queries = _sample_queries(pictures, texts, sample)
    written = _written(context, key, pictures, texts)
    judged = _judging(context, queries, trains)
    devices = [getattr(space, "device", context.settings.models.device) for space in spaces.values()]
    of_space = devices[0] if devices else context.settings.models.device
    uses_local = judged or (written and not _endpoint_writes(context))
    device = str(context.models.multimodal().device if uses_local else of_space)

    def embedded(name: str, files: Sequence[PictureFile]) -> object:
        space = spaces[name]
        prepared: list[object] = []
        for file in files:
            with suppress(UnreadableImageError):
                prepared.append(refusing(space.preprocess, file.read(), space.id))
        return embed_what_is_taken(space, prepared)

    return Speeds(
        embed={name: _seconds_each(partial(embedded, name), files) for name in spaces},
        describe=written.get(CAPTIONS, 0.0),
        compose=written.get(COMPOSITIONS, 0.0),
        judge=judged,
        rerankers={
            reranker.name: _seconds_each(partial(checked_scores, reranker), queries)
            / len(queries[0].candidates)
            for reranker in _others(context)
        },
        dimensions={name: space.dimension for name, space in spaces.items()},
        device=device,
        memory=_memory(device),
    )


def _sample(context: PipelineContext, key: str, sample: int) -> tuple[pl.DataFrame, list[str]]:
    """The first readable images of a gallery, and the first modification texts."""
    from setr_lib.datasets import load_queries

    images = _first_images(context, key, sample)
    if images.is_empty():
        raise SetrError(
            f"{key}: none of its first {4 * sample} gallery images can be read; nothing to measure"
        )
    return images, load_queries(context.settings, key).head(sample)["modification"].to_list()


def _first_images(context: PipelineContext, key: str, sample: int) -> pl.DataFrame:
    """The first readable images of a gallery; none where the very first cannot be read."""
    from setr_lib.datasets import evaluation_set, inspect_gallery, load_gallery

    first = load_gallery(context.settings, key).head(4 * sample)
    rules = evaluation_set(context.settings, key).pixels
    return inspect_gallery(first, rules=rules).filter(status="ok").head(sample)


def _has_captions_only(context: PipelineContext, key: str, sample: int) -> bool:
    """Whether a set has captions of its gallery's images, and none of the first images can be read."""
    from setr_lib.benchmarks.image_captions import captions_file
    from setr_lib.datasets import evaluation_set

    if captions_file(evaluation_set(context.settings, key)) is None:
        return False
    return _first_images(context, key, sample).is_empty()


def _written(
    context: PipelineContext, key: str, pictures: Sequence[Picture], texts: Sequence[str]
) -> dict[str, float]:
    """Seconds per generated text that configured methods read, by kind; no model is loaded for none. Of an
    endpoint nothing is measured: pictures would be sent there, and its speed is none of this machine's.
    """
    from setr_lib.datasets import evaluation_set
    from setr_lib.models.multimodal import IMAGE, REFERENCE, Request
    from setr_lib.texts.generation import answers_or_errors

    needed, kind = context.methods.texts_needed, evaluation_set(context.settings, key).kind
    prompts, model = context.prompts(), context.models.writer
    if _endpoint_writes(context):
        return {}

    def described(items: Sequence[Picture]) -> object:
        template = prompts.get("describe", kind)
        requests: list[Request] = [(template.render(), {IMAGE: picture}) for picture in items]
        return answers_or_errors(model(), requests)

    def composed(items: Sequence[tuple[Picture, str]]) -> object:
        template = prompts.get("compose", kind)
        requests: list[Request] = [
            (template.render(modification=t, captions=[t]), {REFERENCE: p, IMAGE: p}) for p, t in items
        ]
        return answers_or_errors(model(), requests)

    found: dict[str, float] = {}
    if CAPTIONS in needed:
        found[CAPTIONS] = _seconds_each(described, pictures)
    if COMPOSITIONS in needed or _added_texts(context):  # texts of methods are taken to cost as much
        pairs = [(pictures[i % len(pictures)], text) for i, text in enumerate(texts)]
        found[COMPOSITIONS] = _seconds_each(composed, pairs)
    return found


def _endpoint_writes(context: PipelineContext) -> bool:
    return context.settings.models.judge.endpoint.url is not None


def _judging(context: PipelineContext, queries: Sequence[JudgedQuery], trains: bool) -> float:
    """Seconds per pair of the Yes/No judge; 0, without loading it, where it neither judges nor is trained."""
    from setr_lib.pipeline.reranking import yes_no_judge
    from setr_lib.reranking.checked_scores import checked_scores
    from setr_lib.reranking.yes_no_judge import BUILT_IN

    judges = any(reranker in BUILT_IN for reranker in _planned_rerankers(context, trains))
    if not judges and not (trains and context.settings.training.is_named):
        return 0.0
    judge = yes_no_judge(context)
    checked_scores(
        judge, queries[:1]
    )  # the first judgement also tries out whether caches are exact: not to be counted
    return _seconds_each(partial(checked_scores, judge), queries) / len(queries[0].candidates)


def _others(context: PipelineContext) -> list[Reranker]:
    """The configured re-rankers that are not the Yes/No judge, opened."""
    from setr_lib.pipeline.reranking import open_reranker
    from setr_lib.reranking.yes_no_judge import BUILT_IN

    own = [named for named in _planned_rerankers(context, trains=False) if named not in BUILT_IN]
    return [open_reranker(context, named.name, context.rerankers.version(named)).scorer for named in own]


def _planned_rerankers(context: PipelineContext, trains: bool) -> list[Reranker]:
    """The configured re-rankers, less those that no version of their weights is promoted of; a run that
    trains promotes the adapter itself.
    """
    from setr_lib.reranking.yes_no_judge import BUILT_IN

    rerankers = context.rerankers
    return [
        named
        for named in rerankers.configured
        if (trains and named in BUILT_IN) or named.trained is None or rerankers.version(named) is not None
    ]


def _embedded(context: PipelineContext, spaces: Sequence[str]) -> list[str]:
    """Of embedding spaces those that are not left out for want of trained weights."""
    left_out = context.weights.lacking(spaces)
    return [space for space in spaces if space not in left_out]


def _sample_queries(pictures: Sequence[Picture], texts: Sequence[str], sample: int) -> list[JudgedQuery]:
    from setr_lib.reranking.reranker import JudgedQuery

    candidates = tuple(pictures[: max(2, sample)])
    count = max(2, sample // 4)
    return [
        JudgedQuery(pictures[i % len(pictures)], texts[i % len(texts)] if texts else "the same", candidates)
        for i in range(count)
    ]


def _seconds_each(call: Callable[[Sequence], object], items: Sequence) -> float:
    """Seconds per item of ``call(items)``, after one item to warm up."""
    call(items[:1])
    begun = time.perf_counter()
    call(items)
    return (time.perf_counter() - begun) / max(len(items), 1)


def _memory(device: str) -> str:
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    words = f"{size_words(peak)} of main memory"
    if device.startswith("cuda"):
        import torch

        words += f", {size_words(torch.cuda.max_memory_allocated())} of GPU memory"
    return words


def _training_spaces(context: PipelineContext) -> list[str]:
    return context.methods.training_spaces if context.settings.training.is_named else []


def _added_texts(context: PipelineContext) -> dict[str, Literal["image", "query"]]:
    """The texts that configured methods bring and that have a prompt, and of what each is; those without are
    derived from others.
    """
    from setr_lib.pipeline.texts import text_kinds

    prompts = context.prompts()
    kinds = text_kinds(context.methods.configured.values())
    return {kind.name: kind.per for kind in kinds if kind.template(prompts) is not None}


def _gallery_images(plans: Sequence[SetPlan]) -> int:
    """Images of all galleries, one that sets share counted once."""
    return sum({plan.gallery_key: plan.images for plan in plans}.values())


def _gallery_captions(context: PipelineContext, plans: Sequence[SetPlan]) -> int:
    """Distinct captions of the images of every gallery, one that sets share counted once."""
    from setr_lib.datasets import load_image_captions

    galleries = {plan.gallery_key: plan.key for plan in plans if not plan.problem}
    found = [load_image_captions(context.settings, key) for key in galleries.values()]
    return sum(captions["captions"].explode().n_unique() for captions in found if captions is not None)


def _print_counts(plans: list[SetPlan], context: PipelineContext) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    table = Table(box=box.SIMPLE_HEAD, title="What a run over everything would do", title_justify="left")
    texts, added = context.methods.texts_needed, _added_texts(context)
    of_methods = ("other texts",) if added else ()
    for column in (
        "evaluation set",
        "gallery images",
        "captions",
        "compositions",
        *of_methods,
        "pairs per re-ranker",
    ):
        table.add_column(column, justify="left" if column == "evaluation set" else "right")
    for plan in plans:
        described, composed = (
            plan.references * (CAPTIONS in texts),
            plan.queries * (COMPOSITIONS in texts),
        )
        written = sum(plan.references if per == "image" else plan.queries for per in added.values())
        numbers = (plan.images, described, composed, *((written,) if added else ()), plan.pairs)
        table.add_row(plan.key, *("-" if plan.problem else f"{number:,}" for number in numbers))
    console.print(table)
    for plan in plans:
        if plan.problem:
            console.print(Text(f"{plan.key}: {plan.problem}", style="yellow"))
    images = _gallery_images(plans)
    for space in _embedded(context, context.methods.spaces):
        console.print(Text(f"images to embed in {space}: {images:,}"))
    for space in _embedded(context, context.methods.caption_spaces):
        console.print(Text(f"captions to embed in {space}: {_gallery_captions(context, plans):,}"))
    for why in context.weights.lacking([*context.methods.spaces, *context.methods.caption_spaces]).values():
        console.print(Text(f"left out: {why}", style="yellow"))
    limit = context.settings.evaluation.limit
    if limit is not None:
        console.print(f"only the first {limit:,} queries of each set (evaluation.limit)")


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
    images, queries = _gallery_images(plans), sum(plan.queries for plan in plans)
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
    lines = [
        *(
            (what if space == DEFAULT_SPACE else f"{what} ({space})", items, speeds.embed[space])
            for what, items, space in embedded
        ),
        ("describe the references", references, speeds.describe),
        ("compose the queries", composed, speeds.compose),
        *((what, items, speeds.compose) for what, items in added),
        ("train the adapter (judgement equivalents)", round(training.taught * _TRAINING_COST), speeds.judge),
        ("judge held-out pairs, before, in between and after", training.held_out, speeds.judge),
        ("choose the fusion: compose", composed_to_choose, speeds.compose),
        *((f"choose the fusion: {name}", calibrated, per_pair) for name, per_pair in seconds.items()),
        *((f"re-rank: {name}", pairs, per_pair) for name, per_pair in seconds.items()),
    ]
    return Costs(
        lines,
        vectors=sum(items * speeds.dimensions[space] for _, items, space in embedded),
        texts=references + composed + sum(items for _, items in added) + composed_to_choose,
        scores=len(seconds) * (pairs + calibrated),
    )


def _print_costs(
    context: PipelineContext,
    plans: list[SetPlan],
    training: TrainingPlan,
    speeds: Speeds,
    *,
    trains: bool = True,
) -> None:
    from rich import box
    from rich.table import Table

    configured = Configured(
        _embedded(context, context.methods.spaces),
        _embedded(context, _training_spaces(context)) if trains else [],
        [reranker.name for reranker in _planned_rerankers(context, trains)],
        context.methods.texts_needed,
        _added_texts(context),
    )
    found = costs(context.settings, configured, plans, training, speeds)
    table = Table(box=box.SIMPLE_HEAD, title=f"Time on {speeds.device}, from a sample", title_justify="left")
    table.add_column("step")
    for column in ("items", "per second", "time"):
        table.add_column(column, justify="right")
    for what, items, seconds in (line for line in found.lines if line[1] or trains):
        rate = f"{1 / max(seconds, 1e-9):,.1f}" if seconds else "-"
        takes = _duration(items * seconds) if seconds or not items else "-"  # an endpoint's time is not known
        table.add_row(what, f"{items:,}", rate, takes)
    table.add_row("together", "", "", _duration(sum(items * seconds for _, items, seconds in found.lines)))
    kept = found.scores * _BYTES_PER_KEPT_SCORE + found.texts * _BYTES_PER_KEPT_TEXT
    console = terminal()
    console.print(table)
    console.print(
        f"disk: {size_words(4 * found.vectors)} of vectors, about {size_words(kept)} of kept answers and "
        "scores"
    )
    console.print(f"memory: {speeds.memory} at the peak of the sample (models included)")
    if found.texts and _endpoint_writes(context):
        console.print(_endpoint_words(context.settings, found.texts))
    console.print("kept results are not subtracted: a second run repeats none of them")


def _endpoint_words(settings: Settings, texts: int) -> str:
    from setr_lib.models.multimodal.endpoint import endpoint_host, endpoint_id

    judge = settings.models.judge
    return (
        f"texts: {texts:,} requests with pictures to {endpoint_host(judge)} ({endpoint_id(judge)}), "
        f"{judge.endpoint.concurrency} at once; their time is not measured and not in the time above"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
