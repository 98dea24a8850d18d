"""Measured figures as they are kept: one JSON object each, and the list of all in ``var/bench.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.speed.figure import Figure, Growth, Step
from benchmarks.speed.machine import Machine
from setr_lib.errors import SetrError
from setr_lib.files import write_json

NAMED = (
    "search-small",
    "search-large",
    "embed-decode-bound",
    "embed-model-bound",
    "grow-1-percent",
    "judge-small-cold",
    "judge-small-kept",
    "judge-crossencoder",
    "judge-large-kept",
    "generate",
    "lora-step",
    "orchestration",
    "import",
)
"""The figures that a whole run has, in the order of the page; what modules measure besides follows them."""


@dataclass(frozen=True)
class Measured:
    """A figure with what it was measured on, or why it could not be measured.

    Attributes:
        name: The figure's name.
        module: The module that measures it.
        figure: What was measured; None where that failed.
        failed: Why there is no figure; empty where there is one.
        full: Whether the sizes are those of `make bench-full`.
        device: Where models ran.
        measured_at: Date and time in UTC, ISO 8601.
        took_s: Seconds that measuring it took, with all preparation.
        digest: Of the code and the setting; a figure of the same digest is not measured again.
        machine: What it was measured on.
    """

    name: str
    module: str
    figure: Figure | None
    failed: str
    full: bool
    device: str
    measured_at: str
    took_s: float
    digest: str
    machine: Machine | None


def ratio(part: float | None, whole: float | None) -> float | None:
    """One number over another.

    Args:
        part: The first; None where it is not known.
        whole: The second.

    Returns:
        The ratio; None where one of them is not known, or the second is 0.
    """
    return None if part is None or not whole else part / whole


def unmeasurable(figure: Figure) -> str:
    """What is wrong with a figure that a benchmark gave.

    Args:
        figure: The figure.

    Returns:
        A sentence; empty where nothing is.
    """
    seconds = {
        "ours_s": figure.ours_s,
        "alternative_s": figure.alternative_s,
        "bound_s": figure.bound_s,
        "whole_s": figure.whole_s,
        **{f"also {key}": value for key, value in figure.also.items()},
    }
    for name, value in seconds.items():
        if value is not None and not math.isfinite(value):
            return f"{name} is {value}"
        if value is not None and name.endswith("_s") and value <= 0:
            return f"{name} is {value}, which no work takes"
    if figure.alternative and figure.alternative_s is None:
        return "it names an alternative and has no seconds of it"
    return ""


def figure_entry(figure: Figure) -> dict[str, Any]:
    """A figure as a JSON object, with the ratios that follow from it.

    Args:
        figure: The figure.

    Returns:
        Field -> value.
    """
    entry: dict[str, Any] = asdict(figure)
    if figure.growth is not None:
        entry["growth"]["exponent"] = figure.growth.exponent()
    vs_alternative = ratio(figure.ours_s, figure.alternative_s)
    return {
        **entry,
        "vs_alternative": vs_alternative,
        "speedup": ratio(1.0, vs_alternative),
        "share_of_bound": ratio(figure.bound_s, figure.ours_s),
        "share_of_whole": ratio(figure.ours_s, figure.whole_s),
    }


EMPTY = figure_entry(Figure("", "", 1.0, "", None, False, ""))
"""The fields of an entry, for one that could not be measured."""


def entry_of(measured: Measured) -> dict[str, Any]:
    """A measured figure as an object of ``var/bench.json``.

    Args:
        measured: The figure, or why there is none.

    Returns:
        Field -> value; all of the figure's are None where there is none.
    """
    own = dict.fromkeys(EMPTY) if measured.figure is None else figure_entry(measured.figure)
    about = {field.name: getattr(measured, field.name) for field in fields(Measured)}
    machine = None if measured.machine is None else asdict(measured.machine)
    return {**own, **{key: value for key, value in about.items() if key != "figure"}, "machine": machine}


def measured_of(entry: Mapping[str, Any], where: str) -> Measured:
    """The measured figure of an object; fields that it lacks have their defaults.

    Args:
        entry: Field -> value.
        where: What to call it in an error.

    Returns:
        The figure.

    Raises:
        SetrError: A field that every figure has is missing.
    """
    machine = entry.get("machine")
    failed = str(entry.get("failed") or "")
    return Measured(
        name=str(_required(entry, "name", where)),
        module=str(entry.get("module") or ""),
        figure=None if failed else figure_of(entry, where),
        failed=failed,
        full=bool(entry.get("full")),
        device=str(entry.get("device") or "cpu"),
        measured_at=str(entry.get("measured_at") or ""),
        took_s=float(entry.get("took_s") or 0.0),
        digest=str(entry.get("digest") or ""),
        machine=None if not machine else _made(Machine, machine, f"{where}, machine"),
    )


def figure_of(entry: Mapping[str, Any], where: str) -> Figure:
    """The figure of an object.

    Args:
        entry: Field -> value.
        where: What to call it in an error.

    Returns:
        The figure.

    Raises:
        SetrError: A field that every figure has is missing.
    """
    growth = entry.get("growth")
    steps = tuple(_made(Step, step, f"{where}, steps") for step in entry.get("steps") or ())
    profile = tuple((str(part), float(seconds)) for part, seconds in entry.get("profile") or ())
    made = {
        **entry,
        "growth": None if not growth else _made(Growth, growth, f"{where}, growth"),
        "steps": steps,
        "profile": profile,
        "also": entry.get("also") or {},
    }
    return _made(Figure, made, where)


def _made(kind: type, entry: Mapping[str, Any], where: str) -> Any:
    given = {each.name: entry[each.name] for each in fields(kind) if each.name in entry}
    for each in fields(kind):
        if each.default is MISSING and each.default_factory is MISSING:
            _required(entry, each.name, where)
    return kind(**given)


def _required(entry: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in entry:
        raise SetrError(f"{where}: there is no {name!r}; remove the file and run `make bench` again")
    return entry[name]


def read_results(path: Path) -> list[Measured]:
    """The figures of a file.

    Args:
        path: ``var/bench.json``.

    Returns:
        The figures in their order; none where there is no file.

    Raises:
        SetrError: It is no list of figures.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise SetrError(f"{path} is no JSON ({error}); remove it and run `make bench` again") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SetrError(f"{path} is no list of objects; remove it and run `make bench` again")
    return [
        measured_of(entry, f"{path}, {entry.get('name') or f'figure {place}'}")
        for place, entry in enumerate(entries)
    ]


def write_results(path: Path, results: Iterable[Measured]) -> None:
    """Write the figures as a whole.

    Args:
        path: ``var/bench.json``.
        results: The figures in any order.
    """
    write_json(path, [entry_of(each) for each in in_order(results)])


def in_order(results: Iterable[Measured]) -> list[Measured]:
    """Figures in the order of the page: those that a whole run has, then the others as they come.

    Args:
        results: The figures.

    Returns:
        The same figures.
    """
    places = {name: place for place, name in enumerate(NAMED)}
    return sorted(results, key=lambda each: places.get(each.name, len(places)))


def replaced(results: Sequence[Measured], new: Measured) -> list[Measured]:
    """Figures with one of them measured anew.

    Args:
        results: The figures.
        new: The new one.

    Returns:
        The figures, the new one in the place of that of its name, or at the end.
    """
    if any(each.name == new.name for each in results):
        return [new if each.name == new.name else each for each in results]
    return [*results, new]
