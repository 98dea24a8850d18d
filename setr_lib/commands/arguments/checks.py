"""Arguments of the commands that look at a project before and after a run: ``doctor``, ``plan``, ``faults``,
``repair``, ``cache``.
"""

from __future__ import annotations

import argparse

from setr_lib.commands.arguments.shared import Subparsers, positive
from setr_lib.damage import PARTS
from setr_lib.settings import Settings, SettingsError


def add_plan(commands: Subparsers) -> None:
    """Add ``setr plan``.

    Args:
        commands: The subparsers of ``setr``.
    """
    plan = commands.add_parser(
        "plan", help="before a first run: how many calls, how long, how much disk and memory"
    )
    plan.add_argument(
        "sets",
        nargs="*",
        metavar="SET",
        help="evaluation sets or data sets, as `setr run` takes them (default: all with known targets)",
    )
    plan.add_argument("--limit", type=positive, metavar="N", help="plan for the first N queries of each set")
    plan.add_argument(
        "--sample", type=positive, default=16, help="items to measure each step on first (default: 16)"
    )
    plan.add_argument("--json", action="store_true", help="one JSON document")
    plan.add_argument("--counts-only", action="store_true", help="load no model: count, do not measure")
    plan.set_defaults(command=_plan)


def add_doctor(commands: Subparsers) -> None:
    """Add ``setr doctor``.

    Args:
        commands: The subparsers of ``setr``.
    """
    doctor = commands.add_parser(
        "doctor", help="what is installed and here, what is missing or broken, what can be done already"
    )
    doctor.add_argument(
        "dataset", nargs="?", metavar="DATASET", help="one data set or evaluation set only (default: all)"
    )
    doctor.add_argument("--json", action="store_true", help="one JSON document")
    doctor.add_argument(
        "--quick", action="store_true", help="open neither images nor the processor of a model"
    )
    doctor.set_defaults(command=_doctor, looks_at_place=False, unreadable=_unreadable)


def add_repair(commands: Subparsers) -> None:
    """Add ``setr repair``.

    Args:
        commands: The subparsers of ``setr``.
    """
    repair = commands.add_parser(
        "repair", help="set aside what is damaged on disk, and keep what is whole of it; nothing is deleted"
    )
    repair.add_argument("part", choices=tuple(PARTS), metavar="NAME", help=f"{', '.join(PARTS)}")
    repair.add_argument("--look", action="store_true", help="change nothing: say what would be done")
    repair.set_defaults(command=_repair)


def add_faults(commands: Subparsers) -> None:
    """Add ``setr faults``.

    Args:
        commands: The subparsers of ``setr``.
    """
    faults = commands.add_parser(
        "faults", help="every image, query and text of a run with which something went wrong, and what"
    )
    faults.add_argument(
        "dataset", nargs="?", metavar="DATASET", help="one data set or evaluation set only (default: all)"
    )
    faults.add_argument("--json", action="store_true", help="one JSON array, one object per fault")
    faults.set_defaults(command=_faults)


def add_cache(commands: Subparsers) -> None:
    """Add ``setr cache``.

    Args:
        commands: The subparsers of ``setr``.
    """
    cache = commands.add_parser("cache", help="the kept results of model calls: scores and texts")
    parts = cache.add_subparsers(required=True, metavar="PART")
    check = parts.add_parser("check", help="whether every entry has its form; with --sample, its value, too")
    check.add_argument(
        "--sample",
        type=positive,
        metavar="N",
        help="compute N entries again, and compare (loads the models)",
    )
    check.add_argument("--drop", action="store_true", help="delete the entries that are at fault")
    check.set_defaults(command=_cache_check)


def _plan(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.plan import run

    return run(
        settings,
        sample=options.sample,
        counts_only=options.counts_only,
        as_json=options.json,
        sets=options.sets,
    )


def _doctor(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.doctor import run

    return run(settings, dataset=options.dataset, as_json=options.json, quick=options.quick)


def _unreadable(error: SettingsError, options: argparse.Namespace) -> int:
    from setr_lib.commands.doctor import unreadable

    return unreadable(error, as_json=options.json)


def _repair(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.repair import run

    return run(settings, part=options.part, look_only=options.look)


def _faults(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.faults import run

    return run(settings, dataset=options.dataset, as_json=options.json)


def _cache_check(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.cache import check

    return check(settings, sample=options.sample, drop=options.drop)
