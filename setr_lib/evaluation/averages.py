"""Means over all splits of a data set, where papers report these (GeneCIS's average R@1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from setr_lib.benchmarks import SplitAverage
from setr_lib.evaluation.intervals import Interval
from setr_lib.evaluation.row import Row

Averages = Mapping[str, SplitAverage]
"""Data set -> the mean that papers report of it."""


@dataclass(frozen=True)
class MeanOfSplits:
    """A row's mean over the splits of a data set, in percent.

    Attributes:
        row: The method and the re-ranker.
        value: The unweighted mean.
        interval: 95 %; None where a split has none.
    """

    row: Row
    value: float
    interval: Interval | None

    @property
    def words(self) -> str:
        """``sum 15.2 (14.1–16.4)``."""
        around = "" if self.interval is None else f" ({self.interval.low:.1f}–{self.interval.high:.1f})"
        return f"{self.row.title} {self.value:.1f}{around}"


def means_of_splits(
    frame: pl.DataFrame, average: SplitAverage, ends: tuple[str, str] = ("ci_low", "ci_high")
) -> list[MeanOfSplits]:
    """The means of the rows that are there for every split, the best first, the random floor last.

    The interval is put together from those of the splits, which have no query in common: MOVER, the method of
    variance estimates recovery (Zou and Donner, Statistics in Medicine 27, 2008). The distance of each end
    from the mean is the root of the sum of the squared distances in the splits, divided by their number. It
    takes the splits for independent, though they may share images.

    Args:
        frame: METRICS or COMPARISON rows of one data set.
        average: The metric, and all splits.
        ends: The columns of the intervals' ends.

    Returns:
        The means; none where a split is missing.
    """
    lines: dict[Row, dict[str, tuple[float, float | None, float | None]]] = {}
    for line in frame.filter(metric=average.metric).drop_nulls("value").iter_rows(named=True):
        lines.setdefault(Row.of(line), {})[line["split"]] = line["value"], line[ends[0]], line[ends[1]]
    found = [
        _mean(row, [of_split[split] for split in average.splits])
        for row, of_split in lines.items()
        if set(of_split) >= set(average.splits)
    ]
    return sorted(found, key=lambda mean: (mean.row.is_random, -mean.value, mean.row))


def _mean(row: Row, values: Sequence[tuple[float, float | None, float | None]]) -> MeanOfSplits:
    count = len(values)
    mean = sum(value for value, _, _ in values) / count
    below = [value - low for value, low, _ in values if low is not None and math.isfinite(low)]
    above = [high - value for value, _, high in values if high is not None and math.isfinite(high)]
    if min(len(below), len(above)) < count:
        return MeanOfSplits(row, mean, None)
    return MeanOfSplits(
        row, mean, Interval(mean - math.hypot(*below) / count, mean + math.hypot(*above) / count)
    )


def average_line(
    dataset: str,
    frame: pl.DataFrame,
    averages: Averages,
    ends: tuple[str, str] = ("ci_low", "ci_high"),
    mark: str = "",
) -> str | None:
    """A data set's means over its splits, as a line below its tables.

    Args:
        dataset: Its name.
        frame: METRICS or COMPARISON rows of it.
        averages: Which data sets have such a mean.
        ends: The columns of the intervals' ends.
        mark: What marks it as not comparable with published numbers.

    Returns:
        The line; None where the data set has no such mean, or no row is there for every split.
    """
    average = averages.get(dataset)
    means = [] if average is None else means_of_splits(frame, average, ends)
    if average is None or not means:
        return None
    words = ", ".join(mean.words for mean in means)
    return f"{dataset}: average {average.metric} of {', '.join(average.splits)}{mark}: {words}"
