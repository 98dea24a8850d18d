"""Why single queries fail: one kind for each query, from its ranks before and after stage 2 and from texts.

Ranks and captions tell causes only in part, so a kind is a place to look, with the evidence beside it; the
rules are in ``docs/method.md``. The texts are judged by word lists (``setr_lib.texts.asked``); a caption
counts only where an image has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from setr_lib.evaluation.row import Row
from setr_lib.tables import FAILURES, conform
from setr_lib.texts.asked import UNSAID, absent_words, asked_for, left_out, satisfies
from setr_lib.texts.lexical import is_content, words_of

FOUND = "in first place"
UNUSABLE = "target unusable"
AMBIGUOUS = "ambiguous"
CONTRADICTS = "composition contradicts the text"
COMPOSITION = "stage 1: composition wrong"
SIMILARITY = "stage 1: similarity"
JUDGE = "lost by the judge"

EXPLANATIONS: Mapping[str, str] = {
    FOUND: "A target is in first place.",
    AMBIGUOUS: "Another image is in first place, and its caption has every word that the text asks for and "
    "that the composition keeps, and none that the text rejects.",
    CONTRADICTS: "Something that the text asks for is in none of what the composition adds and removes, nor "
    "in its target caption; re-ranking did not make the rank worse.",
    COMPOSITION: "The target was not among the candidates that stage 1 gave the re-ranker, and the "
    "composition could not be read, or is wrong by the target's own caption.",
    SIMILARITY: "The target was not among the candidates that stage 1 gave the re-ranker, and no fault of "
    "the composition is known.",
    JUDGE: "The target was among the candidates, and the re-ranker has put another image before it.",
    UNUSABLE: "No target's picture is in the gallery, or it cannot be read.",
}
"""What each kind means, in the order in which they are shown."""
_OF_STAGE_1 = {
    CONTRADICTS: "Something that the text asks for is in none of what the composition adds and removes, nor "
    "in its target caption.",
    COMPOSITION: "The composition is wrong by the target's own caption, or could not be read.",
    SIMILARITY: "The method gave another image a higher score than the target; no fault of a composition is "
    "known.",
}


def explanation(kind: str, reranker: str) -> str:
    """What a kind means.

    Args:
        kind: One of :data:`EXPLANATIONS`.
        reranker: The re-ranker of the judged row; empty for stage 1 alone, to which all is due that is not
            in first place.

    Returns:
        A sentence.
    """
    return EXPLANATIONS[kind] if reranker else _OF_STAGE_1.get(kind, EXPLANATIONS[kind])


@dataclass(frozen=True)
class FailureTexts:
    """What is known in words of the images and queries.

    Attributes:
        captions: What images show, by id; an image without one is judged by nothing.
        compositions: COMPOSITIONS rows by query; empty where the method does not search with compositions.
    """

    captions: Mapping[str, str] = field(default_factory=dict)
    compositions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def failure_table(
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    row: Row,
    before: pl.DataFrame,
    after: pl.DataFrame | None,
    *,
    depth: int,
    texts: FailureTexts,
    says: Callable[[float], str] = "{:.3g}".format,
) -> pl.DataFrame:
    """The kind of failure of every query.

    Args:
        queries: A QUERIES table.
        gallery: A GALLERY table.
        row: The method and the re-ranker that are judged.
        before: The method's RANKINGS.
        after: RANKINGS after the re-ranker; None for stage 1 alone.
        depth: How many candidates the re-ranker was given.
        texts: Captions and compositions.
        says: Puts a re-ranker's score in words.

    Returns:
        A FAILURES table, a row for each query in their order. A query without targets (a hidden split) has
        no kind.
    """
    rank_before, rank_after = _first_ranks(queries, before), _first_ranks(queries, after)
    final = before if after is None else after
    judge = _JudgeWords(queries, after, says)
    usable = set(gallery.filter(pl.col("status") == "ok")["image_id"].to_list())
    first = _first_images(final)
    rows: list[dict[str, Any]] = []
    for query in queries.iter_rows(named=True):
        name = query["query_id"]
        composition = texts.compositions.get(name)
        missing = _left_out(query["modification"], composition)
        case = _Case(
            query, rank_before.get(name), rank_after.get(name), first.get(name), composition, missing
        )
        kind, detail = (
            _judged(case, row, depth, usable, texts.captions, judge) if query["target_ids"] else ("", "")
        )
        rows.append(
            {
                "query_id": name,
                "method": row.method,
                "reranker": row.reranker,
                "rank_before": case.before,
                "rank_after": case.after if row.reranker else None,
                "first_image": case.first,
                "kind": kind,
                "detail": detail,
                "left_out": missing,
            }
        )
    return conform(pl.DataFrame(rows, schema=FAILURES), FAILURES, "failures")


def counted(failures: pl.DataFrame) -> list[tuple[str, int]]:
    """How many queries there are of each kind.

    Args:
        failures: A FAILURES table.

    Returns:
        Kinds and counts in the order of :data:`EXPLANATIONS`; those without a query are left out.
    """
    counts = dict(failures.filter(pl.col("kind") != "").group_by("kind").len().iter_rows())
    return [(kind, counts[kind]) for kind in EXPLANATIONS if kind in counts]


@dataclass(frozen=True)
class _Case:
    query: Mapping[str, Any]
    before: int | None
    after: int | None
    first: str | None
    composition: Mapping[str, Any] | None
    left_out: list[str]


def _judged(
    case: _Case,
    row: Row,
    depth: int,
    usable: set[str],
    captions: Mapping[str, str],
    judge: _JudgeWords,
) -> tuple[str, str]:
    """The kind of one query with targets, and the evidence."""
    final = case.after if row.reranker else case.before
    if final == 1:
        return FOUND, ""
    if usable.isdisjoint(case.query["target_ids"]):
        return UNUSABLE, ""
    caption = captions.get(case.first or "")
    if caption and _is_look_alike(caption, case):
        return AMBIGUOUS, f"in first place, {case.first}: {caption}"
    is_worse = bool(row.reranker) and _or_last(case.before) < _or_last(case.after)
    if case.left_out and not is_worse:
        return CONTRADICTS, f"asked for, and left out: {', '.join(case.left_out)}"
    if row.reranker and case.before is not None and case.before <= depth:
        return JUDGE, judge.words(case.query["query_id"], case.first)
    if fault := composition_fault(case.composition, _caption_of_target(case.query, captions)):
        return COMPOSITION, fault
    return SIMILARITY, _missed_words(case.before, depth if row.reranker else None)


def composition_fault(composition: Mapping[str, Any] | None, target_caption: str) -> str:
    """What is wrong with a composition by what the target truly shows.

    Args:
        composition: A COMPOSITIONS row; None where there is none.
        target_caption: The target's caption; empty where it has none.

    Returns:
        The fault in words: the composition could not be read; something that it removes is in the caption;
        nothing of what it adds is. Empty where no fault is known.
    """
    if composition is None:
        return ""
    if composition["status"] != "ok":
        return "it could not be read; the modification text stands in"
    if not target_caption:
        return ""
    stays = [*(composition["keep"] or ()), *(composition["add"] or ())]
    for phrase in composition["remove"] or ():
        words = absent_words(_content(phrase), stays)  # another object may keep what this one loses
        if words and not absent_words(words, [target_caption]):
            return f"it removes {phrase!r}, which the target's caption has: {target_caption}"
    added = [word for phrase in composition["add"] or () for word in _content(phrase) if word not in UNSAID]
    if added and len(absent_words(added, [target_caption])) == len(added):
        return f"it adds {', '.join(added)}, of which the target's caption has nothing: {target_caption}"
    return ""


def _is_look_alike(caption: str, case: _Case) -> bool:
    """Whether the image in first place is, word by word, what the text asks for and the composition keeps."""
    kept = [word for phrase in (case.composition or {}).get("keep") or () for word in _content(phrase)]
    text = case.query["modification"]
    if not (kept or asked_for(text).wanted):
        return False  # whatever lacks the thing that is to go would do
    return satisfies(caption, text) and not absent_words(kept, [caption])


def _left_out(modification: str, composition: Mapping[str, Any] | None) -> list[str]:
    if composition is None or composition["status"] != "ok":
        return []
    said = [*(composition["add"] or ()), *(composition["remove"] or ()), composition["target_caption"] or ""]
    return left_out(modification, said)


def _content(phrase: str) -> list[str]:
    return [word for word in words_of(phrase) if is_content(word)]


def _caption_of_target(query: Mapping[str, Any], captions: Mapping[str, str]) -> str:
    return next((captions[target] for target in query["target_ids"] if captions.get(target)), "")


def _missed_words(rank: int | None, depth: int | None) -> str:
    if rank is None:
        return "not among the images that were kept"
    return f"rank {rank}" if depth is None else f"rank {rank}, and {depth} are handed on"


def _or_last(rank: int | None) -> float:
    return float("inf") if rank is None else rank


def _first_ranks(queries: pl.DataFrame, ranking: pl.DataFrame | None) -> dict[str, int]:
    """The best rank of a target, by query; queries whose targets are not ranked are left out."""
    if ranking is None:
        return {}
    targets = queries.select("query_id", image_id="target_ids").explode("image_id").drop_nulls()
    found = ranking.filter(pl.col("pool") == "gallery").join(targets, on=["query_id", "image_id"], how="semi")
    return dict(found.group_by("query_id").agg(pl.col("rank").min()).iter_rows())


def _first_images(ranking: pl.DataFrame) -> dict[str, str]:
    first = ranking.filter((pl.col("pool") == "gallery") & (pl.col("rank") == 1))
    return dict(first.select("query_id", "image_id").iter_rows())


class _JudgeWords:
    """What the re-ranker says of the image in first place, and of the best target."""

    def __init__(
        self, queries: pl.DataFrame, after: pl.DataFrame | None, says: Callable[[float], str]
    ) -> None:
        self._says = says
        self._scores: dict[tuple[str, str], float | None] = {}
        self._target: dict[str, str] = {}
        if after is None:
            return
        pool = after.filter(pl.col("pool") == "gallery")
        targets = queries.select("query_id", image_id="target_ids").explode("image_id").drop_nulls()
        found = pool.join(targets, on=["query_id", "image_id"], how="semi")
        best = found.sort("query_id", "rank").unique("query_id", keep="first", maintain_order=True)
        self._target = dict(best.select("query_id", "image_id").iter_rows())
        wanted: Iterable[pl.DataFrame] = (pool.filter(pl.col("rank") == 1), best)
        for frame in wanted:
            columns = frame.select("query_id", "image_id", "judge_score")
            self._scores |= {(query, image): score for query, image, score in columns.iter_rows()}

    def words(self, query_id: str, first: str | None) -> str:
        scores: Sequence[float | None] = [
            self._scores.get((query_id, image or "")) for image in (self._target.get(query_id), first)
        ]
        target, other = ("not judged" if score is None else self._says(score) for score in scores)
        return f"the target: {target}; in first place: {other}"
