"""Arguments of the commands that prepare a project or tell what it may name: ``list``, ``crop``, ``env``,
``miniature``, ``completion``.
"""

from __future__ import annotations

import argparse

from setr_lib.commands.arguments.shared import Subparsers, add_command, add_set, path
from setr_lib.settings import Settings

_LISTED = ("methods", "rerankers", "systems", "benchmarks", "spaces", "texts")
"""What ``setr list`` takes."""
_SHELLS = ("bash", "zsh", "fish")


def add_list(commands: Subparsers) -> None:
    """Add ``setr list``.

    Args:
        commands: The subparsers of ``setr``.
    """
    names = add_command(
        commands,
        "list",
        help="what settings can name: methods, re-rankers, trained systems, benchmarks, spaces, texts",
        examples=("setr list", "setr list methods", "setr list methods --json"),
    )
    names.add_argument(
        "what", nargs="?", choices=_LISTED, metavar="KIND", help=f"{', '.join(_LISTED)} (default: all)"
    )
    names.add_argument("--json", action="store_true", help="one JSON array, one object per name")
    names.set_defaults(command=_list, anywhere=True)


def add_crop(commands: Subparsers) -> None:
    """Add ``setr crop``.

    Args:
        commands: The subparsers of ``setr``.
    """
    crop = add_command(
        commands,
        "crop",
        help="cut the images of benchmarks that rank parts of images (GeneCIS's attribute tasks)",
        examples=("setr crop",),
    )
    add_set(crop)
    crop.set_defaults(command=_crop)


def add_environment(commands: Subparsers) -> None:
    """Add ``setr env``.

    Args:
        commands: The subparsers of ``setr``.
    """
    env = add_command(
        commands,
        "env",
        help="the environment variables that dagster and mlflow need here",
        examples=("setr env", "setr env --write"),
    )
    env.add_argument("--write", action="store_true", help="write them to .env beside setr.toml")
    env.set_defaults(command=_env, looks_at_place=False)


def add_miniature(commands: Subparsers) -> None:
    """Add ``setr miniature``.

    Args:
        commands: The subparsers of ``setr``.
    """
    miniature = add_command(
        commands,
        "miniature",
        help="draw the miniature's pictures, train its two small models",
        examples=("setr miniature write", "setr miniature train --output my-models"),
    )
    parts = miniature.add_subparsers(required=True, metavar="PART")
    write = add_command(
        parts,
        "write",
        help="draw its data sets in the official layouts (nothing to do: does nothing)",
        examples=("setr miniature write", "setr miniature write --all"),
    )
    write.add_argument("--train", action="store_true", help="the train splits (below train), too")
    write.add_argument(
        "--all", action="store_true", help="the train splits, GeneCIS, i-CIR and LaSCo, named or not"
    )
    write.set_defaults(command=_miniature_write)
    train = add_command(
        parts,
        "train",
        help="train its two models where they are missing; resumes where it was stopped",
        examples=("setr miniature train --output my-models",),
    )
    train.add_argument(
        "--output",
        type=path,
        metavar="FOLDER",
        help="folder for the weights (default: the package's own, which the miniature uses)",
    )
    train.add_argument(
        "--anew", action="store_true", help="both, from nothing, instead of those that are there"
    )
    train.add_argument("--device", default=None, help="torch device (default: [models] device)")
    train.set_defaults(command=_miniature_train)


def add_completion(commands: Subparsers) -> None:
    """Add ``setr completion``.

    Args:
        commands: The subparsers of ``setr``.
    """
    completion = add_command(
        commands,
        "completion",
        help="the script that lets a shell complete commands, options and names",
        examples=tuple(f"setr completion {shell}" for shell in _SHELLS),
        text='In ~/.bashrc: eval "$(setr completion bash)". In ~/.zshrc, after compinit: eval "$(setr '
        'completion zsh)". In ~/.config/fish/config.fish: setr completion fish | source.',
    )
    completion.allow_abbrev = False  # words of another command line follow --words
    completion.add_argument("shell", nargs="?", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    completion.add_argument("--words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    completion.set_defaults(immediate=_completion, refuse=completion.error)


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


def _completion(options: argparse.Namespace) -> int:
    from setr_lib.commands.completion import candidates, script

    if options.words is not None:
        for word, text in candidates(options.tree, options.words):
            print(f"{word}\t{text}" if text else word)
    elif options.shell is None:
        options.refuse(f"name the shell: {', '.join(_SHELLS)}")
    else:
        print(script(options.shell), end="")
    return 0
