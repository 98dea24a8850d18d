"""Arguments of the commands that prepare a project: ``list``, ``crop``, ``env``, ``miniature``."""

from __future__ import annotations

import argparse

from setr_lib.commands.arguments.shared import Subparsers, path
from setr_lib.settings import Settings

_LISTED = ("methods", "rerankers", "systems", "benchmarks", "spaces", "texts")
"""What ``setr list`` takes."""


def add_list(commands: Subparsers) -> None:
    """Add ``setr list``.

    Args:
        commands: The subparsers of ``setr``.
    """
    names = commands.add_parser(
        "list", help="what settings can name: methods, re-rankers, trained systems, benchmarks, spaces, texts"
    )
    names.add_argument(
        "what", nargs="?", choices=_LISTED, metavar="KIND", help=f"{', '.join(_LISTED)} (default: all)"
    )
    names.add_argument("--json", action="store_true", help="one JSON array, one object per name")
    names.set_defaults(command=_list)


def add_crop(commands: Subparsers) -> None:
    """Add ``setr crop``.

    Args:
        commands: The subparsers of ``setr``.
    """
    crop = commands.add_parser(
        "crop", help="cut the images of benchmarks that rank parts of images (GeneCIS's attribute tasks)"
    )
    crop.add_argument(
        "dataset", nargs="?", metavar="DATASET", help="one data set or evaluation set only (default: all)"
    )
    crop.set_defaults(command=_crop)


def add_environment(commands: Subparsers) -> None:
    """Add ``setr env``.

    Args:
        commands: The subparsers of ``setr``.
    """
    env = commands.add_parser("env", help="the environment variables that dagster and mlflow need here")
    env.add_argument("--write", action="store_true", help="write them to .env beside setr.toml")
    env.set_defaults(command=_env, looks_at_place=False)


def add_miniature(commands: Subparsers) -> None:
    """Add ``setr miniature``.

    Args:
        commands: The subparsers of ``setr``.
    """
    miniature = commands.add_parser("miniature", help="the synthetic world and its two small models")
    parts = miniature.add_subparsers(required=True, metavar="PART")
    write = parts.add_parser(
        "write", help="draw its data sets in the official layouts (nothing to do: does nothing)"
    )
    write.add_argument("--train", action="store_true", help="the train splits (below train), too")
    write.add_argument(
        "--all", action="store_true", help="the train splits, GeneCIS, i-CIR and LaSCo, named or not"
    )
    write.set_defaults(command=_miniature_write)
    train = parts.add_parser(
        "train", help="train its two models where they are missing; resumes where it was stopped"
    )
    train.add_argument(
        "--output",
        type=path,
        help="folder for the weights (default: the package's own, which the miniature uses)",
    )
    train.add_argument(
        "--anew", action="store_true", help="both, from nothing, instead of those that are there"
    )
    train.add_argument("--device", default=None, help="torch device (default: [models] device)")
    train.set_defaults(command=_miniature_train)


def _list(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.list_names import run

    return run(settings, what=options.what, as_json=options.json)


def _crop(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.crop import run

    return run(settings, dataset=options.dataset)


def _env(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.env import run

    return run(settings, write=options.write, quiet=options.quiet)


def _miniature_write(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.miniature import write

    return write(settings, with_train=options.train, everything=options.all)


def _miniature_train(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.miniature import train

    return train(settings, output=options.output, device=options.device, anew=options.anew)
