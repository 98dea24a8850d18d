"""How fast this machine does what a run asks of it, for ``setr plan``: each kind of work timed on a sample of
the project's own pictures and texts, by the code that a run uses. Nothing is stored.

A sample begins small. While a step takes less than :data:`ENOUGH` seconds it is timed again on twice as much,
up to the batches that a run works in, for a small batch is slower for each item than a full one. The fastest
time counts: what made the others slower (memory taken for the first time, another program) is no part of a
long run on an idle machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from setr_lib.commands.console import size_words
from setr_lib.commands.plan_work import (
    CAPTIONS,
    COMPOSITIONS,
    added_texts,
    planned_rerankers,
    training_spaces,
)
from setr_lib.errors import SetrError
from setr_lib.pipeline.context import PipelineContext

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.models.multimodal import MultimodalModel, Picture
    from setr_lib.reranking.reranker import JudgedQuery, Reranker
    from setr_lib.reranking.yes_no_judge import YesNoJudge
    from setr_lib.spaces.space import EmbeddingSpace

ENOUGH = 1.5
"""Seconds: a step that took as long is not timed on more."""
_MOST_PICTURES = 256
_TIMES = 8
_MOST_QUERIES = 64


@dataclass(frozen=True)
class Speeds:
    """Seconds per item on this machine, measured; 0 for what no run needs. And what the models took.

    Attributes:
        embed: Per image, by embedding space.
        describe: Per caption, the picture seen before.
        compose: Per composition, likewise.
        judge: Per pair of the Yes/No judge, at as many candidates of a query as a run re-ranks.
        rerankers: Per pair, of re-rankers that are not the Yes/No judge, by name.
        dimensions: Of a vector, by embedding space.
        device: Where the models are.
        memory: In words.
        inspect: Per picture that is looked at: read, decoded and named by its content.
        see: Per picture that goes through the multimodal LLM's vision tower.
        seen_bytes: Bytes that what it made of a picture takes; 0 where nothing of it is kept.
        seen_limit: Bytes that may be kept of it in memory.
        few: Per pair of the judge, at as few candidates of a query as training pairs have.
        train: Per pair and epoch of the adapter's training: forward, backward and step.
        start: Seconds until libraries and models are loaded.
        load: How busy the machine was, in words; empty where it was idle.
    """

    embed: dict[str, float]
    describe: float
    compose: float
    judge: float
    rerankers: dict[str, float]
    dimensions: dict[str, int]
    device: str
    memory: str
    inspect: float = 0.0
    see: float = 0.0
    seen_bytes: int = 0
    seen_limit: int = 0
    few: float = 0.0
    train: float = 0.0
    start: float = 0.0
    load: str = ""


def measure(context: PipelineContext, key: str, sample: int, *, trains: bool = True) -> Speeds:
    """Time every kind of model call that a run makes.

    Only the models that a run needs are loaded: the multimodal LLM for texts that configured methods read,
    for the Yes/No judge, and for its training.

    Args:
        context: Settings and models.
        key: The evaluation set whose items are used.
        sample: Items of each kind that are timed first.
        trains: Whether the run trains the adapter, where training images are named.

    Returns:
        Seconds per item; 0 for what no run needs.

    Raises:
        SetrError: None of the set's first images can be read.
    """
    busy = _load_words()
    images, inspected = first_images(context, key, sample)
    if images.is_empty():
        raise SetrError(
            f"{key}: none of its first {4 * sample} gallery images can be read; nothing to measure"
        )
    names = dict.fromkeys((*context.methods.spaces, *(training_spaces(context) if trains else ())))
    begun = time.perf_counter()
    _import_libraries(trains and context.settings.training.is_named)
    spaces = {name: opened.model for name, opened in context.weights.spaces(names).spaces.items()}
    loaded = time.perf_counter() - begun
    embedded = {name: _embedding(space, images, sample) for name, space in spaces.items()}
    llm = _Multimodal(context, key, images, sample, trains)
    llm.measure()
    devices = [getattr(space, "device", context.settings.models.device) for space in spaces.values()]
    device = llm.device or str(devices[0] if devices else context.settings.models.device)
    return Speeds(
        embed=embedded,
        describe=llm.texts.get(CAPTIONS, 0.0),
        compose=llm.texts.get(COMPOSITIONS, 0.0),
        judge=llm.judge,
        rerankers=llm.others,
        dimensions={name: space.dimension for name, space in spaces.items()},
        device=device,
        memory=_memory(device),
        inspect=inspected,
        see=llm.see,
        seen_bytes=llm.seen_bytes,
        seen_limit=llm.seen_limit,
        few=llm.few,
        train=llm.train,
        start=loaded + llm.loaded,
        load=busy,
    )


class _Multimodal:
    """What the multimodal LLM is asked for, timed; nothing is loaded where nothing asks it.

    Args:
        context: Settings and models.
        key: The evaluation set whose items are used.
        images: Readable images of its gallery, a GALLERY frame.
        sample: Items that are timed first.
        trains: Whether the run trains the adapter, where training images are named.
    """

    def __init__(
        self, context: PipelineContext, key: str, images: pl.DataFrame, sample: int, trains: bool
    ) -> None:
        from setr_lib.datasets import evaluation_set, load_queries
        from setr_lib.reranking.held_out import pictures_of

        evaluated = evaluation_set(context.settings, key)
        texts = load_queries(context.settings, key).head(_MOST_QUERIES)["modification"].to_list()
        self.context, self.kind, self.sample = context, evaluated.kind, sample
        self.depth = context.settings.rerank_depth(evaluated.dataset)
        self.queried = texts or ["the same"]
        self.pictures: list[Picture] = [*pictures_of(images).values()]
        self.trains = trains and context.settings.training.is_named
        self.planned = planned_rerankers(context, trains)
        self.texts: dict[str, float] = {}
        self.others: dict[str, float] = {}
        self.judge = self.few = self.train = self.see = self.loaded = 0.0
        self.seen_bytes, self.seen_limit, self.device = 0, 0, ""

    def measure(self) -> None:
        """Time all of it.

        Raises:
            SetrError: A model cannot be loaded, or refuses what it is shown.
        """
        from setr_lib.pipeline.reranking import yes_no_judge
        from setr_lib.reranking.yes_no_judge import BUILT_IN

        own = [named for named in self.planned if named not in BUILT_IN]
        judges = len(own) < len(self.planned) or self.trains
        writes = self._writes()
        if judges or writes:
            begun = time.perf_counter()
            model = self.context.models.multimodal()
            self.loaded, self.device = time.perf_counter() - begun, str(model.device)
            self._look(model)
            if writes:
                self._write()
            if judges:
                judge = yes_no_judge(self.context)
                self.judge = self._pairs(judge)
                if self.trains:
                    self.few = self._few(judge)
                    self.train = self._training(judge)
        self.others = {scorer.name: self._pairs(scorer) for scorer in map(self._opened, own)}

    def _writes(self) -> bool:
        """Whether texts are written here. Of an endpoint nothing is measured: pictures would be sent there,
        and its speed is none of this machine's.
        """
        needed = self.context.methods.texts_needed
        asked = CAPTIONS in needed or COMPOSITIONS in needed or bool(added_texts(self.context))
        return asked and self.context.settings.models.judge.endpoint.url is None

    def _opened(self, named: Reranker) -> Reranker:
        from setr_lib.pipeline.reranking import open_reranker

        version = self.context.rerankers.version(named)
        return open_reranker(self.context, named.name, version).scorer

    def _look(self, model: MultimodalModel) -> None:
        """Time the vision tower. What it made of the pictures stays in memory, as in a run: whatever is timed
        afterwards is shown pictures that were seen.
        """
        from setr_lib.models.multimodal import VisionOutputsError

        seen: list[Picture] = []
        self.seen_limit = model.vision.memory.limit

        def look(pictures: Sequence[Picture]) -> None:
            seen.extend(pictures)
            self.seen_bytes = max(found.nbytes for found in model.vision.features(pictures))

        try:
            self.see = seconds_each(look, self.pictures, max(1, self.sample // 4), model.batch_size)
        except VisionOutputsError:
            return  # it runs over whole prompts: the time is in that of what is asked of it
        self.pictures = seen

    def _write(self) -> None:
        """Time the texts that configured methods read, by kind; those of methods are taken to cost as much as
        compositions.
        """
        from setr_lib.models.multimodal import IMAGE, REFERENCE, Request
        from setr_lib.texts.generation import answers_or_errors

        needed, prompts = self.context.methods.texts_needed, self.context.prompts()
        model, side_by_side = self.context.models.writer(), self.context.settings.models.judge.batch_size

        def described(pictures: Sequence[Picture]) -> object:
            template = prompts.get("describe", self.kind)
            requests: list[Request] = [(template.render(), {IMAGE: picture}) for picture in pictures]
            return answers_or_errors(model, requests)

        def composed(items: Sequence[tuple[Picture, str]]) -> object:
            template = prompts.get("compose", self.kind)
            requests: list[Request] = [
                (template.render(modification=t, captions=[t]), {REFERENCE: p, IMAGE: p}) for p, t in items
            ]
            return answers_or_errors(model, requests)

        if CAPTIONS in needed:
            self.texts[CAPTIONS] = seconds_each(described, self.pictures, self.sample, side_by_side)
        if COMPOSITIONS in needed or added_texts(self.context):
            items = [
                (picture, text) for picture, text in zip(cycle(self.pictures), self.queried, strict=False)
            ]
            self.texts[COMPOSITIONS] = seconds_each(composed, items, self.sample, side_by_side)

    def _query(self, number: int, candidates: int) -> JudgedQuery:
        from setr_lib.reranking.reranker import JudgedQuery

        shown = islice(cycle(self.pictures), number, number + candidates)
        picture, text = self.pictures[number % len(self.pictures)], self.queried[number % len(self.queried)]
        return JudgedQuery(picture, text, tuple(shown))

    def _pairs(self, reranker: Reranker) -> float:
        """Seconds per pair at as many candidates of a query as a run has."""
        from setr_lib.reranking.checked_scores import checked_scores

        # The first judgement also tries out whether caches are exact, which is not to be counted.
        checked_scores(reranker, [self._query(0, min(2, self.depth))])
        few = min(self.sample, self.depth)
        each = _seconds(partial(checked_scores, reranker, [self._query(1, few)])) / few
        if each * few >= ENOUGH:
            return each
        most = max(1, min(reranker.pairs_per_batch // self.depth, _MOST_QUERIES))

        def judged(count: int) -> Callable[[], object]:
            queries = [self._query(number, self.depth) for number in range(count)]
            return partial(checked_scores, reranker, queries)

        return min(each, fastest(judged, 1, most) / self.depth)

    def _few(self, judge: YesNoJudge) -> float:
        """Seconds per held-out pair: queries of few candidates each."""
        from setr_lib.reranking.checked_scores import checked_scores

        sizes = self._sizes_of_group()

        def judged(groups: int) -> Callable[[], object]:
            queries = [self._query(number, size) for number, size in enumerate(sizes * groups)]
            return partial(checked_scores, judge, queries)

        return fastest(judged, 1, max(1, judge.model.pair_batch_size // sum(sizes))) / sum(sizes)

    def _sizes_of_group(self) -> list[int]:
        """Candidates of each query of a group of training pairs: its own, and those of shuffled texts."""
        wanted = self.context.settings.reranking.pairs.negatives_per_group
        shuffled = wanted.get("shuffled_text_negative", 0)
        return [1 + sum(wanted.values()) - shuffled, *([1] * shuffled)]

    def _training(self, judge: YesNoJudge) -> float:
        """Seconds per pair of a step of the adapter's training; the model is afterwards as it was before."""
        from setr_lib.reranking.lora import lora_layers
        from setr_lib.reranking.training_step import LabelledQuery, YesNoObjective

        sizes, adapter = self._sizes_of_group(), self.context.settings.reranking.adapter

        def group(number: int) -> tuple[LabelledQuery, ...]:
            return tuple(
                LabelledQuery(
                    self._query(number * len(sizes) + place, size),
                    tuple(place == 0 and pair == 0 for pair in range(size)),
                )
                for place, size in enumerate(sizes)
            )

        def step(count: int) -> Callable[[], object]:
            options = adapter.model_copy(update={"groups_per_batch": count})
            return partial(YesNoObjective(judge, [group(n) for n in range(count)], options).gradients, 0)

        with lora_layers(judge.model, adapter):
            step(1)()
            each = fastest(step, 1, adapter.groups_per_batch) / sum(sizes)
        judge.model.model.eval()
        return each


def _import_libraries(trains: bool) -> None:
    """Import what a run imports besides the libraries of its models, to know how long that takes."""
    for name in ("lancedb", *(("mlflow", "peft") if trains else ())):
        import_module(name)


def _embedding(space: EmbeddingSpace, images: pl.DataFrame, sample: int) -> float:
    """Seconds per image of reading, preparing and embedding, as a gallery is embedded."""
    from setr_lib.spaces.prepared_images import prepared_batches
    from setr_lib.spaces.taken_images import embed_what_is_taken

    def embed(rows: Sequence[Any]) -> None:
        todo = images[rows[0] : rows[-1] + 1]
        with closing(prepared_batches(todo, space, space.batch_size)) as batches:
            for batch in batches:
                if batch.fine:
                    embed_what_is_taken(space, batch.items)

    embed(range(1))
    count = images.height
    return fastest(lambda size: partial(embed, range(size)), min(sample, count), count)


def first_images(context: PipelineContext, key: str, sample: int) -> tuple[pl.DataFrame, float]:
    """The first readable images of a gallery, and how long it takes to look at one.

    Args:
        context: Settings.
        key: The evaluation set.
        sample: Four times as many are looked at first.

    Returns:
        A GALLERY frame, and seconds per image.
    """
    import polars as pl

    from setr_lib.datasets import evaluation_set, inspect_gallery, load_gallery

    rules = evaluation_set(context.settings, key).pixels
    gallery = load_gallery(context.settings, key).head(_MOST_PICTURES)
    found: list[pl.DataFrame] = []

    def look(rows: Sequence[int]) -> None:
        part = gallery[rows[0] : rows[-1] + 1]
        found.append(inspect_gallery(part, rules=rules).filter(status="ok"))

    each = seconds_each(look, range(gallery.height), 4 * sample, _MOST_PICTURES)
    frame = pl.concat(found) if found else gallery
    return frame.unique("image_id", maintain_order=True), each


def seconds_each(call: Callable[[Sequence], object], items: Sequence, first: int, most: int) -> float:
    """Seconds per item of ``call(items)``: after one item to warm up, on ``first`` others, and while that
    takes less than :data:`ENOUGH` seconds on twice as many, never the same ones.

    Args:
        call: What is timed.
        items: There may be few of them: then it is timed on all.
        first: Items of the first time.
        most: Items of the last time at most.

    Returns:
        Seconds per item, the fastest time; 0 without items.
    """
    if not len(items):
        return 0.0
    call(items[:1])
    start, each = 1, math.inf
    for size in _doubled(min(first, most), most):
        if each < math.inf and start + size > len(items):
            break
        part = items[start : start + size] or items
        took = _seconds(partial(call, part))
        each, start = min(each, took / len(part)), start + size
        if took >= ENOUGH:
            break
    return each


def fastest(prepared: Callable[[int], Callable[[], object]], first: int, most: int) -> float:
    """Seconds per item of what may be done again and again: of growing sizes, and of the last one some times.

    Args:
        prepared: Gives what is timed, for a number of items.
        first: Items of the first time.
        most: Items of the last times at most.

    Returns:
        Seconds per item, the fastest time.
    """
    each = math.inf
    for size in _doubled(first, most):
        took = _seconds(prepared(size))
        each = min(each, took / size)
        if took >= ENOUGH:
            return each
    spent = 0.0
    for _ in range(_TIMES):
        spent += (took := _seconds(prepared(most)))
        each = min(each, took / most)
        if spent >= ENOUGH:
            break
    return each


def _doubled(first: int, most: int) -> Iterator[int]:
    """``first``, twice that, and so on; ``most`` last."""
    size = first
    while size < most:
        yield size
        size *= 2
    yield most


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _memory(device: str) -> str:
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    words = f"{size_words(peak)} of main memory"
    if device.startswith("cuda"):
        import torch

        words += f", {size_words(torch.cuda.max_memory_allocated())} of GPU memory"
    return words


def _load_words() -> str:
    """How busy the machine is with other work; empty where it is not."""
    import os

    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):
        return ""
    cores = os.cpu_count() or 1
    return f"{load:.1f} programs at work on {cores} cores" if load > cores / 2 else ""
