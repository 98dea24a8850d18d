"""One line of what ``setr doctor`` looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "later", "warning", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """One thing that the pipeline needs. ``later``: it is downloaded or made on first use; ``warning``: it
    works, but ``detail`` names something that a person may expect to work otherwise."""

    what: str
    value: str
    status: Status
    detail: str = ""
    bytes_here: int = 0
    """Bytes of a model's weights in the caches of downloads."""
    bytes_to_come: int | None = 0
    """Bytes that are still to be downloaded; None where nobody knows."""

    @property
    def at_fault(self) -> bool:
        """Whether it is missing or broken."""
        return self.status in ("missing", "broken")
