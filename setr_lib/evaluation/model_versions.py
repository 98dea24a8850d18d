"""The column ``model_version`` of METRICS: the versions of registered models that a row was made with, e.g.
``setr-reranker 3``, or ``setr-line 2, setr-reranker 3`` where a trained method's candidates were re-ranked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from setr_lib.evaluation.row import COLUMNS, Row

if TYPE_CHECKING:
    import polars as pl

_BETWEEN = ", "


class ShownVersions(NamedTuple):
    """What tables and pages show behind the names of a row: ``v3``, or nothing."""

    method: str = ""
    reranker: str = ""

    def behind(self, row: Row) -> Row:
        """A row's names with the versions behind them, for people.

        Args:
            row: The row.

        Returns:
            Its method and re-ranker, e.g. ``intersection`` and ``adapter v3``.
        """
        return Row(
            f"{row.method} {self.method}".rstrip(),
            f"{row.reranker} {self.reranker}" if self.reranker else row.reranker,
        )


def in_words(used: Iterable[tuple[str, str | None]]) -> str | None:
    """The value of the column.

    Args:
        used: Registered model and version, the method's first; without a version it is left out.

    Returns:
        The text; None where no registered model was used.
    """
    return _BETWEEN.join(f"{model} {version}" for model, version in used if version is not None) or None


def number(text: str | None) -> str | None:
    """The number of the last version in a text of the column: the re-ranker's, where it has one.

    Args:
        text: A value of the column.

    Returns:
        The number, e.g. ``"3"``.
    """
    return None if text is None else text.rpartition(" ")[2]


def shown_versions(metrics: pl.DataFrame) -> dict[Row, ShownVersions]:
    """What to show behind the names of each row. A registered model that the method's row without a
    re-ranker has, too, is the method's; another is the re-ranker's.

    Args:
        metrics: METRICS rows of one evaluation set.

    Returns:
        The versions of every row.
    """
    lines = metrics.select(*COLUMNS, "model_version").unique(maintain_order=True).iter_rows(named=True)
    used: dict[Row, dict[str, str]] = {}
    for line in lines:
        pieces = (line["model_version"] or "").split(_BETWEEN)
        versions = {model: f"v{version}" for model, _, version in (piece.rpartition(" ") for piece in pieces)}
        used.setdefault(Row.of(line), {}).update(
            {model: text for model, text in versions.items() if text != "v"}
        )
    return {row: _shown(row, versions, used.get(row.coarse, {})) for row, versions in used.items()}


def _shown(row: Row, versions: dict[str, str], of_method: dict[str, str]) -> ShownVersions:
    # A table of an earlier version of SETR names no model: its number is the re-ranker's, where there is one.
    is_methods = {model: not row.reranker or (model != "" and model in of_method) for model in versions}
    mine = [text for model, text in versions.items() if is_methods[model]]
    others = [text for model, text in versions.items() if not is_methods[model]]
    return ShownVersions(_BETWEEN.join(mine), _BETWEEN.join(others))
