"""Timing of two ways to do the same work, taken in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any


@dataclass(frozen=True)
class Timing:
    """The least seconds of one way, and what it gave.

    Attributes:
        seconds: The least of all rounds.
        output: What the last round returned.
    """

    seconds: float
    output: Any


def in_turns(ways: Mapping[str, Callable[[], Any]], rounds: int = 3) -> dict[str, Timing]:
    """Run each way once per round, one after the other, so that other work on the machine slows all alike.

    Args:
        ways: Name to a function without arguments.
        rounds: How often each is run; the least time counts.

    Returns:
        Name to its timing.
    """
    best: dict[str, Timing] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = perf_counter()
            output = way()
            seconds = perf_counter() - begun
            held = best.get(name)
            best[name] = Timing(min(seconds, held.seconds) if held else seconds, output)
    return best
