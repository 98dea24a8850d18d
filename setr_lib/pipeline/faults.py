"""What went wrong with single images, queries and texts of an evaluation set, gathered from the stages'
tables: for the foot of a table on a terminal, for reports, and for ``setr faults``, which lists all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.query_set import QuerySet
    from setr_lib.spaces.vector_store import SyncReport

SHOWN = 3
"""Items of each kind that are named where not all are listed."""
_LONGEST = 80
EMBEDDING, RANKING = "embedding_faults", "ranking_faults"
"""The tables in which stages keep what no other table of theirs says."""
IMAGES = ("gallery images missing", "gallery images broken", "gallery images not embedded")
"""The kinds that are of images; all of a gallery's are missing where captions stand in for them."""
LISTED_BY_REPORTS = IMAGES[:2]
"""The kinds whose items a report's page has in a table of its own."""
_CUT = "texts cut at the context of the text encoder"
_UNREAD = "queries whose reference picture cannot be read"
_LOST = "queries whose every target is an image that cannot be read"
_EMPTY = "queries whose gallery has no picture that can be read"
_FALLEN_BACK = {"failed": "failed", "fallback": "replaced"}
_ONE = {
    "captions": "caption",
    "compositions": "composition",
    "images": "image",
    "queries": "query",
    "texts": "text",
}


def faults_of(context: PipelineContext, key: str) -> pl.DataFrame:
    """Everything that went wrong with single items of an evaluation set.

    Args:
        context: The tables. Those of stages that have not run yet say nothing.
        key: The evaluation set.

    Returns:
        A ``tables.FAULTS`` frame, each fault once.

    Raises:
        SetrError: A table cannot be read.
    """
    import polars as pl

    from setr_lib.tables import CAPTIONS, COMPOSITIONS, FAULTS

    tables = context.tables
    found = [FAULTS.to_frame(), *_images(context, key)]
    for asset, schema, what in (
        ("reference_captions", CAPTIONS, "captions"),
        ("query_compositions", COMPOSITIONS, "compositions"),
    ):
        if tables.exists(asset, key):
            found += _texts(tables.read(asset, schema, key), what)
    folder = context.settings.table_path(tables.method_texts(key, "any"), below=tables.folder).parent
    for path in sorted(folder.glob("*.parquet")):
        try:
            frame = pl.read_parquet(path, use_statistics=False)
        except pl.exceptions.PolarsError as error:
            raise SetrError(f"{path}: not a readable table ({error}): materialize method_texts") from error
        found += _texts(frame, path.stem)
    if tables.exists(RANKING, key):
        found.append(tables.read(RANKING, FAULTS, key))
    return pl.concat(found).unique(maintain_order=True)


def _images(context: PipelineContext, key: str) -> Iterator[pl.DataFrame]:
    import polars as pl

    from setr_lib.tables import FAULTS, GALLERY, QUERIES

    tables = context.tables
    if not tables.exists("gallery_images", key) or context.is_caption_proxy(key):
        return
    faulty = tables.read("gallery_images", GALLERY, key).filter(pl.col("status") != "ok")
    yield faulty.select(
        pl.format("gallery images {}", "status").alias("kind"),
        pl.col("image_id").alias("item"),
        pl.col("detail").fill_null(""),
    ).sort("kind", descending=True, maintain_order=True)
    if tables.exists("queries", key):
        yield _without_targets(tables.read("queries", QUERIES, key), faulty)
    if tables.exists(EMBEDDING, key):
        yield tables.read(EMBEDDING, FAULTS, key)


def _without_targets(queries: pl.DataFrame, faulty: pl.DataFrame) -> pl.DataFrame:
    """The queries that no ranking can answer: each of their targets is an image that cannot be read."""
    import polars as pl

    gone = faulty["image_id"].implode()
    named = pl.col("target_ids")
    lost = named.list.eval(pl.element().is_in(gone)).list.all() & (named.list.len() > 0)
    return queries.filter(lost).select(
        pl.lit(_LOST).alias("kind"), pl.col("query_id").alias("item"), named.list.join(", ").alias("detail")
    )


def _texts(frame: pl.DataFrame, what: str) -> Iterator[pl.DataFrame]:
    """The rows of a table of generated texts that are no good answer of the model."""
    import polars as pl

    for status, words in _FALLEN_BACK.items():
        yield frame.filter(pl.col("status") == status).select(
            pl.lit(f"{what} {words}").alias("kind"),
            pl.col(frame.columns[0]).alias("item"),
            pl.col("detail").fill_null(""),
        )


def training_faults(context: PipelineContext) -> pl.DataFrame:
    """The training images that cannot be read.

    Args:
        context: The tables.

    Returns:
        A ``tables.FAULTS`` frame.

    Raises:
        SetrError: The table cannot be read.
    """
    import polars as pl

    from setr_lib.tables import FAULTS, TRAINING_IMAGES

    if not context.tables.exists("training_images"):
        return FAULTS.to_frame()
    faulty = context.tables.read("training_images", TRAINING_IMAGES).filter(pl.col("status") != "ok")
    return faulty.select(
        pl.format("training images {}", "status").alias("kind"),
        pl.col("image_id").alias("item"),
        pl.col("detail").fill_null(""),
    )


def fault_lines(
    context: PipelineContext, key: str, *, only: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> list[str]:
    """The faults of an evaluation set in a line for each kind: how many, the first three, and the command
    that lists the rest.

    Args:
        context: As of :func:`faults_of`.
        key: The evaluation set.
        only: The kinds to tell of; all by default.
        without: Kinds to leave out.

    Returns:
        The lines; none where all is well.

    Raises:
        SetrError: A table cannot be read.
    """
    lines: list[str] = []
    for (kind,), rows in faults_of(context, key).group_by("kind", maintain_order=True):
        if (only and kind not in only) or kind in without:
            continue
        named = [
            _shortened(item) + (f" ({_shortened(detail)})" if detail else "")
            for item, detail in rows.head(SHOWN).select("item", "detail").iter_rows()
        ]
        rest = f", ...; all: setr faults {key}" if rows.height > SHOWN else ""
        lines.append(f"{counted(rows.height, kind)}: {', '.join(named)}{rest}")
    return lines


def counted(count: int, kind: str) -> str:
    """How many faults of a kind there are, in words.

    Args:
        count: How many.
        kind: The kind, e.g. ``gallery images broken``.

    Returns:
        E.g. ``2 gallery images broken``, or ``1 gallery image broken``.
    """
    if count == 1:
        kind = re.sub(rf"\b({'|'.join(_ONE)})\b", lambda found: _ONE[found[1]], kind, count=1)
    return f"{count:,} {kind}"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def embedding_faults(reports: dict[str, SyncReport]) -> pl.DataFrame:
    """The images that could not be embedded.

    Args:
        reports: What was done, by embedding space.

    Returns:
        A ``tables.FAULTS`` frame.
    """
    import polars as pl

    from setr_lib.tables import FAULTS

    rows = [
        (IMAGES[2], failed.image_id, failed.reason) for report in reports.values() for failed in report.failed
    ]
    return pl.DataFrame(rows, schema=FAULTS, orient="row").unique(maintain_order=True)


def ranking_faults(queries: QuerySet) -> pl.DataFrame:
    """What stage 1 found out of queries in one embedding space, after every method has asked for its texts.

    Args:
        queries: The encoded queries.

    Returns:
        A ``tables.FAULTS`` frame.
    """
    import polars as pl

    from setr_lib.tables import FAULTS

    encoded = queries.queries
    rows = [
        *(("queries whose reference image has no vector", query, "") for query in encoded.missing_references),
        *((_UNREAD, query, "") for query in encoded.unreadable_references),
        *((_EMPTY, query, "it counts as a miss") for query in _without_gallery(queries)),
        *((_CUT, text, "") for text in encoded.encode.cut),
    ]
    return pl.DataFrame(rows, schema=FAULTS, orient="row")


def _without_gallery(queries: QuerySet) -> list[str]:
    """The queries that search a gallery of which no image can be ranked."""
    import polars as pl

    listed = queries.images.select("image_id", pl.col("galleries").alias("gallery")).explode("gallery")
    there = listed.filter(pl.col("image_id").is_in(queries.index.names.implode()))
    return queries.queries.frame.join(there, on="gallery", how="anti", maintain_order="left")[
        "query_id"
    ].to_list()


def cut_words(texts: Sequence[str]) -> list[str]:
    """A sentence on texts of a query that lost their end; none where there is none.

    Args:
        texts: The texts that were cut.

    Returns:
        The sentences.
    """
    what = "cut at the context of the text encoder, its end was not read"
    return [f"{what}: {_shortened(text)}" for text in texts]
