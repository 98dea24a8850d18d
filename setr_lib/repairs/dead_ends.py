"""Links of the storage that lead nowhere or round in a circle, and pipes: whatever would write there fails,
and who reads a pipe waits for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from setr_lib.faults import link_fault
from setr_lib.repairs.aside import Finding, SetAside

_AGAIN = "if what it led to was only away (a disk), bring that back and move the link to its place again"


def dead_ends(places: list[Path], aside: SetAside) -> list[Finding]:
    """Set aside the links of a part that lead nowhere, and its pipes.

    Args:
        places: Its files and folders.
        aside: Takes them; what a link named is not touched.

    Returns:
        What was found.
    """
    findings = list[Finding]()
    for path in dict.fromkeys(each for place in places for each in _below(place)):
        fault = link_fault(path)
        if fault is not None or path.is_fifo():
            aside.take(path)
            words, again = (fault, _AGAIN) if fault else ("is a pipe where a file should be", "")
            findings.append(Finding(path, words, aside.verb, again))
    return findings


def _below(place: Path) -> Iterator[Path]:
    yield place
    for folder, folders, files in os.walk(place):
        yield from (Path(folder, name) for name in sorted([*folders, *files]))
