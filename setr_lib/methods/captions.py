"""Methods that search captions by words: a query becomes weighted terms, and an image's score is the sum of
its captions' BM25 for them.

The three methods differ in how they read a query (``setr_lib.methods.caption_reading``) alone;
``docs/datasets/cirr.md`` shows what each part of that is worth. Terms are matched by the store's full-text
index; an image without captions comes after all that have some.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.methods.caption_reading import INTERSECTION, TEXT, UNION, QueryReading
from setr_lib.methods.method import TRAINING_FREE, Method
from setr_lib.methods.needs import IMAGE_CAPTIONS, MethodError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from setr_lib.methods.inputs import CaptionSearch, MethodInputs


class OverCaptions(Method):
    """A method that scores images by their captions; one without any comes after all that have some."""

    needs = frozenset({IMAGE_CAPTIONS})
    is_cosine = False
    options = ()

    @abstractmethod
    def fits(self, inputs: MethodInputs) -> NDArray[np.float64]:
        """How well the captions of each image fit each query.

        Args:
            inputs: The queries, and the gallery with its captions.

        Returns:
            ``float64[queries, captioned]``: the images of :func:`captioned`, in their order.
        """

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """What :meth:`fits` gives, and less than any of it for an image without captions."""
        import numpy as np

        _, columns = captioned(inputs)
        scores = np.zeros((len(inputs.queries.frame), len(inputs.gallery.ids)))
        scores[:, columns] = self.fits(inputs)
        lacking = np.ones(scores.shape[1], dtype=bool)
        lacking[columns] = False
        if lacking.any() and scores.size:
            scores[:, lacking] = scores.min(axis=1, keepdims=True) - 1
        return scores.astype(np.float32)


@dataclass(frozen=True)
class CaptionMethod(OverCaptions):
    """A method that searches the captions of the gallery's images for weighted terms of the query (BM25)."""

    name: str
    reading: QueryReading
    label: str = TRAINING_FREE
    source: str = "SETR's question asked of words; ours"

    def fits(self, inputs: MethodInputs) -> NDArray[np.float64]:
        """The weighted sum of the terms' BM25."""
        import numpy as np

        search = captions_of(inputs)
        rows, _ = captioned(inputs)
        place = np.full(len(search.ids), -1, dtype=np.intp)
        place[rows] = np.arange(len(rows))
        texts = inputs.queries.frame.select("modification", "reference_id").rows()
        found = np.zeros((len(texts), len(rows)))
        for row, (modification, reference) in zip(found, texts, strict=True):
            weights = self.reading.weights(modification, search.captions(reference), search.term)
            _add(row, weights, search, place)
        return found


def captions_of(inputs: MethodInputs) -> CaptionSearch:
    """The captions of the gallery.

    Args:
        inputs: What a method reads.

    Returns:
        The captions.

    Raises:
        MethodError: There are none.
    """
    if inputs.gallery.captions is None:
        raise MethodError("the captions of the gallery's images are needed, and there are none")
    return inputs.gallery.captions


def captioned(inputs: MethodInputs) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The images that have captions and are in the gallery searched.

    Args:
        inputs: What a method reads.

    Returns:
        Their rows in the captions' ``ids``, ascending, and their columns in the gallery's.

    Raises:
        MethodError: The gallery has no captions.
    """
    import numpy as np

    column_of = {image_id: column for column, image_id in enumerate(inputs.gallery.ids)}
    columns = np.array([column_of.get(each, -1) for each in captions_of(inputs).ids], dtype=np.intp)
    rows = np.flatnonzero(columns >= 0)
    return rows, columns[rows]


def _add(
    row: NDArray[np.float64],
    weights: Mapping[str, float],
    search: CaptionSearch,
    place: NDArray[np.intp],
) -> None:
    for term in sorted(weights):  # always summed in the same order, so that equal captions tie exactly
        rows, fits = search.matches(term)
        columns = place[rows]
        inside = columns >= 0
        row[columns[inside]] += weights[term] * fits[inside]


METHODS = (
    CaptionMethod("captions_text", TEXT),
    CaptionMethod("captions_union", UNION),
    CaptionMethod("captions_intersection", INTERSECTION),
)
