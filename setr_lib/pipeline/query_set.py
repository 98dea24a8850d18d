"""Queries that are ready to be ranked by stage 1: encoded in one embedding space, with the gallery that they
search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from setr_lib.benchmarks import Benchmark
    from setr_lib.methods.inputs import EncodedQueries, GalleryIndex
    from setr_lib.methods.method import Method
    from setr_lib.methods.references import ReferencePictures
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.spaces.space import EmbeddingSpace


@dataclass(frozen=True)
class QuerySet:
    """Encoded queries and the gallery that they search. Made by :func:`encode`; of captions alone, by
    :func:`setr_lib.pipeline.retrieval.captioned_queries`.

    Attributes:
        context: The options of methods.
        queries: The queries as methods read them.
        images: GALLERY rows of the images that are searched.
        index: The ids of these images with their vectors or captions.
        removes_reference: Whether a query's reference image is taken out of its ranking.
    """

    context: PipelineContext
    queries: EncodedQueries
    images: pl.DataFrame
    index: GalleryIndex
    removes_reference: bool = False

    def ranked(self, method: Method, k: int, progress: Progress = silent) -> pl.DataFrame:
        """Rank the gallery for every query.

        Args:
            method: A retrieval method, opened where it has trained weights.
            k: Images of each ranking.
            progress: Told how many queries are ranked.

        Returns:
            A RANKINGS table.

        Raises:
            MethodError: The method lacks something that it needs, or gives what cannot be scores.
        """
        from setr_lib.methods.ranking import rank

        return rank(
            method,
            self.queries,
            self.images,
            self.index,
            k,
            remove_reference=self.removes_reference,
            options=self.context.methods.options(method),
            progress=progress,
            memory=self.context.settings.coarse.memory_mb * 2**20,
        )


def encode(
    context: PipelineContext,
    queries: pl.DataFrame,
    images: pl.DataFrame,
    index: GalleryIndex,
    *,
    space: EmbeddingSpace | None = None,
    texts: Mapping[str, pl.DataFrame] | None = None,
    benchmark: Benchmark | None = None,
    center_texts: Sequence[str] | None = None,
    reference_vectors: NDArray[np.float32] | None = None,
    references: pl.DataFrame | None = None,
) -> QuerySet:
    """Encode queries in an embedding space.

    Args:
        context: The embedding spaces.
        queries: A QUERIES table.
        images: GALLERY rows of the images that are searched.
        index: The ids and vectors of these images in that space; the references are looked up here.
        space: The embedding space; ``clip`` by default.
        texts: Generated texts by kind.
        benchmark: The kind of data set that the queries are of: whether a query's reference is taken out of
            its ranking, and which of its published constants a method takes. None for queries of none.
        center_texts: The texts whose mean the method ``product`` subtracts; those of ``queries`` by default.
        reference_vectors: The references' vectors, ``float32[queries, d]``, norm 1, where they are not in the
            gallery.
        references: GALLERY rows of the reference images, where they are not among ``images``.

    Returns:
        The queries with the gallery.

    Raises:
        MethodError: Queries have no composition, though compositions are given.
    """
    from setr_lib.methods.inputs import encode_queries

    space = space or context.models.space()
    encoded = encode_queries(
        queries,
        space,
        index.names,
        index.source,
        texts=texts,
        center_texts=center_texts,
        reference_vectors=reference_vectors,
        references=reference_pictures(images if references is None else references, space),
        dataset_kind=benchmark.kind if benchmark else "",
    )
    removes_reference = benchmark is not None and benchmark.removes_reference
    return QuerySet(context, encoded, images, index, removes_reference)


def reference_pictures(images: pl.DataFrame, space: EmbeddingSpace) -> ReferencePictures:
    """What opens and embeds the reference pictures of queries, for methods that ask for them.

    Args:
        images: GALLERY rows, or any frame of ``image_id`` and ``path``, the references among them.
        space: The embedding space that is searched.

    Returns:
        It opens nothing before it is asked to.
    """
    from setr_lib.methods.references import ReferencePictures
    from setr_lib.pixels import picture_files

    return ReferencePictures(space, picture_files(images))
