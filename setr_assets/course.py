"""How far a run is: step n of N, and how long the rest will take, where there is ground for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_LEAST_SHARE = 0.2
"""The share of the earlier run's time that must have passed before the two are compared."""
_LEAST_REST = 5.0
"""Seconds: less is not worth telling."""
_ALIKE = (0.5, 2.0)
"""How many times as long as in the earlier run its steps may have taken so far."""


class Course:
    """The course of a run over parts that follow one another.

    Args:
        parts: The names of each part's steps.
    """

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self.total = sum(map(len, parts))
        """All steps."""
        self.begun = 0
        """Steps that have begun or are behind."""
        self._later = [len(part) for part in parts]
        self._before = 0
        self._part: list[str] = []
        self._earlier: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def enter(self, steps: Sequence[str], earlier: Mapping[str, float]) -> None:
        """Begin the next part.

        Args:
            steps: The names of its steps.
            earlier: Seconds of each step in the last run of the same; empty where there was none.
        """
        self.begun = self._before  # steps that a failed part has not begun are behind, too
        self._before += self._later.pop(0)
        self._part, self._earlier, self._seconds = list(steps), dict(earlier), {}

    def begin(self, step: str) -> str:
        """A step begins.

        Args:
            step: Its name.

        Returns:
            ``step 3 of 17: NAME``; the name alone for what is no step of the run.
        """
        if step not in self._part:
            return step
        self.begun += 1
        return f"step {self.begun} of {self.total}: {step}"

    def end(self, step: str, seconds: float) -> None:
        """A step is over.

        Args:
            step: Its name.
            seconds: How long it took.
        """
        if step in self._part:
            self._seconds[step] = seconds

    def rest(self) -> float | None:
        """How long the run will still take: as its last run took, where this one goes like that one so far.

        Returns:
            Seconds from the beginning of the next step; None where the last run did other steps, was of other
            work (what is kept now was made then, or the reverse), too little has passed to tell, or nearly
            nothing is left.
        """
        left = [step for step in self._part if step not in self._seconds]
        if self._later or not left or not all(step in self._earlier for step in self._part):
            return None
        before = sum(self._earlier[step] for step in self._seconds)
        if before < _LEAST_SHARE * sum(self._earlier[step] for step in self._part):
            return None
        pace = sum(self._seconds.values()) / before if before else 0.0
        rest = pace * sum(self._earlier[step] for step in left)
        return rest if _ALIKE[0] <= pace <= _ALIKE[1] and rest >= _LEAST_REST else None
