"""Which benchmarks there are, by the name that settings give them (``kind``).

Three ways to add one: as an entry point of the group ``setr.benchmarks`` in an installed package (its name is
the kind), as ``kind = "package.module:NAME"`` in ``[datasets.*]``, or as a module of
``setr_lib.benchmarks.kinds``.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from setr_lib.benchmarks import kinds
from setr_lib.benchmarks.benchmark import Benchmark
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.metrics import GALLERY
from setr_lib.catalogue import Catalogue, modules_of

if TYPE_CHECKING:
    from setr_lib.settings import Settings

ENTRY_POINTS = "setr.benchmarks"

_PLAIN = re.compile(r"[a-z0-9_-]+")


def benchmark_kinds() -> list[str]:
    """Every kind that :func:`benchmark_of` knows without a module's name: built in, and installed as entry
    points.
    """
    return CATALOGUE.names()


def built_in_benchmarks() -> list[Benchmark]:
    """The benchmarks that come with SETR."""
    return list(_load_built_in().values())


def benchmark_of(kind: Benchmark | str, settings: Settings | None = None) -> Benchmark:
    """The benchmark called ``kind``; the same object for the same class, always.

    Args:
        kind: A kind, ``package.module:NAME`` of a class, or a benchmark, which is returned as it is.
        settings: Those that name it; its module may lie beside their file.

    Returns:
        The benchmark.

    Raises:
        DatasetError: There is none, listing the known kinds; or it cannot be loaded, or contradicts itself.
    """
    return kind if isinstance(kind, Benchmark) else CATALOGUE.get(kind, settings)


def _load_built_in() -> dict[str, Benchmark]:
    found = [_made(_class_in(f"{kinds.__name__}.{kind}"), kind) for kind in modules_of(kinds)]
    return {benchmark.kind: benchmark for benchmark in found}


def _built_in_called(kind: str) -> Benchmark | None:
    """The built-in benchmark of a kind, which names its module: no other is imported."""
    if kind not in modules_of(kinds):
        return None
    return _made(_class_in(f"{kinds.__name__}.{kind}"), kind)


def _class_in(module: str) -> type[Benchmark]:
    """The benchmark that a module defines."""
    own = [
        value
        for value in vars(import_module(module)).values()
        if isinstance(value, type) and issubclass(value, Benchmark) and value.__module__ == module
    ]
    if len(own) != 1:
        raise DatasetError(f"module {module} must define one subclass of Benchmark, not {len(own)}")
    return own[0]


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
        ("train_split", (made.train_split,) if made.train_split else (), made.splits),
        ("headline", made.headline, names),
        ("aspect_metrics", made.aspect_metrics, names),
        ("stage_1_metric and stage_2_metric", made.compared_metrics, names),
        ("submitted_lengths", tuple(made.submitted_lengths), made.pools),
    )
    for attribute, values, allowed in known:
        if unknown := [value for value in values if value not in allowed]:
            return f"{attribute!r} names {unknown[0]!r}, which is not one of {list(allowed)}"
    return None


CATALOGUE: Catalogue[Benchmark] = Catalogue(
    "benchmark", (ENTRY_POINTS,), _made, DatasetError, _load_built_in, _built_in_called
)
