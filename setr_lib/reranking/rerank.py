"""Re-ranking of stage 1's candidates by the judge, resumable: every pair's score is kept by content as it is
made.

The top K of the gallery is re-ordered; what lies below keeps its place, so recall at any depth of K or more
cannot change. CIRR's subset members are judged in their own right, whether or not stage 1 found them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from setr_lib.content_cache import ContentCache
from setr_lib.errors import SetrError
from setr_lib.hashing import digest_strings
from setr_lib.models.multimodal import MultimodalModel, Picture, PictureError
from setr_lib.progress import Progress, silent
from setr_lib.reranking.fusion import Fusion, fuse
from setr_lib.reranking.held_out import pictures_of
from setr_lib.reranking.scorer import JudgedQuery, ScoreError, batches_of_queries
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.tables import RANKINGS, conform

CACHE_KIND = "judge_scores"
"""The ``ContentCache`` kind of the judge's logit differences."""

GALLERY_POOL, SUBSET_POOL = "gallery", "subset"


def rerank(
    rankings: pl.DataFrame,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    judge: YesNoJudge,
    cache: ContentCache,
    *,
    fusion: Fusion = "judge",
    weight: float = 1.0,
    k: int = 50,
    progress: Progress = silent,
) -> pl.DataFrame:
    """``rankings`` (a ``RANKINGS`` frame of one strategy, both pools) after stage 2: a ``RANKINGS`` frame.

    In the pool "gallery" the first ``k`` of each query are judged and re-ordered by ``fusion``, the rest
    follow as they were; the pool "subset" is judged whole. ``score`` is what a row was ordered by: the fused
    score for judged rows, the coarse score for the others (those beyond ``k``, and images that cannot be
    read, which come last within ``k``). A query whose reference cannot be read keeps its coarse order. Raises
    ``SetrError`` when a ranking names an unknown query.
    """
    pools = _pools(rankings)
    scores = judge_pairs(_wanted(pools, k), queries, gallery, judge, cache, progress=progress)
    columns: dict[str, list[object]] = {name: [] for name in RANKINGS}
    for (query_id, pool), (ids, coarse) in pools.items():
        depth = k if pool == GALLERY_POOL else len(ids)
        head, head_coarse = ids[:depth], coarse[:depth]
        judged = np.array([scores.get((query_id, image), np.nan) for image in head], dtype=np.float64)
        order, fused = fuse(fusion, judged, head_coarse, head, weight)
        if np.isnan(judged).all():
            order = np.arange(len(head))
        order = [*order.tolist(), *range(len(head), len(ids))]
        rest = np.full(len(ids) - len(head), np.nan)
        judged, fused = np.concatenate([judged, rest]), np.concatenate([fused, rest])
        columns["query_id"] += [query_id] * len(ids)
        columns["pool"] += [pool] * len(ids)
        columns["rank"] += range(1, len(ids) + 1)
        columns["image_id"] += [ids[place] for place in order]
        columns["coarse_score"] += coarse[order].tolist()
        columns["judge_score"] += [None if np.isnan(judged[place]) else judged[place] for place in order]
        columns["score"] += [coarse[place] if np.isnan(fused[place]) else fused[place] for place in order]
    return conform(pl.DataFrame(columns, schema=RANKINGS), RANKINGS, "re-ranked rankings")


def judge_pairs(
    wanted: Mapping[str, Sequence[str]],
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    judge: YesNoJudge,
    cache: ContentCache,
    *,
    progress: Progress = silent,
) -> dict[tuple[str, str], float]:
    """The judge's logit difference by (query_id, image_id) for the candidates ``wanted`` of each query.

    Kept scores are taken from ``cache``; new ones are stored after every ``judge.model.pair_batch_size``
    pairs or so. Pairs with an unreadable image are absent from the answer. ``progress`` counts pairs, the
    kept ones first. Raises ``ScoreError`` naming the pair whose score is not finite.
    """
    pictures = pictures_of(gallery)
    known = {
        row["query_id"]: row
        for row in queries.select("query_id", "reference_id", "modification", "captions").to_dicts()
    }
    keys: dict[tuple[str, str], str] = {}
    open_queries: dict[str, JudgedQuery] = {}
    for query_id, images in wanted.items():
        if query_id not in known:
            raise SetrError(f"the ranking names query {query_id!r}, which the table of queries does not hold")
        row = known[query_id]
        reference = pictures.get(row["reference_id"])
        if reference is None:
            continue
        head = (judge.model.id, judge.prompt_hash, reference.fingerprint, _text_digest(judge, row))
        images = [image for image in dict.fromkeys(images) if image in pictures]
        seen = tuple(pictures[image] for image in images)
        open_queries[query_id] = JudgedQuery(reference, row["modification"], seen)
        keys |= {(query_id, image): cache.key_of(*head, pictures[image].fingerprint) for image in images}
    kept = cache.get_numbers(keys.values())
    _judge_missing(open_queries, keys, kept, judge, cache, progress)
    return {pair: kept[key] for pair, key in keys.items() if key in kept}


def _text_digest(judge: YesNoJudge, query: Mapping[str, Any]) -> str:
    """The part of a score's key that stands for the query's text.

    It holds the raw captions, too: the prompt doesn't show them, but with them the scores of earlier runs are
    found. A prompt that uses ``captions`` was shown the raw ones by earlier versions; now it is shown the
    modification text in their place, and the key says so: such scores are made anew.
    """
    shown = [query["modification"]] if "captions" in judge.template.variables else query["captions"] or []
    return digest_strings([query["modification"], *shown])


def _judge_missing(
    queries: Mapping[str, JudgedQuery],
    keys: Mapping[tuple[str, str], str],
    kept: dict[str, float],
    judge: YesNoJudge,
    cache: ContentCache,
    progress: Progress,
) -> None:
    """Judge what is not in ``kept`` and put it there, and into ``cache`` batch by batch.

    Batches, of pairs and of images, are planned over all pairs, kept or not: a run that continues a killed
    one makes the same batches, and so the same last digits (which depend on what shares a matrix product);
    but for images that the model had seen in other batches before, for a caption say, the one time and not
    the other.
    """
    keys_of: dict[str, list[str]] = {query_id: [] for query_id in queries}
    for (query_id, _), key in keys.items():
        keys_of[query_id].append(key)
    plan = list(batches_of_queries(list(queries.values()), judge.model.pair_batch_size))
    images = _ImagePlan(plan)
    names = iter(keys_of.values())
    done, total = sum(key in kept for key in keys.values()), len(keys)
    progress(done, total, "pairs judged")
    for batch in plan:
        open_keys: list[str] = []
        open_batch: list[JudgedQuery] = []
        for query in batch:
            pairs = [pair for pair in zip(next(names), query.candidates, strict=True) if pair[0] not in kept]
            if pairs:
                open_keys += [key for key, _ in pairs]
                open_batch.append(replace(query, candidates=tuple(picture for _, picture in pairs)))
        if not open_batch:
            continue
        images.prepare(judge.model, open_batch)
        try:
            made = np.concatenate(_score(judge, open_batch))
        except ScoreError as error:
            raise _named(error, queries, keys) from None
        fresh = {key: float(value) for key, value in zip(open_keys, made, strict=True) if not np.isnan(value)}
        cache.put_numbers(fresh)
        kept |= fresh
        done += len(open_keys)
        progress(done, total, "pairs judged")


def _named(
    error: ScoreError, queries: Mapping[str, JudgedQuery], keys: Mapping[tuple[str, str], str]
) -> ScoreError:
    """``error`` with the pair's ids in place of its files."""
    wrong, picture = error.query, error.query.candidates[error.candidate]
    for query_id, query in queries.items():
        if (query.reference, query.modification) == (wrong.reference, wrong.modification):
            images = [image for asked, image in keys if asked == query_id]
            for image, candidate in zip(images, query.candidates, strict=True):
                if candidate == picture:
                    name = f"query {query_id!r} and image {image!r}"
                    return ScoreError(wrong, error.candidate, error.value, name)
    return error


class _ImagePlan:
    """Which images go through the vision tower together: those that the same batch needs first."""

    def __init__(self, plan: Sequence[Sequence[JudgedQuery]]) -> None:
        self._group_of: dict[str, int] = {}
        self._groups: list[list[Picture]] = []
        for batch in plan:
            fresh = [picture for picture in _shown(batch) if picture.fingerprint not in self._group_of]
            self._group_of |= {picture.fingerprint: len(self._groups) for picture in fresh}
            self._groups.append(list({picture.fingerprint: picture for picture in fresh}.values()))

    def prepare(self, model: MultimodalModel, batch: Sequence[JudgedQuery]) -> None:
        """Have the vision outputs of ``batch`` ready; unreadable pictures are left for the scorer to report."""
        wanted = [picture for picture in _shown(batch) if not model.has_vision_features(picture)]
        for group in sorted({self._group_of[picture.fingerprint] for picture in wanted}):
            try:
                model.vision_features(self._groups[group])
            except PictureError:
                continue


def _shown(batch: Sequence[JudgedQuery]) -> list[Picture]:
    return [picture for query in batch for picture in (query.reference, *query.candidates)]


def _score(judge: YesNoJudge, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
    """Scores; where a picture turns out to be unreadable, NaN for it alone."""
    try:
        return judge.score(queries)
    except PictureError:
        return [_score_one_by_one(judge, query) for query in queries]


def _score_one_by_one(judge: YesNoJudge, query: JudgedQuery) -> np.ndarray:
    scores = np.full(len(query.candidates), np.nan, dtype=np.float32)
    for place, candidate in enumerate(query.candidates):
        try:
            scores[place] = judge.score([replace(query, candidates=(candidate,))])[0][0]
        except PictureError:
            continue
    return scores


def _pools(rankings: pl.DataFrame) -> dict[tuple[str, str], tuple[list[str], np.ndarray]]:
    """(query_id, pool) -> ids and coarse scores in rank order, queries in the order of the frame."""
    found: dict[tuple[str, str], tuple[list[str], list[float]]] = {}
    ordered = rankings.sort("rank", maintain_order=True)
    for name in rankings.select("query_id", "pool").unique(maintain_order=True).iter_rows():
        found[name] = ([], [])
    for query_id, pool, image, score in ordered.select(
        "query_id", "pool", "image_id", "coarse_score"
    ).iter_rows():
        ids, scores = found[query_id, pool]
        ids.append(image)
        scores.append(score)
    return {name: (ids, np.array(scores, dtype=np.float64)) for name, (ids, scores) in found.items()}


def _wanted(pools: Mapping[tuple[str, str], tuple[list[str], np.ndarray]], k: int) -> dict[str, list[str]]:
    wanted: dict[str, dict[str, None]] = {}
    for (query_id, pool), (ids, _) in pools.items():
        wanted.setdefault(query_id, {}).update(dict.fromkeys(ids[:k] if pool == GALLERY_POOL else ids))
    return {query_id: list(images) for query_id, images in wanted.items()}
