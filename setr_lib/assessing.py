"""From the tables of one evaluation set to its numbers and its page: what the report asset and a notebook
both call.

Reads at the workbench what the stages have written; metrics, intervals and the page itself are
``setr_lib.evaluation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.evaluation.row import Row
from setr_lib.records import EmbeddingsRecord, ReportRecord, RerankedRecord
from setr_lib.workbench import Workbench

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from setr_lib.benchmarks import Benchmark, EvaluationSet
    from setr_lib.evaluation.metrics import Evaluation
    from setr_lib.evaluation.report import PairedDifference

ADAPTED = "adapter"
"""The re-ranker whose rows carry the label of the champion's training."""
CAPTION_PROXY = "caption proxy"
"""The label of a ranking that was made over captions."""


@dataclass(frozen=True)
class Assessment:
    """What is known of one evaluation set. ``rows`` is a METRICS frame, empty where targets are hidden."""

    evaluation_set: EvaluationSet
    queries: pl.DataFrame
    gallery: pl.DataFrame
    rankings: dict[Row, pl.DataFrame]
    rows: pl.DataFrame
    comparisons: list[PairedDifference]
    left_out: dict[str, str]
    """Metric -> why it could not be computed."""
    note: ReportRecord
    """What made it: digest of the queries, models, prompts, K, fusion, seed of the intervals, SETR's version."""
    caption_proxy: bool = False
    """Whether captions stand in for the images: ``gallery`` then calls every image ``ok``, as every one is
    ranked."""


def assess(bench: Workbench, key: str) -> Assessment:
    """Measure every ranking of evaluation set ``key`` that the current settings name.

    Raises ``NotMadeYetError`` naming the asset that is missing.
    """
    from setr_lib.datasets import evaluation_set
    from setr_lib.tables import GALLERY, QUERIES

    each = evaluation_set(bench.settings, key)
    queries = bench.read_table("queries", QUERIES, key)
    gallery = bench.read_table("gallery_images", GALLERY, key)
    proxy = bench.is_caption_proxy(key)
    if proxy:
        gallery = _as_ranked(gallery)
    reranked = bench.read_record("reranked_rankings", RerankedRecord, key)
    note = ReportRecord(**{**reranked.stated(), "bootstrap_seed": bench.settings.evaluation.seed})
    rankings = _rankings(bench, key, note)
    evaluations = {} if each.hidden else _evaluations(bench, each, queries, gallery, rankings)
    return Assessment(
        evaluation_set=each,
        queries=queries,
        gallery=gallery,
        rankings=rankings,
        rows=_rows(bench, each, queries, gallery, rankings, evaluations, note),
        comparisons=_comparisons(bench, each.benchmark, evaluations, Row(note.strategy)),
        left_out={metric: why for found in evaluations.values() for metric, why in found.left_out.items()},
        note=note,
        caption_proxy=proxy,
    )


def _as_ranked(gallery: pl.DataFrame) -> pl.DataFrame:
    """The gallery as captions are ranked: every image counts, whether its file is there or not."""
    import polars as pl

    return gallery.with_columns(status=pl.lit("ok"))


def _by_captions(bench: Workbench, method: str) -> bool:
    from setr_lib.methods.method import ranks_captions

    return ranks_captions(bench.method(method))


def write_page(bench: Workbench, key: str, assessment: Assessment) -> Path:
    """The HTML page of an assessment; its path."""
    from setr_lib.evaluation.metrics import left_out_sentences
    from setr_lib.evaluation.report import ReportData, ReportOptions, write_report
    from setr_lib.tables import CAPTIONS, COMPOSITIONS

    settings = bench.settings
    each = assessment.evaluation_set
    return write_report(
        settings.report_root / key,
        ReportData(
            key,
            f"{each.dataset} {each.split}",
            assessment.queries,
            assessment.gallery,
            assessment.rankings,
            assessment.rows,
            captions=_every_caption(bench, key, assessment)
            if assessment.caption_proxy
            else bench.read_table("reference_captions", CAPTIONS, key),
            compositions=bench.read_table("query_compositions", COMPOSITIONS, key),
            provenance={
                name.replace("_", " "): str(value) for name, value in assessment.note.facts().items()
            },
            paired=assessment.comparisons,
        ),
        ReportOptions(
            protocol=each.benchmark.protocol_text,
            headline=each.benchmark.headline_metrics,
            method=assessment.note.strategy,
            caption_proxy=assessment.caption_proxy,
            contact_sheet_queries=settings.evaluation.contact_sheet_queries,
            seed=settings.evaluation.seed,
            notes=tuple(left_out_sentences(assessment.left_out)),
        ),
    )


def _every_caption(bench: Workbench, key: str, assessment: Assessment) -> pl.DataFrame:
    """The captions of all images as CAPTIONS rows: without pictures, they are what a page can show."""
    from setr_lib.datasets import load_image_captions
    from setr_lib.texts.from_image_captions import caption_rows

    return caption_rows(assessment.gallery["image_id"], load_image_captions(bench.settings, key))


def contact_sheet(bench: Workbench, key: str, assessment: Assessment) -> Image.Image | None:
    """One telling query, before and after the judge: what re-ranking helped most, else any.

    None without queries, or without any picture to show.
    """
    from setr_lib.evaluation.cases import choose_cases
    from setr_lib.evaluation.contact_sheet import Strip, draw_contact_sheet, tiles_of
    from setr_lib.tables import COMPOSITIONS

    if assessment.caption_proxy:
        return None
    coarse = Row(assessment.note.strategy)
    shown = {row: frame for row, frame in assessment.rankings.items() if row.coarse == coarse}
    after = next((frame for row, frame in reversed(shown.items()) if row.reranker), None)
    seed = bench.settings.evaluation.seed
    groups = choose_cases(assessment.queries, shown[coarse], after, count=1, seed=seed)
    if not groups or not groups[0].query_ids:
        return None
    query = assessment.queries.filter(query_id=groups[0].query_ids[0]).to_dicts()[0]
    composed = bench.read_table("query_compositions", COMPOSITIONS, key).filter(query_id=query["query_id"])
    paths = dict(assessment.gallery.select("image_id", "path").iter_rows())
    strips = [
        Strip(
            row.title,
            tiles_of(
                frame.filter(query_id=query["query_id"], pool="gallery"),
                paths,
                target_ids=query["target_ids"],
                reference_id=query["reference_id"],
            ),
        )
        for row, frame in shown.items()
    ]
    return draw_contact_sheet(
        paths.get(query["reference_id"]),
        query["modification"],
        strips,
        detail=f"composed: {composed.item(0, 'target_caption')}" if composed.height else "",
        tile=96,
    )


def _rankings(bench: Workbench, key: str, note: RerankedRecord) -> dict[Row, pl.DataFrame]:
    from setr_lib.tables import RANKINGS

    names = [method.name for method in bench.methods(key)]
    found: dict[Row, pl.DataFrame] = {
        Row(name): bench.read_table(bench.coarse_table(key, name), RANKINGS) for name in names
    }
    for reranker in note.stages:
        found[Row(note.strategy, reranker)] = bench.read_table(bench.reranked_table(key, reranker), RANKINGS)
    return found


def _evaluations(
    bench: Workbench,
    each: EvaluationSet,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    rankings: dict[Row, pl.DataFrame],
) -> dict[Row, Evaluation]:
    from setr_lib.evaluation.metrics import evaluate

    every = _as_ranked(gallery)
    return {
        row: evaluate(
            each.benchmark,
            queries,
            frame,
            every if _by_captions(bench, row.method) else gallery,
            unranked="miss",
        )
        for row, frame in rankings.items()
    }


def _rows(
    bench: Workbench,
    each: EvaluationSet,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    rankings: dict[Row, pl.DataFrame],
    evaluations: dict[Row, Evaluation],
    note: RerankedRecord,
) -> pl.DataFrame:
    import polars as pl

    from setr_lib.evaluation.summary import floor_rows, metric_rows

    options = bench.settings.evaluation
    caveats = _caption_caveats(bench, each.key, gallery.height)
    proxy = _by_captions(bench, note.strategy)
    parts = [floor_rows(each, queries, gallery, settings=options, caveats=caveats if proxy else ())]
    for row, found in evaluations.items():
        adapted, captioned = row.reranker == ADAPTED, _by_captions(bench, row.method)
        zero_shot = CAPTION_PROXY if captioned else "zero-shot"
        parts.append(
            metric_rows(
                each,
                queries,
                rankings[row],
                _as_ranked(gallery) if captioned else gallery,
                row=row,
                settings=options,
                adapter_version=note.adapter_version if adapted else None,
                label=note.adapter_label or zero_shot if adapted else zero_shot,
                evaluation=found,
                caveats=caveats if captioned else (),
            )
        )
    return pl.concat(parts)


def _caption_caveats(bench: Workbench, key: str, images: int) -> list[str]:
    """What a reader of a ranking over captions must know."""
    without = bench.read_record("gallery_embeddings", EmbeddingsRecord, key).images_without_captions or 0
    lacking = f"{without:,} of {images:,} images have no caption and rank last"
    return ["captions were ranked, no image was looked at", *([lacking] if without else [])]


def _comparisons(
    bench: Workbench, benchmark: Benchmark, evaluations: dict[Row, Evaluation], default: Row
) -> list[PairedDifference]:
    """The margins that matter: the default method over the baselines, each re-ranker over stage 1 and over
    those before it.
    """
    from setr_lib.evaluation.intervals import paired_difference
    from setr_lib.evaluation.report import PairedDifference

    coarse_metric, judged_metric = benchmark.compared_metrics
    options = bench.settings.evaluation
    pairs = [(default, Row(name), coarse_metric) for name in options.baselines if Row(name) != default]
    reranked = [row for row in evaluations if row.reranker and row.coarse == default]
    for place, row in enumerate(reranked):
        pairs += [(row, before, judged_metric) for before in (default, *reranked[:place])]
    captions = Row(bench.method(bench.settings.coarse.caption_default).name)
    pairs += [
        (captions, Row(name), metric)
        for name in options.caption_baselines
        for metric in benchmark.headline_metrics
    ]
    found: list[PairedDifference] = []
    for a, b, metric in pairs:
        if a not in evaluations or b not in evaluations:
            continue
        if not all(metric in evaluations[row].summary for row in (a, b)):
            continue
        difference = paired_difference(
            evaluations[a].per_query,
            evaluations[b].per_query,
            metric,
            samples=options.bootstrap_samples,
            seed=options.seed,
        )
        value, low, high = (100 * float(part) for part in difference)
        found.append(PairedDifference(a.title, b.title, metric, value, low, high))
    return found


def latest_scores(bench: Workbench) -> pl.DataFrame:
    """The METRICS rows of the latest evaluation of every configured evaluation set; others are left alone."""
    from setr_lib.datasets import evaluation_sets
    from setr_lib.evaluation.leaderboard import collect

    return collect(
        bench.settings.table_path("evaluation_report", each.key) for each in evaluation_sets(bench.settings)
    )
