"""All queries of an evaluation set as a table of its report page, and as CSV and JSON files beside it.

A row is a plain line of HTML, so that the table is read without a script; the page's own script sorts,
filters and searches what is there. Pictures are links to their files, relative to the page.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from setr_lib.escaping import csv_cell

COLUMNS = (
    "query_id",
    "reference_id",
    "modification",
    "target_ids",
    "rank_before",
    "rank_after",
    "kind",
    "detail",
    "left_out",
    "aspects",
    "first_image",
)
"""The columns of the files."""
_SEPARATOR = " | "
"""Between the parts of a list in a cell of the CSV file."""


@dataclass(frozen=True, slots=True)
class QueryLine:
    """A row of the table. ``case`` is the element on the page that shows the query whole, if any."""

    query_id: str
    modification: str
    rank_before: int | None
    rank_after: int | None
    kind: str
    detail: str
    aspects: list[str]
    pictures: list[tuple[str, str]]
    """What it is (``reference``), and the file's address from the page."""
    case: str
    left_out: list[str]
    """What the text asks for and the composition leaves out."""


def joined_failures(queries: pl.DataFrame, failures: pl.DataFrame) -> pl.DataFrame:
    """The queries with what became of them.

    Args:
        queries: A QUERIES table.
        failures: A FAILURES table of the same queries.

    Returns:
        :data:`COLUMNS` and ``gallery``, a row for each query.
    """
    found = failures.select(
        "query_id", "rank_before", "rank_after", "kind", "detail", "left_out", "first_image"
    )
    rows = queries.join(found, on="query_id", how="left", maintain_order="left")
    return rows.select(*COLUMNS, "gallery").with_columns(
        pl.col("kind", "detail").fill_null(""), pl.col("left_out").fill_null([])
    )


def query_lines(
    rows: pl.DataFrame, paths: Mapping[str, str], page: Path, cases: Mapping[str, str]
) -> list[QueryLine]:
    """The rows of the table.

    Args:
        rows: What :func:`joined_failures` gives.
        paths: The file of each image, by id; others have no link.
        page: The folder of the page.
        cases: The elements that show single queries whole, by query.

    Returns:
        The rows, in the order of the queries.
    """
    addresses = _Addresses(paths, page)
    return [
        QueryLine(
            query_id=row["query_id"],
            modification=row["modification"],
            rank_before=row["rank_before"],
            rank_after=row["rank_after"],
            kind=row["kind"],
            detail=row["detail"],
            aspects=_aspects(row),
            pictures=addresses.of(
                {
                    "reference": row["reference_id"],
                    "target": next(iter(row["target_ids"]), None),
                    "first": row["first_image"],
                }
            ),
            case=cases.get(row["query_id"], ""),
            left_out=row["left_out"],
        )
        for row in rows.iter_rows(named=True)
    ]


def as_csv(rows: pl.DataFrame) -> str:
    """The queries as CSV, for a spreadsheet: no cell is a formula, lists are joined by ``|``.

    Args:
        rows: What :func:`joined_failures` gives.

    Returns:
        The text of the file.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows.select(COLUMNS).iter_rows():
        writer.writerow([csv_cell(_cell(value)) for value in row])
    return out.getvalue()


def as_json(rows: pl.DataFrame) -> str:
    """The queries as JSON, for programs.

    Args:
        rows: What :func:`joined_failures` gives.

    Returns:
        An array of objects, a line for each.
    """
    lines = (json.dumps(row, ensure_ascii=False) for row in rows.select(COLUMNS).iter_rows(named=True))
    return "[\n" + ",\n".join(lines) + "\n]\n"


def distinct_aspects(lines: Iterable[QueryLine]) -> list[str]:
    """What the table can be filtered by.

    Args:
        lines: The rows.

    Returns:
        Each aspect once, sorted.
    """
    return sorted({aspect for line in lines for aspect in line.aspects})


def _aspects(row: Mapping[str, Any]) -> list[str]:
    """The query's aspects, and before them its gallery where there are several (a category) and it is not the
    query's own (GeneCIS).
    """
    gallery = row["gallery"]
    category = [gallery] if gallery and gallery not in ("all", row["query_id"]) else []
    return [*category, *(aspect.replace("_", " ") for aspect in row["aspects"])]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _SEPARATOR.join(map(str, value))
    return str(value)


class _Addresses:
    """Addresses of image files from a page, each computed once."""

    def __init__(self, paths: Mapping[str, str], page: Path) -> None:
        self._paths, self._page = paths, page.absolute()
        self._known: dict[str, str | None] = {}

    def of(self, images: Mapping[str, str | None]) -> list[tuple[str, str]]:
        """(what, address) of the images that have a file."""
        found = [(what, self._address(image)) for what, image in images.items() if image is not None]
        return [(what, address) for what, address in found if address is not None]

    def _address(self, image: str) -> str | None:
        if image not in self._known:
            path = self._paths.get(image)
            self._known[image] = relative_address(path, self._page) if path else None
        return self._known[image]


def relative_address(path: str | Path, folder: str | Path) -> str:
    """The address of a file from a page in a folder, so that both can be moved together.

    Args:
        path: The file.
        folder: The folder of the page.

    Returns:
        A relative address, percent-encoded; it never begins with a scheme.
    """
    relative = Path(os.path.relpath(Path(path).absolute(), Path(folder).absolute())).as_posix()
    address = quote(relative, safe="/", errors="surrogateescape")
    return address if address.startswith("../") else f"./{address}"
