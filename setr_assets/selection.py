"""Which steps a run takes, in which order, and over which evaluation sets.

A step is an asset. What is only observed (the champions, the fusion in use) is looked at in every run that
reads it, and is no step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from setr_assets.blueprints import Blueprint
from setr_assets.champion import CHAMPION, FUSION
from setr_assets.graph import blueprints
from setr_lib.benchmarks import EvaluationSet, evaluation_sets
from setr_lib.errors import SetrError
from setr_lib.settings import Settings

TRAINING_IMAGES = "training_images"
"""The step that every other one needs which learns from ``[training]``."""
EMBEDDED, REPORT, LEADERBOARD = "gallery_embeddings", "evaluation_report", "leaderboard"
_LEAST = 25
"""Characters that a step's line has at least, before it ends at a colon."""


@dataclass(frozen=True)
class Step:
    """A step of the pipeline."""

    name: str
    """As Dagster shows it."""
    makes: str
    """What it makes, in a sentence."""
    of_each_set: bool
    """Whether it makes something for each evaluation set."""


@dataclass(frozen=True)
class Selection:
    """What a run does."""

    steps: tuple[Step, ...]
    """In the order in which they run."""
    left_out: tuple[str, ...]
    """Steps that would be run if settings had ``[training]``."""

    @property
    def names(self) -> list[str]:
        """The names of its steps."""
        return [step.name for step in self.steps]


def selected(settings: Settings, until: str | None = None) -> Selection:
    """The steps of a run.

    Args:
        settings: Steps that learn from ``[training]`` are left out where there is no such section.
        until: The step to stop after: it and what it depends on are run. By default all steps.

    Returns:
        The steps in their order.

    Raises:
        SetrError: There is no such step (the message names the nearest), or it needs ``[training]``.
    """
    declared = {each.name: each for each in blueprints(settings)}
    needs = {name: deps_of(each, settings) for name, each in declared.items()}
    untrained = set() if settings.training.is_named else _downstream(TRAINING_IMAGES, needs)
    wanted = set(needs) if until is None else _upstream(_known(until, needs, untrained), needs)
    names = [name for name in _ordered(list(declared), needs) if name in wanted - untrained]
    return Selection(
        tuple(_step(declared[name]) for name in names),
        tuple(name for name in _ordered(list(declared), needs) if name in untrained & wanted),
    )


def observed_by(settings: Settings, steps: Iterable[str]) -> set[str]:
    """The sources that steps read, and that a run looks at first.

    Args:
        settings: The settings.
        steps: The names of the steps.

    Returns:
        The names of the sources.
    """
    declared = {each.name: each for each in blueprints(settings)}
    seen = {dep for name in steps for dep in deps_of(declared[name], settings) if dep not in declared}
    return seen | {CHAMPION, FUSION} if seen & {CHAMPION, FUSION} else seen  # one observation gives both


def named_evaluation_sets(settings: Settings, names: Sequence[str]) -> list[EvaluationSet]:
    """The evaluation sets of a run, in the order of the partitions.

    Args:
        settings: The settings.
        names: Evaluation sets, or data sets for all of their sets; none for all sets with known targets.

    Returns:
        The sets, each once.

    Raises:
        SetrError: A name is not known, or there is no set with targets; the message says what there is.
    """
    every = evaluation_sets(settings)
    if not names:
        scored = [each for each in every if not each.hidden]
        if not scored:
            raise SetrError(_nothing_to_measure(settings, every))
        return scored
    chosen: set[str] = set()
    for name in names:
        found = {each.key for each in every if name in (each.key, each.dataset)}
        if not found:
            raise SetrError(_unknown_set(settings, every, name))
        chosen |= found
    return [each for each in every if each.key in chosen]


def ranges(settings: Settings, keys: Sequence[str]) -> list[list[str]]:
    """Evaluation sets in parts that a single run of Dagster can cover: ranges of the partitions.

    Args:
        settings: The settings.
        keys: Evaluation sets, in the order of the partitions.

    Returns:
        The parts, in that order.
    """
    order = {each.key: position for position, each in enumerate(evaluation_sets(settings))}
    parts: list[list[str]] = []
    for key in keys:
        if parts and order[key] == order[parts[-1][-1]] + 1:
            parts[-1].append(key)
        else:
            parts.append([key])
    return parts


def first_sentence(text: str) -> str:
    """What a description begins with, on one line.

    Args:
        text: The description.

    Returns:
        Its first sentence without the full stop, up to a colon or semicolon that comes late enough.
    """
    sentence = re.split(r"\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
    head = re.match(rf".{{{_LEAST}}}[^:;]*", sentence)
    return (head.group() if head else sentence).replace("``", "`")


def _step(declared: Blueprint) -> Step:
    return Step(declared.name, first_sentence(declared.function.__doc__ or ""), declared.partitioned)


def deps_of(declared: Blueprint, settings: Settings) -> list[str]:
    """What a step is made from: the names of steps and of observed sources.

    Args:
        declared: The step.
        settings: The settings.

    Returns:
        The names.
    """
    return [str(dep) for dep in (*declared.options["deps"], *declared.more_deps(settings))]


def _known(until: str, needs: Mapping[str, Sequence[str]], untrained: set[str]) -> str:
    if until not in needs:
        near = get_close_matches(until, needs, n=1, cutoff=0.5)
        meant = f": did you mean {near[0]}?" if near else "."
        steps = ", ".join(_ordered(list(needs), needs))
        raise SetrError(f"there is no step {until!r}{meant} The steps are {steps}")
    if until in untrained:
        raise SetrError(
            f"{until} needs something to train on, and the settings name nothing: add a section [training] "
            "with captions, triplets or dataset"
        )
    return until


def _upstream(name: str, needs: Mapping[str, Sequence[str]]) -> set[str]:
    found, waiting = set(), [name]
    while waiting:
        if (step := waiting.pop()) in needs and step not in found:
            found.add(step)
            waiting += needs[step]
    return found


def _downstream(name: str, needs: Mapping[str, Sequence[str]]) -> set[str]:
    found = {name}
    while more := {step for step, deps in needs.items() if step not in found and found & set(deps)}:
        found |= more
    return found


def _ordered(names: list[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The order in which one process runs the steps: of those that could run, the first of the data."""
    return list(_in_turn(names, needs))


def _in_turn(names: list[str], needs: Mapping[str, Sequence[str]]) -> Iterator[str]:
    waiting, known = list(names), set(names)
    while waiting:
        ready = (name for name in waiting if not any(dep in waiting for dep in needs[name] if dep in known))
        step = next(ready)
        waiting.remove(step)
        yield step


def _nothing_to_measure(settings: Settings, every: Sequence[EvaluationSet]) -> str:
    from setr_lib.typed import typed

    if hidden := [each.key for each in every]:
        return (
            f"no evaluation set has known targets; those of {', '.join(hidden)} are known to a server only: "
            f"name a set to have it ranked, `{typed(f'run {hidden[0]}')}`"
        )
    return (
        f"[datasets] of the settings in {settings.base_dir} names no evaluation set, so there is nothing to "
        f"run: `{typed('init PHOTOS')}` gives the section of a folder of pictures"
    )


def _unknown_set(settings: Settings, every: Sequence[EvaluationSet], name: str) -> str:
    known = [*dict.fromkeys(label for each in every for label in (each.dataset, each.key))]
    for dataset in settings.datasets:
        split = name.removeprefix(f"{dataset}-")
        benchmark = next((each.benchmark for each in every if each.dataset == dataset), None)
        if split != name and benchmark is not None and split in benchmark.splits:
            splits = [each.split for each in every if each.dataset == dataset]
            wanted = ", ".join(f'"{each}"' for each in [*splits, split])
            return f"the settings leave {name} out: write splits = [{wanted}] in [datasets.{dataset}]"
    near = get_close_matches(name, known, n=1)
    meant = f": did you mean {near[0]}?" if near else "."
    return f"there is no evaluation set or data set {name!r}{meant} There is {', '.join(known) or 'none'}"
