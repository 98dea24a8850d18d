"""What a reader of scores must know of a small evaluation set and of values without an interval, in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import polars as pl

from setr_lib.evaluation.row import Row

SMALL = 100
"""Queries below which an evaluation set is called small: a share near a half is then known to ten percentage
points at best, which is more than most methods lie apart."""
_Z = 1.96


def small_set_words(queries: int) -> str:
    """A sentence on an evaluation set with few queries.

    Args:
        queries: Scored queries.

    Returns:
        The sentence; empty for a set of :data:`SMALL` queries or more, and for none.
    """
    if not 0 < queries < SMALL:
        return ""
    half = 100 * _Z / (2 * math.sqrt(queries + _Z * _Z))  # of Wilson's interval at a share of a half
    return (
        f"a small set, {count_queries(queries)}: a share near 50 % is known to ±{half:.0f} points, so rows "
        "that lie closer are not told apart"
    )


def count_queries(number: int) -> str:
    """A number of queries in words.

    Args:
        number: How many.

    Returns:
        ``1 query``, ``4,181 queries``.
    """
    return f"{number:,} {'query' if number == 1 else 'queries'}"


def small_set_of(rows: pl.DataFrame) -> str:
    """:func:`small_set_words` of METRICS rows.

    Args:
        rows: METRICS rows of one evaluation set.

    Returns:
        The sentence, or an empty text.
    """
    queries = rows.get_column("n_queries").max()
    return small_set_words(queries) if isinstance(queries, int) else ""


def lacks_interval(line: Mapping[str, Any]) -> bool:
    """Whether a score has no interval: none is stored, or (in a table of an earlier version) a point.

    Args:
        line: A METRICS row.

    Returns:
        False for the random floor: its interval is where random rankers land, which may be a point.
    """
    low, high = line["ci_low"], line["ci_high"]
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return True
    return low == high and not Row.of(line).is_random


def no_interval_words(rows: pl.DataFrame, metrics: Collection[str]) -> str:
    """A sentence on the scores that have no interval.

    Args:
        rows: METRICS rows of one evaluation set.
        metrics: The metrics that are shown.

    Returns:
        The sentence; empty where every score has one.
    """
    found: dict[str, int] = {}
    for line in rows.filter(pl.col("metric").is_in(list(metrics))).drop_nulls("value").iter_rows(named=True):
        if lacks_interval(line):
            found[line["metric"]] = max(found.get(line["metric"], 0), line["n_queries"] or 0)
    if not found:
        return ""
    named = ", ".join(f"{metric} ({count_queries(queries)})" for metric, queries in found.items())
    return f"no interval where every query has the same value: {named}"
