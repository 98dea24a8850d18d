"""``setr texts``: export and import of the generated texts that retrieval methods bring themselves.

They are treated as captions (a kind per image) and compositions (a kind per query) are. When a row was made
here is told by its table: it counts as made when the table was written.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.commands.exchange_texts import (
    Here,
    by_dataset,
    check_command,
    is_export,
    nothing_yet,
    stored_table,
    tell,
    write_lines,
)
from setr_lib.commands.outputs import check_output_file
from setr_lib.datasets import EvaluationSet, named_sets
from setr_lib.errors import SetrError
from setr_lib.near_names import did_you_mean
from setr_lib.pipeline.context import NotMadeYetError, PipelineContext, pipeline_context
from setr_lib.pipeline.texts import ASSET, text_kinds
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.texts.kind import TextKind


def export_texts(settings: Settings, *, kind: str, name: str | None, output: Path | None) -> int:
    """Write the texts of one kind as JSON Lines.

    Args:
        settings: The project's settings.
        kind: The name of the kind, which a configured method brings.
        name: A data set or an evaluation set; all by default.
        output: The file; standard output by default.

    Returns:
        The exit status.

    Raises:
        SetrError: No configured method brings such a kind, or there are no texts yet.
    """
    from setr_lib.texts.exchange_files import text_line

    check_output_file(output, is_export)
    context = pipeline_context(settings)
    found = _kind(context, kind)
    lines: list[str] = []
    for sets in _carried_together(found, named_sets(settings, name)):
        rows = current_texts(context, found, sets)
        lines += [text_line(found, sets[0].dataset, sets[0].split, row) for row in rows.iter_rows(named=True)]
    if not lines:
        raise NotMadeYetError(nothing_yet(kind, name, ASSET))
    write_lines(lines, output, kind)
    return 0


def import_texts(
    settings: Settings,
    *,
    kind: str,
    file: Path,
    dataset: str | None,
    overwrite: bool,
    other_pictures: bool,
) -> int:
    """Check the texts of a file, and keep them for the next materialisation; says what became of them.

    Args:
        settings: The project's settings.
        kind: The name of the kind, which a configured method brings.
        file: JSON Lines, as :func:`export_texts` writes them.
        dataset: Replaces the name of the data set in every row.
        overwrite: Whether rows are replaced that were made later than the file's.
        other_pictures: Whether rows are taken that were made from pictures with other bytes than those here.

    Returns:
        The exit status.

    Raises:
        SetrError: A row cannot be taken; nothing is then imported.
    """
    from setr_lib.texts.exchange_files import Known, read_texts
    from setr_lib.texts.imported import settle, store_with
    from setr_lib.texts.kind import imported_schema

    context, here = pipeline_context(settings), Here(settings)
    found = _kind(context, kind)
    check_command(file, dataset, here)
    known = Known(here.images_of, here.queries_of, here.fingerprint_of, here.splits_of)
    frames = read_texts(file, found, known, dataset=dataset, other_pictures=other_pictures)
    every = _carried_together(found, [one for sets in here.sets.values() for one in sets])
    outcomes = [
        (sets, settle(frames[key], current_texts(context, found, sets), overwrite=overwrite))
        for sets in every
        if (key := _key(found, sets[0])) in frames
    ]
    for sets, settled in outcomes:
        first = sets[0]
        stored = store_with(context.imported_texts(found, first.dataset, first.key), settled.taken)
        name = first.dataset if found.per == "image" else first.key
        path = context.tables.write(
            context.tables.imported_texts(found.name), stored, imported_schema(found), name
        )
        tell(f"{kind} of {name}", settled, path, ASSET, sets)
    return 0


def current_texts(context: PipelineContext, kind: TextKind, sets: Iterable[EvaluationSet]) -> pl.DataFrame:
    """The texts of one kind that the pipeline has, imported or made here.

    Args:
        context: Tables.
        kind: The kind.
        sets: The evaluation sets of one data set for a kind per image, one evaluation set for one per query.

    Returns:
        A frame with the columns of ``imported_schema``, in order of the ids.
    """
    import polars as pl

    from setr_lib.tables import GALLERY, QUERIES
    from setr_lib.texts.imported import unfit_texts
    from setr_lib.texts.kind import imported_schema

    sets = list(sets)
    given, parts = context.imported_texts(kind, sets[0].dataset, sets[0].key), []
    for chosen in sets:
        images = stored_table(context, "gallery_images", GALLERY, chosen.key)
        queries = stored_table(context, "queries", QUERIES, chosen.key)
        if images is not None and queries is not None:
            rows = images if kind.per == "image" else queries
            given = given.join(unfit_texts(kind, given, rows, images), on=kind.key, how="anti")
            parts.append(_made_here(context, kind, chosen, queries, images))
    made = pl.concat([imported_schema(kind).to_frame(), *parts])
    latest = made.sort("made_at", descending=True).unique(kind.key, keep="first", maintain_order=True)
    return pl.concat([given, latest.join(given, on=kind.key, how="anti")]).sort(kind.key)


def _made_here(
    context: PipelineContext,
    kind: TextKind,
    chosen: EvaluationSet,
    queries: pl.DataFrame,
    images: pl.DataFrame,
) -> pl.DataFrame:
    import polars as pl

    from setr_lib.texts.exchange_files import time_text
    from setr_lib.texts.kind import OK, imported_schema

    asset = context.tables.method_texts(chosen.key, kind.name)
    try:
        table = context.tables.read(asset, kind.schema)
    except NotMadeYetError:
        return imported_schema(kind).to_frame()
    pictures = images.filter(status="ok").select("image_id", "fingerprint")
    if kind.per == "query":
        of_query = queries.select("query_id", "reference_id", "modification")
        pictures = of_query.join(pictures, left_on="reference_id", right_on="image_id", how="left")
    written = time_text(context.settings.table_path(asset).stat().st_mtime)
    good = table.filter(status=OK).join(pictures, on=kind.key, how="inner", maintain_order="left")
    return good.with_columns(pl.col("fingerprint").fill_null(""), made_at=pl.lit(written)).select(
        list(imported_schema(kind))
    )


def _carried_together(kind: TextKind, sets: Iterable[EvaluationSet]) -> list[list[EvaluationSet]]:
    """The sets that share rows: those of a data set for texts of images, each alone for texts of queries."""
    return list(by_dataset(sets).values()) if kind.per == "image" else [[chosen] for chosen in sets]


def _key(kind: TextKind, chosen: EvaluationSet) -> tuple[str, str]:
    return chosen.dataset, "" if kind.per == "image" else chosen.split


def _kind(context: PipelineContext, name: str) -> TextKind:
    """The kind of text of this name that a configured method brings.

    Raises:
        SetrError: No configured method brings it.
    """
    known = {kind.name: kind for kind in text_kinds(context.methods.configured.values())}
    if name in known:
        return known[name]
    there = f"{', '.join(known) or 'none'}{did_you_mean(name, known) or '.'}"
    raise SetrError(
        f"no configured method brings generated texts called {name!r}; known: {there} Captions and "
        "compositions have commands of their own: setr captions, setr compositions"
    )
