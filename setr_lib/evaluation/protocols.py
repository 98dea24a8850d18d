"""What a benchmark reports of given queries: its metrics, then those of single categories and aspects. No
computation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from setr_lib.benchmarks import Benchmark, Metric
from setr_lib.errors import SetrError


class ProtocolError(SetrError):
    """Queries or a gallery that do not fit their benchmark."""


@dataclass(frozen=True)
class Reported:
    """One number of a benchmark's tables: a metric, of all queries or of those of one category or aspect."""

    metric: Metric
    part: str = ""
    """The category or aspect; empty for all queries."""
    parts: Literal["", "gallery", "aspects"] = ""
    """The column of ``tables.QUERIES`` that ``part`` is in."""

    @property
    def name(self) -> str:
        """``R@10``, or ``R@10/dress`` for a part."""
        return f"{self.metric.name}/{self.part}" if self.part else self.metric.name

    def members(self, queries: pl.DataFrame) -> pl.Series:
        """The queries that count for this number.

        Args:
            queries: ``tables.QUERIES``, n rows.

        Returns:
            n flags.
        """
        if self.parts == "aspects":
            return queries["aspects"].list.contains(self.part)
        if self.parts == "gallery":
            return queries["gallery"] == self.part
        return pl.repeat(True, queries.height, eager=True)


def reported_metrics(benchmark: Benchmark, queries: pl.DataFrame) -> list[Reported]:
    """All that ``benchmark`` reports of ``queries``, in the order of its tables.

    Args:
        benchmark: Names the metrics, and which are broken down by category or aspect.
        queries: ``tables.QUERIES``; the categories and aspects are those that occur in it.

    Returns:
        The metrics of all queries, then those of each category, then those of each aspect.
    """
    found = [Reported(metric) for metric in benchmark.metrics]
    if benchmark.categories:
        categories = queries["gallery"].unique(maintain_order=True)
        found += [Reported(metric, part, "gallery") for part in categories for metric in benchmark.metrics]
    if benchmark.aspect_metrics:
        aspects = queries["aspects"].explode().drop_nulls().unique().sort()
        chosen = [metric for metric in benchmark.metrics if metric.name in benchmark.aspect_metrics]
        found += [Reported(metric, part, "aspects") for metric in chosen for part in aspects]
    return found


def scored_queries(queries: pl.DataFrame) -> pl.DataFrame:
    """The queries whose targets are known; none of a hidden split.

    Args:
        queries: ``tables.QUERIES``.

    Returns:
        Its rows with at least one target.
    """
    return queries.filter(pl.col("target_ids").list.len() > 0)
