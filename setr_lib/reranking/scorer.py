"""The judge's score of a query's candidates: logit(Yes) - logit(No), float32, of "does this image satisfy the
query?".

``MultimodalModel`` runs a query's prefix once for all its candidates, and the vision tower once per picture.
This module decides which pairs go into one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from setr_lib.errors import SetrError
from setr_lib.models.device import run_in_batches
from setr_lib.models.multimodal import CANDIDATE, REFERENCE, Picture, TokenRow
from setr_lib.reranking.reranker import JudgedQuery

if TYPE_CHECKING:
    from setr_lib.reranking.yes_no_judge import YesNoJudge


_PRECISION = 'set models.judge.dtype to "float32" or "bfloat16" (float16 overflows in many models)'


class ScoreError(SetrError):
    """A score is not a finite number; ``query`` and ``candidate`` say of which pair.

    Args:
        query: The query.
        candidate: The candidate's index in ``query.candidates``.
        value: The score.
        name: What to call the pair; by default its files.
        what: What to call the score.
        hint: What to do.
    """

    def __init__(
        self,
        query: JudgedQuery,
        candidate: int,
        value: float,
        name: str | None = None,
        what: str = "the judge's score",
        hint: str = _PRECISION,
    ) -> None:
        self.query, self.candidate, self.value = query, candidate, value
        self.what, self.hint = what, hint
        pair = name or f"{_file(query.reference)} and {_file(query.candidates[candidate])}"
        super().__init__(f"{what} of {pair}, {query.modification!r}, is {value}: {hint}; nothing was stored")

    def named(self, name: str) -> ScoreError:
        """The same error with another name of the pair.

        Args:
            name: The name, e.g. the pair's ids.

        Returns:
            The error.
        """
        return ScoreError(self.query, self.candidate, self.value, name, self.what, self.hint)


def _file(picture: Picture) -> str:
    return f"image {picture.fingerprint}" if isinstance(picture.source, bytes) else str(picture.source)


def score_queries(judge: YesNoJudge, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
    """Score the candidates of queries with the Yes/No judge.

    Args:
        judge: The judge.
        queries: The queries.

    Returns:
        For each query ``float32[candidates]``: logit(Yes) - logit(No).

    Raises:
        ScoreError: A score is not finite.
        PictureError: An image cannot be opened.
    """
    model = judge.model
    caches_are_exact = model.caches_are_exact
    if caches_are_exact is None:
        sample = [query for query in queries if query.candidates][:16]
        caches_are_exact = model.check_caches(
            [
                (judge.prompt(query), {REFERENCE: query.reference, CANDIDATE: query.candidates[0]})
                for query in sample
            ]
        )
    score = _score_what_fits if caches_are_exact else _score_plainly
    scores: list[np.ndarray] = []
    batches = list(batches_of_queries(queries, model.pairs_in_work))
    for batch, coming in zip_longest(batches, batches[1:], fillvalue=[]):
        scores += score(judge, batch, coming)
        _check_finite(batch, scores[-len(batch) :])
    return scores


def _check_finite(queries: Sequence[JudgedQuery], scores: Sequence[np.ndarray]) -> None:
    for query, made in zip(queries, scores, strict=True):
        for index in np.flatnonzero(~np.isfinite(made)):
            raise ScoreError(query, int(index), float(made[index]))


def _score_what_fits(
    judge: YesNoJudge, queries: Sequence[JudgedQuery], coming: Sequence[JudgedQuery]
) -> list[np.ndarray]:
    """The queries' prefixes in batches of as many as a pass has pairs; of fewer where memory is short."""
    most = judge.model.pair_batch_size
    return run_in_batches(queries, lambda batch: _score_batch(judge, batch, coming), most)


def batches_of_queries(queries: Sequence[JudgedQuery], pairs: int) -> Iterator[list[JudgedQuery]]:
    """Whole queries in order, in batches.

    Args:
        queries: The queries.
        pairs: Candidates of a batch at most; a batch holds at least one query.

    Yields:
        The batches.
    """
    batch: list[JudgedQuery] = []
    held = 0
    for query in queries:
        if batch and held + len(query.candidates) > pairs:
            yield batch
            batch, held = [], 0
        batch.append(query)
        held += len(query.candidates)
    if batch:
        yield batch


def _shown(queries: Iterable[JudgedQuery]) -> list[Picture]:
    return [picture for query in queries for picture in (query.reference, *query.candidates)]


def _score_batch(
    judge: YesNoJudge, queries: Sequence[JudgedQuery], coming: Sequence[JudgedQuery]
) -> list[np.ndarray]:
    import torch

    model = judge.model
    # One vision batch for all pictures, before the rows ask for them query by query.
    judge.vision.features(_shown(queries))
    if coming:  # read and decoded while the language model works
        judge.vision.announce([_shown(coming)])
    if not any(query.candidates for query in queries):
        return [np.zeros(0, dtype=np.float32) for _ in queries]
    prefixes: list[TokenRow] = []
    pairs: list[tuple[int, TokenRow]] = []
    for owner, query in enumerate(queries):
        prefix, suffixes = model.rows.judge_rows(judge.prompt(query), query.reference, query.candidates)
        prefixes.append(prefix)
        pairs += [(owner, suffix) for suffix in suffixes]
    # Suffixes differ in length only where images differ in shape: sorted, they waste little padding.
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][1].ids))
    with torch.inference_mode():
        cache = model.encode_prefixes(prefixes)

        def run(batch: Sequence[tuple[int, TokenRow]]) -> list[float]:
            owners = [owner for owner, _ in batch]
            return model.answer_differences(cache, owners, [suffix for _, suffix in batch]).tolist()

        made = run_in_batches([pairs[index] for index in order], run, model.pairs_per_pass)
    flat = np.empty(len(pairs), dtype=np.float32)
    flat[order] = made
    return _per_query(flat, queries)


def _score_plainly(
    judge: YesNoJudge, queries: Sequence[JudgedQuery], coming: Sequence[JudgedQuery]
) -> list[np.ndarray]:
    requests = [
        (judge.prompt(query), {REFERENCE: query.reference, CANDIDATE: candidate})
        for query in queries
        for candidate in query.candidates
    ]
    return _per_query(judge.model.plain_answer_scores(requests), queries)


def _per_query(flat: np.ndarray, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
    ends = np.cumsum([len(query.candidates) for query in queries], dtype=np.int64)
    return np.split(flat, ends[:-1])
