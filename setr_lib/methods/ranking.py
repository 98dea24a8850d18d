"""From scores to the RANKINGS table: exact top K in blocks of queries, ties by id, the benchmarks' pools."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from setr_lib.errors import told_as
from setr_lib.methods.inputs import (
    CAPTION_VECTORS,
    IMAGE_CAPTIONS,
    QUERY_VECTORS,
    EncodedQueries,
    GalleryIndex,
    MethodError,
    MethodInputs,
    SearchedGallery,
    UnheldGallery,
    VectorsNotHeldError,
    made_by,
)
from setr_lib.methods.method import Method, check_files
from setr_lib.methods.references import OF_PICTURES, check_space_gives
from setr_lib.progress import Progress, silent
from setr_lib.tables import RANKINGS, conform

if TYPE_CHECKING:
    from numpy.typing import NDArray

VectorSearch = Callable[["NDArray[np.float32]", int, Sequence[str]], pl.DataFrame]
"""(unit vectors ``[q, d]``, ``k``, the ids searched) to the ``k`` nearest of each, as ``GalleryStore.search``
gives them.
"""
_BLOCK_PICTURES = 256
"""Queries of a block where a method looks at their reference pictures, which are held in memory for it."""
_BLOCK_SCORES = 8 * 2**20
"""Scores held at a time; about a dozen matrices of this size exist while a block is scored and sorted."""


def top_k(
    scores: NDArray[np.float32], k: int, excluded: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The best columns of each row of a score matrix, exact, best first; ties by column.

    Args:
        scores: ``float32[q, g]``.
        k: Columns kept of each row; fewer where a row has fewer left.
        excluded: ``bool[q, g]``: columns that do not count, taken out before the cut.

    Returns:
        Row and column numbers, two flat arrays ``int[n]`` ordered by row, then rank.
    """
    cost = np.negative(scores)
    if excluded is not None:
        cost[excluded] = np.inf
    if k < cost.shape[1]:
        # Keep all that ties with the k-th, so that the sort below, not the partition, decides who is cut.
        limit = np.partition(cost, k - 1, axis=1)[:, k - 1 : k] if k > 0 else np.full((len(cost), 1), -np.inf)
        keep = (cost <= limit) & np.isfinite(cost)
    else:
        keep = np.isfinite(cost)
    rows, columns = np.nonzero(keep)
    order = np.lexsort((columns, cost[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    first = np.searchsorted(rows, np.arange(len(cost)))
    inside = np.arange(len(rows)) - first[rows] < k
    return rows[inside], columns[inside]


def rank(
    method: Method,
    queries: EncodedQueries,
    gallery: pl.DataFrame,
    index: GalleryIndex,
    k: int,
    *,
    remove_reference: bool,
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    block_scores: int = _BLOCK_SCORES,
) -> pl.DataFrame:
    """Rank the gallery for every query by one method: exact, ties by image id.

    The result does not depend on the order of queries, of the gallery or of blocks; a larger ``k`` only
    appends.

    Args:
        method: The retrieval method.
        queries: The encoded queries.
        gallery: GALLERY, or just ``image_id`` and ``galleries``: which images a query's ``gallery`` (``all``
            or a FashionIQ category) holds.
        index: The images that can be ranked. Those without a vector (missing, broken) are in no ranking; for
            a method that needs ``image_captions`` they are all images, and vectors may be ``[n, 0]``.
        k: Images kept for each query.
        remove_reference: Whether the query's reference is taken out before the cut to ``k`` (a rule of the
            benchmark).
        options: The settings of this method.
        progress: Told how many queries are ranked.
        block_scores: Scores held in memory at a time.

    Returns:
        A RANKINGS frame, in the order of the queries, pool and rank. Queries with ``subset_ids`` (CIRR) get a
        second pool, ``subset``: exactly those images by the same scores.

    Raises:
        MethodError: The gallery is empty, a need is not there, scores are not finite, or the method raises
            anything.
    """
    of_captions = {IMAGE_CAPTIONS: index.captions, CAPTION_VECTORS: index.caption_vectors}
    there = {need for need, found in of_captions.items() if found is not None}
    _check_needs(method, queries, there, options or {})
    parts: list[pl.DataFrame] = []
    done = 0
    for rows, columns in _searches(queries.frame, gallery, index.ids):
        names = np.array([index.ids[column] for column in columns], dtype=object)
        whole = len(columns) == len(index.vectors) and bool((np.diff(columns) == 1).all())
        vectors = index.vectors if whole else index.vectors[columns]
        searched = SearchedGallery(vectors, names.tolist(), index.captions, index.caption_vectors)
        with told_as(MethodError, f"retrieval method {method.name!r}"):
            statistics = method.statistics(searched)
        size = max(1, block_scores // len(columns))
        if (OF_PICTURES - {QUERY_VECTORS}).intersection(method.needs):
            size = min(size, _BLOCK_PICTURES)
        for start in range(0, len(rows), size):
            block = queries.rows(rows[start : start + size])
            inputs = MethodInputs(block, searched, options or {}, statistics)
            scores = _checked_scores(method, inputs)
            parts.extend(_tables(block.frame, names, scores, k, remove_reference))
            done += len(block.frame)
            progress(done, len(queries.frame), f"queries ranked by {method.name}")
    return _in_query_order(parts, queries.frame)


def rank_by_search(
    method: Method,
    queries: EncodedQueries,
    gallery: pl.DataFrame,
    ids: Sequence[str],
    search: VectorSearch,
    k: int,
    *,
    excluded: Collection[str] = (),
    options: Mapping[str, Any] | None = None,
) -> pl.DataFrame | None:
    """Rank the gallery for queries without subsets by a vector store's own search, as :func:`rank` would.

    Args:
        method: The retrieval method.
        queries: The encoded queries.
        gallery: As in :func:`rank`.
        ids: The images that have a vector.
        search: The store's exact search.
        k: Images kept for each query.
        excluded: Images that are in no ranking.
        options: The settings of this method.

    Returns:
        A RANKINGS frame; None where the method needs the gallery's vectors, so that only :func:`rank` can
        rank by it.

    Raises:
        MethodError: The gallery is empty, or a need is not there.
    """
    _check_needs(method, queries, (), options or {})
    parts: list[pl.DataFrame] = []
    for rows, columns in _searches(queries.frame, gallery, ids):
        names, block = [ids[int(column)] for column in columns], queries.rows(rows)
        try:
            with told_as(MethodError, f"retrieval method {method.name!r}"):
                vectors = method.search_vectors(MethodInputs(block, UnheldGallery(names), options or {}))
        except VectorsNotHeldError:
            return None
        # What is not a finite vector for each query is refused by ``rank``, in words.
        if vectors is None or len(vectors) != len(rows) or not np.isfinite(vectors).all():
            return None
        hits = search(vectors, k, [name for name in names if name not in excluded])
        found = hits["query"].to_numpy().astype(np.intp), hits["image_id"].to_list(), hits["score"].to_numpy()
        parts.append(_ranked(block.frame, "gallery", *found))
    return _in_query_order(parts, queries.frame)


def _check_needs(
    method: Method, queries: EncodedQueries, of_captions: Collection[str], options: Mapping[str, Any]
) -> None:
    check_files(method, options)
    if of_pictures := OF_PICTURES.intersection(method.needs):
        if queries.references is None:
            raise MethodError(
                f"retrieval method {method.name!r} needs {', '.join(sorted(of_pictures))}, and the queries "
                "were made without their reference pictures: give encode_queries its references"
            )
        check_space_gives(method, queries.references.space)
    there = {*queries.texts, *of_pictures, *of_captions}
    lacking = sorted({*method.needs, *(kind.name for kind in method.texts)} - there)
    if IMAGE_CAPTIONS in lacking:
        raise MethodError(
            f"retrieval method {method.name!r} searches the captions of the gallery's images, and there are "
            "none: put image_captions.json into the data set's root and materialise gallery_embeddings"
        )
    if CAPTION_VECTORS in lacking:
        raise MethodError(
            f"retrieval method {method.name!r} needs the vectors of the captions in the embedding space "
            f"{method.space!r}, and there are none: materialise gallery_embeddings again"
        )
    for kind in lacking:
        raise MethodError(
            f"retrieval method {method.name!r} needs {kind}, which are not there: materialise "
            f"{made_by(kind)!r} first"
        )


def _searches(
    queries: pl.DataFrame, gallery: pl.DataFrame, ids: Sequence[str]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(rows of ``queries``, rows of ``ids``) of each gallery searched; ids in order, queries in order of id.

    The canonical order makes means and blocks, and so the last digit of every score, independent of the
    caller's.
    """
    numbered = queries.select("query_id", "gallery").with_row_index("row").sort("query_id")
    table = pl.DataFrame({"image_id": list(ids)}, schema={"image_id": pl.String()}).with_row_index("column")
    members = gallery.select("image_id", pl.col("galleries").alias("gallery")).explode("gallery").unique()
    for (name,), group in numbered.group_by("gallery", maintain_order=True):
        inside = table.join(members.filter(pl.col("gallery") == name), on="image_id", how="semi").sort(
            "image_id"
        )
        if not len(inside):
            raise MethodError(
                f"gallery {name!r} has no embedded picture, but {len(group)} queries search it, e.g. "
                f"{group['query_id'][0]}; materialise gallery_images and gallery_embeddings of this "
                "evaluation set"
            )
        yield group["row"].to_numpy().astype(np.intp), inside["column"].to_numpy().astype(np.intp)


def _checked_scores(method: Method, inputs: MethodInputs) -> NDArray[np.float32]:
    with told_as(MethodError, f"retrieval method {method.name!r}"):
        scores = np.asarray(method.scores(inputs), dtype=np.float32)
    expected = (len(inputs.queries.frame), len(inputs.gallery.vectors))
    if scores.shape != expected:
        raise MethodError(
            f"retrieval method {method.name!r} gave scores of shape {scores.shape}, not {expected}"
        )
    bad = ~np.isfinite(scores).all(axis=1)
    if bad.any():
        query = inputs.queries.frame["query_id"][int(np.flatnonzero(bad)[0])]
        raise MethodError(
            f"retrieval method {method.name!r} gave scores that are not finite for {int(bad.sum())} "
            f"queries, e.g. {query}"
        )
    return scores


def _tables(
    queries: pl.DataFrame,
    names: NDArray[Any],
    scores: NDArray[np.float32],
    k: int,
    remove_reference: bool,
) -> Iterator[pl.DataFrame]:
    """The two pools of a block of queries."""
    column_of = {name: column for column, name in enumerate(names)}
    excluded = np.zeros(scores.shape, dtype=bool) if remove_reference else None
    if excluded is not None:
        own = np.array([column_of.get(name, -1) for name in queries["reference_id"]], dtype=np.intp)
        excluded[np.flatnonzero(own >= 0), own[own >= 0]] = True
    rows, columns = top_k(scores, k, excluded)
    yield _ranked(queries, "gallery", rows, names[columns].tolist(), scores[rows, columns])
    subsets = queries["subset_ids"].to_list()
    if any(subsets):
        members = np.zeros(scores.shape, dtype=bool)
        for row, subset in enumerate(subsets):
            members[row, [column_of[name] for name in subset or [] if name in column_of]] = True
        rows, columns = top_k(scores, scores.shape[1], ~members)
        yield _ranked(queries, "subset", rows, names[columns].tolist(), scores[rows, columns])


def _ranked(
    queries: pl.DataFrame,
    pool: str,
    rows: NDArray[np.intp],
    images: Sequence[str],
    scores: NDArray[np.floating],
) -> pl.DataFrame:
    """RANKINGS of one pool; ``rows`` of ``queries``, images and scores are ordered by row, then rank."""
    first = np.searchsorted(rows, np.arange(len(queries)))
    values = scores.astype(np.float64)
    frame = pl.DataFrame(
        {
            "query_id": queries["query_id"].gather(rows),
            "pool": [pool] * len(rows),
            "rank": (np.arange(len(rows)) - first[rows] + 1).astype(np.int32),
            "image_id": pl.Series(images, dtype=pl.String()),
            "score": values,
            "coarse_score": values,
            "judge_score": pl.Series([None] * len(rows), dtype=pl.Float64()),
        },
        schema_overrides={"pool": pl.String()},
    )
    return conform(frame, RANKINGS, f"rankings ({pool})")


def _in_query_order(parts: list[pl.DataFrame], queries: pl.DataFrame) -> pl.DataFrame:
    if not parts:
        return RANKINGS.to_frame()
    order = queries.select("query_id").with_row_index("position")
    return (
        pl.concat(parts)
        .join(order, on="query_id", how="left")
        .sort("position", "pool", "rank")
        .select(list(RANKINGS))
    )
