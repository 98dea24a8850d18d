"""Re-ranking of stage 1's candidates, resumable: every score is kept by content as it is made.

The top K of the gallery is re-ordered; what lies below keeps its place, so recall at any depth of K or more
cannot change. CIRR's subset members are judged in their own right, whether or not stage 1 found them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import polars as pl

from setr_lib.content_cache import ContentCache
from setr_lib.errors import SetrError
from setr_lib.models.multimodal import Picture, PictureError
from setr_lib.progress import Progress, silent
from setr_lib.reranking.checked_scores import checked_scores, named_pair
from setr_lib.reranking.fusion import Fusion, fuse
from setr_lib.reranking.held_out import pictures_of
from setr_lib.reranking.list_scores import CandidateList, score_lists
from setr_lib.reranking.reranker import JudgedQuery, Reranker
from setr_lib.reranking.scorer import ScoreError, batches_of_queries
from setr_lib.tables import RANKINGS, conform

CACHE_KIND = "judge_scores"
"""The ``ContentCache`` kind of re-rankers' scores."""

GALLERY_POOL, SUBSET_POOL = "gallery", "subset"
_SCORED = "pairs judged"


def rerank(
    rankings: pl.DataFrame,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    reranker: Reranker,
    cache: ContentCache,
    *,
    fusion: Fusion = "judge",
    weight: float = 1.0,
    k: int = 50,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Re-order the first candidates of every query.

    In the pool "gallery" the first ``k`` of each query are scored and re-ordered by ``fusion``, the rest
    follow as they were; the pool "subset" is scored whole. ``score`` of the result is what a row was ordered
    by: the fused score for scored rows, the coarse score for the others (those beyond ``k``, and images that
    cannot be read, which come last within ``k``). A query whose reference cannot be read keeps its coarse
    order.

    Args:
        rankings: A RANKINGS table of one retrieval method, both pools.
        queries: A QUERIES table.
        gallery: GALLERY rows of candidates and references.
        reranker: Who scores, opened.
        cache: Where scores are kept, of kind ``CACHE_KIND``.
        fusion: How the re-ranker's score and stage 1's become one order.
        weight: The w of ``cosine_judge``.
        k: Candidates per query.
        progress: Told how many pairs are scored.

    Returns:
        A RANKINGS table; ``judge_score`` is the re-ranker's score.

    Raises:
        SetrError: A ranking names an unknown query.
        ScoreError: A score is not finite.
        RerankerError: The re-ranker does not give one score for each candidate.
    """
    pools = _pools(rankings)
    scores = _scores_of_pools(pools, k, queries, gallery, reranker, cache, progress)
    columns: dict[str, list[object]] = {name: [] for name in RANKINGS}
    for (query_id, pool), (ids, coarse) in pools.items():
        depth = k if pool == GALLERY_POOL else len(ids)
        head, head_coarse = ids[:depth], coarse[:depth]
        known = scores[query_id, pool]
        judged = np.array([known.get(image, np.nan) for image in head], dtype=np.float64)
        order, fused = fuse(fusion, judged, head_coarse, head, weight)
        if np.isnan(judged).all():
            order = np.arange(len(head))
        order = [*order.tolist(), *range(len(head), len(ids))]
        rest = np.full(len(ids) - len(head), np.nan)
        judged, fused = np.concatenate([judged, rest]), np.concatenate([fused, rest])
        columns["query_id"] += [query_id] * len(ids)
        columns["pool"] += [pool] * len(ids)
        columns["rank"] += range(1, len(ids) + 1)
        columns["image_id"] += [ids[index] for index in order]
        columns["coarse_score"] += coarse[order].tolist()
        unjudged = np.isnan(judged[order]).tolist()
        columns["judge_score"] += [
            None if none else score for none, score in zip(unjudged, judged[order].tolist(), strict=True)
        ]
        columns["score"] += np.where(np.isnan(fused), coarse, fused)[order].tolist()
    return conform(pl.DataFrame(columns, schema=RANKINGS), RANKINGS, "re-ranked rankings")


Pools = Mapping[tuple[str, str], tuple[list[str], np.ndarray]]
"""(query_id, pool) -> ids and coarse scores in rank order."""


def _scores_of_pools(
    pools: Pools,
    k: int,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    reranker: Reranker,
    cache: ContentCache,
    progress: Progress,
) -> Mapping[tuple[str, str], Mapping[str, float]]:
    """By (query_id, pool) the scores of images; those of pairs are the same in both pools, those of lists are
    not.
    """
    if not reranker.listwise:
        pairs = judge_pairs(_wanted(pools, k), queries, gallery, reranker, cache, progress=progress)
        of_query: dict[str, dict[str, float]] = {query_id: {} for query_id, _ in pools}
        for (query_id, image), score in pairs.items():
            of_query[query_id][image] = score
        return {(query_id, pool): of_query[query_id] for query_id, pool in pools}
    pictures, known = pictures_of(gallery), _query_rows(queries)
    lists: dict[tuple[str, str], CandidateList] = {}
    for (query_id, pool), (ids, _) in pools.items():
        row = _known_query(known, query_id)
        reference = pictures.get(row["reference_id"])
        if reference is None:
            continue
        images = [image for image in (ids[:k] if pool == GALLERY_POOL else ids) if image in pictures]
        query = JudgedQuery(reference, row["modification"], tuple(pictures[image] for image in images))
        lists[query_id, pool] = CandidateList(query_id, query, row["captions"] or [], images)
    found = score_lists(lists, reranker, cache, progress)
    return {name: found.get(name, {}) for name in pools}


def judge_pairs(
    wanted: Mapping[str, Sequence[str]],
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    reranker: Reranker,
    cache: ContentCache,
    *,
    progress: Progress = silent,
) -> dict[tuple[str, str], float]:
    """The scores of pairs, kept ones from ``cache``, new ones stored batch by batch.

    Args:
        wanted: The candidates of each query, by id.
        queries: A QUERIES table.
        gallery: GALLERY rows of candidates and references.
        reranker: Who scores, opened; not a list-wise one.
        cache: Where scores are kept.
        progress: Counts pairs, the kept ones first.

    Returns:
        The score by (query_id, image_id); pairs with an unreadable image are absent.

    Raises:
        SetrError: ``wanted`` names an unknown query.
        ScoreError: A score is not finite; the message names the pair.
        RerankerError: The re-ranker does not give one score for each candidate.
    """
    keys, open_queries = pair_keys(wanted, queries, gallery, reranker)
    kept = cache.get_numbers(keys.values())
    _score_missing(open_queries, keys, kept, reranker, cache, progress)
    return {pair: kept[key] for pair, key in keys.items() if key in kept}


def pair_keys(
    wanted: Mapping[str, Sequence[str]], queries: pl.DataFrame, gallery: pl.DataFrame, reranker: Reranker
) -> tuple[dict[tuple[str, str], str], dict[str, JudgedQuery]]:
    """The cache keys of pairs, and what is scored for them.

    Args:
        wanted: As of :func:`judge_pairs`.
        queries: As of :func:`judge_pairs`.
        gallery: As of :func:`judge_pairs`.
        reranker: As of :func:`judge_pairs`.

    Returns:
        Key by (query_id, image_id), and the queries by id; without unreadable images.

    Raises:
        SetrError: ``wanted`` names an unknown query.
    """
    pictures, known = pictures_of(gallery), _query_rows(queries)
    identities = {image: picture.identity for image, picture in pictures.items()}
    keys: dict[tuple[str, str], str] = {}
    open_queries: dict[str, JudgedQuery] = {}
    for query_id, images in wanted.items():
        row = _known_query(known, query_id)
        reference = pictures.get(row["reference_id"])
        if reference is None:
            continue
        head = reranker.cache_parts(reference, row["modification"], row["captions"] or [])
        images = [image for image in dict.fromkeys(images) if image in pictures]
        seen = tuple(pictures[image] for image in images)
        open_queries[query_id] = JudgedQuery(reference, row["modification"], seen)
        made = ContentCache.keys_of(head, map(identities.__getitem__, images))
        keys |= {(query_id, image): key for image, key in zip(images, made, strict=True)}
    return keys, open_queries


def _query_rows(queries: pl.DataFrame) -> dict[str, dict[str, Any]]:
    columns = queries.select("query_id", "reference_id", "modification", "captions")
    return {row["query_id"]: row for row in columns.to_dicts()}


def _known_query(known: Mapping[str, dict[str, Any]], query_id: str) -> dict[str, Any]:
    if query_id not in known:
        raise SetrError(f"the ranking names query {query_id!r}, which the table of queries does not hold")
    return known[query_id]


def _score_missing(
    queries: Mapping[str, JudgedQuery],
    keys: Mapping[tuple[str, str], str],
    kept: dict[str, float],
    reranker: Reranker,
    cache: ContentCache,
    progress: Progress,
) -> None:
    """Score what is not in ``kept`` and put it there, and into ``cache`` batch by batch.

    Batches, of pairs and of images, are planned over all pairs, kept or not: a run that continues a killed
    one makes the same batches, and so the same last digits (which depend on what shares a matrix product);
    but for images that the model had seen in other batches before, for a caption say, the one time and not
    the other.
    """
    keys_of: dict[str, list[str]] = {query_id: [] for query_id in queries}
    images_of: dict[str, list[str]] = {query_id: [] for query_id in queries}
    for (query_id, image), key in keys.items():
        keys_of[query_id].append(key)
        images_of[query_id].append(image)
    plan = list(batches_of_queries(list(queries.values()), reranker.pairs_per_batch))
    images = _ImagePlan(plan)
    names = iter(keys_of.values())
    done, total = sum(key in kept for key in keys.values()), len(keys)
    progress(done, total, _SCORED)
    named = [[(query, next(names)) for query in batch] for batch in plan]
    for batch, coming in zip_longest(named, named[1:], fillvalue=[]):
        open_keys: list[str] = []
        open_batch: list[JudgedQuery] = []
        for query, its_keys in batch:
            pairs = [pair for pair in zip(its_keys, query.candidates, strict=True) if pair[0] not in kept]
            if pairs:
                open_keys += [key for key, _ in pairs]
                open_batch.append(replace(query, candidates=tuple(picture for _, picture in pairs)))
        if not open_batch:
            continue
        images.prepare(reranker, open_batch)
        images.announce(reranker, [query for query, its_keys in coming if not kept.keys() >= {*its_keys}])
        try:
            made = np.concatenate(checked_scores(reranker, open_batch))
        except ScoreError as error:
            scored = ((query_id, query, images_of[query_id]) for query_id, query in queries.items())
            raise named_pair(error, scored) from None
        fresh = {key: float(value) for key, value in zip(open_keys, made, strict=True) if not np.isnan(value)}
        cache.put_numbers(fresh)
        kept |= fresh
        done += len(open_keys)
        progress(done, total, _SCORED)


class _ImagePlan:
    """Which images a re-ranker sees together: those that the same batch needs first."""

    def __init__(self, plan: Sequence[Sequence[JudgedQuery]]) -> None:
        self._group_of: dict[str, int] = {}
        self._groups: list[list[Picture]] = []
        for batch in plan:
            shown = {picture.identity: picture for picture in _shown(batch)}
            fresh = {identity: each for identity, each in shown.items() if identity not in self._group_of}
            self._group_of |= dict.fromkeys(fresh, len(self._groups))
            self._groups.append(list(fresh.values()))

    def prepare(self, reranker: Reranker, batch: Sequence[JudgedQuery]) -> None:
        """Show the re-ranker the images of ``batch``; unreadable ones are left for ``score`` to report."""
        for group in self._unseen(reranker, batch):
            try:
                reranker.see(group)
            except PictureError:
                continue

    def announce(self, reranker: Reranker, batch: Sequence[JudgedQuery]) -> None:
        """Tell the re-ranker which images of the next ``batch`` it will be shown first."""
        if unseen := self._unseen(reranker, batch):
            reranker.announce(unseen[0])

    def _unseen(self, reranker: Reranker, batch: Sequence[JudgedQuery]) -> list[list[Picture]]:
        """The groups that hold an image which the re-ranker has not seen."""
        wanted = [picture for picture in _shown(batch) if not reranker.has_seen(picture)]
        return [self._groups[n] for n in sorted({self._group_of[picture.identity] for picture in wanted})]


def _shown(batch: Sequence[JudgedQuery]) -> list[Picture]:
    return [picture for query in batch for picture in (query.reference, *query.candidates)]


def _pools(rankings: pl.DataFrame) -> dict[tuple[str, str], tuple[list[str], np.ndarray]]:
    """(query_id, pool) -> ids and coarse scores in rank order, queries in the order of the frame."""
    names = rankings.select("query_id", "pool").unique(maintain_order=True)
    lists = (
        rankings.sort("rank", maintain_order=True)
        .group_by("query_id", "pool", maintain_order=True)
        .agg("image_id", "coarse_score")
    )
    found = {(query_id, pool): (ids, scores) for query_id, pool, ids, scores in lists.iter_rows()}
    return {
        (query_id, pool): (found[query_id, pool][0], np.array(found[query_id, pool][1], dtype=np.float64))
        for query_id, pool in names.iter_rows()
    }


def _wanted(pools: Pools, k: int) -> dict[str, list[str]]:
    wanted: dict[str, dict[str, None]] = {}
    for (query_id, pool), (ids, _) in pools.items():
        wanted.setdefault(query_id, {}).update(dict.fromkeys(ids[:k] if pool == GALLERY_POOL else ids))
    return {query_id: list(images) for query_id, images in wanted.items()}
