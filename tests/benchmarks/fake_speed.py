"""A benchmark module for tests of the harness: what it measures is told by the environment, and how often it
was asked is written down.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from benchmarks.speed.figure import BenchSetting, Figure, Growth

NAMES = ("import", "fake-second")


def figures(setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
    """Figures of no work; the second raises where the environment says so."""
    with (setting.folder / "asked.txt").open("a", encoding="utf-8") as asked:
        asked.write(f"{' '.join(names)} {os.environ['OMP_NUM_THREADS']} {setting.full}\n")
    print("what a library prints")
    for name in names:
        if name == "fake-second" and (raised := os.environ.get("FAKE_RAISES")):
            raise RuntimeError(raised)
        yield Figure(
            name,
            "adding up",
            ours_s=float(os.environ.get("FAKE_SECONDS", "0.5")),
            alternative="a loop",
            alternative_s=1.0,
            equal=name != os.environ.get("FAKE_UNEQUAL"),
            checked="the sums",
            bound_s=0.25,
            growth=Growth("numbers", [10, 100], [0.1, 1.0]),
        )
