"""Methods that search captions: a query becomes weighted terms, and an image's score is the sum of its
captions' BM25 for them.

The question is that of the vector methods, asked of words: may all of the reference come along (the union),
or only what the text leaves standing (the intersection)? The three methods differ in their :class:`Reading`
alone; ``docs/datasets/cirr.md`` shows what each part of it is worth. Terms are matched by the store's
full-text index; an image without captions comes after all that have some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.methods.method import TRAINING_FREE, Method
from setr_lib.methods.needs import IMAGE_CAPTIONS, MethodError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from setr_lib.methods.inputs import CaptionSearch, MethodInputs
    from setr_lib.texts.lexical import Term


@dataclass(frozen=True)
class Reading:
    """Which terms of a query are searched, and how heavily. A term of the modification text weighs 1."""

    reference: float = 0.0
    """Weight of a term that all captions of the reference have; one that a third of them have weighs a third
    of it."""
    background: float = 1.0
    """What is left of that weight where the captions have turned to surroundings, clothes and poses."""
    content_only: bool = False
    """Whether function words, and words that speak of the picture itself, are left out."""
    obey_rejections: bool = False
    """Whether what the text refuses or replaces is left out, of the text and of the reference."""

    def weights(self, modification: str, captions: Sequence[str], term: Term) -> dict[str, float]:
        """The weight of each term of a query.

        Args:
            modification: The modification text.
            captions: The captions of the reference image.
            term: What a word is searched as; None for a word that is not searched.

        Returns:
            Weight by term: 1 for a term of the modification text, what :attr:`reference` says for one of the
            captions, the sum for a term of both.
        """
        from setr_lib.texts.lexical import is_content, read_captions

        wanted, rejected = self._modification_terms(modification, term)
        weights = dict.fromkeys(wanted, 1.0)
        if not self.reference:
            return weights
        for key, mention in read_captions(captions, term).items():
            if key in rejected or (self.content_only and not is_content(mention.word)):
                continue
            kept = self.background + (1 - self.background) * mention.foreground
            weights[key] = weights.get(key, 0.0) + self.reference * mention.share * kept
        return weights

    def _modification_terms(self, modification: str, term: Term) -> tuple[set[str], set[str]]:
        """What is searched of the text, and what must not come from the reference either."""
        from setr_lib.texts.lexical import read_modification, words_of

        if self.obey_rejections:
            read = read_modification(modification)
            wanted, rejected = self._terms(read.wanted, term), self._terms(read.rejected, term)
            return wanted, rejected - wanted
        return self._terms(words_of(modification), term), set()

    def _terms(self, words: Sequence[str], term: Term) -> set[str]:
        from setr_lib.texts.lexical import is_content

        chosen = [word for word in words if is_content(word)] if self.content_only else words
        return {key for word in chosen if (key := term(word)) is not None}


@dataclass(frozen=True)
class CaptionMethod(Method):
    """A method that searches the captions of the gallery's images for weighted terms of the query (BM25)."""

    name: str
    reading: Reading
    needs: frozenset[str] = frozenset({IMAGE_CAPTIONS})
    label: str = TRAINING_FREE
    source: str = "SETR's question asked of words; ours"
    is_cosine: bool = False

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """Score every image by the BM25 of its captions.

        Args:
            inputs: The queries, and the gallery with its captions.

        Returns:
            ``float32[queries, gallery]``; an image without captions gets less than any other.

        Raises:
            MethodError: The gallery has no captions.
        """
        import numpy as np

        search = inputs.gallery.captions
        if search is None:
            raise MethodError(f"retrieval method {self.name!r} needs the captions of the gallery's images")
        columns = _columns(search, inputs.gallery.ids)
        texts = inputs.queries.frame.select("modification", "reference_id").rows()
        scores = np.zeros((len(texts), len(inputs.gallery.ids)))
        for row, (modification, reference) in zip(scores, texts, strict=True):
            weights = self.reading.weights(modification, search.captions(reference), search.term)
            _add(row, weights, search, columns)
        lacking = np.ones(scores.shape[1], dtype=bool)
        lacking[columns[columns >= 0]] = False
        if lacking.any() and scores.size:
            scores[:, lacking] = scores.min(axis=1, keepdims=True) - 1
        return scores.astype(np.float32)


def _columns(search: CaptionSearch, ids: Sequence[str]) -> NDArray[np.intp]:
    """For each captioned image its column in the gallery searched, -1 where it is not in it."""
    import numpy as np

    column_of = {image_id: column for column, image_id in enumerate(ids)}
    return np.array([column_of.get(image_id, -1) for image_id in search.ids], dtype=np.intp)


def _add(
    row: NDArray[np.float64],
    weights: Mapping[str, float],
    search: CaptionSearch,
    column_of: NDArray[np.intp],
) -> None:
    for term in sorted(weights):  # always summed in the same order, so that equal captions tie exactly
        rows, fits = search.matches(term)
        columns = column_of[rows]
        inside = columns >= 0
        row[columns[inside]] += weights[term] * fits[inside]


# The constants were chosen on one half of CIRR val's image sets, by benchmarks/caption_proxy.py.
METHODS = (
    # The modification text alone.
    CaptionMethod("captions_text", Reading()),
    # All that the reference's captions say, at half weight, and the text.
    CaptionMethod("captions_union", Reading(reference=0.5)),
    # What the text leaves standing: the reference's subject rather than its surroundings, nothing that was
    # refused.
    CaptionMethod(
        "captions_intersection",
        Reading(reference=0.5, background=0.3, content_only=True, obey_rejections=True),
    ),
)
