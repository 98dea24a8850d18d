"""What a speed benchmark gives: one figure, its alternative, its bound and whether the outputs are equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from setr_lib.progress import Progress, silent


@dataclass(frozen=True)
class Growth:
    """Seconds of the same work at several sizes.

    Attributes:
        unit: What is counted, e.g. "gallery images".
        sizes: Increasing.
        seconds: Of each size.
    """

    unit: str
    sizes: Sequence[int]
    seconds: Sequence[float]

    def exponent(self) -> float:
        """The least-squares slope of log seconds over log size: 1 where cost grows with the size."""
        import numpy as np

        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])


@dataclass(frozen=True)
class Step:
    """One of several steps that a figure consists of.

    Attributes:
        name: What is done, in words.
        seconds: How long it took.
        peak_bytes: Most memory of the process during the step, above what it held before; None where that is
            not measured.
        note: Why it takes what it takes, where that is worth saying.
    """

    name: str
    seconds: float
    peak_bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """One benchmark's result.

    Attributes:
        name: Of the benchmark, e.g. "search-small".
        work: What was done, with its sizes, in a sentence.
        ours_s: Seconds that SETR took.
        alternative: What it is compared with, in words; empty where there is nothing to compare with.
        alternative_s: Seconds that the alternative took for the same work; None where there is none.
        equal: Whether both gave the same output, by the tolerance that ``checked`` names.
        checked: What was compared, and how nearly equal it had to be.
        target: What is aimed at, in words, e.g. "at most 1.1 x the alternative"; empty for none.
        met: Whether it was reached; None without a target.
        bound_s: Least seconds that the counted work can take on this machine, by rates measured in this run.
        bound: How the bound was counted.
        whole_s: Seconds of the whole that the work is a part of (a full embedding, for one that grows).
        also: Other seconds and rates that belong to it, by name with unit, e.g. {"bare faiss, s": 0.11}.
        profile: (part, seconds) of where the time went, longest first; said on the page where a target is
            missed.
        growth: The same work at several sizes.
        steps: The steps that ``ours_s`` is the sum of, in their order, where each is of interest.
        note: Anything a reader has to know; plain text.
    """

    name: str
    work: str
    ours_s: float
    alternative: str
    alternative_s: float | None
    equal: bool
    checked: str
    target: str = ""
    met: bool | None = None
    bound_s: float | None = None
    bound: str = ""
    whole_s: float | None = None
    also: Mapping[str, float] = field(default_factory=dict)
    profile: Sequence[tuple[str, float]] = ()
    growth: Growth | None = None
    steps: Sequence[Step] = ()
    note: str = ""


@dataclass(frozen=True)
class BenchSetting:
    """How the benchmarks are run.

    Attributes:
        folder: For what a benchmark draws or writes; kept between runs, so that a stopped one goes on.
        full: The sizes of `make bench-full` in place of those of `make bench`.
        threads: Processor threads that every measured process may use.
        photos: A folder of real photographs, or None where there is none.
        device: Where models are run: "cpu" or "cuda".
        progress: Told what is measured.
    """

    folder: Path
    full: bool
    threads: int
    photos: Path | None = None
    device: str = "cpu"
    progress: Progress = silent


class Benchmark(Protocol):
    """A module of this package that measures: ``NAMES`` in order, and a function from setting to figures."""

    NAMES: tuple[str, ...]

    def figures(self, setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
        """Measure the named figures, one after the other; outputs are compared before anything is timed."""
        ...
