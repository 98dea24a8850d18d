"""Which benchmarks there are, by the name that settings give them (``kind``).

Three ways to add one: as an entry point of the group ``setr.benchmarks`` in an installed package (its name is the
kind), as ``kind = "package.module:NAME"`` in ``[datasets.*]``, or here, in :data:`BUILT_IN`.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from setr_lib.benchmarks.benchmark import Benchmark
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.metrics import GALLERY
from setr_lib.errors import SetrError

ENTRY_POINTS = "setr.benchmarks"
BUILT_IN = {
    "cirr": "setr_lib.benchmarks.cirr:CIRR",
    "fashioniq": "setr_lib.benchmarks.fashioniq:FashionIQ",
    "circo": "setr_lib.benchmarks.circo:CIRCO",
    "folder": "setr_lib.benchmarks.folder:Folder",
}
"""Kind -> where its class is. Adding a benchmark to SETR is its module and a line here."""

_PLAIN = re.compile(r"[a-z0-9_-]+")


def benchmark_kinds() -> list[str]:
    """Every kind that :func:`benchmark_of` knows without a module's name: built in, and installed as entry points."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def built_in_benchmarks() -> list[Benchmark]:
    """The benchmarks that come with SETR."""
    return [benchmark_of(kind) for kind in BUILT_IN]


def benchmark_of(kind: Benchmark | str) -> Benchmark:
    """The benchmark called ``kind``; the same object for the same class, always.

    Args:
        kind: A kind, ``package.module:NAME`` of a class, or a benchmark, which is returned as it is.

    Raises:
        DatasetError: There is none, listing the known kinds; or it cannot be loaded, or contradicts itself.
    """
    if isinstance(kind, Benchmark):
        return kind
    if kind in BUILT_IN:
        return _made(_load(BUILT_IN[kind]), kind)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == kind:
            return _made(_load(point.value), f"entry point {point.value!r}")
    if ":" in kind:
        return _made(_load(kind), kind)
    raise DatasetError(
        f"there is no benchmark {kind!r}; known: {', '.join(benchmark_kinds())}. Your own: install it as an entry "
        f"point of {ENTRY_POINTS!r}, or name it package.module:NAME"
    )


def import_named(reference: str) -> Any:
    """The object at ``package.module:NAME``. Everything that a module's import can raise passes through."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def _load(reference: str) -> Any:
    try:
        return import_named(reference)
    except SetrError:
        raise
    except Exception as error:  # someone else's module may raise anything when it is imported
        raise DatasetError(
            f"the benchmark at {reference} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _made(candidate: Any, where: str) -> Benchmark:
    """The object of the class, checked."""
    if not (isinstance(candidate, type) and issubclass(candidate, Benchmark)):
        raise DatasetError(f"{where} is not a subclass of setr_lib.benchmarks.Benchmark")
    if not _PLAIN.fullmatch(getattr(candidate, "kind", "")):
        raise DatasetError(f"{where}: 'kind' must be a name of lower-case letters, digits, '-' and '_'")
    try:
        made = _instance(candidate)
    except TypeError as error:  # a method is missing
        raise DatasetError(f"{where}: {error}") from error
    if fault := _contradiction(made):
        raise DatasetError(f"{where}: {fault}")
    return made


@cache
def _instance(benchmark: type[Benchmark]) -> Benchmark:
    return benchmark()


def _contradiction(made: Benchmark) -> str | None:
    """What of a benchmark's attributes cannot be; None where all is well."""
    names = [metric.name for metric in made.metrics]
    if not names or len(set(names)) < len(names) or any("/" in name for name in names):
        return f"'metrics' must be metrics of different names without '/', not {names}"
    if not made.splits or not all(_PLAIN.fullmatch(split) for split in made.splits):
        return f"'splits' must be names of lower-case letters, digits, '-' and '_', not {made.splits}"
    if not made.galleries:
        return "'galleries' must name one protocol at least"
    if made.server is not None and not (made.hidden_splits and GALLERY in made.submitted_lengths):
        return "'server' needs 'hidden_splits' and 'submitted_lengths' of the gallery"
    known = (
        ("hidden_splits", made.hidden_splits, made.splits),
        ("default_splits", made.default_splits, made.splits),
        ("headline", made.headline, names),
        ("aspect_metrics", made.aspect_metrics, names),
        ("stage_1_metric and stage_2_metric", made.compared_metrics, names),
        ("submitted_lengths", tuple(made.submitted_lengths), made.pools),
    )
    for attribute, values, allowed in known:
        if unknown := [value for value in values if value not in allowed]:
            return f"{attribute!r} names {unknown[0]!r}, which is not one of {list(allowed)}"
    return None
