"""BASIC's product of image and text similarity (the i-CIR paper, NeurIPS 2025), reduced to what needs no
corpus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.methods.method import TRAINING_FREE, Method
from setr_lib.methods.similarity import similarity, unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from setr_lib.methods.inputs import MethodInputs
    from setr_lib.methods.options import Option


@dataclass(frozen=True)
class ProductMethod(Method):
    """The product of centred, rectified image and text cosines: an image must satisfy the reference *and* the
    text.

    A reconstruction after BASIC, of which it keeps three steps: subtract the mean image from image vectors
    and the mean text from text vectors; take the two cosines of the centred vectors; clamp both at zero and
    multiply. It leaves out what needs corpora of its own: the contrastive projection, the statistics of a
    synthetic set, the Harris-like penalty, query expansion. The means are those of the gallery searched and
    of the texts in ``EncodedQueries.text_center``, not of LAION.

    Clamping makes many scores equal (zero). Those are ordered by how far they fall short: their score is
    minus the sum of what was clamped away, so all of them still come after every image with a positive
    product.
    """

    name: str = "product"
    options: tuple[Option, ...] | None = ()
    needs: frozenset[str] = frozenset()
    label: str = TRAINING_FREE
    source: str = "BASIC, the i-CIR paper, NeurIPS 2025; a reconstruction of its first three steps"

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The product of both cosines; where one is negative, minus what clamping takes away."""
        import numpy as np

        queries, gallery = inputs.queries, inputs.gallery
        known = np.abs(queries.reference_vectors).sum(axis=1, keepdims=True) > 0
        references = unit(np.where(known, queries.reference_vectors - gallery.center, np.float32(0)))
        by_image = similarity(references, gallery.centered)
        by_text = similarity(unit(queries.modification_vectors - queries.text_center), gallery.centered)
        # Where nothing is known of the reference, the text decides alone.
        by_image = np.where(known, by_image, np.float32(1))
        short = np.minimum(by_image, 0) + np.minimum(by_text, 0)
        return np.where(short < 0, short, by_image * by_text)


METHODS = (ProductMethod(),)
