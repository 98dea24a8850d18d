"""How the caption methods read a query: as weighted terms, and as weighted sentences.

The question is that of the vector methods, asked of words: may all of the reference come along (the union),
or only what the text leaves standing (the intersection)?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
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


# The constants were chosen on one half of CIRR val's image sets, by benchmarks/caption_proxy.py.
TEXT = Reading()
"""The modification text alone."""
UNION = Reading(reference=0.5)
"""All that the reference's captions say, at half weight, and the text."""
INTERSECTION = Reading(reference=0.5, background=0.3, content_only=True, obey_rejections=True)
"""What the text leaves standing: the reference's subject rather than its surroundings, nothing that was
refused."""
