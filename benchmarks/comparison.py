"""Rows that are compared query by query: values, intervals, paired differences, and whether a ladder is in
order.

Pure functions of ``PER_QUERY`` frames (``setr_lib.evaluation.metrics``), each of one metric. Numbers are
percentages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from setr_lib.evaluation.intervals import (
    Interval,
    bootstrap_intervals,
    paired_differences,
    query_intervals,
)
from setr_lib.evaluation.metrics import summarise
from setr_lib.pipeline.reranking import ADAPTER, BASE

LEVELS = (
    ("random",),
    ("image", "text"),
    ("sum", "product"),
    ("union_text",),
    ("intersection",),
    ("intersection_anchor",),
    (BASE,),
    (ADAPTER,),
    ("oracle",),
)
"""The rungs from the lowest to the highest as the method claims them; rungs of one level claim nothing of
each other."""
RERANKED = {BASE: "intersection"}
"""A rung that is made from another one is compared with that one, wherever it stands."""
CLAIMS = (
    ("intersection", "sum"),
    ("intersection", "union_text"),
    (ADAPTER, "intersection"),
    (ADAPTER, BASE),
)
"""What SETR says of its two stages: the first of each pair is far above the second."""
RUNGS = tuple(rung for level in LEVELS for rung in level)
NAMES = {
    "random": "random order",
    "image": "image only",
    "text": "text only",
    "union_text": "union text",
    "intersection_anchor": "intersection with anchor",
    BASE: "intersection + base judge",
    ADAPTER: "intersection + adapter",
    "oracle": "oracle: true composition + perfect judge",
}
BROKEN, UNCERTAIN = "✗", "≈"


@dataclass(frozen=True)
class Gap:
    """A value less that of the row ``over``, on the same queries, with its 95 % interval."""

    over: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """One cell. ``mark``: ``BROKEN`` (below a lower rung), ``UNCERTAIN`` (the gap's interval has zero in it),
    or none.
    """

    value: float
    low: float
    high: float
    gap: Gap | None = None
    mark: str = ""


@dataclass(frozen=True)
class Break:
    """A rung whose value is below that of a rung of a lower level: ``gap.over`` is the highest of those."""

    column: str
    rung: str
    value: float
    above: float
    gap: Gap

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Break:
        """The break that ``asdict`` made a mapping of.

        Args:
            values: The mapping.

        Returns:
            The break.
        """
        return cls(**{**values, "gap": Gap(**values["gap"])})

    @property
    def sentence(self) -> str:
        """What can be said of it without knowing why."""
        certain = (
            "beyond what another choice of queries would turn" if self.gap.high < 0 else "within the noise"
        )
        return (
            f"**{self.column}**: {name_of(self.rung)} ({self.value:.1f}) is below {name_of(self.gap.over)} "
            f"({self.above:.1f}): {_signed(self.gap.value)} ({_range(self.gap.low, self.gap.high)}), "
            f"{certain}."
        )


@dataclass(frozen=True)
class Row:
    """A line of the table: a cell for each column that it has a value in."""

    label: str
    cells: dict[str, Score]


@dataclass(frozen=True)
class Section:
    """Rows under a heading of their own."""

    title: str
    rows: list[Row]


def name_of(rung: str) -> str:
    """A rung's name in the tables.

    Args:
        rung: The rung.

    Returns:
        The words.
    """
    return NAMES.get(rung, rung)


def value_of(per_query: pl.DataFrame) -> float:
    """The mean of one metric.

    Args:
        per_query: A PER_QUERY frame of one metric.

    Returns:
        Percent.
    """
    (value,) = summarise(per_query).values()
    return 100 * value


def interval_of(per_query: pl.DataFrame, samples: int, seed: int) -> Interval:
    """The interval of one metric: the bootstrap's; where that has no width, Wilson's of a recall.

    Args:
        per_query: A PER_QUERY frame of one metric.
        samples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        Percent; a point for a metric that is no recall and has the same value for every query.
    """
    (name,) = per_query["metric"].unique()
    recalls = {name.partition("/")[0]} if name.startswith(("R@", "R_subset@")) else set[str]()
    found = query_intervals(per_query, recalls, samples=samples, seed=seed)[name]
    interval = found or bootstrap_intervals(per_query, samples=samples, seed=seed)[name]
    return Interval(100 * interval.low, 100 * interval.high)


def gap_to(
    over: str,
    a: pl.DataFrame,
    measured: Mapping[str, pl.DataFrame],
    known: Mapping[str, Interval],
    samples: int,
    seed: int,
) -> Gap:
    """The gap of a row to a lower rung whose interval may be known; what lies in that interval may then be no
    gap.

    A row of no hits at all has a paired difference of no width to another such row, though half of all random
    orders have none either.

    Args:
        over: The lower rung.
        a: A PER_QUERY frame of one metric.
        measured: Rung -> the like.
        known: Rung -> an interval (percent) that is not a bootstrap's.
        samples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        The gap, in percentage points.
    """
    gap = gap_between(a, measured[over], over, samples, seed)
    if over not in known:
        return gap
    value = value_of(a)
    return Gap(
        over, gap.value, min(gap.low, value - known[over].high), max(gap.high, value - known[over].low)
    )


def gap_between(a: pl.DataFrame, b: pl.DataFrame, over: str, samples: int, seed: int) -> Gap:
    """The gap of two rows over the same queries.

    Args:
        a: A PER_QUERY frame of one metric.
        b: The like of the other row.
        over: The other row's name.
        samples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        ``a`` less ``b``, in percentage points.
    """
    (found,) = paired_differences(a, b, samples=samples, seed=seed).values()
    return Gap(over, *(100 * part for part in found))


def compared_with(rung: str, values: Mapping[str, float]) -> str | None:
    """The rung that a rung is compared with: the best of the level before it that has a value.

    Args:
        rung: The rung.
        values: Rung -> percent.

    Returns:
        The other rung; None for the lowest level.
    """
    if RERANKED.get(rung) in values:
        return RERANKED[rung]
    lower = [[other for other in level if other in values] for level in LEVELS[: _level(rung)]]
    nearest = next((level for level in reversed(lower) if level), None)
    return max(nearest, key=values.__getitem__) if nearest else None


def best_below(rung: str, values: Mapping[str, float]) -> str | None:
    """The highest rung of all lower levels.

    Args:
        rung: The rung.
        values: Rung -> percent.

    Returns:
        The other rung; None for the lowest level.
    """
    lower = [other for level in LEVELS[: _level(rung)] for other in level if other in values]
    return max(lower, key=values.__getitem__) if lower else None


def _level(rung: str) -> int:
    return next(number for number, level in enumerate(LEVELS) if rung in level)


def climb(
    column: str,
    measured: Mapping[str, pl.DataFrame],
    samples: int,
    seed: int,
    known: Mapping[str, Interval] | None = None,
) -> tuple[dict[str, Score], list[Break]]:
    """The scores of one column by rung, and where its order breaks.

    Args:
        column: The column's heading.
        measured: Rung -> PER_QUERY frame of one metric.
        samples: Draws of the bootstrap.
        seed: Of the draws.
        known: Rung -> an interval (percent) that is not a bootstrap's, as chance's is.

    Returns:
        Rung -> score, and the breaks.
    """
    values = {rung: value_of(measured[rung]) for rung in RUNGS if rung in measured}
    known = known or {}
    scores: dict[str, Score] = {}
    breaks: list[Break] = []
    for rung, value in values.items():
        interval = known.get(rung) or interval_of(measured[rung], samples, seed)
        over, best = compared_with(rung, values), best_below(rung, values)
        gap = gap_to(over, measured[rung], measured, known, samples, seed) if over else None
        broken = best is not None and value < values[best]
        if best is not None and broken:
            against = gap_to(best, measured[rung], measured, known, samples, seed)
            breaks.append(Break(column, rung, value, values[best], against))
        scores[rung] = Score(value, *interval, gap, _mark(gap, broken))
    return scores, breaks


def _mark(gap: Gap | None, broken: bool) -> str:
    if broken:
        return BROKEN
    return UNCERTAIN if gap is not None and gap.low <= 0 else ""


def beside(
    per_query: pl.DataFrame, reference: pl.DataFrame | None, over: str, samples: int, seed: int
) -> Score:
    """A cell of an ablation: its value, and the gap to a reference row.

    Args:
        per_query: A PER_QUERY frame of one metric.
        reference: The like of the reference row; None for that row itself.
        over: The reference row's name.
        samples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        The cell.
    """
    gap = None if reference is None else gap_between(per_query, reference, over, samples, seed)
    return Score(value_of(per_query), *interval_of(per_query, samples, seed), gap)


def markdown(sections: Iterable[Section], columns: Sequence[str]) -> str:
    """All sections as one Markdown table; each opens with a line that has its title alone.

    Args:
        sections: The sections.
        columns: The headings.

    Returns:
        The table.
    """
    lines = [["", *columns], ["---", *["---"] * len(columns)]]
    for section in sections:
        lines.append([f"**{section.title}**", *[""] * len(columns)])
        lines += [[row.label, *(_cell(row.cells.get(column)) for column in columns)] for row in section.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    text = f"**{score.value:.1f}** {_range(score.low, score.high)}"
    if score.gap is not None:
        text += f"<br>{_signed(score.gap.value)} ({_range(score.gap.low, score.gap.high)})"
    return f"{text} {score.mark}".rstrip()


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _range(low: float, high: float) -> str:
    return f"{low:.1f} to {high:.1f}".replace("-", "−")


def as_json(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """Sections as a JSON value, for :func:`from_json`.

    Args:
        sections: The sections.

    Returns:
        The value.
    """
    return [asdict(section) for section in sections]


def from_json(values: Iterable[Mapping[str, Any]]) -> list[Section]:
    """The sections that :func:`as_json` made a JSON value of.

    Args:
        values: The value.

    Returns:
        The sections.
    """
    return [
        Section(
            section["title"],
            [
                Row(row["label"], {name: _score(cell) for name, cell in row["cells"].items()})
                for row in section["rows"]
            ],
        )
        for section in values
    ]


def _score(cell: Mapping[str, Any]) -> Score:
    gap = cell["gap"]
    return Score(**{**cell, "gap": None if gap is None else Gap(**gap)})
