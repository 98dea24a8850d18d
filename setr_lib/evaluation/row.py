"""A row: a retrieval method, and the re-ranker that re-ordered its candidates, if any.

The same in rankings, tables, reports, the leaderboard and Dagster's plots. Nothing else names methods or
re-rankers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

COLUMNS = ("method", "reranker")
"""The columns of a table that hold a row."""


@dataclass(frozen=True, order=True)
class Row:
    """A line of a table: who ranked, and who re-ranked."""

    method: str
    reranker: str = ""
    """Empty for stage 1 alone."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Row:
        """The row that a line of a METRICS table belongs to.

        Args:
            values: The line, by column.

        Returns:
            The row.
        """
        return cls(str(values["method"]), str(values["reranker"] or ""))

    @property
    def is_random(self) -> bool:
        """Whether this is the random ranker."""
        return self == RANDOM

    @property
    def coarse(self) -> Row:
        """The same method without a re-ranker."""
        return Row(self.method)

    @property
    def title(self) -> str:
        """The row in words: ``intersection``, ``intersection · adapter``."""
        return f"{self.method} · {self.reranker}" if self.reranker else self.method

    @property
    def stage(self) -> str:
        """The earlier name of what re-ranked: ``random``, ``external``, ``coarse``, or the re-ranker's
        name.
        """
        return {RANDOM: "random", EXTERNAL: "external"}.get(self, self.reranker or "coarse")


RANDOM = Row("random")
"""The ranker that knows nothing: the floor of every table."""
EXTERNAL = Row("file")
"""A ranking that was made elsewhere and read from files."""


def rows_of(metrics: pl.DataFrame) -> list[Row]:
    """The rows of a METRICS table, each once, in its order.

    Args:
        metrics: A METRICS table, of one evaluation set or several.

    Returns:
        The rows.
    """
    pairs = metrics.select(COLUMNS).unique(maintain_order=True).iter_rows()
    return [Row(str(method), str(reranker or "")) for method, reranker in pairs]


def positions(rows: Iterable[Row]) -> dict[Row, int]:
    """Where each row stands on the ladder from the random floor upwards: 0 for the floor, 1 for stage 1, then
    the re-rankers.

    Args:
        rows: Rows in the order of their table, which is the order in which settings name the re-rankers.

    Returns:
        Row to position; rows of one re-ranker share theirs.
    """
    rows = list(rows)
    rerankers = list(dict.fromkeys(row.reranker for row in rows if row.reranker))
    return {
        row: 0 if row.is_random else 2 + rerankers.index(row.reranker) if row.reranker else 1 for row in rows
    }
