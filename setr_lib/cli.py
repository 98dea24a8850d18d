"""The ``setr`` command. This module reads the command line; the work is done in ``setr_lib.commands``.

A command's module is imported when that command runs, so that ``setr --help`` is immediate. Errors meant for
a person are printed as they are, without a traceback, and end the program with status 1; a wrong command line
ends it with 2, and so do settings that ``setr doctor`` cannot read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from setr_lib.commands.ending import end_process
from setr_lib.damage import PARTS, explained
from setr_lib.errors import SetrError
from setr_lib.escaping import visible_output
from setr_lib.paths import expanded
from setr_lib.settings import Settings, SettingsError, load_settings

Command = Callable[[Settings, argparse.Namespace], int]
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_LISTED = ("methods", "rerankers", "systems", "benchmarks", "spaces", "texts")
"""What ``setr list`` takes."""


def program() -> NoReturn:
    """The ``setr`` program: run the command of the process's command line, and end the process."""
    end_process(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status: 0, 1 after an error, or what the command says.
    """
    with visible_output():
        return _main(_parser().parse_args(arguments))


def _main(options: argparse.Namespace) -> int:
    """Run one command, and tell its errors."""
    try:
        return _run(options)
    except SettingsError as error:
        return _settings_unreadable(error, options)
    except SetrError as error:
        print(f"setr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setr: interrupted; what was finished is kept", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has seen enough; python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _settings_unreadable(error: SettingsError, options: argparse.Namespace) -> int:
    if options.command is _doctor:
        from setr_lib.commands.doctor import unreadable

        return unreadable(error, as_json=options.json)
    print(f"setr: {error}", file=sys.stderr)
    return 1


def _run(options: argparse.Namespace) -> int:
    from setr_lib.commands.waiting_imports import waiting_imports
    from setr_lib.pipeline.storage import places_of

    settings = load_settings(options.config)
    if (limit := getattr(options, "limit", None)) is not None:
        evaluation = settings.evaluation.model_copy(update={"limit": limit})
        settings = settings.model_copy(update={"evaluation": evaluation})
    command: Command = options.command
    if command not in (_env, _doctor):
        _look_at_place(settings)
    with explained(places_of(settings)), waiting_imports():
        return command(settings, options)


def _look_at_place(settings: Settings) -> None:
    """Refuse the Dagster instance of where this project was before it was moved or copied; tell of what else
    is still of there.
    """
    from setr_lib.commands import env, place

    env.check(settings)
    for words in place.of_elsewhere(settings):
        print(f"setr: {words}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="setr",
        description="Two-stage composed image retrieval: look at it, plan it, try it. `make demo` runs it.",
    )
    parser.add_argument(
        "--config", type=_path, help="settings file (default: $SETR_CONFIG, or the nearest setr.toml)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_scores(commands)
    _add_submit(commands)
    _add_search(commands)
    _add_compare(commands)
    _add_list(commands)
    _add_checks(commands)
    _add_faults(commands)
    _add_crop(commands)
    _add_exchange(commands, "captions", "image captions that the multimodal LLM wrote, as JSON Lines")
    _add_exchange(commands, "compositions", "what it composed for each query, as JSON Lines")
    _add_exchange(commands, "texts", "generated texts that a method brings itself, as JSON Lines")
    _add_cache(commands)
    _add_environment(commands)
    _add_miniature(commands)
    return parser


def _add_scores(commands: Subparsers) -> None:
    leaderboard = commands.add_parser("leaderboard", help="the latest scores of every evaluation set")
    leaderboard.add_argument("--json", action="store_true", help="one JSON array, one object per score")
    leaderboard.set_defaults(command=_leaderboard)

    score = commands.add_parser(
        "score", help="official metrics of ranking files that any system made; needs annotations only"
    )
    score.add_argument("dataset", help="a data set of the settings, e.g. circo")
    score.add_argument("--split", required=True, help="val, test1, test, ...; a hidden one is validated only")
    score.add_argument(
        "files",
        nargs="+",
        type=_path,
        metavar="FILE",
        help=(
            "the benchmark's own JSON (CIRR's one or two submission files, CIRCO's, ...), or Parquet rankings"
        ),
    )
    score.add_argument(
        "--gallery", help="a protocol; FashionIQ: original (the whole split) or val (references and targets)"
    )
    score.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="[LABEL=]FILE",
        help="labelled queries (CIRCUS's, or your own) to break every metric down by; may be repeated",
    )
    score.add_argument(
        "--caveat",
        action="append",
        default=[],
        metavar="TEXT",
        help=(
            "why the ranking is not comparable with published numbers, e.g. 'query contains shared_concept'; "
            "its rows say so; may be repeated"
        ),
    )
    score.add_argument("--json", action="store_true", help="one JSON array, as of `setr leaderboard --json`")
    score.set_defaults(command=_score)


def _add_submit(commands: Subparsers) -> None:
    submit = commands.add_parser("submit", help="write what a benchmark's test server takes (CIRR, CIRCO)")
    submit.add_argument("dataset", help="a data set whose benchmark has a test server, e.g. circo")
    submit.add_argument("--split", help="default: the one that the server scores (test1, test)")
    submit.add_argument(
        "--reranker",
        "--stage",
        dest="reranker",
        metavar="NAME",
        help=(
            "whose order to submit: a re-ranker, or coarse (or none) for stage 1's (default: the last "
            "re-ranker that is there)"
        ),
    )
    submit.add_argument(
        "--method", "--strategy", dest="method", help="a retrieval method (default: a re-ranked one)"
    )
    submit.add_argument("--output", type=_path, metavar="FOLDER", help="default: under the storage root")
    submit.set_defaults(command=_submit)


def _add_search(commands: Subparsers) -> None:
    search = commands.add_parser("search", help="search a gallery with an image and a text, both stages")
    search.add_argument("image", type=_path, help="the reference image")
    search.add_argument("text", help="the modification text, e.g. 'the same dress, but blue'")
    search.add_argument(
        "--dataset", help="an evaluation set or data set whose gallery is embedded (default: the first)"
    )
    search.add_argument("--method", help="the retrieval method of stage 1 (default: [coarse] default)")
    search.add_argument(
        "--reranker",
        metavar="NAME",
        help=(
            "who re-ranks, or none (or coarse) for stage 1 alone (default: of [reranking] rerankers the "
            "promoted adapter, else the first that can score)"
        ),
    )
    search.add_argument(
        "--gallery",
        help="one gallery only: FashionIQ's category, e.g. dress, i-CIR's instance, or the number of a "
        "GeneCIS query (default: all images as one)",
    )
    search.add_argument("--k", type=_positive, help="images to show (default: 10, or as many as are judged)")
    search.add_argument(
        "--output", type=_path, help="where to write the contact sheet (default: under the storage root)"
    )
    search.set_defaults(command=_search)


def _add_compare(commands: Subparsers) -> None:
    compare = commands.add_parser(
        "compare", help="methods and re-rankers side by side: metrics, and what a query costs"
    )
    compare.add_argument(
        "methods",
        nargs="*",
        metavar="METHOD",
        help="retrieval methods, or all (default: those of the settings)",
    )
    compare.add_argument(
        "--set",
        action="append",
        default=[],
        dest="sets",
        metavar="NAME",
        help="an evaluation set or data set; may be repeated (default: all with known targets)",
    )
    compare.add_argument(
        "--rerank",
        action="append",
        default=[],
        metavar="METHOD",
        help="a method to re-rank the candidates of, all or none; may be repeated (default: the settings')",
    )
    compare.add_argument("--limit", type=_positive, metavar="N", help="only the first N queries of each set")
    compare.add_argument(
        "--sample", type=_positive, default=16, help="queries that costs are timed on (default: 16)"
    )
    compare.add_argument("--plan", action="store_true", help="print what it would cost, and stop")
    compare.add_argument(
        "--accept-removals",
        action="store_true",
        help="remove the vectors of images that are gone, however many they are; for this run only",
    )
    shown = compare.add_mutually_exclusive_group()
    for form in ("json", "csv", "markdown"):
        text = f"print the rows of the last comparison as {form.upper()}, and run nothing"
        shown.add_argument(f"--{form}", action="store_const", const=form, dest="form", help=text)
    compare.set_defaults(command=_compare)


def _add_list(commands: Subparsers) -> None:
    names = commands.add_parser(
        "list", help="what settings can name: methods, re-rankers, trained systems, benchmarks, spaces, texts"
    )
    names.add_argument(
        "what", nargs="?", choices=_LISTED, metavar="KIND", help=f"{', '.join(_LISTED)} (default: all)"
    )
    names.add_argument("--json", action="store_true", help="one JSON array, one object per name")
    names.set_defaults(command=_list)


def _add_checks(commands: Subparsers) -> None:
    plan = commands.add_parser(
        "plan", help="before a first run: how many calls, how long, how much disk and memory"
    )
    plan.add_argument("--limit", type=_positive, metavar="N", help="plan for the first N queries of each set")
    plan.add_argument(
        "--sample", type=_positive, default=16, help="items to measure each step on (default: 16)"
    )
    plan.add_argument("--counts-only", action="store_true", help="load no model: count, do not measure")
    plan.set_defaults(command=_plan)

    doctor = commands.add_parser(
        "doctor", help="what is installed and here, what is missing or broken, what can be done already"
    )
    doctor.add_argument(
        "dataset", nargs="?", metavar="DATASET", help="one data set or evaluation set only (default: all)"
    )
    doctor.add_argument("--json", action="store_true", help="one JSON document")
    doctor.add_argument("--quick", action="store_true", help="look for images without opening each")
    doctor.set_defaults(command=_doctor)

    repair = commands.add_parser(
        "repair", help="set aside what is damaged on disk, and keep what is whole of it; nothing is deleted"
    )
    repair.add_argument("part", choices=tuple(PARTS), metavar="NAME", help=f"{', '.join(PARTS)}")
    repair.add_argument("--look", action="store_true", help="change nothing: say what would be done")
    repair.set_defaults(command=_repair)


def _add_faults(commands: Subparsers) -> None:
    faults = commands.add_parser(
        "faults", help="every image, query and text of a run with which something went wrong, and what"
    )
    faults.add_argument(
        "dataset", nargs="?", metavar="DATASET", help="one data set or evaluation set only (default: all)"
    )
    faults.add_argument("--json", action="store_true", help="one JSON array, one object per fault")
    faults.set_defaults(command=_faults)


def _add_crop(commands: Subparsers) -> None:
    crop = commands.add_parser(
        "crop", help="cut the images of benchmarks that rank parts of images (GeneCIS's attribute tasks)"
    )
    crop.add_argument(
        "dataset", nargs="?", metavar="DATASET", help="one data set or evaluation set only (default: all)"
    )
    crop.set_defaults(command=_crop)


def _add_cache(commands: Subparsers) -> None:
    cache = commands.add_parser("cache", help="the kept results of model calls: scores and texts")
    parts = cache.add_subparsers(required=True, metavar="PART")
    check = parts.add_parser("check", help="whether every entry has its form; with --sample, its value, too")
    check.add_argument(
        "--sample",
        type=_positive,
        metavar="N",
        help="compute N entries again, and compare (loads the models)",
    )
    check.add_argument("--drop", action="store_true", help="delete the entries that are at fault")
    check.set_defaults(command=_cache_check)


def _add_environment(commands: Subparsers) -> None:
    env = commands.add_parser("env", help="the environment variables that dagster and mlflow need here")
    env.add_argument("--write", action="store_true", help="write them to .env beside setr.toml")
    env.add_argument("--quiet", action="store_true", help="print nothing")
    env.set_defaults(command=_env)


def _add_miniature(commands: Subparsers) -> None:
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
        type=_path,
        help="folder for the weights (default: the package's own, which the miniature uses)",
    )
    train.add_argument(
        "--anew", action="store_true", help="both, from nothing, instead of those that are there"
    )
    train.add_argument("--device", default=None, help="torch device (default: [models] device)")
    train.set_defaults(command=_miniature_train)


def _add_exchange(commands: Subparsers, what: str, text: str) -> None:
    parser = commands.add_parser(what, help=f"export or import {text}")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    export = actions.add_parser("export", help="write them; failed ones are left out")
    if what == "texts":
        export.add_argument("kind", metavar="KIND", help="the name of the kind of text")
    export.add_argument(
        "dataset", nargs="?", metavar="DATASET", help="one data set or evaluation set only (default: all)"
    )
    export.add_argument("--output", type=_path, metavar="FILE", help="default: standard output")
    export.set_defaults(command=_export, what=what)
    taking = actions.add_parser(
        "import", help="check every row, then keep all (or none) for the next materialisation"
    )
    if what == "texts":
        taking.add_argument("kind", metavar="KIND", help="the name of the kind of text")
    taking.add_argument("file", type=_path, metavar="FILE", help="JSON Lines, as `export` writes them")
    taking.add_argument("--dataset", metavar="NAME", help="your name for the data set of the file's rows")
    taking.add_argument(
        "--overwrite", action="store_true", help="also replace rows that were made later than the file's"
    )
    taking.add_argument(
        "--other-pictures",
        action="store_true",
        help="also take rows made from other bytes than the images here have (resized, say)",
    )
    taking.set_defaults(command=_import, what=what)


def _path(text: str) -> Path:
    """A path as it is where it is there, else with what the shell left of ``~`` and variables expanded."""
    try:
        return Path(text if os.path.lexists(text) else expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def _leaderboard(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.leaderboard import run

    return run(settings, as_json=options.json)


def _score(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.score import run

    return run(
        settings,
        dataset=options.dataset,
        split=options.split,
        files=options.files,
        gallery=options.gallery,
        labels=options.labels,
        caveats=options.caveat,
        as_json=options.json,
    )


def _submit(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.submit import run

    return run(
        settings,
        dataset=options.dataset,
        split=options.split,
        reranker=options.reranker,
        method=options.method,
        output=options.output,
    )


def _search(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.search import run

    return run(
        settings,
        image=options.image,
        text=options.text,
        dataset=options.dataset,
        gallery=options.gallery,
        method=options.method,
        reranker=options.reranker,
        k=options.k,
        output=options.output,
    )


def _compare(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands import compare

    if options.form is not None:
        return compare.show(settings, options.form)
    return compare.run(
        settings,
        methods=options.methods,
        sets=options.sets,
        reranked=options.rerank,
        sample=options.sample,
        plan_only=options.plan,
        accept_removals=options.accept_removals,
    )


def _list(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.list_names import run

    return run(settings, what=options.what, as_json=options.json)


def _plan(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.plan import run

    return run(settings, sample=options.sample, counts_only=options.counts_only)


def _doctor(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.doctor import run

    return run(settings, dataset=options.dataset, as_json=options.json, quick=options.quick)


def _repair(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.repair import run

    return run(settings, part=options.part, look_only=options.look)


def _faults(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.faults import run

    return run(settings, dataset=options.dataset, as_json=options.json)


def _crop(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.crop import run

    return run(settings, dataset=options.dataset)


def _export(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands import exchange_method_texts, exchange_texts

    if options.what == "texts":
        return exchange_method_texts.export_texts(
            settings, kind=options.kind, name=options.dataset, output=options.output
        )
    run = exchange_texts.export_captions if options.what == "captions" else exchange_texts.export_compositions
    return run(settings, name=options.dataset, output=options.output)


def _import(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands import exchange_method_texts, exchange_texts

    if options.what == "texts":
        return exchange_method_texts.import_texts(
            settings,
            kind=options.kind,
            file=options.file,
            dataset=options.dataset,
            overwrite=options.overwrite,
            other_pictures=options.other_pictures,
        )
    run = exchange_texts.import_captions if options.what == "captions" else exchange_texts.import_compositions
    return run(
        settings,
        file=options.file,
        dataset=options.dataset,
        overwrite=options.overwrite,
        other_pictures=options.other_pictures,
    )


def _cache_check(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.cache import check

    return check(settings, sample=options.sample, drop=options.drop)


def _env(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.env import run

    return run(settings, write=options.write, quiet=options.quiet)


def _miniature_write(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.miniature import write

    return write(settings, with_train=options.train, everything=options.all)


def _miniature_train(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.miniature import train

    return train(settings, output=options.output, device=options.device, anew=options.anew)


if __name__ == "__main__":
    program()
