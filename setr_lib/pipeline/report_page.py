"""The report page of an evaluated set, the index over all of them, and the contact sheet of one query.

The report asset and a script both call it; what a page says and looks like is ``setr_lib.evaluation``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.evaluation.row import Row
from setr_lib.pipeline.context import PipelineContext

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from setr_lib.evaluation.report import ReportData, ReportOptions
    from setr_lib.evaluation.report_history import Origin
    from setr_lib.pipeline.evaluation import EvaluationResult
    from setr_lib.reranking.order import Order


def write_page(
    context: PipelineContext,
    key: str,
    result: EvaluationResult,
    *,
    run_id: str = "",
    coming: Collection[str] = (),
    now: datetime | None = None,
) -> Path:
    """Write the HTML page of a result, the files of all queries beside it, and the index of all reports. A
    page that is there and has other results is kept as an earlier one; why queries fail is stored as a table.

    Args:
        context: Settings and tables.
        key: The evaluation set.
        result: What :func:`setr_lib.pipeline.evaluation.assess` gave.
        run_id: The Dagster run that evaluated, if any.
        coming: The evaluation sets whose pages are written in the same run.
        now: What the page gives as its date; the present time by default.

    Returns:
        The page's path.
    """
    from setr_lib.evaluation.report import write_report
    from setr_lib.evaluation.report_history import (
        entry_of,
        keep_earlier,
        links_to_sets,
        note_evaluation,
        write_index,
    )
    from setr_lib.records import content_digest
    from setr_lib.tables import FAILURES

    root, evaluated = context.settings.report_root, result.evaluation_set
    digest = content_digest(result.rows, result.note)[:12]
    failures = failures_of(context, key, result)
    context.tables.write("query_failures", failures, FAILURES, key)
    data, options = _data(context, key, result, failures), _options(context, key, result)
    origin = _origin(key, run_id, now)
    keep_earlier(root / key, digest)
    keys = _keys(context)
    sets = tuple(links_to_sets(root, keys, key, coming))
    page = write_report(root / key, data, replace(options, origin=origin, result=digest, sets=sets))
    notes = [words.rstrip(":") for words, _ in options.first_notes]
    headline = evaluated.benchmark.headline_metrics
    entry = entry_of(digest, data.title, origin, result.queries.height, result.rows, headline, notes)
    note_evaluation(root / key, entry)
    write_index(root, keys)
    return page


def failures_of(context: PipelineContext, key: str, result: EvaluationResult) -> pl.DataFrame:
    """Why the queries of a set fail, by the default method and its last re-ranker.

    Args:
        context: Settings and tables.
        key: The evaluation set.
        result: What :func:`setr_lib.pipeline.evaluation.assess` gave.

    Returns:
        A FAILURES table.
    """
    from setr_lib.evaluation.contact_sheet import judge_words
    from setr_lib.evaluation.failures import FailureTexts, failure_table
    from setr_lib.methods.needs import COMPOSITIONS as READS_COMPOSITIONS
    from setr_lib.tables import COMPOSITIONS, FAILURES

    coarse = Row(result.note.method)
    if coarse not in result.rankings:
        return FAILURES.to_frame()
    row = next((row for row in reversed(result.rankings) if row.reranker and row.coarse == coarse), coarse)
    captions = _captions(context, key, result).filter(status="ok")
    compositions = {}
    if READS_COMPOSITIONS in context.methods.get(coarse.method).needs:
        stored = context.tables.read("query_compositions", COMPOSITIONS, key)
        compositions = {line["query_id"]: line for line in stored.iter_rows(named=True)}
    return failure_table(
        result.queries,
        result.gallery,
        row,
        result.rankings[coarse],
        result.rankings[row] if row.reranker else None,
        depth=result.note.rerank_top_k or context.settings.rerank_depth(result.evaluation_set.dataset),
        texts=FailureTexts(dict(captions.select("image_id", "caption").iter_rows()), compositions),
        says=lambda score: judge_words(score, is_logit=row not in result.plain_scores),
    )


def orders_of(context: PipelineContext, result: EvaluationResult) -> dict[Row, Order]:
    """What the rankings of a result are ordered by.

    Args:
        context: The methods.
        result: What :func:`setr_lib.pipeline.evaluation.assess` gave.

    Returns:
        The order of each row of which it is known.
    """
    from setr_lib.reranking.order import coarse_order, fused_order, stated_fusion

    made_by = {Row(made.method, made.reranker): made for made in result.note.rows}
    found: dict[Row, Order] = {}
    for row in result.rankings:
        is_cosine, made = context.methods.get(row.method).is_cosine, made_by.get(row)
        if not row.reranker:
            found[row] = coarse_order(is_cosine=is_cosine)
        elif made is not None and (stated := stated_fusion(made.fusion)) is not None:
            found[row] = fused_order(
                *stated, is_cosine=is_cosine, is_logit=made.is_logit, is_listwise=made.is_listwise
            )
    return found


def contact_sheet(context: PipelineContext, key: str, result: EvaluationResult) -> Image.Image | None:
    """One query, before and after re-ranking: one that the re-ranker helped most, else any.

    Args:
        context: Settings and tables.
        key: The evaluation set.
        result: What :func:`setr_lib.pipeline.evaluation.assess` gave.

    Returns:
        The drawing; None without queries, or without an image to show.
    """
    from setr_lib.evaluation.cases import choose_cases
    from setr_lib.evaluation.contact_sheet import Strip, draw_contact_sheet, tiles_of
    from setr_lib.pixels import picture_files
    from setr_lib.tables import COMPOSITIONS

    if result.caption_proxy:
        return None
    main, reranked = result.note.method, [row for row in result.rankings if row.reranker]
    methods = list(dict.fromkeys([main, *(row.method for row in reranked)]))
    shown = {
        row: result.rankings[row] for method in methods for row in result.rankings if row.method == method
    }
    before = shown.get(Row(main))
    if before is None:
        return None
    after = next((result.rankings[row] for row in reversed(reranked) if row.method == main), None)
    seed = context.settings.evaluation.seed
    groups = choose_cases(result.queries, before, after, count=1, seed=seed)
    if not groups or not groups[0].query_ids:
        return None
    query = result.queries.filter(query_id=groups[0].query_ids[0]).to_dicts()[0]
    composed = context.tables.read("query_compositions", COMPOSITIONS, key).filter(query_id=query["query_id"])
    files, orders = picture_files(result.gallery), orders_of(context, result)
    strips = [
        Strip(
            row.title,
            tiles_of(
                frame.filter(query_id=query["query_id"], pool="gallery"),
                files,
                target_ids=query["target_ids"],
                reference_id=query["reference_id"],
                is_logit=row not in result.plain_scores,
                order=orders.get(row),
            ),
            orders[row].words if row in orders else "",
        )
        for row, frame in shown.items()
    ]
    return draw_contact_sheet(
        files.get(query["reference_id"]),
        query["modification"],
        strips,
        detail=f"composed: {composed.item(0, 'target_caption')}" if composed.height else "",
        tile=96,
    )


def _data(context: PipelineContext, key: str, result: EvaluationResult, failures: pl.DataFrame) -> ReportData:
    from setr_lib.evaluation.report import ReportData
    from setr_lib.pipeline.learned import learned_lines
    from setr_lib.tables import COMPOSITIONS

    evaluated = result.evaluation_set
    compositions = context.tables.read("query_compositions", COMPOSITIONS, key)
    return ReportData(
        key,
        f"{evaluated.dataset} {evaluated.split}",
        result.queries,
        result.gallery,
        result.rankings,
        result.rows,
        captions=_captions(context, key, result),
        compositions=None if compositions.is_empty() else compositions,
        provenance={name.replace("_", " "): str(value) for name, value in result.note.facts().items()},
        paired=result.comparisons,
        learned=learned_lines(result.learned),
        failures=None if failures.is_empty() else failures,
    )


def _options(context: PipelineContext, key: str, result: EvaluationResult) -> ReportOptions:
    from setr_lib.evaluation.metrics import left_out_sentences
    from setr_lib.evaluation.report import ReportOptions
    from setr_lib.pipeline.faults import LISTED_BY_REPORTS, fault_lines

    settings, evaluated = context.settings, result.evaluation_set
    return ReportOptions(
        protocol=evaluated.benchmark.protocol_text,
        headline=evaluated.benchmark.headline_metrics,
        method=result.note.method,
        caption_proxy=result.caption_proxy,
        plain_scores=result.plain_scores,
        shown=_shown(context),
        contact_sheet_queries=settings.evaluation.contact_sheet_queries,
        seed=settings.evaluation.seed,
        notes=(
            *left_out_sentences(result.left_out),
            *fault_lines(context, key, without=LISTED_BY_REPORTS),
        ),
        first_notes=_first_notes(context, result),
        orders=orders_of(context, result),
    )


def _origin(key: str, run_id: str, now: datetime | None) -> Origin:
    from importlib.metadata import version

    from setr_lib.evaluation.report_history import Origin

    made = (now or datetime.now(UTC)).astimezone(UTC)
    return Origin(f"{made:%Y-%m-%d %H:%M} UTC", run_id, version("setr"), f"setr run {key}")


def _first_notes(context: PipelineContext, result: EvaluationResult) -> tuple[tuple[str, str], ...]:
    """What a reader must know first: data that SETR made itself, and toys on data that are not."""
    from setr_lib.benchmarks.source import maker_of
    from setr_lib.pipeline.toy_models import toy_models_note
    from setr_lib.sources import data_sources

    maker = maker_of(result.evaluation_set.root, data_sources(context.settings))
    toys = toy_models_note(context.settings, result.evaluation_set.dataset)
    return (
        *([(maker.banner, maker.banner_text)] if maker is not None and maker.banner else []),
        *([("Toy models:", f"{toys}.")] if toys else []),
    )


def _keys(context: PipelineContext) -> list[str]:
    from setr_lib.datasets import evaluation_sets

    return [evaluated.key for evaluated in evaluation_sets(context.settings)]


def _shown(context: PipelineContext) -> frozenset[str] | None:
    """The methods that settings have reports show at once, by their own names; None for all."""
    named = context.settings.evaluation.shown
    return None if named is None else frozenset(context.methods.get(name).name for name in named)


def _captions(context: PipelineContext, key: str, result: EvaluationResult) -> pl.DataFrame:
    """CAPTIONS rows of the reference images; where captions were ranked, of all images: without pictures,
    they are what a page can show.
    """
    from setr_lib.datasets import load_image_captions
    from setr_lib.tables import CAPTIONS
    from setr_lib.texts.from_image_captions import caption_rows

    if not result.caption_proxy:
        return context.tables.read("reference_captions", CAPTIONS, key)
    return caption_rows(result.gallery["image_id"], load_image_captions(context.settings, key))
