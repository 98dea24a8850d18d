"""What ``setr repair NAME`` does: look at a part of what lies on disk, keep what is whole, set aside what is
damaged. Nothing is deleted, and what can still be read of a damaged file is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from setr_lib.damage import Part
from setr_lib.faults import link_fault
from setr_lib.pipeline.storage import places_of
from setr_lib.repairs.aside import Finding, RepairError, SetAside
from setr_lib.repairs.dead_ends import dead_ends
from setr_lib.repairs.permissions import permitted
from setr_lib.settings import Settings

Repair = Callable[[Settings, SetAside], "tuple[int, list[Finding]]"]
"""Gives how many things were whole, and what was found damaged."""
_MODULES: dict[Part, str] = {
    "vectors": "vectors",
    "tables": "tables",
    "cache": "cache",
    "registry": "registry",
    "checkpoints": "checkpoints",
    "reports": "reports",
    "dagster": "dagster_home",
}


@dataclass(frozen=True)
class Repaired:
    """What a repair has found and done.

    Attributes:
        part: Which part.
        whole: How many files, tables or folders of it are whole.
        findings: What was damaged.
        folder: Where things were set aside; None where nothing was.
    """

    part: Part
    whole: int
    findings: list[Finding]
    folder: Path | None

    @property
    def mended(self) -> bool:
        """Whether nothing damaged is left."""
        return all(finding.mended for finding in self.findings)


def repair(settings: Settings, part: Part, *, look_only: bool = False) -> Repaired:
    """Look at a part of what lies on disk, and mend it.

    Args:
        settings: They say where it lies.
        part: Which part.
        look_only: Change nothing.

    Returns:
        What was found and done.

    Raises:
        SetrError: Another process uses it, or the disk is full.
    """
    if (fault := link_fault(settings.storage_root)) is not None:
        raise RepairError(
            f"{settings.storage_root}: {fault}: bring it back, or remove the link and begin anew; "
            "then run this again"
        )
    aside = SetAside(settings.storage_root, part, look_only)
    places = [path for name, path in places_of(settings) if name == part and path != settings.storage_root]
    ends = dead_ends(places, aside)
    denied = permitted(places, aside)
    if not all(finding.mended for finding in denied):
        return Repaired(part, 0, [*ends, *denied], None)  # what cannot be read is not known to be damaged
    work: Repair = import_module(f"{__name__}.{_MODULES[part]}").repair
    if ends and look_only:
        return Repaired(part, 0, [*ends, *denied], None)  # the rest shows when they are out of the way
    whole, findings = work(settings, aside)
    findings = [*ends, *denied, *findings]
    return Repaired(part, whole, findings, aside.folder if aside.used else None)
