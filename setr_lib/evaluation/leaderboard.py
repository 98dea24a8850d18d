"""The leaderboard: the latest metric rows of every evaluation set, as a table, as JSON, and on a terminal.

Belongs here: gathering and presenting METRICS rows, and the order in which rows come. Which metrics are a
data set's headlines is its benchmark's to say (``setr_lib.benchmarks.headlines``). Nothing here computes a
metric.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from setr_lib.damage import damaged, told
from setr_lib.errors import SetrError
from setr_lib.escaping import csv_cell, markdown
from setr_lib.evaluation.averages import Averages, average_line
from setr_lib.evaluation.cautions import count_queries, lacks_interval, no_interval_words, small_set_of
from setr_lib.evaluation.model_versions import number, shown_versions
from setr_lib.evaluation.row import COLUMNS, RANDOM, Row, positions, rows_of
from setr_lib.tables import METRICS, conform

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_NOT_COMPARABLE = "not comparable with published numbers"
_SEE_REPORT = "see the set's report"
Headlines = Mapping[str, Sequence[str]]
"""Data set -> its headline metrics."""


def headline_metrics(metrics: Iterable[str], headline: Sequence[str] = ()) -> list[str]:
    """The few metrics of a table that its data set is known by; the first one ranks rows.

    Args:
        metrics: Metric names, as the table has them.
        headline: The data set's headline metrics; empty for one that no settings name any more.

    Returns:
        Those of ``headline`` that are there; where none is, the first two metrics of the table that are no
        breakdown (``R@10/dress``).
    """
    names = list(dict.fromkeys(metrics))
    return [name for name in headline if name in names] or [name for name in names if "/" not in name][:2]


def measured_metrics(rows: pl.DataFrame) -> pl.Series:
    """The metrics of the rows of a table, less those that the random floor alone has.

    Args:
        rows: METRICS or COMPARISON rows.

    Returns:
        Their names, once for each row: those of a ranking that is too short for a metric (an average
        precision of the whole gallery) are without it, and the floor, in closed form, is not.
    """
    measured = rows.filter(pl.col("method") != RANDOM.method)
    return (rows if measured.is_empty() else measured).get_column("metric")


def collect(paths: Iterable[Path]) -> pl.DataFrame:
    """The METRICS rows of the latest evaluation of each (data set, split).

    Where several files tell of the same set, the most recently written wins whole.

    Args:
        paths: Parquet files or folders of them; one that does not exist is an evaluation not made yet.

    Returns:
        Rows sorted by data set and split, then in the order of the file.

    Raises:
        SetrError: A file is not a METRICS table; the message names it.
    """
    latest: dict[tuple[str, str], pl.DataFrame] = {}
    for path in sorted(_parquet_files(paths), key=lambda file: (file.stat().st_mtime_ns, str(file))):
        frame = _read(path)
        for (dataset, split), rows in frame.group_by("dataset", "split", maintain_order=True):
            latest[str(dataset), str(split)] = rows
    return pl.concat([latest[key] for key in sorted(latest)]) if latest else METRICS.to_frame()


def as_json(frame: pl.DataFrame) -> str:
    """METRICS rows as JSON, for programs.

    Args:
        frame: METRICS rows.

    Returns:
        One array of objects, one per row; a value that is not a finite number becomes null.
    """
    rows = [
        {name: _plain(value) for name, value in {**line, **_earlier_names(line)}.items()}
        for line in conform(frame, METRICS, "metrics").to_dicts()
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)


def as_csv(frame: pl.DataFrame) -> str:
    """METRICS rows as CSV with a header line; what is unknown is empty. A text that a spreadsheet would
    compute has an apostrophe before it.

    Args:
        frame: METRICS rows.

    Returns:
        The text.
    """
    table = conform(frame, METRICS, "metrics").fill_nan(None)
    texts = pl.col(pl.String).map_elements(csv_cell, return_dtype=pl.String)
    return table.with_columns(texts).write_csv()


def as_markdown(frame: pl.DataFrame, headlines: Headlines) -> str:
    """METRICS rows as Markdown: for each evaluation set a heading and a table of its headline metrics, best
    row first.

    Args:
        frame: METRICS rows.
        headlines: Data set -> its headline metrics.

    Returns:
        The text, without a line feed at its end.
    """
    parts: list[str] = []
    for (dataset, _), rows in frame.group_by("dataset", "split", maintain_order=True):
        metrics = headline_metrics(measured_metrics(rows), headlines.get(str(dataset), ()))
        lines = [["method", "re-ranker", *metrics], ["---", "---", *("--:" for _ in metrics)]]
        cells = {(Row.of(row), row["metric"]): row for row in rows.iter_rows(named=True)}
        versions = shown_versions(rows)
        for row in order_lines(rows, metrics[0]) if metrics else ():
            shown = versions[row].behind(row)
            values = [_plain_cell(cells.get((row, metric))) for metric in metrics]
            lines.append([markdown(cell) for cell in (shown.method, shown.reranker or "–", *values)])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        below = _below(rows, metrics)
        parts.append("\n\n".join([f"## {markdown(_title(rows))}", table, *below]))
    return "\n\n".join(parts)


def _below(rows: pl.DataFrame, metrics: Sequence[str]) -> list[str]:
    """What is to be said of a set's table in Markdown."""
    cautions = [*overlap_lines(rows), small_set_of(rows), no_interval_words(rows, metrics)]
    if not rows.get_column("comparable").fill_null(False).all():
        cautions.append(f"* {_NOT_COMPARABLE}: {'; '.join(split_labels(rows)[1]) or _SEE_REPORT}")
    return [markdown(caution) for caution in cautions if caution]


def leaderboard_table(
    frame: pl.DataFrame, headlines: Headlines, averages: Averages | None = None
) -> RenderableType:
    """The leaderboard as ``rich`` prints it: one table per evaluation set, one line per row, best first, the
    random floor last.

    Columns are the set's headline metrics in percent with 95 % intervals (rounded, to fit 80 columns; the
    JSON has them whole); the best value of each is bold. Lines below say that a set is small, and which
    values have no interval. What is not comparable with published numbers has an
    asterisk: the title where that is true of every line, else single lines.

    Args:
        frame: METRICS rows.
        headlines: Data set -> its headline metrics (``setr_lib.benchmarks.headlines``). Of a data set without
            an entry the first metrics are shown (:func:`headline_metrics`).
        averages: Data sets whose mean over all splits papers report (``setr_lib.benchmarks.averages``): a
            line below them.

    Returns:
        Something that a ``rich`` console prints.
    """
    from rich.console import Group
    from rich.text import Text

    if frame.is_empty():
        return Text("No evaluation yet: nothing to show.")
    parts: list[RenderableType] = []
    for (dataset, _), rows in frame.group_by("dataset", "split", maintain_order=True):
        # The title is a line of its own: a table would fold a long one to its own width.
        parts += [*([""] if parts else []), Text(_title(rows), style="bold")]
        parts.append(_set_table(rows, headlines.get(str(dataset), ())))
        parts += [Text(line, style="dim") for line in overlap_lines(rows)]
        shown = headline_metrics(measured_metrics(rows), headlines.get(str(dataset), ()))
        cautions = (small_set_of(rows), no_interval_words(rows, shown))
        parts += [Text(line, style="yellow") for line in cautions if line]
        if not rows.get_column("comparable").fill_null(False).all():
            reasons = "; ".join(split_labels(rows)[1]) or _SEE_REPORT
            parts.append(Text(f"* {_NOT_COMPARABLE}: {reasons}", style="yellow"))
    for (dataset,), rows in frame.group_by("dataset", maintain_order=True):
        star = "" if rows.get_column("comparable").fill_null(False).all() else " *"
        if line := average_line(str(dataset), rows, averages or {}, mark=star):
            parts += ["", Text(line)]
    return Group(*parts)


def order_lines(rows: pl.DataFrame, metric: str) -> list[Row]:
    """The rows of one set, by ``metric`` from best to worst; the random floor always last.

    Args:
        rows: METRICS rows of one evaluation set.
        metric: The metric to order by.

    Returns:
        Each row once.
    """
    values = {
        Row.of(line): line["value"]
        for line in rows.filter(metric=metric).drop_nulls("value").iter_rows(named=True)
    }
    position_of = positions(rows_of(rows))
    return sorted(
        position_of,
        key=lambda row: (row.is_random, -values.get(row, -math.inf), -position_of[row], row.method),
    )


def overlap_lines(rows: pl.DataFrame) -> list[str]:
    """What rows with weights that were trained here have learned from, a line for each that is alike.

    Args:
        rows: METRICS rows of one evaluation set.

    Returns:
        ``sum · adapter: zero-shot; seen in training: 0 of 1,950 gallery images, ...``.
    """
    titles: dict[tuple[str, str], dict[str, None]] = {}
    for line in rows.drop_nulls("overlap").unique([*COLUMNS], maintain_order=True).iter_rows(named=True):
        said = (line["label"] or "").partition("; ")[0], line["overlap"]
        titles.setdefault(said, {})[Row.of(line).title] = None
    return [
        f"{', '.join(rows)}: {label}; seen in training: {overlap}"
        for (label, overlap), rows in titles.items()
    ]


def coverage_words(coverage: float) -> str:
    """``98.0 %``: rounded down, so that an incomplete gallery never reads as a complete one.

    Args:
        coverage: Share of images, 0 to 1.

    Returns:
        The words.
    """
    return f"{math.floor(1000 * coverage + 1e-9) / 10:.1f} %"


def split_labels(rows: pl.DataFrame) -> tuple[list[str], list[str]]:
    """What the rows of one set are (``zero-shot``), and why they are not comparable, read from their labels.

    A label is parts joined by ``"; "``: what the row is, then the reasons, which the set's random floor has,
    too.

    Args:
        rows: METRICS rows of one evaluation set.

    Returns:
        (what the rows are, the reasons), each text once.
    """
    parts: dict[bool, dict[str, None]] = {True: {}, False: {}}
    firsts: dict[str, None] = {}
    for line in rows.select(*COLUMNS, "label").unique(maintain_order=True).iter_rows(named=True):
        label, is_random = line["label"], Row.of(line).is_random
        pieces = [piece for piece in (label or "").split("; ") if piece]
        parts[is_random] |= dict.fromkeys(pieces[1:] if is_random else pieces)
        if not is_random:
            firsts |= dict.fromkeys(pieces[:1])
    labels = [first for first in firsts if first not in parts[True]]
    return labels, [part for part in parts[False] | parts[True] if part not in labels]


def _parquet_files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += path.glob("*.parquet")
        elif path.is_file():
            files.append(path)
    return files


def _read(path: Path) -> pl.DataFrame:
    with told("tables", path):
        frame = pl.read_parquet(path)
    try:
        return conform(_with_present_names(frame), METRICS, f"metrics in {path}")
    except SetrError as error:
        raise damaged("tables", path, f"has other columns than SETR writes ({error})") from error


def _with_present_names(frame: pl.DataFrame) -> pl.DataFrame:
    """A table of an earlier version of SETR with today's columns: it has no ``overlap``, and may have
    ``adapter_version`` (a number, which is kept as it is) for ``model_version``, ``strategy`` and ``stage``.
    """
    if "overlap" not in frame.columns:
        frame = frame.with_columns(overlap=pl.lit(None, pl.String))
    if "adapter_version" in frame.columns:
        frame = frame.rename({"adapter_version": "model_version"})
    if "strategy" not in frame.columns or "stage" not in frame.columns:
        return frame
    reranker = pl.when(pl.col("stage").is_in(["random", "coarse", "external"])).then(pl.lit(""))
    return frame.with_columns(reranker.otherwise("stage").alias("stage")).rename(
        {"strategy": "method", "stage": "reranker"}
    )


def _earlier_names(line: Mapping[str, object]) -> dict[str, object]:
    """What ``method``, ``reranker`` and ``model_version`` were called before: programs that read the JSON may
    know no other names.
    """
    row, version = Row.of(line), line["model_version"]
    return {
        "strategy": row.method,
        "stage": row.stage,
        "adapter_version": number(version if isinstance(version, str) else None),
    }


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _set_table(rows: pl.DataFrame, headline: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    metrics = headline_metrics(measured_metrics(rows), headline)
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    table.add_column("re-ranker", no_wrap=True)
    for metric in metrics:
        table.add_column(Text(metric), no_wrap=True)
    cells = {
        (Row.of(row), row["metric"]): row
        for row in rows.filter(pl.col("metric").is_in(metrics)).iter_rows(named=True)
    }
    some_comparable = rows.get_column("comparable").any()
    best = {metric: _best(cells.values(), metric) for metric in metrics}
    place = positions(rows_of(rows))
    last = max(place.values(), default=0)
    versions = shown_versions(rows)
    for row in order_lines(rows, metrics[0]) if metrics else ():
        line = [cells.get((row, metric)) for metric in metrics]
        star = "*" if some_comparable and any(cell and not cell["comparable"] for cell in line) else ""
        shown = versions[row].behind(row)
        style = "bold green" if place[row] == last else "cyan"
        table.add_row(
            Text(f"{shown.method}{star}", style="dim" if row.is_random else ""),
            Text(shown.reranker, style=style) if row.reranker else Text("–", style="dim"),
            *(_cell(cell, best[metric]) for cell, metric in zip(line, metrics, strict=True)),
        )
    return table


def _title(rows: pl.DataFrame) -> str:
    parts = [
        f"{rows.item(0, 'dataset')} {rows.item(0, 'split')}",
        count_queries(max(rows.get_column("n_queries").drop_nulls().to_list(), default=0)),
    ]
    galleries = rows.get_column("gallery").drop_nulls().unique(maintain_order=True).to_list()
    parts += [f"gallery {gallery}" for gallery in galleries if gallery]
    parts += split_labels(rows)[0]
    coverage = rows.get_column("coverage").min()
    if isinstance(coverage, float) and coverage < 1:
        parts.append(f"{coverage_words(coverage)} of images")
    return " · ".join(parts) + ("" if rows.get_column("comparable").any() else " *")


def _best(rows: Collection[dict[str, object]], metric: str) -> float:
    values: Sequence[float] = [
        value for row in rows if row["metric"] == metric and isinstance(value := row["value"], float)
    ]
    return max(values, default=math.nan)


def _cell(row: dict[str, object] | None, best: float) -> Text:
    from rich.text import Text

    if row is None or not isinstance(value := row["value"], float):
        return Text("–", style="dim")
    text = Text(f"{value:5.1f}", style="bold" if value == best else "")
    low, high = row["ci_low"], row["ci_high"]
    if isinstance(low, float) and isinstance(high, float) and not lacks_interval(row):
        text.append(f" {_short(low)}–{_short(high)}", style="dim")
    return text


def _plain_cell(row: dict[str, object] | None) -> str:
    """``38.0 (33–44)``; a dash where there is no value."""
    if row is None or not isinstance(value := row["value"], float):
        return "–"
    low, high = row["ci_low"], row["ci_high"]
    if isinstance(low, float) and isinstance(high, float) and not lacks_interval(row):
        return f"{value:.1f} ({_short(low)}–{_short(high)})"
    return f"{value:.1f}"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
