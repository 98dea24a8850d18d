"""Arguments of the commands that give results: ``search``, ``leaderboard``, ``compare``, ``score`` and
``submit``.
"""

from __future__ import annotations

import argparse

from setr_lib.commands.arguments.shared import Subparsers, path, positive
from setr_lib.settings import Settings


def add_search(commands: Subparsers) -> None:
    """Add ``setr search``.

    Args:
        commands: The subparsers of ``setr``.
    """
    search = commands.add_parser("search", help="search a gallery with an image and a text, both stages")
    search.add_argument("image", type=path, help="the reference image")
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
    search.add_argument("--k", type=positive, help="images to show (default: 10, or as many as are judged)")
    search.add_argument(
        "--output", type=path, help="where to write the contact sheet (default: under the storage root)"
    )
    search.set_defaults(command=_search)


def add_leaderboard(commands: Subparsers) -> None:
    """Add ``setr leaderboard``.

    Args:
        commands: The subparsers of ``setr``.
    """
    leaderboard = commands.add_parser("leaderboard", help="the latest scores of every evaluation set")
    leaderboard.add_argument("--json", action="store_true", help="one JSON array, one object per score")
    leaderboard.set_defaults(command=_leaderboard)


def add_score(commands: Subparsers) -> None:
    """Add ``setr score``.

    Args:
        commands: The subparsers of ``setr``.
    """
    score = commands.add_parser(
        "score", help="official metrics of ranking files that any system made; needs annotations only"
    )
    score.add_argument("dataset", help="a data set of the settings, e.g. circo")
    score.add_argument("--split", required=True, help="val, test1, test, ...; a hidden one is validated only")
    score.add_argument(
        "files",
        nargs="+",
        type=path,
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


def add_compare(commands: Subparsers) -> None:
    """Add ``setr compare``.

    Args:
        commands: The subparsers of ``setr``.
    """
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
    compare.add_argument("--limit", type=positive, metavar="N", help="only the first N queries of each set")
    compare.add_argument(
        "--sample", type=positive, default=16, help="queries that costs are timed on (default: 16)"
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


def add_submit(commands: Subparsers) -> None:
    """Add ``setr submit``.

    Args:
        commands: The subparsers of ``setr``.
    """
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
    submit.add_argument("--output", type=path, metavar="FOLDER", help="default: under the storage root")
    submit.set_defaults(command=_submit)


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


def _leaderboard(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.leaderboard import run

    return run(settings, as_json=options.json)


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
