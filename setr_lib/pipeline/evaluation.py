"""Metrics of one evaluation set, from the tables that the stages have written.

The report asset and a notebook both call it; metrics and intervals are ``setr_lib.evaluation``, the page is
written by ``report_page.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from setr_lib.evaluation.row import Row
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import (
    CoarseRecord,
    EmbeddingsRecord,
    QueriesRecord,
    ReportRecord,
    RerankedRecord,
    RerankedRow,
    WeightsRecord,
)

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.benchmarks import Benchmark, EvaluationSet
    from setr_lib.evaluation.metrics import Evaluation
    from setr_lib.evaluation.report import PairedDifference
    from setr_lib.pipeline.learned import Learned, LearnedFrom, UsedVersion


@dataclass(frozen=True)
class EvaluationResult:
    """The rankings, metrics and comparisons of one evaluation set. ``rows`` is a METRICS frame, empty where
    targets are hidden.
    """

    evaluation_set: EvaluationSet
    queries: pl.DataFrame
    gallery: pl.DataFrame
    rankings: dict[Row, pl.DataFrame]
    rows: pl.DataFrame
    comparisons: list[PairedDifference]
    left_out: dict[str, str]
    """Metric -> why it could not be computed."""
    note: ReportRecord
    """What made it: digest of the queries, models, prompts, K, fusion, seed of the intervals, version."""
    learned: Mapping[Row, Learned] = field(default_factory=dict)
    """What each row has learned from."""
    versions: Sequence[UsedVersion] = ()
    """The registered versions that rows were made with, and what they have seen of the set."""
    caption_proxy: bool = False
    """Whether captions stand in for the images: ``gallery`` then calls every image ``ok``, as every one is
    ranked."""
    all_queries: int = 0
    """How many queries the set has; ``queries`` are fewer in a trial."""

    @property
    def is_trial(self) -> bool:
        """Whether only the first queries of the set were evaluated."""
        return self.queries.height < self.all_queries

    @property
    def plain_scores(self) -> frozenset[Row]:
        """Rows whose re-ranker's scores are not the log-odds of a Yes."""
        return frozenset(Row(made.method, made.reranker) for made in self.note.rows if not made.is_logit)


def assess(context: PipelineContext, key: str) -> EvaluationResult:
    """Measure every ranking of an evaluation set that the current settings name.

    Args:
        context: Settings and tables.
        key: The evaluation set.

    Returns:
        Its rankings, metrics and comparisons.

    Raises:
        NotMadeYetError: A table is missing; the message names the asset that makes it.
    """
    from setr_lib.datasets import evaluation_set
    from setr_lib.pipeline.learned import LearnedFrom
    from setr_lib.tables import GALLERY, QUERIES

    evaluated = evaluation_set(context.settings, key)
    queries = context.tables.read("queries", QUERIES, key)
    gallery = context.tables.read("gallery_images", GALLERY, key)
    proxy = context.is_caption_proxy(key)
    if proxy:
        gallery = _as_ranked(gallery)
    reranked = context.tables.read_record("reranked_rankings", RerankedRecord, key)
    note = ReportRecord(**{**reranked.stated(), "bootstrap_seed": context.settings.evaluation.seed})
    rankings = _rankings(context, key, note)
    records = _records(context, key, rankings)
    trained = {row.title: made.trained_by for row, made in records.items() if made.trained_by}
    if trained:
        of_space = {title: made[1] for title, made in trained.items() if len(made) > 1}
        of_method = {title: made[0] for title, made in trained.items()}
        note = note.model_copy(update={"weights_of": of_method, "space_weights_of": of_space})
    learned_from = LearnedFrom(context, evaluated, queries, gallery)
    learned = _learned(context, learned_from, note, records, rankings)
    note = learned_from.relabelled(note)
    evaluations = {} if evaluated.hidden else _evaluations(context, evaluated, queries, gallery, rankings)
    return EvaluationResult(
        evaluation_set=evaluated,
        queries=queries,
        gallery=gallery,
        rankings=rankings,
        rows=_rows(context, evaluated, queries, gallery, rankings, evaluations, note, learned),
        comparisons=_comparisons(context, evaluated.benchmark, evaluations, Row(note.method)),
        left_out={metric: why for found in evaluations.values() for metric, why in found.left_out.items()},
        note=note,
        learned=learned,
        versions=learned_from.versions,
        caption_proxy=proxy,
        all_queries=context.tables.read_record("queries", QueriesRecord, key).of,
    )


def _as_ranked(gallery: pl.DataFrame) -> pl.DataFrame:
    """The gallery as captions are ranked: every image counts, whether its file is there or not."""
    import polars as pl

    return gallery.with_columns(status=pl.lit("ok"))


def _by_captions(context: PipelineContext, method: str) -> bool:
    from setr_lib.methods.method import ranks_captions

    return ranks_captions(context.methods.get(method))


def _rankings(context: PipelineContext, key: str, note: RerankedRecord) -> dict[Row, pl.DataFrame]:
    from setr_lib.tables import RANKINGS

    names = [method.name for method in context.methods.ranked(key)]
    found: dict[Row, pl.DataFrame] = {
        Row(name): context.tables.read(context.tables.coarse(key, name), RANKINGS) for name in names
    }
    for made in note.rows:
        row = Row(made.method, made.reranker)
        if row.coarse in found:  # settings may name the method no longer
            found[row] = context.tables.read(context.tables.reranked(key, row), RANKINGS)
    return found


def _records(context: PipelineContext, key: str, rows: Iterable[Row]) -> dict[Row, CoarseRecord]:
    """What made the rankings of methods that have trained weights or bring texts; other rows are left out."""
    tables = context.tables
    found: dict[Row, CoarseRecord] = {}
    for row in rows:
        method = context.methods.get(row.method)
        if method.texts or context.weights.systems_of(method):
            table = tables.reranked(key, row) if row.reranker else tables.coarse(key, row.method)
            found[row] = tables.read_record(table, CoarseRecord)
    return found


def _evaluations(
    context: PipelineContext,
    evaluated: EvaluationSet,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    rankings: dict[Row, pl.DataFrame],
) -> dict[Row, Evaluation]:
    from setr_lib.evaluation.metrics import evaluate

    every = _as_ranked(gallery)
    return {
        row: evaluate(
            evaluated.benchmark,
            queries,
            frame,
            every if _by_captions(context, row.method) else gallery,
            unranked="miss",
        )
        for row, frame in rankings.items()
    }


def _learned(
    context: PipelineContext,
    learned_from: LearnedFrom,
    note: ReportRecord,
    records: dict[Row, CoarseRecord],
    rows: Iterable[Row],
) -> dict[Row, Learned]:
    """What each row has learned from; its label says, too, which of its texts were derived."""
    made_by = {Row(made.method, made.reranker): made for made in note.rows}
    found: dict[Row, Learned] = {}
    for row in rows:
        captioned = _by_captions(context, row.method)
        one = learned_from.of_row(row, note.trained(row.title), made_by.get(row), captioned)
        derived = records[row].derived_texts if row in records else []
        found[row] = replace(one, label=_label_with_derived(one.label, derived))
    return found


def _rows(
    context: PipelineContext,
    evaluated: EvaluationSet,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    rankings: dict[Row, pl.DataFrame],
    evaluations: dict[Row, Evaluation],
    note: ReportRecord,
    learned: Mapping[Row, Learned],
) -> pl.DataFrame:
    import polars as pl

    from setr_lib.evaluation.summary import floor_rows, metric_rows

    options = context.settings.evaluation
    made_by = {Row(made.method, made.reranker): made for made in note.rows}
    caveats = _caption_caveats(context, evaluated.key, gallery.height)
    proxy = _by_captions(context, note.method)
    parts = [floor_rows(evaluated, queries, gallery, settings=options, caveats=caveats if proxy else ())]
    for row, found in evaluations.items():
        captioned, by = _by_captions(context, row.method), made_by.get(row)
        rows = metric_rows(
            evaluated,
            queries,
            rankings[row],
            _as_ranked(gallery) if captioned else gallery,
            row=row,
            settings=options,
            model_version=_model_version(context, note.trained(row.title), by),
            label=learned[row].label,
            evaluation=found,
            caveats=caveats if captioned else (),
        )
        parts.append(rows.with_columns(overlap=pl.lit(learned[row].overlap, pl.String)))
    return pl.concat(parts)


def _model_version(
    context: PipelineContext, weights: Sequence[WeightsRecord], by: RerankedRow | None
) -> str | None:
    """The registered models that a row used: the method's, and the re-ranker's."""
    from setr_lib.evaluation.model_versions import in_words

    used: list[tuple[str, str | None]] = [(made.model, made.version) for made in weights]
    if by is not None:
        used.append((by.registered_model or context.settings.registry.model, by.version))
    return in_words(used)


def _label_with_derived(label: str, kinds: Iterable[str]) -> str:
    """A row's label, with the kinds of text that were derived in its first part, which tables always show."""
    first, *rest = label.split("; ")
    return "; ".join((", ".join(filter(None, (first, *(f"{kind} derived" for kind in kinds)))), *rest))


def _caption_caveats(context: PipelineContext, key: str, images: int) -> list[str]:
    """What a reader of a ranking over captions must know."""
    without = (
        context.tables.read_record("gallery_embeddings", EmbeddingsRecord, key).images_without_captions or 0
    )
    lacking = f"{without:,} of {images:,} images have no caption and rank last"
    return ["captions were ranked, no image was looked at", *([lacking] if without else [])]


def _comparisons(
    context: PipelineContext, benchmark: Benchmark, evaluations: dict[Row, Evaluation], default: Row
) -> list[PairedDifference]:
    """The margins that matter: the default method over the baselines, each re-ranked row over its own method
    and over the re-rankers of it that come before.
    """
    from setr_lib.evaluation.intervals import paired_difference
    from setr_lib.evaluation.report import PairedDifference

    coarse_metric, reranked_metric = benchmark.compared_metrics
    options = context.settings.evaluation
    baselines, caption_baselines = (
        [Row(context.methods.get(name).name) for name in names]
        for names in (options.baselines, options.caption_baselines)
    )
    pairs = [(default, row, coarse_metric) for row in baselines if row != default]
    earlier: dict[Row, list[Row]] = {}
    for row in evaluations:
        if row.reranker:
            before = earlier.setdefault(row.coarse, [row.coarse])
            pairs += [(row, other, reranked_metric) for other in before]
            before.append(row)
    captions = Row(context.methods.get(context.settings.coarse.caption_default).name)
    pairs += [(captions, row, metric) for row in caption_baselines for metric in benchmark.headline_metrics]
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
        queries = evaluations[a].per_query.filter(metric=metric).height
        found.append(PairedDifference(a.title, b.title, metric, value, low, high, queries))
    return found


def latest_scores(context: PipelineContext, sets: Collection[str] | None = None) -> pl.DataFrame:
    """The METRICS rows of the latest evaluation of every configured evaluation set; others are left alone.

    Args:
        context: Settings and tables.
        sets: The keys of the sets that are wanted; all by default.

    Returns:
        A METRICS frame.
    """
    from setr_lib.datasets import evaluation_sets
    from setr_lib.evaluation.leaderboard import collect

    return collect(
        context.settings.table_path("evaluation_report", evaluated.key)
        for evaluated in evaluation_sets(context.settings)
        if sets is None or evaluated.key in sets
    )
