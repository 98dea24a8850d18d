"""The gallery as retrieval methods read it: ids, vectors and captions; and the error of stage 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl

from setr_lib.methods.needs import MethodError
from setr_lib.methods.similarity import mean_vector, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.spaces.caption_vectors import CaptionVectors


class CaptionSearch(Protocol):
    """The captions of a gallery as stage 1 searches them, e.g. a
    :class:`setr_lib.spaces.caption_store.CaptionIndex`.
    """

    @property
    def ids(self) -> Sequence[str]:
        """The images that have captions, sorted."""
        ...

    def captions(self, image_id: str) -> Sequence[str]:
        """The captions of an image.

        Args:
            image_id: The image.

        Returns:
            Its captions; none for an image without.
        """
        ...

    def term(self, word: str) -> str | None:
        """The term that a word is searched as (its stem).

        Args:
            word: A word in lower case.

        Returns:
            The term; None for a word that no caption can be searched for.
        """
        ...

    def matches(self, term: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The images whose captions have a term.

        Args:
            term: As :meth:`term` gives it.

        Returns:
            Their rows in ``ids``, ``int[hits]``, and the BM25 of each, ``float64[hits]``.
        """
        ...


class VectorSource(Protocol):
    """The vectors of a gallery that lie in a store, e.g. a
    :class:`setr_lib.spaces.stored_vectors.StoredVectors`.
    """

    @property
    def names(self) -> pl.Series:
        """The images that have a vector, sorted."""
        ...

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        ...

    def blocks(self, rows: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """All vectors, read one block after the other.

        Args:
            rows: Vectors of a block, at most.

        Yields:
            The rows in :attr:`names`, ``int[n]``, and their vectors ``float32[n, d]``, which may be
            overwritten two blocks later.
        """
        ...

    def whole(self) -> NDArray[np.float32]:
        """All vectors, ``float32[n, d]``, in the order of :attr:`names`."""
        ...

    def take(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """The vectors of some rows.

        Args:
            rows: Rows in :attr:`names`.

        Returns:
            ``float32[n, d]``, in their order.
        """
        ...


class GalleryIndex:
    """A gallery's images as stage 1 searches them: ids, vectors and, where there are any, captions.

    Args:
        ids: The images that have a vector (or captions), in the order of the vectors.
        vectors: ``float32[n, d]``, norm 1; ``[n, 0]`` where only captions are searched. Or what reads them
            from a store, with the same ids.
        captions: The captions, where they are searched.
        caption_vectors: Their vectors, where these are searched.
    """

    def __init__(
        self,
        ids: Sequence[str] | pl.Series,
        vectors: NDArray[np.float32] | VectorSource,
        captions: CaptionSearch | None = None,
        caption_vectors: CaptionVectors | None = None,
    ) -> None:
        self.names = pl.Series("image_id", ids, dtype=pl.String())
        """The images, in the order of the vectors."""
        self.captions, self.caption_vectors = captions, caption_vectors
        self._given = vectors
        self._held = vectors if isinstance(vectors, np.ndarray) else None

    @cached_property
    def ids(self) -> list[str]:
        """:attr:`names` as a list."""
        return self.names.to_list()

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``float32[n, d]``, norm 1; read whole from a store once they are asked for, and held from then
        on."""
        if self._held is None:
            self._held = self._given if isinstance(self._given, np.ndarray) else self._given.whole()
        return self._held

    @property
    def source(self) -> NDArray[np.float32] | VectorSource:
        """The vectors in memory, or what reads them from a store."""
        return self._given if self._held is None else self._held

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        source = self.source
        return source.shape[1] if isinstance(source, np.ndarray) else source.dimension

    @property
    def is_held(self) -> bool:
        """Whether the vectors are in memory."""
        return self._held is not None

    def blocks(self, rows: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """All vectors, one block after the other: of those in memory, or read from the store.

        Args:
            rows: Vectors of a block, at most.

        Yields:
            As of :meth:`VectorSource.blocks`.
        """
        source = self.source
        if not isinstance(source, np.ndarray):
            yield from source.blocks(rows)
            return
        for start in range(0, len(source), rows):
            vectors = source[start : start + rows]
            yield np.arange(start, start + len(vectors)), vectors

    def take(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """The vectors of some images.

        Args:
            rows: Rows in :attr:`names`.

        Returns:
            ``float32[n, d]``, in their order.
        """
        source = self.source
        return source[rows] if isinstance(source, np.ndarray) else source.take(rows)


class SearchedGallery:
    """The images that a group of queries searches (all, or one category); what is derived is computed once.

    Args:
        vectors: ``float32[g, d]``, norm 1; ``[g, 0]`` where captions are searched and not vectors.
        ids: The images, in the order of the rows.
        captions: The captions of the gallery's images, where a method searches them.
        caption_vectors: Their vectors, where a method needs them.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        ids: Sequence[str] | pl.Series = (),
        captions: CaptionSearch | None = None,
        caption_vectors: CaptionVectors | None = None,
    ) -> None:
        self._vectors, self._ids = vectors, ids
        self.captions, self.caption_vectors = captions, caption_vectors

    @cached_property
    def ids(self) -> Sequence[str]:
        """The images, in the order of the rows."""
        return self._ids.to_list() if isinstance(self._ids, pl.Series) else self._ids

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``float32[g, d]``, norm 1, in the order of ``ids``."""
        return self._vectors

    @cached_property
    def center(self) -> NDArray[np.float32]:
        """The mean vector, ``float32[d]``."""
        return mean_vector(self.vectors)

    @cached_property
    def centered(self) -> NDArray[np.float32]:
        """The vectors less their mean, norm 1 again: ``float32[g, d]``."""
        return unit(self.vectors - self.center)


class VectorsNotHeldError(MethodError):
    """A method asks for the vectors of a gallery that is searched in the store."""


class UnheldGallery(SearchedGallery):
    """A gallery whose vectors lie in the store, and are not held in memory.

    Its mean vector is there: it is made by a pass over the store, once it is asked for.

    Args:
        ids: The images searched.
        center: Makes the mean of their vectors, ``float32[d]``.
    """

    def __init__(
        self, ids: Sequence[str] | pl.Series, center: Callable[[], NDArray[np.float32]] | None = None
    ) -> None:
        super().__init__(np.zeros((len(ids), 0), dtype=np.float32), ids)
        self._center = center

    @property
    def vectors(self) -> NDArray[np.float32]:
        """There are none.

        Raises:
            VectorsNotHeldError: Always.
        """
        raise VectorsNotHeldError(
            "this gallery is searched in the store and its vectors are not held in memory: read them first, "
            "as a retriever with hold_vectors=True does"
        )

    @cached_property
    def center(self) -> NDArray[np.float32]:
        """The mean vector, ``float32[d]``."""
        return mean_vector(self.vectors) if self._center is None else self._center()
