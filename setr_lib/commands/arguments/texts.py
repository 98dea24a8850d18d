"""Arguments of the commands that carry generated texts between machines: ``captions``, ``compositions`` and
``texts``.
"""

from __future__ import annotations

import argparse

from setr_lib.commands.arguments.shared import Subparsers, add_command, add_set, path
from setr_lib.settings import Settings

_CARRIED = {
    "captions": "image captions that the multimodal LLM wrote, as JSON Lines",
    "compositions": "what the multimodal LLM composed for each query, as JSON Lines",
    "texts": "generated texts of the other kinds, which methods define, as JSON Lines",
}


def add_exchange(commands: Subparsers) -> None:
    """Add ``setr captions``, ``setr compositions`` and ``setr texts``.

    Args:
        commands: The subparsers of ``setr``.
    """
    for what, text in _CARRIED.items():
        _add_exchange(commands, what, text)


def _add_exchange(commands: Subparsers, what: str, text: str) -> None:
    kind = " edited_captions" if what == "texts" else ""
    exported = (f"setr {what} export{kind} cirr-val --output {what}.jsonl",)
    imported = (f"setr {what} import{kind} {what}.jsonl",)
    parser = add_command(commands, what, help=f"export or import {text}", examples=exported + imported)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    export = add_command(actions, "export", help="write them; failed ones are left out", examples=exported)
    if what == "texts":
        export.add_argument("kind", metavar="KIND", help="the name of the kind of text")
    add_set(export)
    export.add_argument("--output", type=path, metavar="FILE", help="default: standard output")
    export.set_defaults(command=_export, what=what)
    taking = add_command(
        actions,
        "import",
        help="check every row, then keep all (or none) for the next materialisation",
        examples=imported,
    )
    if what == "texts":
        taking.add_argument("kind", metavar="KIND", help="the name of the kind of text")
    taking.add_argument("file", type=path, metavar="FILE", help="JSON Lines, as `export` writes them")
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
