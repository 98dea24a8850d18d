"""Methods that search captions by words: a query becomes weighted terms, and an image's score is the sum of
its captions' BM25 for them.

The question is that of the vector methods, asked of words: may all of the reference come along (the union),
or only what the text leaves standing (the intersection)? The three methods differ in their :class:`Reading`
alone; ``docs/datasets/cirr.md`` shows what each part of it is worth. Terms are matched by the store's
full-text index; an image without captions comes after all that have some.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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

    def sentences(self, modification: str, captions: Sequence[str], term: Term) -> list[tuple[str, float]]:
        """The texts that stand for a query where sentences are compared, and their weights.

        Each caption gives the words of it that the reading keeps, in their order, and the text's after them;
        without a caption, or with nothing kept, the text stands alone. Where surroundings weigh less, a
        caption gives two texts: up to the turn to them, and whole; what comes after the turn thus has the
        weight :attr:`background`. :attr:`reference` has no place here.

        Args:
            modification: The modification text.
            captions: The captions of the reference image.
            term: What a word is compared as, to find refused ones.

        Returns:
            Texts and weights; the sum of the weights is 1.
        """
        from setr_lib.texts.lexical import words_of

        wanted, rejected = self._modification_terms(modification, term)
        text = modification
        if self.content_only or self.obey_rejections:
            text = self._joined(words_of(modification), lambda word: term(word) in wanted) or modification
        if not self.reference or not captions:
            return [(text, 1.0)]
        parts = [
            (share, whole)
            for share, whole in ((1 - self.background, False), (self.background, True))
            if share
        ]
        kept = [
            (self._kept(caption, rejected, term, whole), share)
            for caption in captions
            for share, whole in parts
        ]
        return [(f"{said}, {text}" if said else text, share / len(captions)) for said, share in kept]

    def _kept(self, caption: str, rejected: set[str], term: Term, whole: bool) -> str:
        """What is kept of a caption: all of it, or what it says before it turns to surroundings."""
        from setr_lib.texts.lexical import caption_words

        if whole and not self.content_only and not rejected:
            return caption.strip().rstrip(".")
        words = [word for word, is_foreground in caption_words(caption) if whole or is_foreground]
        return self._joined(words, lambda word: term(word) not in rejected)

    def _joined(self, words: Iterable[str], is_kept: Callable[[str], bool]) -> str:
        from setr_lib.texts.lexical import is_content

        named = (word for word in words if is_content(word) or not self.content_only)
        return " ".join(filter(is_kept, named))

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


class QueryReading(Protocol):
    """How a query is read: as weighted terms, and as weighted sentences."""

    def weights(self, modification: str, captions: Sequence[str], term: Term) -> dict[str, float]:
        """As :meth:`Reading.weights`."""
        ...

    def sentences(self, modification: str, captions: Sequence[str], term: Term) -> list[tuple[str, float]]:
        """As :meth:`Reading.sentences`; no text at all where there is nothing to look for."""
        ...


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


# The constants were chosen on one half of CIRR val's image sets, by benchmarks/caption_proxy.py.
TEXT = Reading()
"""The modification text alone."""
UNION = Reading(reference=0.5)
"""All that the reference's captions say, at half weight, and the text."""
INTERSECTION = Reading(reference=0.5, background=0.3, content_only=True, obey_rejections=True)
"""What the text leaves standing: the reference's subject rather than its surroundings, nothing that was
refused."""
METHODS = (
    CaptionMethod("captions_text", TEXT),
    CaptionMethod("captions_union", UNION),
    CaptionMethod("captions_intersection", INTERSECTION),
)
