"""All steps of an evaluation in their order, from annotation files to metrics, without Dagster: what
``setr compare`` and a script run.

Dagster's assets run the same functions one by one. There a method that fails stops its step; here it is left
out with the reason, and the others go on. Everything that costs a model call is kept by content, so that a
run which was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.pipeline.trained_weights import CHAMPIONS, Versions
from setr_lib.progress import Progress, silent
from setr_lib.spaces.removals import RemovalRefusedError

if TYPE_CHECKING:
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.evaluation import EvaluationResult
    from setr_lib.pipeline.evaluation_runs import Told
    from setr_lib.pipeline.reranking_run import RerankingRun


@dataclass(frozen=True)
class Evaluated:
    """An evaluation set that was evaluated by the methods that can rank it.

    Attributes:
        context: The context of these methods; that of the run where they are all of it.
        result: Rankings, metrics and comparisons; None where no method ranks the set.
        left_out: Why methods (by name) and re-ranked rows (by title) are not in it.
        warnings: What of the image folders is not in the gallery, and that MLflow has no run of the
            evaluation, in sentences.
        told: Its run in MLflow; None where no method ranks the set.
    """

    context: PipelineContext
    result: EvaluationResult | None
    left_out: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    told: Told | None = None


def evaluate(
    run: RerankingRun,
    key: str,
    progress: Progress = silent,
    versions: Versions = CHAMPIONS,
    *,
    accept_removals: bool = False,
) -> Evaluated:
    """Rank, re-rank and measure one evaluation set by everything that settings configure and that works. A
    method or a re-ranker that fails is left out; where the default method is, another takes its place.

    Args:
        run: The context (settings, tables, models), and the re-rankers that are opened once for all sets.
        key: The evaluation set.
        progress: Told how far the models are.
        versions: Version by registered model of trained methods; the champion for one that is not named.
        accept_removals: Whether any number of images that are gone may be removed from the vector store.

    Returns:
        Rankings, metrics and comparisons, and what is left out; all tables are stored.

    Raises:
        SetrError: A file of the set is missing or wrong, no query names a target, or every method fails for
            the same reason.
    """
    from setr_lib.pipeline.evaluation import assess
    from setr_lib.pipeline.evaluation_runs import tell_mlflow
    from setr_lib.tables import METRICS

    warnings = read_set(run.context, key, progress, accept_removals=accept_removals)
    _check_scored(run.context, key, warnings)
    context, left_out = _prepared(
        run.context, key, lambda one: prepare(one, key, progress, versions, accept_removals=accept_removals)
    )
    ranked, why = rank(context, key, progress, versions)
    left_out |= why
    if not ranked:
        return Evaluated(context, None, left_out, warnings)
    context = _narrowed(context, ranked)
    run = run.under(context)
    if context.is_caption_proxy(key):
        run.leave_out(key)
    else:
        reranked = run.rerank(key, progress, leave_out_failing=True)
        left_out |= {row.title: why for row, why in reranked.left_out.items()}
    result = assess(context, key)
    context.tables.write("evaluation_report", result.rows, METRICS, key, made_by=result.note)
    told = tell_mlflow(context, key, result)
    if told.failed:
        warnings = [*warnings, told.words]
    return Evaluated(context, result, left_out, warnings, told)


def _prepared(
    context: PipelineContext, key: str, prepare_for: Callable[[PipelineContext], None]
) -> tuple[PipelineContext, dict[str, str]]:
    """Prepare a set for all methods, or for those that it can be prepared for: their context, and why others
    are left out, by name.
    """
    left_out: dict[str, str] = {}
    every = list(context.methods.configured)
    try:
        prepare_for(context)
    except RemovalRefusedError:
        raise  # a person is asked
    except SetrError as fault:
        left_out = _cannot_prepare(context, every, prepare_for)
        if len(left_out) == len(every) and set(left_out.values()) == {str(fault)}:
            raise  # it is the set's own
        if len(left_out) == len(every):
            return context.narrowed([]), left_out
        context = context.narrowed(name for name in every if name not in left_out)
        prepare_for(context)
    suited = {method.name for method in context.methods.of(key)}
    unsuited = [name for name in context.methods.configured if name not in suited]
    return context, left_out | {name: _lacks(context, name) for name in unsuited}


def _cannot_prepare(
    context: PipelineContext, methods: Iterable[str], prepare_for: Callable[[PipelineContext], None]
) -> dict[str, str]:
    """The methods that a set cannot be prepared for, each tried alone, and why."""
    left_out: dict[str, str] = {}
    for name in methods:
        try:
            prepare_for(context.narrowed([name]))
        except SetrError as error:
            left_out[name] = str(error)
    return left_out


def _lacks(context: PipelineContext, name: str) -> str:
    """What an evaluation set has not, so that a method cannot rank it."""
    from setr_lib.methods.method import ranks_captions

    if ranks_captions(context.methods.get(name)):
        return "there are no captions of the gallery's images"
    return "there are captions only, and no image"


def _narrowed(context: PipelineContext, methods: Iterable[str]) -> PipelineContext:
    """The context of these methods; the same one where they are all that it has."""
    names = set(methods)
    return context if names == set(context.methods.configured) else context.narrowed(names)


def read_set(
    context: PipelineContext, key: str, progress: Progress = silent, *, accept_removals: bool = False
) -> list[str]:
    """Read the annotation files of an evaluation set, and inspect its images; both tables are stored.

    Args:
        context: Settings and tables.
        key: The evaluation set.
        progress: Told how many images are inspected.
        accept_removals: As of :func:`evaluate`.

    Returns:
        What was assumed of the queries, and what of the image folders is not in the gallery, in sentences.

    Raises:
        DatasetError: The files are missing or wrong.
        RemovalRefusedError: So much of the gallery is gone that consent is needed.
    """
    from setr_lib.datasets import DatasetError, load_gallery
    from setr_lib.pipeline.set_data import images_of, queries_of
    from setr_lib.tables import GALLERY, QUERIES

    try:
        queries = queries_of(context, key)
    except DatasetError:
        if load_gallery(context.settings, key).is_empty():  # the image folder is away: say that, not its ids
            images_of(context, key, progress, accept_removals=accept_removals)
        raise
    images = images_of(context, key, progress, accept_removals=accept_removals)
    context.tables.write("queries", queries.frame, QUERIES, key, made_by=queries.record)
    context.tables.write("gallery_images", images.frame, GALLERY, key, made_by=images.record)
    return [*queries.warnings, *images.warnings]


def _check_scored(context: PipelineContext, key: str, warnings: list[str]) -> None:
    """Raise ``SetrError`` where no query could be scored: models would run for nothing."""
    from setr_lib.datasets import evaluation_set
    from setr_lib.tables import QUERIES

    queries = context.tables.read("queries", QUERIES, key)
    if evaluation_set(context.settings, key).hidden or queries["target_ids"].list.len().sum():
        return
    what = "no query names a target" if queries.height else "it has no query"
    is_said = any(what in sentence for sentence in warnings)
    said = [*([] if is_said else [f"{what}, so nothing can be scored"]), *warnings]
    raise SetrError(f"{'; '.join(said)}; see `setr doctor {key}`")


def prepare(
    context: PipelineContext,
    key: str,
    progress: Progress = silent,
    versions: Versions = CHAMPIONS,
    *,
    accept_removals: bool = False,
) -> None:
    """Embed the gallery of an evaluation set, and make the generated texts that configured methods read.

    Args:
        context: Settings, tables, stores and models.
        key: The evaluation set.
        progress: Told how many images are embedded and texts made.
        versions: Version by registered model of trained spaces.
        accept_removals: As of :func:`evaluate`.

    Raises:
        SetrError: A model cannot be loaded, or a prompt is missing.
    """
    from setr_lib.pipeline.embedding import embed_gallery
    from setr_lib.pipeline.set_texts import (
        captions_of_references,
        compositions_of_queries,
        text_record,
        texts_of_methods,
    )
    from setr_lib.tables import CAPTIONS, COMPOSITIONS

    tables = context.tables
    embedded = embed_gallery(context, key, progress, versions=versions, accept_removals=accept_removals)
    tables.write_record("gallery_embeddings", embedded.record, key)
    captions = captions_of_references(context, key, progress)
    tables.write("reference_captions", captions.frame, CAPTIONS, key, made_by=captions.record)
    composed = compositions_of_queries(context, key, progress)
    tables.write("query_compositions", composed.frame, COMPOSITIONS, key, made_by=composed.record)
    for kind, filled in texts_of_methods(context, key, progress):
        table = tables.method_texts(key, kind.name)
        tables.write(table, filled.frame, kind.schema, made_by=text_record(filled.frame))


def rank(
    context: PipelineContext, key: str, progress: Progress = silent, versions: Versions = CHAMPIONS
) -> tuple[list[str], dict[str, str]]:
    """Rank an evaluation set by every configured method that can; the tables are stored.

    Args:
        context: Settings, tables and models.
        key: The evaluation set.
        progress: Told how many queries are ranked.
        versions: Version by registered model of trained methods.

    Returns:
        The names of the methods that have ranked it; and why others have not, by name.
    """
    from setr_lib.pipeline.retrieval import rank_set, store_rankings

    if not context.methods.configured:
        return [], {}
    found = rank_set(context, key, progress, versions, leave_out_failing=True)
    store_rankings(context, key, found)
    return list(found.by_method), found.left_out
