"""Who carries out ``setr run``: a runner, found by the entry point group ``setr.runners``.

The library knows nothing of Dagster; the package's runner, ``setr_assets.running``, does. What the two tell
one another is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Literal, Protocol

from setr_lib.errors import SetrError

if TYPE_CHECKING:
    from setr_lib.settings import Settings

GROUP = "setr.runners"
_USUAL = "dagster"


class RunnerError(SetrError):
    """Nothing that could carry out a run is installed, or it cannot be loaded."""


@dataclass(frozen=True)
class RunRequest:
    """What ``setr run`` was asked for."""

    settings: Settings
    """With ``--limit`` applied, as ``[evaluation] limit``."""
    sets: tuple[str, ...] = ()
    """Evaluation sets, or data sets for all of their sets; none for all sets with known targets."""
    until: str | None = None
    """The step to stop after; only what it depends on is run besides."""
    steps: bool = False
    """Print the steps in their order, and do nothing."""
    accept_removals: bool = False
    """Remove the vectors of images that are gone, however many they are."""
    quiet: bool = False
    """Print results and errors only."""


INTERRUPTED = "interrupted"
"""Why a step failed that a person stopped."""
OTHERS = "settings, prompts or models are others"
"""Why a result is stale that was made with other settings."""
State = Literal["current", "stale", "missing"]


@dataclass(frozen=True)
class StepState:
    """What is there of a step's result: of one evaluation set, or of all where the step has none."""

    step: str
    state: State
    why: str = ""
    """Why it is stale, in words."""


@dataclass(frozen=True)
class LastRun:
    """The newest run that the runner knows of."""

    id: str
    status: str
    """``success``, ``failure``, ``started``, ..."""
    begun: datetime | None
    failed: dict[str, str]
    """Why steps failed, by step."""
    sets: tuple[str, ...] = ()
    """The evaluation sets that were named to it, where it says so."""
    limit: int | None = None
    """Of a trial, how many queries of each set it took; None for all."""


@dataclass(frozen=True)
class ProjectState:
    """What is there of the results of a project, as the runner has noted it."""

    shared: Sequence[StepState]
    """Steps that are of no evaluation set, those of trainings and the leaderboard, in their order."""
    sets: dict[str, Sequence[StepState]]
    """Steps by evaluation set, in their order."""
    last_run: LastRun | None


class Runner(Protocol):
    """Carries out runs, and knows what they have left."""

    def __call__(self, request: RunRequest) -> int:
        """Carry out a run.

        Args:
            request: What to run.

        Returns:
            The exit status: 0 where all was done, 1 where something failed.

        Raises:
            SetrError: Nothing can be run at all.
        """
        ...

    def state(self, settings: Settings) -> ProjectState:
        """What earlier runs have left, and what of it is stale.

        Args:
            settings: The settings.

        Returns:
            The state; nothing is run or changed for it.

        Raises:
            SetrError: The notes of earlier runs cannot be read.
        """
        ...


def runner() -> Runner:
    """The runner that is installed.

    Returns:
        The package's own, or the only one that another package brings.

    Raises:
        RunnerError: There is none, there are several, or it cannot be loaded; the message says what to do.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if _USUAL in points:
        return _loaded(points[_USUAL])
    if len(points) == 1:
        return _loaded(next(iter(points.values())))
    if points:
        raise RunnerError(
            f"several packages carry out runs ({', '.join(sorted(points))}), and none is called {_USUAL!r}: "
            "uninstall all but one"
        )
    raise RunnerError(
        f"nothing here carries out runs (no entry point of {GROUP!r}): install SETR again, in its folder "
        "with `make setup`, else with `pip install`"
    )


def _loaded(point: EntryPoint) -> Runner:
    try:
        return point.load()
    except ImportError as error:
        missing = f"install it with `pip install {error.name}`" if error.name else "install SETR again"
        raise RunnerError(
            f"the runner {point.name!r} ({point.value}) cannot be loaded: {error}: {missing}"
        ) from error
