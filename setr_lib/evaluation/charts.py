"""Geometry of a report's charts: bars and intervals as numbers between 0 and 100, which the template draws.

Belongs here: scales, ticks and the numbers of single marks. Words beside the marks are HTML in the template,
so that they stay readable at any width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from setr_lib.evaluation.cautions import count_queries
from setr_lib.evaluation.row import Row, positions, rows_of


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """``a`` minus ``b`` on the same queries, in percentage points, with its 95 % interval."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    queries: int = 0
    """Queries that both were measured on; 0 where that is not known."""

    @property
    def alike(self) -> str:
        """What is said in place of an interval where every query has the same difference; empty elsewhere."""
        if self.high > self.low:
            return ""
        of = f"in {count_queries(self.queries)}" if self.queries else "in any query"
        return f"the same {of}" if self.difference else f"no difference seen {of}"

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "not distinguishable"


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of the axis: where (0..100) and what it says."""

    position: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a ladder. Lengths are shares of the axis in percent; ``low`` and ``high`` are None without
    interval.
    """

    row: Row
    position: int
    """Where the row stands: 0 the random floor, 1 stage 1, then the re-rankers in their order."""
    value: float
    interval: tuple[float, float] | None
    length: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Ladder:
    """One metric of all rows, in their order; ``floor`` is the random floor's place on the axis."""

    metric: str
    bars: list[Bar]
    ticks: list[Tick]
    floor: float | None
    floor_value: float | None


@dataclass(frozen=True, slots=True)
class Whisker:
    """A paired difference on an axis that runs from 0 to 100 with no difference at ``zero``."""

    row: PairedDifference
    point: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Forest:
    """All paired differences on one axis."""

    whiskers: list[Whisker]
    ticks: list[Tick]
    zero: float


def build_ladder(metrics: pl.DataFrame, metric: str, order: Sequence[Row]) -> Ladder:
    """The bars of one metric, one for each row.

    Args:
        metrics: METRICS rows of one evaluation set (percent).
        metric: The metric that is drawn.
        order: The rows from top to bottom.

    Returns:
        Bars and ticks, as shares of the axis in percent.
    """
    lines = {
        Row.of(line): line
        for line in metrics.filter(pl.col("metric") == metric).drop_nulls("value").iter_rows(named=True)
    }
    position_of = positions(rows_of(metrics))
    present = [lines[row] for row in order if row in lines]
    highest = max((_finite(row["ci_high"]) or row["value"] for row in present), default=0.0)
    ticks = nice_ticks(0.0, min(100.0, highest) or 1.0)
    top = ticks[-1]
    floor = next((line["value"] for line in present if Row.of(line).is_random), None)
    return Ladder(
        metric=metric,
        bars=[_bar(line, position_of[Row.of(line)], top) for line in present],
        ticks=[Tick(100 * value / top, _number(value)) for value in ticks],
        floor=None if floor is None else 100 * floor / top,
        floor_value=floor,
    )


def build_forest(rows: Iterable[PairedDifference]) -> Forest:
    """Paired differences as intervals around zero.

    Args:
        rows: The differences, in percentage points; those with a value that is not finite are left out.

    Returns:
        Intervals and ticks, as places on an axis from 0 to 100.
    """
    kept = [row for row in rows if all(map(math.isfinite, (row.difference, row.low, row.high)))]
    low = min([0.0, *(row.low for row in kept)])
    high = max([0.0, *(row.high for row in kept)])
    ticks = nice_ticks(low, high if high > low else low + 1.0)
    start, span = ticks[0], ticks[-1] - ticks[0]

    def position(value: float) -> float:
        return 100 * (value - start) / span

    return Forest(
        whiskers=[
            Whisker(row, position(row.difference), position(row.low), position(row.high)) for row in kept
        ],
        ticks=[Tick(position(value), f"{value:+g}" if value else "0") for value in ticks],
        zero=position(0.0),
    )


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that span a range in equal steps.

    Args:
        low: Lower end of the range.
        high: Upper end of the range, above ``low``.
        most: The range takes about so many steps at most.

    Returns:
        From at or below ``low`` to at or above ``high``, ascending.
    """
    rough = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10, 20) if scale * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def _bar(line: dict[str, object], position: int, top: float) -> Bar:
    value, low, high = (_finite(line[name]) for name in ("value", "ci_low", "ci_high"))
    interval = None if low is None or high is None else (low, high)
    return Bar(
        row=Row.of(line),
        position=position,
        value=value or 0.0,
        interval=interval,
        length=100 * (value or 0.0) / top,
        low=None if interval is None else 100 * interval[0] / top,
        high=None if interval is None else 100 * interval[1] / top,
    )


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _number(value: float) -> str:
    return f"{value:g}"
