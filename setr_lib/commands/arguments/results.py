"""Arguments of the commands that give results: ``search``, ``leaderboard``, ``compare``, ``score`` and
``submit``.
"""

from __future__ import annotations

import argparse

from setr_lib.commands.arguments.shared import Subparsers, add_command, path, positive
from setr_lib.settings import Settings

FORMS = ("json", "csv", "markdown")


def add_leaderboard(commands: Subparsers) -> None:
    """Add ``setr leaderboard``.

    Args:
        commands: The subparsers of ``setr``.
    """
    leaderboard = add_command(
        commands,
        "leaderboard",
        help="the latest scores of every evaluation set",
        examples=(
            "setr leaderboard",
            "setr leaderboard --dataset cirr",
            "setr leaderboard --csv > scores.csv",
        ),
        text="JSON and CSV have every metric of every row; table and Markdown the headline metrics of each "
        "set.",
    )
    leaderboard.add_argument(
        "--dataset", metavar="SET", help="one data set or evaluation set only (default: all)"
    )
    shown = leaderboard.add_mutually_exclusive_group()
    for form, text in zip(
        FORMS,
        ("one JSON array, one object per score", "CSV, one line per score", "tables in Markdown"),
        strict=True,
    ):
        shown.add_argument(f"--{form}", action="store_const", const=form, dest="form", help=text)
    leaderboard.set_defaults(command=_leaderboard)


def add_search(commands: Subparsers) -> None:
    """Add ``setr search``.

    Args:
        commands: The subparsers of ``setr``.
    """
    search = add_command(
        commands,
        "search",
        help="search a gallery with an image and a text, both stages",
        examples=(
            'setr search photo.jpg "the same dress, but blue" --dataset fashioniq',
            'setr search photo.jpg "without the dog" --json',
            "setr search --queries wishes.csv --json > answers.jsonl",
            'setr search photo.jpg "in the snow" --coarse-only --method sum',
        ),
        text="A file of queries is CSV with the columns reference, text and, if you like, id (a first line "
        "names them), or JSON Lines of objects with these keys. A reference is a path, from the "
        "file's folder or from here, or an id of the gallery. The models are loaded once; answers "
        "come as they are ready. A row that cannot be searched is told with its line, the others go "
        "on, and the exit status is 1.",
    )
    search.add_argument("image", nargs="?", type=path, metavar="IMAGE", help="the reference image")
    search.add_argument(
        "text", nargs="?", metavar="TEXT", help="the modification text, e.g. 'the same dress, but blue'"
    )
    search.add_argument(
        "--queries",
        type=path,
        metavar="FILE",
        help="many queries, in place of IMAGE TEXT; - for standard input",
    )
    search.add_argument(
        "--dataset",
        metavar="SET",
        help="an evaluation set or data set whose gallery is embedded (default: the first)",
    )
    search.add_argument(
        "--gallery",
        metavar="NAME",
        help="one gallery only: FashionIQ's category, e.g. dress, i-CIR's instance, or the number of a "
        "GeneCIS query (default: all images as one)",
    )
    search.add_argument(
        "--method", metavar="NAME", help="the retrieval method of stage 1 (default: [coarse] default)"
    )
    second = search.add_mutually_exclusive_group()
    second.add_argument(
        "--reranker",
        metavar="NAME",
        help=(
            "who re-ranks, or none (or coarse) for stage 1 alone (default: of [reranking] rerankers the "
            "promoted adapter, else the first that can score)"
        ),
    )
    second.add_argument(
        "--coarse-only",
        action="store_true",
        help="stage 1 alone, as --reranker none. The multimodal LLM is loaded all the same where the method "
        "reads what it writes (intersection does); with --method sum, say, it is not",
    )
    search.add_argument(
        "--k", type=positive, metavar="N", help="images to show (default: 10, or as many as are judged)"
    )
    search.add_argument(
        "--json",
        action="store_true",
        help="one JSON document; with --queries one a line, as each answer is ready",
    )
    search.add_argument(
        "--output",
        type=path,
        metavar="PATH",
        help="where to write the contact sheet, with --queries the folder of all (default: one under the "
        "storage root; none with --json or --queries)",
    )
    search.set_defaults(command=_search, refuse=search.error)


def add_compare(commands: Subparsers) -> None:
    """Add ``setr compare``.

    Args:
        commands: The subparsers of ``setr``.
    """
    compare = add_command(
        commands,
        "compare",
        help="methods and re-rankers side by side: metrics, and what a query costs",
        examples=(
            "setr compare sum intersection --set cirr-val",
            "setr compare all --limit 100 --plan",
            "setr compare --markdown",
        ),
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
        "--sample",
        type=positive,
        default=16,
        metavar="N",
        help="queries that costs are timed on (default: 16)",
    )
    compare.add_argument("--plan", action="store_true", help="print what it would cost, and stop")
    compare.add_argument(
        "--accept-removals",
        action="store_true",
        help="remove the vectors of images that are gone, however many they are; for this run only",
    )
    shown = compare.add_mutually_exclusive_group()
    for form in FORMS:
        text = f"print the rows of the last comparison as {form.upper()}, and run nothing"
        shown.add_argument(f"--{form}", action="store_const", const=form, dest="form", help=text)
    compare.set_defaults(command=_compare)


def add_score(commands: Subparsers) -> None:
    """Add ``setr score``.

    Args:
        commands: The subparsers of ``setr``.
    """
    score = add_command(
        commands,
        "score",
        help="official metrics of rankings that any program made; needs no pictures and no model",
        examples=(
            "setr score cirr --split val recall.json subset.json",
            "setr score circo-val ranking.json --json",
        ),
    )
    score.add_argument(
        "dataset", metavar="DATASET", help="a data set or evaluation set of the settings, e.g. circo-val"
    )
    score.add_argument(
        "--split",
        help="val, test1, test, ...; a hidden one is validated only (default: the evaluation set's, or the "
        "only one that the settings have of the data set)",
    )
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


def add_submit(commands: Subparsers) -> None:
    """Add ``setr submit``.

    Args:
        commands: The subparsers of ``setr``.
    """
    submit = add_command(
        commands,
        "submit",
        help="write what a benchmark's test server takes (CIRR, CIRCO)",
        examples=("setr submit circo", "setr submit cirr --reranker none --output to-upload"),
    )
    submit.add_argument(
        "dataset", metavar="DATASET", help="a data set whose benchmark has a test server, e.g. circo"
    )
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
        "--method",
        "--strategy",
        dest="method",
        metavar="NAME",
        help="a retrieval method (default: a re-ranked one)",
    )
    submit.add_argument("--output", type=path, metavar="FOLDER", help="default: under the storage root")
    submit.set_defaults(command=_submit)


def _leaderboard(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.leaderboard import run

    return run(settings, dataset=options.dataset, form=options.form)


def _search(settings: Settings, options: argparse.Namespace) -> int:
    from setr_lib.commands.search import run, run_many
    from setr_lib.commands.searching import Wanted
    from setr_lib.pipeline.reranking import STAGE_1_ALONE

    wanted = Wanted(
        dataset=options.dataset,
        gallery=options.gallery,
        method=options.method,
        reranker=STAGE_1_ALONE[0] if options.coarse_only else options.reranker,
        k=options.k,
    )
    image, text, output = options.image, options.text, options.output
    if options.queries is not None and image is None:
        return run_many(settings, options.queries, wanted, as_json=options.json, output=output)
    if options.queries is None and image is not None and text is not None:
        return run(settings, image, text, wanted, as_json=options.json, output=output)
    options.refuse("name the reference image and say what should differ: IMAGE TEXT; or --queries FILE alone")
    return 2


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
