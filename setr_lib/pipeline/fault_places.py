"""Where the single things lie with which something went wrong: the picture's file, the row of the queries,
the id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from setr_lib.pipeline.faults import faults_of, training_faults

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.context import PipelineContext

_ROWS = "rows of the annotation files that cannot be used"
_OF_QUERIES = ("queries", "compositions")
"""How the kinds begin whose items are ids of queries, which may also be ids of images."""


@dataclass(frozen=True)
class Fault:
    """One thing with which something went wrong.

    Attributes:
        set: The evaluation set, or ``training``.
        kind: What went wrong, e.g. ``gallery images broken``.
        item: Its id; of a text that was cut short, the text.
        detail: Why, where more is known than the kind.
        file: The picture's file, or the annotation file; None where none is known.
        row: The place of the query among the set's queries, 1 for the first, or the row of an annotation file
            in words; None where it is of no query.
        queries: The ids of the queries that it is of.
    """

    set: str
    kind: str
    item: str
    detail: str = ""
    file: str | None = None
    row: int | str | None = None
    queries: list[str] = field(default_factory=list)


def faults_with_places(contexts: tuple[PipelineContext, ...], key: str) -> list[Fault]:
    """The faults of an evaluation set, with where each lies.

    Args:
        contexts: The tables of runs, and of comparisons.
        key: The evaluation set.

    Returns:
        Each fault once; the annotation files' own first.

    Raises:
        SetrError: A table cannot be read.
    """
    import polars as pl

    found = pl.concat([faults_of(context, key) for context in contexts]).unique(maintain_order=True)
    places = _Places.of(contexts[0], key)
    return [
        *_annotation_faults(contexts[0], key),
        *(places.fault(key, **row) for row in found.iter_rows(named=True)),
    ]


def training_faults_with_places(context: PipelineContext) -> list[Fault]:
    """The training images that cannot be read, with their files.

    Args:
        context: The tables.

    Returns:
        The faults.

    Raises:
        SetrError: The table cannot be read.
    """
    from setr_lib.tables import TRAINING_IMAGES

    found = training_faults(context)
    if found.is_empty():
        return []
    images = context.tables.read("training_images", TRAINING_IMAGES)
    files = dict(images.select("image_id", "path").iter_rows())
    return [
        Fault("training", row["kind"], row["item"], row["detail"], files.get(row["item"]))
        for row in found.iter_rows(named=True)
    ]


def _annotation_faults(context: PipelineContext, key: str) -> list[Fault]:
    """The first row of the annotation files that cannot be used: a run stops there."""
    from setr_lib.datasets import DatasetError, load_queries

    try:
        load_queries(context.settings, key)
    except DatasetError as error:
        file = None if error.file is None else str(error.file)
        return [Fault(key, _ROWS, error.row or file or key, error.reason, file, error.row)]
    return []


@dataclass(frozen=True)
class _Places:
    """Where images and queries of an evaluation set lie, as far as a run has read them."""

    files: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, list[str]] = field(default_factory=dict)
    """The ids of the queries of a text: an annotator's, or what the multimodal LLM wrote."""

    @classmethod
    def of(cls, context: PipelineContext, key: str) -> _Places:
        from setr_lib.tables import CAPTIONS, COMPOSITIONS, GALLERY, QUERIES

        def table(asset: str, schema: pl.Schema) -> pl.DataFrame:
            there = context.tables.exists(asset, key)
            return context.tables.read(asset, schema, key) if there else schema.to_frame()

        queries = table("queries", QUERIES)
        texts: dict[str, list[str]] = {}
        by_reference: dict[str, list[str]] = {}
        for name, reference, text in queries.select("query_id", "reference_id", "modification").iter_rows():
            texts.setdefault(text, []).append(name)
            by_reference.setdefault(reference, []).append(name)
        for name, text in (
            table("query_compositions", COMPOSITIONS).select("query_id", "target_caption").iter_rows()
        ):
            texts.setdefault(text, []).append(name)
        for image, text in table("reference_captions", CAPTIONS).select("image_id", "caption").iter_rows():
            texts.setdefault(text, []).extend(by_reference.get(image, []))
        return cls(
            files=dict(table("gallery_images", GALLERY).select("image_id", "path").iter_rows()),
            rows={name: number for number, name in enumerate(queries["query_id"], start=1)},
            references=dict(queries.select("query_id", "reference_id").iter_rows()),
            texts={text: list(dict.fromkeys(names)) for text, names in texts.items() if text},
        )

    def fault(self, key: str, kind: str, item: str, detail: str) -> Fault:
        """A fault with where it lies."""
        if item in self.files and not kind.startswith(_OF_QUERIES):
            return Fault(key, kind, item, detail, self.files[item])
        queries = (
            [item] if item in self.rows else [name for name in self.texts.get(item, []) if name in self.rows]
        )
        if not queries:
            return Fault(key, kind, item, detail)
        file = self.files.get(self.references[queries[0]])
        return Fault(key, kind, item, detail, file, self.rows[queries[0]], queries)


def by_set_and_kind(faults: Iterable[Fault]) -> dict[str, dict[str, list[Fault]]]:
    """Faults by set and kind, in their order.

    Args:
        faults: The faults.

    Returns:
        Set -> kind -> faults.
    """
    found: dict[str, dict[str, list[Fault]]] = {}
    for fault in faults:
        found.setdefault(fault.set, {}).setdefault(fault.kind, []).append(fault)
    return found
