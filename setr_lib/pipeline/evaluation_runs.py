"""An evaluation told to MLflow, once its tables are written: whatever MLflow does costs no evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.escaping import markdown
from setr_lib.evaluation.row import Row, rows_of
from setr_lib.hashing import digest_json, digest_strings
from setr_lib.pipeline.mlflow_links import mlflow_ui
from setr_lib.records import content_digest

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.evaluation import EvaluationResult
    from setr_lib.registry.evaluation_runs import EvaluatedData, EvaluatedRow, EvaluatedSet
    from setr_lib.settings import Settings

_NONE = "none"


@dataclass(frozen=True)
class Told:
    """What became of an evaluation in MLflow.

    Attributes:
        words: That, in a sentence; empty where there was nothing to tell.
        failed: Whether MLflow did not take it; the tables are there all the same.
        run_id: The run, or None.
        url: Its page, or None.
    """

    words: str = ""
    failed: bool = False
    run_id: str | None = None
    url: str | None = None


def tell_mlflow(
    context: PipelineContext, key: str, result: EvaluationResult, tags: Mapping[str, str] | None = None
) -> Told:
    """Log an evaluation as runs of MLflow, and tag the registered versions behind it with what they have seen
    of the set, and with the run.

    Args:
        context: Settings and the registry.
        key: The evaluation set.
        result: The evaluation, whose tables are stored.
        tags: Further tags, e.g. the Dagster run that evaluated.

    Returns:
        The run, or why there is none. No error of MLflow's leaves this function.
    """
    from setr_lib.pipeline.learned import tag_overlaps
    from setr_lib.registry.errors import first_line
    from setr_lib.registry.server import check_answers

    settings = context.settings
    if not (result.versions or settings.registry.log_evaluations):
        return Told()
    try:
        check_answers(settings.tracking_uri)
        tag_overlaps(context, key, result.versions, trial=result.is_trial)
        if not settings.registry.log_evaluations or result.rows.is_empty():
            return Told()
        runs = context.registry.evaluations(settings.registry.evaluations)
        logged = runs.log(evaluated_set(context, key, result, tags or {}), mlflow_ui(settings))
    except Exception as error:  # whatever a store or a server does
        why = str(error) if isinstance(error, SetrError) else f"{type(error).__name__}: {first_line(error)}"
        return Told(f"tables are written, but MLflow has no run of this evaluation: {why}", failed=True)
    url = f"{mlflow_ui(settings)}{logged.path}"
    same = "" if logged.is_new else ", that of an earlier evaluation with the same scores"
    return Told(f"MLflow run {logged.run_id[:8]}{same}: {url}", run_id=logged.run_id, url=url)


def settings_digest(settings: Settings) -> str:
    """Digest of the settings, those left out that only say where things are kept.

    Args:
        settings: The settings.

    Returns:
        12 hexadecimal digits.
    """
    return digest_json(settings.model_dump(mode="json", exclude={"storage", "registry"}))[:12]


def evaluated_set(
    context: PipelineContext, key: str, result: EvaluationResult, tags: Mapping[str, str]
) -> EvaluatedSet:
    """An evaluation as MLflow is told of it.

    Args:
        context: Settings.
        key: The evaluation set.
        result: The evaluation.
        tags: Further tags of its runs.

    Returns:
        Rows with their parameters and scores, and what was evaluated on.
    """
    from setr_lib.registry.evaluation_runs import EvaluatedSet

    evaluated, note = result.evaluation_set, result.note
    data = _data(context.settings, result)
    rows = [_row(context, result, row) for row in rows_of(result.rows)]
    return EvaluatedSet(
        key=key,
        digest=digest_strings([key, data.digest, content_digest(result.rows, note)]),
        params={
            "set": key,
            "dataset": evaluated.dataset,
            "split": evaluated.split,
            "kind": evaluated.kind,
            "protocol": evaluated.gallery,
            "queries": str(result.queries.height),
            "images": str(result.gallery.height),
            "settings": settings_digest(context.settings),
        },
        data=data,
        rows=rows,
        main=_title(result, _main(result)),
        description=_description(context.settings, result, tags),
        tags=tags,
        trial=_trial(result),
    )


def _trial(result: EvaluationResult) -> str:
    """Of a trial how many of the set's queries were evaluated."""
    return f"{result.queries.height:,} of {result.all_queries:,} queries" if result.is_trial else ""


def _main(result: EvaluationResult) -> Row:
    """The row that a search would show: the default method, re-ranked by the last of its re-rankers."""
    default = Row(result.note.method)
    reranked = [row for row in rows_of(result.rows) if row.coarse == default and row.reranker]
    return reranked[-1] if reranked else default


def _title(result: EvaluationResult, row: Row) -> str:
    """A row with the versions behind its names: ``intersection · adapter v3``."""
    from setr_lib.evaluation.model_versions import ShownVersions, shown_versions

    return shown_versions(result.rows).get(row, ShownVersions()).behind(row).title


def _row(context: PipelineContext, result: EvaluationResult, row: Row) -> EvaluatedRow:
    from setr_lib.evaluation.model_versions import number
    from setr_lib.registry.evaluation_runs import EvaluatedRow, Figure

    lines = result.rows.filter(_is_of(row))
    first = lines.row(0, named=True)
    made = next((each for each in result.note.rows if Row(each.method, each.reranker) == row), None)
    weights = result.note.trained(row.title)
    versions = [(each.model, each.version) for each in weights]
    if made is not None and made.version is not None:
        versions.append((made.registered_model or context.settings.registry.model, made.version))
    params = {
        "method": row.method,
        "reranker": row.reranker or _NONE,
        "version": number(first["model_version"]) or _NONE,
        "registered": first["model_version"] or _NONE,
        "fusion": (made.fusion if made else "") or _NONE,
        "model": (made.model if made else "") or _NONE,
        "prompt": (made.prompt if made else None) or _NONE,
        "rerank_top_k": str(result.note.rerank_top_k) if made else _NONE,
        "encoder": result.note.encoder or _NONE,
        "comparable_with_papers": str(bool(first["comparable"])).lower(),
        "label": first["label"] or _NONE,
        "overlap": first["overlap"] or _NONE,
    }
    figures = {
        line["metric"]: Figure(line["value"], line["ci_low"], line["ci_high"])
        for line in lines.iter_rows(named=True)
    }
    return EvaluatedRow(_title(result, row), params, figures, list(dict.fromkeys(versions)))


def _is_of(row: Row) -> pl.Expr:
    """The lines of a METRICS table that belong to a row."""
    import polars as pl

    return (pl.col("method") == row.method) & (pl.col("reranker").fill_null("") == row.reranker)


def _data(settings: Settings, result: EvaluationResult) -> EvaluatedData:
    from setr_lib.registry.evaluation_runs import EvaluatedData
    from setr_lib.tables import digest_table

    evaluated = result.evaluation_set
    known = [name for name in ("image_id", "galleries", "status", "fingerprint") if name in result.gallery]
    root, base = evaluated.root, settings.base_dir
    where = root.relative_to(base).as_posix() if root.is_relative_to(base) else root.name
    return EvaluatedData(
        name=evaluated.key,
        digest=digest_strings([digest_table(result.queries), digest_table(result.gallery.select(known))]),
        source={
            "dataset": evaluated.dataset,
            "split": evaluated.split,
            "kind": evaluated.kind,
            "folder": where,
        },
        profile={"num_queries": result.queries.height, "num_images": result.gallery.height},
        split=evaluated.split,
    )


def _description(settings: Settings, result: EvaluationResult, tags: Mapping[str, str]) -> str:
    """The headline metrics of every row as a table, the best row first, and where more is."""
    from setr_lib.evaluation.leaderboard import headline_metrics, measured_metrics, order_lines
    from setr_lib.registry.cards import APART

    rows = result.rows
    metrics = headline_metrics(measured_metrics(rows), result.evaluation_set.benchmark.headline_metrics)
    head = ["row", *metrics]
    best = order_lines(rows, metrics[0]) if metrics else rows_of(rows)
    lines = [[_title(result, row), *(_cell(rows, row, name) for name in metrics)] for row in best]
    between = f" |{APART}"  # MLflow's pages set columns without any space between them
    head_line, *others = (f"| {between.join(map(markdown, cells))} |" for cells in (head, *lines))
    table = "\n".join([head_line, f"|{' --- |' * len(head)}", *others])
    report = settings.report_root / result.evaluation_set.key / "index.html"
    where = report.relative_to(settings.base_dir) if report.is_relative_to(settings.base_dir) else report.name
    url = tags.get("dagster.url")
    by = f" By [Dagster run {tags['dagster.run_id'][:8]}]({url})." if url else ""
    trial = f"A trial on {_trial(result)}: no score of the set. " if result.is_trial else ""
    return f"{trial}Percent, with 95 % intervals. Report: {markdown(str(where))}.{by}\n\n{table}"


def _cell(rows: pl.DataFrame, row: Row, metric: str) -> str:
    found = rows.filter(_is_of(row), metric=metric)
    if found.is_empty():
        return ""
    line = found.row(0, named=True)
    value = f"{line['value']:.1f}"
    return value if line["ci_low"] is None else f"{value} ({line['ci_low']:.1f} to {line['ci_high']:.1f})"
