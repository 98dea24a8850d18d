"""Arguments of the commands that look at a project before and after a run: ``doctor``, ``plan``, ``faults``,
``repair``, ``cache``.
"""

from __future__ import annotations

import argparse

from setr_lib.commands.arguments.shared import Subparsers, add_command, add_set, positive
from setr_lib.damage import PARTS
from setr_lib.settings import Settings, SettingsError


def add_doctor(commands: Subparsers) -> None:
    """Add ``setr doctor``.

    Args:
        commands: The subparsers of ``setr``.
    """
    doctor = add_command(
        commands,
        "doctor",
        help="what is installed and downloaded, what is missing or broken, what can be done with it",
        examples=("setr doctor", "setr doctor cirr --quick", "setr doctor --json > doctor.json"),
        text="Exit status: 0 where all is there, 1 where something is missing or broken, 2 where the "
        "settings cannot be read.",
    )
    add_set(doctor)
    doctor.add_argument("--json", action="store_true", help="one JSON document")
    doctor.add_argument(
        "--quick", action="store_true", help="open neither images nor the processor of a model"
    )
    doctor.set_defaults(command=_doctor, looks_at_place=False, unreadable=_unreadable, anywhere=True)


def add_plan(commands: Subparsers) -> None:
    """Add ``setr plan``.

    Args:
        commands: The subparsers of ``setr``.
    """
    plan = add_command(
        commands,
        "plan",
        help="before a first run: how many calls, how long, how much disk and memory",
        examples=("setr plan", "setr plan cirr --limit 100 --json", "setr plan --counts-only"),
    )
    plan.add_argument(
        "sets",
        nargs="*",
        metavar="SET",
        help="evaluation sets or data sets, as `setr run` takes them (default: all with known targets)",
    )
    plan.add_argument("--limit", type=positive, metavar="N", help="plan for the first N queries of each set")
    plan.add_argument(
        "--sample",
        type=positive,
        default=16,
        metavar="N",
        help="items to measure each step on first (default: 16)",
    )
    plan.add_argument("--json", action="store_true", help="one JSON document")
    plan.add_argument("--counts-only", action="store_true", help="load no model: count, do not measure")
    plan.set_defaults(command=_plan)


def add_faults(commands: Subparsers) -> None:
    """Add ``setr faults``.

    Args:
        commands: The subparsers of ``setr``.
    """
    faults = add_command(
        commands,
        "faults",
        help="every image, query and text of a run with which something went wrong, and what",
        examples=("setr faults", "setr faults cirr-val", "setr faults cirr --json > faults.json"),
        text="Pictures that are missing or broken, with their files; rows of the annotation files that "
        "cannot be used; texts that were cut short or that the model failed to write. What a run "
        "found is kept with its results: this command opens no picture. (`setr doctor SET` does.)",
    )
    add_set(faults)
    faults.add_argument("--json", action="store_true", help="one JSON array, one object per fault")
    faults.set_defaults(command=_faults)


def add_repair(commands: Subparsers) -> None:
    """Add ``setr repair``.

    Args:
        commands: The subparsers of ``setr``.
    """
    repair = add_command(
        commands,
        "repair",
        help="set aside what is damaged on disk, and keep what is whole of it; nothing is deleted",
        examples=("setr repair tables --look", "setr repair cache"),
    )
    repair.add_argument("part", choices=tuple(PARTS), metavar="NAME", help=f"{', '.join(PARTS)}")
    repair.add_argument("--look", action="store_true", help="change nothing: say what would be done")
    repair.set_defaults(command=_repair)


def add_cache(commands: Subparsers) -> None:
    """Add ``setr cache``.

    Args:
        commands: The subparsers of ``setr``.
    """
    examples = ("setr cache check", "setr cache check --sample 20")
    cache = add_command(
        commands, "cache", help="the kept results of model calls: scores and texts", examples=examples
    )
    parts = cache.add_subparsers(required=True, metavar="PART")
    check = add_command(
        parts,
        "check",
        help="whether every entry has its form; with --sample, its value, too",
        examples=examples,
    )
    check.add_argument(
        "--sample",
        type=positive,
        metavar="N",
        help="compute N entries again, and compare (loads the models)",
    )
    check.add_argument("--drop", action="store_true", help="delete the entries that are at fault")
    check.set_defaults(command=_cache_check)


def _doctor(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.doctor import run

    return run(settings, dataset=options.dataset, as_json=options.json, quick=options.quick)


def _unreadable(error: SettingsError, options: argparse.Namespace) -> int:
    from setr_lib.commands.doctor import unreadable

    return unreadable(error, as_json=options.json)


def _plan(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.plan import run

    return run(
        settings,
        sample=options.sample,
        counts_only=options.counts_only,
        as_json=options.json,
        sets=options.sets,
    )


def _faults(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.faults import run

    return run(settings, dataset=options.dataset, as_json=options.json)


def _repair(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.repair import run

    return run(settings, part=options.part, look_only=options.look)


def _cache_check(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.cache import check

    return check(settings, sample=options.sample, drop=options.drop)
