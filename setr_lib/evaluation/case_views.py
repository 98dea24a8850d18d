"""What a report shows of single queries: rankings as strips of thumbnails, ranks before and after, moves.

Belongs here: turning rows of tables into plain values of one query. Which queries are shown is decided in
``cases.py``, how they look in ``templates/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from setr_lib.evaluation.contact_sheet import data_uri, encode_webp, open_thumbnail, score_words
from setr_lib.evaluation.row import Row
from setr_lib.pixels import PictureFile

if TYPE_CHECKING:
    from setr_lib.evaluation.report_inputs import ReportOptions

Rows = list[dict[str, Any]]
"""Rows of a table, by column."""


@dataclass(slots=True)
class TileView:
    """One thumbnail of a strip: ``image`` is the id of its embedded picture (None if unreadable; then
    ``text`` shows), ``notes`` are its scores in words.
    """

    image: str | None
    text: str
    alt: str
    rank: int
    is_target: bool
    is_reference: bool
    notes: list[str]
    move: str
    move_alt: str


@dataclass(slots=True)
class StripView:
    """One ranking of one query, and what it is ordered by."""

    row: Row
    title: str
    tiles: list[TileView]
    order: str


@dataclass(slots=True)
class CaseView:
    """One query with everything that the page shows of it. ``element`` is its id on the page."""

    query_id: str
    element: str
    modification: str
    reference: str | None
    reference_alt: str
    reference_caption: str
    target: str | None
    target_alt: str
    target_text: str
    target_count: int
    rank_before: str
    rank_after: str
    outcome: str
    kind: str
    kind_detail: str
    aspects: list[str]
    composition: dict[str, Any] | None
    strips: list[StripView]
    subset_strips: list[StripView]


@dataclass(slots=True)
class Pictures:
    """The thumbnails of a page. Each image is opened once, and equal pictures are embedded once."""

    files: Mapping[str, PictureFile]
    size: int
    uris: dict[str, str] = field(default_factory=dict)
    _ids: dict[str, str | None] = field(default_factory=dict)

    def embed(self, image_id: str | None) -> str | None:
        """The element id of an image's thumbnail; None where there is no readable file."""
        if image_id is None:
            return None
        if image_id not in self._ids:
            thumbnail = open_thumbnail(self.files.get(image_id), self.size)
            self._ids[image_id] = None if thumbnail is None else self._place(data_uri(encode_webp(thumbnail)))
        return self._ids[image_id]

    def _place(self, uri: str) -> str:
        return self.uris.setdefault(uri, f"p{len(self.uris)}")


@dataclass(slots=True)
class ComparedRankings:
    """The rankings that contact sheets compare: one method's before and, where there is one, after stage 2;
    and the same of every other method that was re-ranked.
    """

    method: str
    before: pl.DataFrame | None
    after: pl.DataFrame | None
    after_row: Row | None
    others: list[tuple[Row, Row]] = field(default_factory=list)
    """Other re-ranked methods: the row of stage 1, and that of the last re-ranker."""


@dataclass(slots=True)
class CaseBuilder:
    """Turns single queries into what the page shows of them."""

    queries: Mapping[str, dict[str, Any]]
    captions: Mapping[str, str]
    compositions: Mapping[str, dict[str, Any]]
    before: Mapping[tuple[str, str], Rows]
    after: Mapping[tuple[str, str], Rows]
    ranks_before: Mapping[str, int]
    ranks_after: Mapping[str, int]
    stages: ComparedRankings
    after_name: str
    pictures: Pictures
    options: ReportOptions
    others: Sequence[tuple[Row, str, Mapping[tuple[str, str], Rows]]] = ()
    elements: Mapping[str, str] = field(default_factory=dict)
    """The id on the page of each query that is shown."""
    kinds: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Kind of failure and evidence, by query."""

    def build(self, query_id: str) -> CaseView:
        """Everything that the page shows of a query.

        Args:
            query_id: The query.

        Returns:
            Plain values.
        """
        query = self.queries[query_id]
        reference, targets = query["reference_id"], query["target_ids"]
        return CaseView(
            query_id=query_id,
            element=self.elements.get(query_id, ""),
            modification=query["modification"],
            reference=self.pictures.embed(reference),
            reference_alt=self._alt("Reference image", reference),
            reference_caption=self.captions.get(reference, ""),
            target=self.pictures.embed(targets[0]) if targets else None,
            target_alt=self._alt("Target", targets[0]) if targets else "",
            target_text=self._text(targets[0]) if targets else "",
            target_count=len(targets),
            rank_before=self._rank_words(self.ranks_before, query_id, self.stages.before),
            rank_after=self._rank_words(self.ranks_after, query_id, self.stages.after),
            outcome=self._outcome(query_id),
            kind=self.kinds.get(query_id, ("", ""))[0],
            kind_detail=self.kinds.get(query_id, ("", ""))[1],
            aspects=[aspect.replace("_", " ") for aspect in query["aspects"]],
            composition=self.compositions.get(query_id),
            strips=self._strips(query, "gallery"),
            subset_strips=self._strips(query, "subset"),
        )

    def _strips(self, query: dict[str, Any], pool: str) -> list[StripView]:
        before = self.before.get((query["query_id"], pool), [])
        after = self.after.get((query["query_id"], pool), [])
        earlier = {row["image_id"]: row["rank"] for row in before}
        coarse = Row(self.stages.method)
        strips = [
            self._strip(
                row, title, [self._tile(line, query, known, row) for line in lines[: self.options.top]]
            )
            for row, title, lines, known in (
                (coarse, f"stage 1 · {coarse.method}", before, None),
                (self.stages.after_row or coarse, self.after_name, after, earlier if before else None),
            )
        ]
        earlier = {}
        for row, title, rankings in self.others:
            lines = rankings.get((query["query_id"], pool), [])
            known = earlier if row.reranker else None
            tiles = [self._tile(line, query, known, row) for line in lines[: self.options.top]]
            strips.append(self._strip(row, title, tiles))
            earlier = {line["image_id"]: line["rank"] for line in lines}
        return [strip for strip in strips if strip.tiles]

    def _strip(self, row: Row, title: str, tiles: list[TileView]) -> StripView:
        order = self.options.orders.get(row)
        return StripView(row, title, tiles, order.words if order else "")

    def _tile(
        self, line: dict[str, Any], query: dict[str, Any], earlier: Mapping[str, int] | None, row: Row
    ) -> TileView:
        image_id, rank, judge = line["image_id"], line["rank"], line["judge_score"]
        is_target = image_id in query["target_ids"]
        is_reference = image_id == query["reference_id"]
        is_logit = row not in self.options.plain_scores
        order = self.options.orders.get(row)
        notes = score_words(line["score"], judge, order, is_logit=is_logit)
        move, move_alt = ("", "") if earlier is None else _move_words(earlier.get(image_id), rank)
        role = "the target" if is_target else "the reference itself" if is_reference else ""
        words = [
            f"Rank {rank}",
            role,
            f"score {notes[0]}" if judge is None or len(notes) > 1 else "",
            f"judge {notes[-1]}" if judge is not None else "",
            move_alt,
        ]
        return TileView(
            image=self.pictures.embed(image_id),
            text=self._text(image_id),
            alt=self._alt(", ".join(word for word in words if word), image_id),
            rank=rank,
            is_target=is_target,
            is_reference=is_reference,
            notes=notes,
            move=move,
            move_alt=move_alt,
        )

    def _alt(self, role: str, image_id: str) -> str:
        caption = self.captions.get(image_id)
        return f"{role}: image {image_id}" + (f" ({caption})" if caption else "")

    def _text(self, image_id: str) -> str:
        """What stands where an image would, if captions were ranked in its place."""
        return self.captions.get(image_id, "no caption") if self.options.caption_proxy else ""

    @staticmethod
    def _rank_words(ranks: Mapping[str, int], query_id: str, ranking: pl.DataFrame | None) -> str:
        if ranking is None or not ranks:
            return ""
        return str(ranks[query_id]) if query_id in ranks else "not ranked"

    def _outcome(self, query_id: str) -> str:
        if not self.ranks_before or not self.ranks_after:
            return ""
        before, after = (ranks.get(query_id, 10**9) for ranks in (self.ranks_before, self.ranks_after))
        return "same" if before == after else "better" if after < before else "worse"


def _move_words(earlier: int | None, rank: int) -> tuple[str, str]:
    """How far stage 2 moved an image, for eyes and for ears."""
    if earlier is None:
        return "", ""
    if earlier == rank:
        return "=", "not moved"
    return (f"▲{earlier - rank}" if earlier > rank else f"▼{rank - earlier}"), f"rank {earlier} before"
