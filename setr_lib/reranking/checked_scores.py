"""Scores of a batch as a re-ranker gives them, checked: one finite number per candidate; images that cannot
be read, or that its processor refuses, are left out.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from setr_lib.errors import SetrError, told_as
from setr_lib.hashing import fingerprint_bytes
from setr_lib.models.multimodal import Picture, PictureError, RefusedTextError
from setr_lib.models.refusals import CONTROL_TEXT, control_image, may_be_a_refusal, reason_of
from setr_lib.reranking.reranker import JudgedQuery, Reranker, RerankerError
from setr_lib.reranking.scorer import ScoreError
from setr_lib.texts.prompts import PromptTooLongError

_LOG = logging.getLogger(__name__)
_FINITE = "a re-ranker gives finite numbers"


def checked_scores(reranker: Reranker, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
    """The scores of every query's candidates.

    Args:
        reranker: Who scores.
        queries: A batch of queries.

    Returns:
        For each query ``float[candidates]``; NaN for a candidate whose image turns out to be unreadable, and
        for all where the reference is.

    Raises:
        ScoreError: A score is not finite.
        RerankerError: There is not one score for each candidate, or the re-ranker raises anything.
    """
    try:
        return _scores(reranker, queries)
    except PictureError as error:
        if error.about([p for query in queries for p in (query.reference, *query.candidates)]):
            return _without(reranker, queries, error.refused)
    except (RerankerError, RefusedTextError, PromptTooLongError) as error:
        refused = _refused_by(reranker, queries, error)
        if not refused.any:
            raise
        return _without(reranker, queries, refused.pictures, refused.queries)
    one_query = _list_without_unreadable if reranker.listwise else _one_by_one
    return [one_query(reranker, query) for query in queries]


def _without(
    reranker: Reranker,
    queries: Sequence[JudgedQuery],
    pictures: Mapping[str, str],
    texts: Mapping[int, str] | None = None,
) -> list[np.ndarray]:
    """The scores of a batch less some pictures (reasons by identity) and some queries (by index)."""
    for reason in (*pictures.values(), *(texts or {}).values()):
        _warn_once(f"re-ranker {reranker.name!r}: {reason}; it is left out")
    left: dict[int, list[int]] = {}
    for number, query in enumerate(queries):
        if number not in (texts or {}) and query.reference.identity not in pictures:
            taken = [i for i, found in enumerate(query.candidates) if found.identity not in pictures]
            if taken:
                left[number] = taken
    rest = [
        replace(queries[number], candidates=tuple(queries[number].candidates[i] for i in taken))
        for number, taken in left.items()
    ]
    made = dict(zip(left, checked_scores(reranker, rest) if rest else [], strict=True))
    return [
        _spread(made.get(number, np.empty(0, dtype=np.float32)), left.get(number, []), query)
        for number, query in enumerate(queries)
    ]


@lru_cache(maxsize=10_000)
def _warn_once(words: str) -> None:
    """A picture is among the candidates of many queries: it is named once."""
    _LOG.warning(words)


@dataclass(frozen=True)
class _Refused:
    pictures: Mapping[str, str]
    """Reasons by identity."""
    queries: Mapping[int, str]
    """Reasons by index: of those whose reference or text is refused."""

    @property
    def any(self) -> bool:
        return bool(self.pictures or self.queries)


def _refused_by(
    reranker: Reranker, queries: Sequence[JudgedQuery], error: RerankerError | SetrError
) -> _Refused:
    """What a re-ranker refuses, where its code raised an exception and does not for plain pictures and a
    plain text: each query is tried with a plain candidate, and each candidate with a plain query.
    """
    nothing, cause = _Refused({}, {}), error.__cause__
    if isinstance(error, RerankerError) and (cause is None or not may_be_a_refusal(cause)):
        return nothing
    plain = _control_picture()
    if _raised(reranker, JudgedQuery(plain, CONTROL_TEXT, (plain,))):
        return nothing
    of_queries: dict[int, str] = {}
    for number, query in enumerate(queries):
        if reason := _raised(reranker, replace(query, candidates=(plain,))):
            of_queries[number] = f"the query {query.modification[:80]!r} is refused ({reason})"
    pictures: dict[str, str] = {}
    shown = {p.identity: p for n, q in enumerate(queries) if n not in of_queries for p in q.candidates}
    for identity, picture in shown.items():
        if reason := _raised(reranker, JudgedQuery(plain, CONTROL_TEXT, (picture,))):
            pictures[identity] = f"{picture.name} is refused ({reason})"
    return _Refused(pictures, of_queries)


def _raised(reranker: Reranker, query: JudgedQuery) -> str | None:
    """What a re-ranker raises for one query; None where it scores it."""
    try:
        _scores(reranker, [query])
    except (RerankerError, PictureError, RefusedTextError, PromptTooLongError) as error:
        return reason_of(error.__cause__ or error)
    except ScoreError:
        return None
    return None


@lru_cache(maxsize=1)
def _control_picture() -> Picture:
    file = io.BytesIO()
    control_image().save(file, "PNG")
    return Picture(fingerprint_bytes(file.getvalue()), file.getvalue())


def _scores(reranker: Reranker, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
    with told_as(RerankerError, f"re-ranker {reranker.name!r}"):
        given = reranker.score(queries)
        made = list(given) if isinstance(given, Iterable) and getattr(given, "ndim", 1) else None
    if made is None:
        raise RerankerError(
            f"re-ranker {reranker.name!r} gave {type(given).__name__} for {len(queries)} queries: "
            "score(queries) gives a list with one array per query"
        )
    if len(made) != len(queries):
        raise RerankerError(
            f"re-ranker {reranker.name!r} gave scores of {len(made)} queries for {len(queries)}: "
            "score(queries) gives one array per query"
        )
    checked: list[np.ndarray] = []
    for query, given in zip(queries, made, strict=True):
        scores = _as_array(given, reranker, query)
        if scores.shape != (len(query.candidates),) or scores.dtype.kind not in "fiu":
            raise RerankerError(
                f"re-ranker {reranker.name!r} gave {scores.dtype}{list(scores.shape)} for "
                f"{len(query.candidates)} candidates of {query.modification!r}: one number for each is needed"
            )
        for candidate in np.flatnonzero(~np.isfinite(scores)):
            what = f"the score by re-ranker {reranker.name!r}"
            raise ScoreError(query, int(candidate), float(scores[candidate]), what=what, hint=_FINITE)
        checked.append(scores if scores.dtype.kind == "f" else scores.astype(np.float64))
    return checked


def _as_array(given: object, reranker: Reranker, query: JudgedQuery) -> np.ndarray:
    try:
        return np.asarray(given)
    except Exception as error:  # what a person's own array type may raise is not known
        raise RerankerError(
            f"re-ranker {reranker.name!r} gave {type(given).__name__} for {len(query.candidates)} candidates "
            f"of {query.modification!r}, which is not an array of numbers: {error}"
        ) from error


def _one_by_one(reranker: Reranker, query: JudgedQuery) -> np.ndarray:
    found: dict[int, np.ndarray] = {}
    for index, candidate in enumerate(query.candidates):
        try:
            found[index] = _scores(reranker, [replace(query, candidates=(candidate,))])[0]
        except PictureError:
            continue
    return _spread(np.concatenate(list(found.values())) if found else np.empty(0), list(found), query)


def _list_without_unreadable(reranker: Reranker, query: JudgedQuery) -> np.ndarray:
    readable = [index for index, candidate in enumerate(query.candidates) if _is_readable(candidate)]
    if not readable or not _is_readable(query.reference):
        return _spread(np.empty(0), [], query)
    rest = replace(query, candidates=tuple(query.candidates[index] for index in readable))
    return _spread(_scores(reranker, [rest])[0], readable, query)


def _spread(scores: np.ndarray, indices: Sequence[int], query: JudgedQuery) -> np.ndarray:
    """The scores of some candidates in their precision, and NaN for the others."""
    every = np.full(len(query.candidates), np.nan, dtype=scores.dtype)
    every[list(indices)] = scores
    return every


def _is_readable(picture: Picture) -> bool:
    try:
        picture.open()
    except PictureError:
        return False
    return True


def named_pair(error: ScoreError, scored: Iterable[tuple[str, JudgedQuery, Sequence[str]]]) -> ScoreError:
    """An error with the ids of its pair in place of its files.

    Args:
        error: The error.
        scored: The id of each query that was scored, the query, and the ids of its candidates.

    Returns:
        The error; as it was where its pair is not among them.
    """
    wrong, picture = error.query, error.query.candidates[error.candidate]
    for query_id, query, images in scored:
        if (query.reference, query.modification) == (wrong.reference, wrong.modification):
            for image, candidate in zip(images, query.candidates, strict=True):
                if candidate == picture:
                    return error.named(f"query {query_id!r} and image {image!r}")
    return error
