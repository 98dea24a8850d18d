"""The gallery as retrieval methods read it: ids, vectors and captions; and the error of stage 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

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


@dataclass(frozen=True)
class GalleryIndex:
    """A gallery's images as stage 1 searches them: ids, vectors and, where there are any, captions."""

    ids: Sequence[str]
    vectors: NDArray[np.float32]
    """``float32[n, d]``, norm 1; ``[n, 0]`` where only captions are searched."""
    captions: CaptionSearch | None = None
    caption_vectors: CaptionVectors | None = None


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
        ids: Sequence[str] = (),
        captions: CaptionSearch | None = None,
        caption_vectors: CaptionVectors | None = None,
    ) -> None:
        self._vectors, self.ids = vectors, ids
        self.captions, self.caption_vectors = captions, caption_vectors

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

    Args:
        ids: The images searched.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(np.zeros((len(ids), 0), dtype=np.float32), ids)

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
