"""The table that compares methods and re-rankers: its lines, and how it is printed, as a terminal's table,
Markdown, CSV or JSON.

A line is a method, and the re-ranker that re-ordered its candidates, if any. Columns are the headline metrics
of every evaluation set that was compared. Nothing here computes a metric.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from setr_lib.escaping import csv_cell, markdown
from setr_lib.evaluation.averages import Averages, average_line
from setr_lib.evaluation.leaderboard import Headlines, headline_metrics, measured_metrics, split_labels
from setr_lib.evaluation.row import Row
from setr_lib.tables import COMPARISON, conform

if TYPE_CHECKING:
    from rich.table import Table


NO_WIDTH = "†"
"""The mark of a value without an interval."""
STAR = "*"
"""The mark of an evaluation set with rows that are not comparable with published numbers."""


@dataclass(frozen=True)
class Cost:
    """What one query costs.

    Attributes:
        ms: Milliseconds.
        calls: Calls of the multimodal LLM: texts that it writes, and candidates that it judges.
    """

    ms: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.ms + other.ms, self.calls + other.calls)


@dataclass(frozen=True, order=True)
class Column:
    """A metric of an evaluation set."""

    dataset: str
    split: str
    metric: str

    @property
    def title(self) -> str:
        """``cirr val R@1``."""
        return f"{self.dataset} {self.split} {self.metric}"


@dataclass(frozen=True)
class Value:
    """A score in percent, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def has_no_width(self) -> bool:
        """Whether there is no interval: every query has the same value (in a table of an earlier version, the
        interval is then a point). That says nothing of other queries.
        """
        return not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low == self.high

    @property
    def words(self) -> str:
        """``38.0 (33-44)``; marked where there is no interval."""
        if self.has_no_width:
            return f"{self.value:.1f}{NO_WIDTH}"
        return f"{self.value:.1f} ({self.low:.0f}–{self.high:.0f})"


@dataclass
class Line:
    """A compared row: what it is, its scores, and what a query costs.

    Attributes:
        row: The method and the re-ranker.
        label: What it has learned from.
        source: Where the method was published.
        model_version: The registered models that it used.
        values: Its scores.
        ms_per_query: Milliseconds of a query, the mean over the sets; None for the random floor.
        llm_calls: Calls of the multimodal LLM for a query, likewise.
    """

    row: Row
    label: str
    source: str
    model_version: str
    values: dict[Column, Value] = field(default_factory=dict)
    ms_per_query: float | None = None
    llm_calls: float | None = None


def columns_of(frame: pl.DataFrame, headlines: Headlines, most: int | None = None) -> list[Column]:
    """The headline metrics of every compared evaluation set.

    Args:
        frame: A COMPARISON table.
        headlines: Data set -> its headline metrics.
        most: Metrics of each set at most; None for all.

    Returns:
        The columns, sets in the order of the table.
    """
    sets = frame.group_by("dataset", "split", maintain_order=True)
    return [
        Column(str(dataset), str(split), metric)
        for (dataset, split), rows in sets
        for metric in headline_metrics(measured_metrics(rows), headlines.get(str(dataset), ()))[:most]
    ]


def lines_of(frame: pl.DataFrame, columns: Sequence[Column]) -> list[Line]:
    """The compared rows, the best first, by the mean of the first metric of each set. Rows that are on fewer
    sets follow those that are on more, as their means are of other sets; the random floor is last.

    Args:
        frame: A COMPARISON table.
        columns: The metrics to show.

    Returns:
        The lines.
    """
    lines: dict[Row, Line] = {}
    costs: dict[Row, dict[tuple[str, str], tuple[float | None, float | None]]] = {}
    for entry in frame.iter_rows(named=True):
        row = Row.of(entry)
        line = lines.setdefault(
            row, Line(row, entry["label"] or "", entry["source"] or "", entry["model_version"] or "")
        )
        costs.setdefault(row, {})[entry["dataset"], entry["split"]] = (
            entry["ms_per_query"],
            entry["llm_calls"],
        )
        column = Column(entry["dataset"], entry["split"], entry["metric"])
        if column in columns and entry["value"] is not None:
            low, high = (math.nan if entry[end] is None else entry[end] for end in ("low", "high"))
            line.values[column] = Value(entry["value"], low, high)
    for row, line in lines.items():
        line.ms_per_query = _mean([ms for ms, _ in costs[row].values()])
        line.llm_calls = _mean([calls for _, calls in costs[row].values()])
    firsts = list({(column.dataset, column.split): column for column in reversed(columns)}.values())

    def order(line: Line) -> tuple[bool, int, float, Row]:
        values = [line.values[column].value for column in firsts if column in line.values]
        mean = sum(values) / len(values) if values else 0.0
        return line.row.is_random, -len(values), -mean, line.row

    return sorted(lines.values(), key=order)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def cost_words(value: float | None) -> str:
    """A cost in a table: ``3.2``, ``410``, ``12,300``; a dash where there is none.

    Args:
        value: Milliseconds, or calls.

    Returns:
        The words.
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def comparison_table(frame: pl.DataFrame, headlines: Headlines) -> Table:
    """The comparison as ``rich`` prints it: one line per row, the first headline metric of each set.

    Args:
        frame: A COMPARISON table.
        headlines: Data set -> its headline metrics.

    Returns:
        Something that a ``rich`` console prints; sources are left to :func:`source_lines`.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns, starred = columns_of(frame, headlines, most=1), _not_comparable(frame)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("re-ranker", no_wrap=True)
    table.add_column("label")
    for column in columns:
        name = f"{column.dataset}{_star(column, starred)}\n{column.split} {column.metric}"
        table.add_column(Text(name), no_wrap=True, justify="right")
    table.add_column("ms per\nquery", no_wrap=True, justify="right")
    table.add_column("LLM\ncalls", no_wrap=True, justify="right")
    lines = lines_of(frame, columns)
    best = {
        column: max(line.values[column].value for line in lines if column in line.values)
        for column in columns
    }
    for line in lines:
        cells = [
            Text(value.words, style="bold" if value.value == best[column] else "")
            if (value := line.values.get(column))
            else Text("–", style="dim")
            for column in columns
        ]
        table.add_row(
            Text(line.row.method, style="dim" if line.row.is_random else ""),
            Text(line.row.reranker or "–", style="cyan" if line.row.reranker else "dim"),
            Text(line.label.split("; ")[0]),
            *cells,
            Text(cost_words(line.ms_per_query)),
            Text(cost_words(line.llm_calls)),
        )
    return table


def footnotes(frame: pl.DataFrame, headlines: Headlines) -> list[str]:
    """What the marks in a comparison's table mean.

    Args:
        frame: A COMPARISON table.
        headlines: Data set -> its headline metrics.

    Returns:
        A sentence for each mark that is there.
    """
    reasons = [f"{' '.join(key)}: {why}" for key, why in _not_comparable(frame).items()]
    sentences = [f"{STAR} not comparable with published numbers: {' · '.join(reasons)}"] if reasons else []
    lines = lines_of(frame, columns_of(frame, headlines))
    if not any(value.has_no_width for line in lines for value in line.values.values()):
        return sentences
    return [
        *sentences,
        f"{NO_WIDTH} no interval: every query has this value; other queries may do otherwise",
    ]


def _not_comparable(frame: pl.DataFrame) -> dict[tuple[str, str], str]:
    """Why evaluation sets have rows that are not comparable, by data set and split."""
    found: dict[tuple[str, str], str] = {}
    for (dataset, split), rows in frame.group_by("dataset", "split", maintain_order=True):
        if reasons := split_labels(rows)[1]:
            found[str(dataset), str(split)] = "; ".join(reasons)
    return found


def _star(column: Column, starred: Mapping[tuple[str, str], str]) -> str:
    return f" {STAR}" if (column.dataset, column.split) in starred else ""


def average_lines(frame: pl.DataFrame, averages: Averages) -> list[str]:
    """The means over all splits of the data sets that have one, where all were compared.

    Args:
        frame: A COMPARISON table.
        averages: Data sets whose mean over all splits papers report (``setr_lib.benchmarks.averages``).

    Returns:
        A line for each.
    """
    starred = {dataset for dataset, _ in _not_comparable(frame)}
    lines = [
        average_line(
            str(dataset), rows, averages, ("low", "high"), f" {STAR}" if str(dataset) in starred else ""
        )
        for (dataset,), rows in frame.group_by("dataset", maintain_order=True)
    ]
    return [line for line in lines if line is not None]


def source_lines(frame: pl.DataFrame) -> list[str]:
    """Where each method was published, one line each.

    Args:
        frame: A COMPARISON table.

    Returns:
        ``method: source``, in the order of the table.
    """
    pairs = frame.select("method", "source").unique(maintain_order=True).iter_rows()
    return [f"{method}: {source}" for method, source in pairs if source]


def as_markdown(frame: pl.DataFrame, headlines: Headlines) -> str:
    """The comparison as a table in Markdown, with every headline metric and the sources.

    Args:
        frame: A COMPARISON table.
        headlines: Data set -> its headline metrics.

    Returns:
        The lines of the table.
    """
    columns, starred = columns_of(frame, headlines), _not_comparable(frame)
    titles = [f"{markdown(column.title)}{_star(column, starred)}" for column in columns]
    names = ["method", "re-ranker", "label", *titles]
    names += ["ms per query", "LLM calls", "source"]
    rows = [
        [
            line.row.method,
            line.row.reranker or "–",
            line.label.split("; ")[0],
            *(line.values[column].words if column in line.values else "–" for column in columns),
            cost_words(line.ms_per_query),
            cost_words(line.llm_calls),
            line.source,
        ]
        for line in lines_of(frame, columns)
    ]
    right = {*titles, "ms per query", "LLM calls"}
    rule = ["--:" if name in right else "---" for name in names]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, rule, *map(_escaped, rows)))


def _escaped(cells: Sequence[str]) -> list[str]:
    return [markdown(cell) for cell in cells]


def as_json(frame: pl.DataFrame) -> str:
    """The comparison as JSON, for programs.

    Args:
        frame: A COMPARISON table.

    Returns:
        One array of objects, one per row and metric; a number that is not finite becomes null.
    """
    rows = [
        {name: _plain(value) for name, value in line.items()}
        for line in conform(frame, COMPARISON, "the comparison").to_dicts()
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)


def as_csv(frame: pl.DataFrame) -> str:
    """The comparison as CSV with a header line; what is unknown is empty. A text that a spreadsheet would
    compute has an apostrophe before it.

    Args:
        frame: A COMPARISON table.

    Returns:
        The text.
    """
    table = conform(frame, COMPARISON, "the comparison").fill_nan(None)
    texts = pl.col(pl.String).map_elements(csv_cell, return_dtype=pl.String)
    return table.with_columns(texts).write_csv()


def compared_rows(
    metrics: pl.DataFrame, described: Mapping[str, tuple[str, str]], costs: Mapping[Row, Cost]
) -> pl.DataFrame:
    """The lines of one evaluation set.

    Args:
        metrics: Its METRICS rows.
        described: (label, source) of each method, by name.
        costs: What a query costs, by row.

    Returns:
        A COMPARISON table.
    """
    rows: list[dict[str, object]] = []
    for entry in metrics.iter_rows(named=True):
        row = Row.of(entry)
        label, source = described.get(row.method, (entry["label"] or "", ""))
        cost = costs.get(row)
        rows.append(
            {
                **{name: entry[name] for name in ("dataset", "split", "metric", "value", "model_version")},
                "method": row.method,
                "reranker": row.reranker,
                "low": entry["ci_low"],
                "high": entry["ci_high"],
                "label": _label(label, entry, row),
                "source": source,
                "ms_per_query": cost.ms if cost else None,
                "llm_calls": cost.calls if cost else None,
            }
        )
    return (
        conform(pl.DataFrame(rows, schema_overrides=COMPARISON), COMPARISON, "the comparison")
        if rows
        else (COMPARISON.to_frame())
    )


def _label(of_method: str, entry: Mapping[str, Any], row: Row) -> str:
    """The row's label; of stage 1 alone, without weights that were trained here, what the method says of
    itself in place of its first words.
    """
    of_row: str = entry["label"] or ""
    first, *rest = of_row.split("; ")
    if row.reranker or row.is_random or entry["overlap"] is not None:
        return of_row
    derived = [part for part in first.split(", ")[1:] if part.endswith(" derived")]
    return "; ".join([", ".join([of_method, *derived]), *rest])


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
