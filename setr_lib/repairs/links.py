"""Links of the storage that lead nowhere, or round in a circle: whatever would write there fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from setr_lib.faults import link_fault
from setr_lib.repairs.aside import Finding, SetAside

_AGAIN = "if what it led to was only away (a disk), bring that back and move the link to its place again"


def dead_links(places: list[Path], aside: SetAside) -> list[Finding]:
    """Set aside the links of a part that lead nowhere.

    Args:
        places: Its files and folders.
        aside: Takes the links; what they named is not touched.

    Returns:
        What was found.
    """
    findings = list[Finding]()
    for path in dict.fromkeys(each for place in places for each in _links_of(place)):
        if (fault := link_fault(path)) is not None:
            aside.take(path)
            findings.append(Finding(path, fault, aside.verb, _AGAIN))
    return findings


def _links_of(place: Path) -> Iterator[Path]:
    if place.is_symlink():
        yield place
    for folder, folders, files in os.walk(place):
        yield from (path for name in sorted([*folders, *files]) if (path := Path(folder, name)).is_symlink())
