"""The scores of a report page: ladders, tables and headline cards, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from setr_lib.evaluation.charts import build_ladder
from setr_lib.evaluation.leaderboard import headline_metrics, measured_metrics, order_lines
from setr_lib.evaluation.model_versions import ShownVersions, shown_versions
from setr_lib.evaluation.row import Row, positions, rows_of

if TYPE_CHECKING:
    from setr_lib.evaluation.report_inputs import ReportOptions


def score_parts(metrics: pl.DataFrame, method: str, options: ReportOptions) -> dict[str, Any]:
    """Ladders, tables and headline cards; all empty for a hidden split.

    Args:
        metrics: METRICS rows of one evaluation set.
        method: The method that the page shows.
        options: They name the headline metrics, and the methods that are shown at once.

    Returns:
        Parts of the page by name. Rows come in one order, best first by the first headline metric.
    """
    names = metrics.get_column("metric").unique(maintain_order=True).to_list()
    headline = headline_metrics(measured_metrics(metrics), options.headline)
    if not headline:
        return {"ladders": [], "tables": [], "cards": [], "folded": []}
    every = order_lines(metrics, headline[0])
    order = [row for row in every if _is_shown(row, method, options)]
    rest = [row for row in every if row not in order]
    return {
        "ladders": [build_ladder(metrics, name, order) for name in headline[:2]],
        "tables": _tables(metrics, names, order),
        "folded": _tables(metrics, names, rest) if rest else [],
        "folded_methods": list(dict.fromkeys(row.method for row in rest)),
        "cards": [card for name in headline[:3] if (card := _card(metrics, name, method)) is not None],
    }


def _is_shown(row: Row, method: str, options: ReportOptions) -> bool:
    """Whether a row is shown at once, not folded."""
    return options.shown is None or row.is_random or row.method in (*options.shown, method)


def _card(metrics: pl.DataFrame, metric: str, method: str) -> dict[str, Any] | None:
    """The shown method's value of one metric, the last re-ranker's large, the way there small."""
    values = {
        row: {**line, "row": row}
        for line in metrics.filter(metric=metric).drop_nulls("value").iter_rows(named=True)
        if (row := Row.of(line)).is_random or row.method == method
    }
    position_of = positions(rows_of(metrics))
    steps = sorted(values, key=lambda row: position_of[row])
    if not steps or steps[-1].is_random:
        return None
    return {"metric": metric, "last": values[steps[-1]], "steps": [values[row] for row in steps[:-1]]}


def _tables(metrics: pl.DataFrame, names: Sequence[str], order: Sequence[Row]) -> list[dict[str, Any]]:
    """One table of the plain metrics, and one more for each metric that is broken down (``R@10/dress``)."""
    bases: dict[str, list[str]] = {"": []}
    for name in names:
        base, _, part = name.partition("/")
        bases.setdefault(base if part else "", []).append(name)
    cells = {(Row.of(line), line["metric"]): line for line in metrics.iter_rows(named=True)}
    versions = shown_versions(metrics)
    return [_table(base, columns, cells, order, versions) for base, columns in bases.items() if columns]


def _table(
    base: str,
    columns: list[str],
    cells: Mapping[tuple[Row, str], dict[str, Any]],
    order: Sequence[Row],
    versions: Mapping[Row, ShownVersions],
) -> dict[str, Any]:
    best = {name: _outstanding(cells, name) for name in columns}
    lines = []
    for row in order:
        line = [cells.get((row, name)) for name in columns]
        if any(line):
            lines.append({"row": row, "versions": versions.get(row, ShownVersions()), "cells": line})
    return {
        "base": base,
        "columns": [name.partition("/")[2] or name for name in columns],
        "best": [best[name] for name in columns],
        "lines": lines,
    }


def _outstanding(cells: Mapping[tuple[Row, str], dict[str, Any]], metric: str) -> float | None:
    """The best value of ``metric``; None where all lines have the same, so that nothing stands out."""
    measured = (line["value"] for (row, name), line in cells.items() if name == metric and not row.is_random)
    values = set(measured) - {None}
    return max(values) if len(values) > 1 else None
