"""Scores of whole lists of candidates, for re-rankers whose scores depend on the other candidates.

A list is kept and found again as a whole, by all of its images in their order; one that has an unreadable
image is scored without it, and not kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from setr_lib.content_cache import ContentCache
from setr_lib.hashing import digest_strings
from setr_lib.progress import Progress
from setr_lib.reranking.checked_scores import checked_scores, named_pair
from setr_lib.reranking.reranker import JudgedQuery, Reranker
from setr_lib.reranking.scorer import ScoreError, batches_of_queries

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class CandidateList:
    """The candidates of one query, in the order of stage 1.

    Attributes:
        query_id: The query's id.
        query: The query with its candidates.
        captions: The data set's raw captions of the query.
        images: The candidates' ids.
    """

    query_id: str
    query: JudgedQuery
    captions: Sequence[str]
    images: Sequence[str]

    def keys(self, reranker: Reranker) -> list[str]:
        """The cache key of each candidate's score: the query, the whole list, and the candidate's index.

        Args:
            reranker: The re-ranker that scores.

        Returns:
            A key per candidate, in order.
        """
        query = self.query
        parts = reranker.cache_parts(query.reference, query.modification, self.captions)
        whole = digest_strings(picture.identity for picture in query.candidates)
        return [ContentCache.key_of(*parts, "list", whole, str(index)) for index in range(len(self.images))]


def score_lists(
    lists: Mapping[Name, CandidateList], reranker: Reranker, cache: ContentCache, progress: Progress
) -> dict[Name, dict[str, float]]:
    """The scores of lists, kept ones from ``cache``, new ones stored batch by batch.

    Args:
        lists: The lists, by a name of the caller's.
        reranker: Who scores, opened.
        cache: Where scores are kept.
        progress: Counts pairs, the kept ones first.

    Returns:
        By the same names the score of each image; unreadable ones are absent.

    Raises:
        ScoreError: A score is not finite; the message names the pair.
        RerankerError: The re-ranker does not give one score for each candidate.
    """
    keys = {name: candidates.keys(reranker) for name, candidates in lists.items()}
    kept = cache.get_numbers(key for of_list in keys.values() for key in of_list)
    found: dict[Name, dict[str, float]] = {}
    missing: list[Name] = []
    for name, of_list in keys.items():
        if all(key in kept for key in of_list):
            found[name] = dict(zip(lists[name].images, (kept[key] for key in of_list), strict=True))
        else:
            missing.append(name)
    total = sum(map(len, keys.values()))
    done = total - sum(len(keys[name]) for name in missing)
    progress(done, total, "pairs judged")
    names = iter(missing)
    for batch in batches_of_queries([lists[name].query for name in missing], reranker.pairs_per_batch):
        try:
            made = checked_scores(reranker, batch)
        except ScoreError as error:
            scored = ((known.query_id, known.query, known.images) for known in lists.values())
            raise named_pair(error, scored) from None
        for scores in made:
            name = next(names)
            numbers = [float(score) for score in scores]
            if not np.isnan(scores).any():
                cache.put_numbers(dict(zip(keys[name], numbers, strict=True)))
            found[name] = {
                image: number
                for image, number in zip(lists[name].images, numbers, strict=True)
                if not np.isnan(number)
            }
            done += len(numbers)
        progress(done, total, "pairs judged")
    return found
