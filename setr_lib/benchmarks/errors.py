"""The one error of this package: what is wrong in a data set, in which file and row, and why."""

from __future__ import annotations

from pathlib import Path

from setr_lib.errors import SetrError


class DatasetError(SetrError):
    """A data set, its settings, or a file of it cannot be used.

    Args:
        reason: What is wrong, and what to do.
        file: The file at fault; None where there is none.
        row: The row at fault in words; None where there is none (a misspelt key has no row).
    """

    def __init__(self, reason: str, *, file: Path | None = None, row: str | None = None) -> None:
        self.file = file
        self.row = row
        self.reason = reason
        super().__init__(": ".join(str(part) for part in (file, row, reason) if part is not None))
