"""What `make compare-trained` measured, kept by the digest of what was measured: a second call finds it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from setr_lib.files import read_json, write_json
from setr_lib.tables import write_parquet_atomically

STAGE_1, ABLATION, JUDGED = "stage 1", "ablation", "judged"


@dataclass(frozen=True)
class Measured:
    """A row, or an ablation, on the evaluation sets of one world.

    Attributes:
        kind: ``STAGE_1``, ``ABLATION`` or ``JUDGED``.
        name: Of the row or the ablation.
        digest: Of everything that determines the figures.
        per_query: PER_QUERY frame with a column ``dataset``, the kind of data set.
        facts: What else is told of it: version, label, training, costs.
    """

    kind: str
    name: str
    digest: str
    per_query: pl.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)


class Results:
    """The measured rows of one world, a table and a record each.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, kind: str, name: str, digest: str) -> Measured | None:
        """A row that was measured before.

        Args:
            kind: As of :class:`Measured`.
            name: The row.
            digest: What determines its figures now.

        Returns:
            The row; None where it was not measured yet, or of something else.
        """
        found = self._read(self._path(kind, name))
        return found if found is not None and found.digest == digest else None

    def store(self, measured: Measured) -> None:
        """Keep a row.

        Args:
            measured: The row.
        """
        path = self._path(measured.kind, measured.name)
        write_parquet_atomically(measured.per_query, path.with_suffix(".parquet"))
        # Last: its presence says that the table is there.
        write_json(path, {**asdict(measured), "per_query": ""})

    def of(self, kind: str) -> dict[str, Measured]:
        """All rows of a kind.

        Args:
            kind: As of :class:`Measured`.

        Returns:
            Row by name.
        """
        return {found.name: found for found in self._all() if found.kind == kind}

    def _all(self) -> Iterator[Measured]:
        for path in sorted(self.folder.glob("*.json")):
            found = self._read(path)
            if found is not None:
                yield found

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / (re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{kind}--{name}") + ".json")

    def _read(self, path: Path) -> Measured | None:
        stored, table = read_json(path), path.with_suffix(".parquet")
        if stored is None or not table.is_file():
            return None
        return Measured(**{**stored, "per_query": pl.read_parquet(table)})
