"""Methods that search the captions of the gallery's images by their vectors, and by vectors and words
together.

The dense form of a caption method compares sentences: the query's are those of its reading
(:meth:`setr_lib.methods.caption_reading.Reading.sentences`), embedded by the space ``sentences`` of the
settings; an image's score is the mean cosine of its captions. The mean, because an image's captions are
several descriptions of one picture: like the share of captions that has a word, it lets none of them decide
alone. The hybrid form adds both forms' scores, each brought to 0 to 1 for every query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from setr_lib.methods.caption_reading import INTERSECTION, TEXT, UNION, QueryReading
from setr_lib.methods.captions import CaptionMethod, OverCaptions, captioned, captions_of
from setr_lib.methods.inputs import CAPTION_VECTORS, IMAGE_CAPTIONS, MethodError, MethodInputs
from setr_lib.methods.method import TRAINING_FREE
from setr_lib.methods.similarity import min_max, similarity, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPACE = "sentences"
"""The embedding space of the captions: ``[spaces.sentences]`` in settings."""


@dataclass(frozen=True)
class DenseCaptions(OverCaptions):
    """A method that ranks images by the cosine of their captions with the sentences of the query."""

    name: str
    reading: QueryReading
    label: str = TRAINING_FREE
    source: str = "SETR's question asked of sentences; ours"
    space: str = SPACE
    needs: frozenset[str] = frozenset({IMAGE_CAPTIONS, CAPTION_VECTORS})
    is_cosine: bool = True
    best: bool = False
    """Whether the best caption counts, as in MaxP (Dai and Callan, 2019), in place of the mean of all."""

    def fits(self, inputs: MethodInputs) -> NDArray[np.float64]:
        """The mean (or best) cosine of each image's captions with the query's vector."""
        found = inputs.gallery.caption_vectors
        if found is None:
            raise MethodError("the vectors of the captions are needed, and there are none")
        rows, _ = captioned(inputs)
        chosen = np.flatnonzero(np.isin(found.images, rows))
        _, starts, counts = np.unique(found.images[chosen], return_index=True, return_counts=True)
        if not len(chosen):
            return np.zeros((len(inputs.queries.frame), len(rows)))
        cosines = similarity(self.query_vectors(inputs), found.vectors[chosen]).astype(np.float64)
        if self.best:
            return np.maximum.reduceat(cosines, starts, axis=1)
        return np.add.reduceat(cosines, starts, axis=1) / counts

    def query_vectors(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The weighted mean of the vectors of each query's sentences.

        Args:
            inputs: The queries, and the captions of their references.

        Returns:
            ``float32[queries, d]``, norm 1; a zero row for a query without a sentence.
        """
        search, queries = captions_of(inputs), inputs.queries
        read = [
            self.reading.sentences(modification, search.captions(reference), search.term)
            for modification, reference in queries.frame.select("modification", "reference_id").rows()
        ]
        vectors = queries.encode([text for sentences in read for text, _ in sentences]).astype(np.float64)
        made = np.zeros((len(read), vectors.shape[1]))
        owners = np.repeat(np.arange(len(read)), [len(sentences) for sentences in read])
        weights = np.array([weight for sentences in read for _, weight in sentences])
        np.add.at(made, owners, weights[:, None] * vectors)
        return unit(made)


@dataclass(frozen=True)
class HybridCaptions(OverCaptions):
    """Half the lexical and half the dense form of a caption method, each scaled to 0 to 1 for every query.

    A convex combination of min-max scaled scores (Bruch, Gai and Ingber, ACM TOIS 2023), with equal weights.
    """

    name: str
    lexical: OverCaptions
    dense: OverCaptions
    label: str = TRAINING_FREE
    source: str = "SETR's question asked of words and sentences, ours; min-max fusion (Bruch et al., 2023)"
    space: str = SPACE
    needs: frozenset[str] = frozenset({IMAGE_CAPTIONS, CAPTION_VECTORS})

    def fits(self, inputs: MethodInputs) -> NDArray[np.float64]:
        """The mean of both forms' scaled scores."""
        return (min_max(self.lexical.fits(inputs)) + min_max(self.dense.fits(inputs))) / 2


def _forms(reading: QueryReading) -> tuple[CaptionMethod, DenseCaptions]:
    return CaptionMethod("words", reading), DenseCaptions("sentences", reading)


METHODS = (
    DenseCaptions("captions_text_dense", TEXT),
    DenseCaptions("captions_union_dense", UNION),
    DenseCaptions("captions_intersection_dense", INTERSECTION),
    HybridCaptions("captions_text_hybrid", *_forms(TEXT)),
    HybridCaptions("captions_union_hybrid", *_forms(UNION)),
    HybridCaptions("captions_intersection_hybrid", *_forms(INTERSECTION)),
)
