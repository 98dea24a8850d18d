"""From scores to the RANKINGS table: exact top K in blocks of queries, ties by id, the benchmarks' pools."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from setr_lib.methods.linear_search import LinearSearch, search_blocks
from setr_lib.methods.method import Method, check_files
from setr_lib.methods.ranked_rows import (
    GALLERY,
    SUBSET,
    RankedRows,
    rankings_of,
    rows_of,
    subset_pairs,
)
from setr_lib.methods.references import OF_PICTURES, check_space_gives
from setr_lib.methods.similarity import mean_vector
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK_PICTURES = 256
"""Queries of a block where a method looks at their reference pictures, which are held in memory for it."""
_CENTER_ROWS = 4096
"""Vectors of a block where their mean is made."""
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
    memory: int = 256 * 2**20,
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
        memory: Bytes that blocks of vectors and scores may take for a method that is one vector of a query
            (``search_vectors``): the gallery is not held in memory, unless it is small.
        block_scores: Scores of any other method that are held in memory at a time.

    Returns:
        A RANKINGS frame, in the order of the queries, pool and rank. Queries with ``subset_ids`` (CIRR) get a
        second pool, ``subset``: exactly those images by the same scores. Where queries search galleries of
        their own, those whose gallery is empty have no rows.

    Raises:
        MethodError: Every gallery is empty, a need is not there, scores are not finite, or the method raises
            anything.
    """
    of_captions = {IMAGE_CAPTIONS: index.captions, CAPTION_VECTORS: index.caption_vectors}
    there = {need for need, found in of_captions.items() if found is not None}
    _check_needs(method, queries, there, options or {})
    searches = list(_searches(queries.frame, gallery, index.names))
    own = rows_of(queries.frame["reference_id"], index.names) if remove_reference else None
    linear = _linear_searches(method, queries, index, searches, options or {}, memory)
    if linear is not None:
        ranked, count = f"queries ranked by {method.name}", len(queries.frame)

        def passed(rows: int) -> None:
            progress(count * rows // len(index.names), count, ranked)

        with told_as(MethodError, f"retrieval method {method.name!r}"):
            # One more than wanted, where one may be taken out.
            found = search_blocks(linear, index, k + (own is not None), memory, passed)
        for part in found:
            _check_finite(method, queries.frame["query_id"].gather(part.queries), part.scores[:, None])
        parts = [part.without(own, k) if part.pool == GALLERY else part for part in found]
        return rankings_of(parts, queries.frame, index.names)
    scored = _ScoredSearch(method, queries, index, options or {}, block_scores)
    parts, done = [], 0
    for rows, columns in searches:
        for block, scores in scored.blocks(rows, columns):
            parts.extend(_pools(queries.frame, block, index.names, columns, scores, k, own))
            done += len(block)
            progress(done, len(queries.frame), f"queries ranked by {method.name}")
    return rankings_of(parts, queries.frame, index.names)


def _linear_searches(
    method: Method,
    queries: EncodedQueries,
    index: GalleryIndex,
    searches: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]],
    options: Mapping[str, Any],
    memory: int,
) -> list[LinearSearch] | None:
    """The queries' vectors, where the method's scores are nothing but cosines with them; else None."""
    if type(method).search_vectors is Method.search_vectors:
        return None
    if not index.is_held and 4 * len(index.names) * index.dimension <= memory // 2:
        _ = index.vectors  # small: read once for all methods
    found: list[LinearSearch] = []
    pictures = bool((OF_PICTURES - {QUERY_VECTORS}).intersection(method.needs))
    for rows, columns in searches:
        searched = UnheldGallery(index.names.gather(columns), partial(_center, index, columns))
        blocks: list[NDArray[np.float32]] = []
        try:
            with told_as(MethodError, f"retrieval method {method.name!r}"):
                statistics = method.statistics(searched)
                step = _BLOCK_PICTURES if pictures else len(rows)
                for start in range(0, len(rows), step):
                    inputs = MethodInputs(
                        queries.rows(rows[start : start + step]), searched, options, statistics
                    )
                    vectors = method.search_vectors(inputs)
                    # What is not a finite vector for each query is refused in words when it is scored.
                    if vectors is None or vectors.shape != (len(inputs.queries.frame), index.dimension):
                        return None
                    if not np.isfinite(vectors).all():
                        return None
                    blocks.append(vectors.astype(np.float32, copy=False))
        except VectorsNotHeldError:
            return None
        subsets = subset_pairs(queries.frame[rows], index.names)
        inside = np.isin(subsets[1], columns)
        vectors = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        found.append(LinearSearch(rows, columns, vectors, (subsets[0][inside], subsets[1][inside])))
    return found


def _center(index: GalleryIndex, columns: NDArray[np.intp]) -> NDArray[np.float32]:
    """The mean vector of some images, in one pass over the vectors."""
    if index.is_held:
        return mean_vector(index.vectors if len(columns) == len(index.names) else index.vectors[columns])
    inside = np.zeros(len(index.names), dtype=bool)
    inside[columns] = True
    total = np.zeros(index.dimension)
    for rows, vectors in index.blocks(_CENTER_ROWS):
        total += vectors[inside[rows]].sum(axis=0, dtype=np.float64)
    return (total / max(1, len(columns))).astype(np.float32)


@dataclass(frozen=True)
class _ScoredSearch:
    """A method that scores every image: block by block of queries, over a gallery that is held in memory."""

    method: Method
    queries: EncodedQueries
    index: GalleryIndex
    options: Mapping[str, Any]
    block_scores: int

    def blocks(
        self, rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """Rows of the queries, and their scores of the images ``columns``."""
        method, index = self.method, self.index
        whole = len(columns) == len(index.names) and bool((np.diff(columns) == 1).all())
        vectors = index.vectors if whole else index.vectors[columns]
        names = index.names.gather(columns)
        searched = SearchedGallery(vectors, names, index.captions, index.caption_vectors)
        with told_as(MethodError, f"retrieval method {method.name!r}"):
            statistics = method.statistics(searched)
        size = max(1, self.block_scores // len(columns))
        if (OF_PICTURES - {QUERY_VECTORS}).intersection(method.needs):
            size = min(size, _BLOCK_PICTURES)
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            inputs = MethodInputs(self.queries.rows(block), searched, self.options, statistics)
            yield block, _checked_scores(method, inputs)


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
    queries: pl.DataFrame, gallery: pl.DataFrame, names: pl.Series
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(rows of ``queries``, rows of ``names``) of each gallery searched; images and queries in order of id.

    The canonical order makes means and blocks, and so the last digit of every score, independent of the
    caller's. A gallery of which no image has a vector is not searched, if there is another one.
    """
    numbered = queries.select("query_id", "gallery").with_row_index("row").sort("query_id")
    table = pl.DataFrame({"image_id": names}).with_row_index("column").sort("image_id")
    wanted = queries["gallery"].unique()
    members = (
        gallery.lazy()
        .select("image_id", pl.col("galleries").alias("gallery"))
        .explode("gallery")
        .filter(pl.col("gallery").is_in(wanted.implode()))
        .collect()
    )
    empty: list[str] = []
    for (name,), group in numbered.group_by("gallery", maintain_order=True):
        searched = members if len(wanted) == 1 else members.filter(pl.col("gallery") == name)
        inside = table.join(searched, on="image_id", how="semi", maintain_order="left")
        if len(inside):
            yield group["row"].to_numpy().astype(np.intp), inside["column"].to_numpy().astype(np.intp)
            continue
        empty.append(
            f"gallery {name!r} has no embedded picture, but {len(group)} queries search it, e.g. "
            f"{group['query_id'][0]}; materialise gallery_images and gallery_embeddings of this "
            "evaluation set"
        )
    if empty and len(empty) == len(wanted):
        raise MethodError(empty[0])


def _checked_scores(method: Method, inputs: MethodInputs) -> NDArray[np.float32]:
    with told_as(MethodError, f"retrieval method {method.name!r}"):
        scores = np.asarray(method.scores(inputs), dtype=np.float32)
    expected = (len(inputs.queries.frame), len(inputs.gallery.vectors))
    if scores.shape != expected:
        raise MethodError(
            f"retrieval method {method.name!r} gave scores of shape {scores.shape}, not {expected}"
        )
    _check_finite(method, inputs.queries.frame["query_id"], scores)
    return scores


def _check_finite(method: Method, query_ids: pl.Series, scores: NDArray[np.float32]) -> None:
    """Refuse scores that are not finite; each row of ``scores`` is of the query beside it."""
    wrong = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(wrong):
        bad = query_ids.gather(wrong)
        raise MethodError(
            f"retrieval method {method.name!r} gave scores that are not finite for {bad.n_unique()} "
            f"queries, e.g. {bad[0]}"
        )


def _pools(
    queries: pl.DataFrame,
    block: NDArray[np.intp],
    names: pl.Series,
    columns: NDArray[np.intp],
    scores: NDArray[np.float32],
    k: int,
    own: NDArray[np.intp] | None,
) -> Iterator[RankedRows]:
    """The two pools of a block of queries, from their scores of the images ``columns``."""
    place = np.full(len(names), -1, dtype=np.intp)
    place[columns] = np.arange(len(columns))
    excluded = None
    if own is not None:
        excluded = np.zeros(scores.shape, dtype=bool)
        taken = np.where(own[block] >= 0, place[own[block]], -1)
        excluded[np.flatnonzero(taken >= 0), taken[taken >= 0]] = True
    found, best = top_k(scores, k, excluded)
    yield RankedRows(GALLERY, block[found], columns[best], scores[found, best])
    asked, members = subset_pairs(queries[block], names)
    asked, members = asked[place[members] >= 0], place[members[place[members] >= 0]]
    if len(asked):
        inside = np.zeros(scores.shape, dtype=bool)
        inside[asked, members] = True
        found, best = top_k(scores, scores.shape[1], ~inside)
        yield RankedRows(SUBSET, block[found], columns[best], scores[found, best])
