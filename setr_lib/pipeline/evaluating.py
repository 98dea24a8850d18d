"""All steps of an evaluation in their order, from annotation files to metrics, without Dagster: what
``setr compare`` and a script run.

Dagster's assets run the same functions one by one. Everything that costs a model call is kept by content, so
that a run which was stopped goes on where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setr_lib.pipeline.trained_weights import CHAMPIONS, Versions
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.evaluation import EvaluationResult
    from setr_lib.pipeline.reranking_run import RerankingRun


def evaluate(
    run: RerankingRun, key: str, progress: Progress = silent, versions: Versions = CHAMPIONS
) -> EvaluationResult:
    """Rank, re-rank and measure one evaluation set by everything that settings configure.

    Args:
        run: The context (settings, tables, models), and the re-rankers that are opened once for all sets.
        key: The evaluation set.
        progress: Told how far the models are.
        versions: Version by registered model of trained methods; the champion for one that is not named.

    Returns:
        Rankings, metrics and comparisons; all tables are stored.

    Raises:
        SetrError: A file is missing or wrong, or a model cannot be loaded; the message says which.
    """
    from setr_lib.pipeline.evaluation import assess
    from setr_lib.tables import METRICS

    context = run.context
    read_set(context, key, progress)
    prepare(context, key, progress, versions)
    rank(context, key, progress, versions)
    if context.is_caption_proxy(key):
        run.leave_out(key)
    else:
        run.rerank(key, progress)
    result = assess(context, key)
    context.tables.write("evaluation_report", result.rows, METRICS, key, made_by=result.note)
    return result


def read_set(context: PipelineContext, key: str, progress: Progress = silent) -> None:
    """Read the annotation files of an evaluation set, and inspect its images; both tables are stored.

    Args:
        context: Settings and tables.
        key: The evaluation set.
        progress: Told how many images are inspected.

    Raises:
        DatasetError: The files are missing or wrong.
    """
    from setr_lib.pipeline.set_data import images_of, queries_of
    from setr_lib.tables import GALLERY, QUERIES

    queries, images = queries_of(context, key), images_of(context, key, progress)
    context.tables.write("queries", queries.frame, QUERIES, key, made_by=queries.record)
    context.tables.write("gallery_images", images.frame, GALLERY, key, made_by=images.record)


def prepare(
    context: PipelineContext, key: str, progress: Progress = silent, versions: Versions = CHAMPIONS
) -> None:
    """Embed the gallery of an evaluation set, and make the generated texts that configured methods read.

    Args:
        context: Settings, tables, stores and models.
        key: The evaluation set.
        progress: Told how many images are embedded and texts made.
        versions: Version by registered model of trained spaces.

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
    embedded = embed_gallery(context, key, progress, versions=versions)
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
) -> None:
    """Rank an evaluation set by every configured method; the tables are stored.

    Args:
        context: Settings, tables and models.
        key: The evaluation set.
        progress: Told how many queries are ranked.
        versions: Version by registered model of trained methods.

    Raises:
        SetrError: A method cannot rank the set.
    """
    from setr_lib.pipeline.retrieval import rank_set, store_rankings

    store_rankings(context, key, rank_set(context, key, progress, versions))
