"""Arguments of the commands that make a project, run it, and say where it stands: ``init``, ``run`` and
``status``.
"""

from __future__ import annotations

import argparse

from setr_lib.commands.arguments.shared import Subparsers, add_command, path, positive
from setr_lib.errors import SetrError
from setr_lib.settings import Settings
from setr_lib.typed import typed


def add_init(commands: Subparsers) -> None:
    """Add ``setr init``.

    Args:
        commands: The subparsers of ``setr``.
    """
    init = add_command(
        commands,
        "init",
        help="write the first setr.toml, for a folder of pictures",
        text=(
            "Looks at the pictures, and at the queries where there are some, and writes setr.toml into the "
            "current\nfolder. A settings file that is there is never changed: the section to add is printed."
        ),
        examples=("setr init photos", "setr init photos --queries queries.csv"),
    )
    init.add_argument("photos", type=path, metavar="PHOTOS", help="the folder of pictures, with its folders")
    init.add_argument(
        "--queries",
        type=path,
        metavar="FILE",
        help=(
            "queries with known answers, to measure with: a table (CSV, TSV, JSON, JSON Lines, Parquet) with "
            "the columns reference, modification and targets (default: queries.csv in PHOTOS, if it is there)"
        ),
    )
    init.set_defaults(immediate=_init)


def add_run(commands: Subparsers) -> None:
    """Add ``setr run``.

    Args:
        commands: The subparsers of ``setr``.
    """
    run = add_command(
        commands,
        "run",
        help="embed, write texts, rank, train, re-rank and evaluate: the whole pipeline",
        text=(
            "What is made already and current is kept, so a run that was stopped goes on where it was. Steps "
            "that\ntrain are left out where the settings have no [training]. Dagster's UI shows the run."
        ),
        examples=(
            "setr run",
            "setr run mine --limit 20",
            "setr run cirr-test1",
            "setr run mine --until gallery_embeddings",
        ),
    )
    run.add_argument(
        "sets",
        nargs="*",
        metavar="SET",
        help=(
            "an evaluation set (cirr-val), or a data set for all of its sets (default: all sets with known "
            "targets; a split with hidden targets is ranked only if it is named)"
        ),
    )
    run.add_argument("--until", metavar="STEP", help="run this step and what it depends on, and no other")
    run.add_argument(
        "--limit", type=positive, metavar="N", help="only the first N queries of each set (a trial)"
    )
    run.add_argument("--steps", action="store_true", help="print the steps in their order, and run nothing")
    run.add_argument(
        "--accept-removals",
        action="store_true",
        help="remove the vectors of images that are gone, however many they are; for this run only",
    )
    run.set_defaults(command=_run)


def add_status(commands: Subparsers) -> None:
    """Add ``setr status``.

    Args:
        commands: The subparsers of ``setr``.
    """
    status = add_command(
        commands,
        "status",
        help="what is there and what is stale of each evaluation set, what failed, and what to type next",
        examples=("setr status", "setr status --json"),
    )
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.set_defaults(command=_status)


def _init(options: argparse.Namespace) -> int:
    from setr_lib.commands.init import run

    if options.config is not None:
        raise SetrError(
            f"`{typed('init')}` takes no --config: it writes setr.toml into the current folder, "
            "where commands find it"
        )
    return run(options.photos, options.queries, quiet=options.quiet)


def _run(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.run import run
    from setr_lib.runners import RunRequest

    return run(
        RunRequest(
            settings=settings,
            sets=tuple(options.sets),
            until=options.until,
            steps=options.steps,
            accept_removals=options.accept_removals,
            quiet=options.quiet,
        )
    )


def _status(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.status import run

    return run(settings, as_json=options.json)
