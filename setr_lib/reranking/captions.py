"""One-sentence captions as tokens: noun phrases, the links between them, and the context that a query may
ignore.

Plain word lists of general English and no parser: it works on any caption and is right often enough for pairs
that are made by the thousand. What a word list does not know becomes part of a noun phrase, never an error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Tokens = tuple[str, ...]

NUMBERS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10,
}  # fmt: skip
NUMBER_WORDS = {value: word for word, value in NUMBERS.items()}  # 1 is "one", the last of its words
_DETERMINERS = {
    *NUMBERS,
    "the",
    "no",
    "some",
    "several",
    "many",
    "his",
    "her",
    "its",
    "their",
    "this",
    "that",
}
_LINK_PHRASES: tuple[Tokens, ...] = tuple(
    tuple(phrase.split())
    for phrase in (
        "to the left of", "to the right of", "on the left of", "on the right of", "in front of", "on top of",
        "next to", "close to", "on the side of", "at the bottom of", "at the top of", "in the middle of",
    )
)  # fmt: skip
_LINK_WORDS = {
    "above", "across", "after", "against", "along", "among", "and", "are", "around", "at", "atop", "be",
    "before", "behind", "below", "beneath", "beside", "between", "by", "during", "for", "from", "has",
    "have", "in", "inside", "into", "is", "near", "of", "off", "on", "onto", "or", "outside", "over",
    "through", "to", "toward", "towards", "under", "underneath", "upon", "was", "were", "while", "wears",
    "who", "with", "within", "without",
}  # fmt: skip
CONTEXT_PREPOSITIONS = {
    "across", "against", "along", "amid", "among", "around", "at", "behind", "beneath", "by", "during",
    "in", "inside", "near", "on", "outside", "over", "through", "under", "within",
}  # fmt: skip
"""A caption's last phrase that opens with one of these is taken for its context (where, in front of what)."""
_LONGEST_CONTEXT = 7
_FEWEST_CORES = 2
_WORD = re.compile(r"[^\W_]+(?:['’\-/][^\W_]+)*")


@dataclass(frozen=True)
class Span:
    """A stretch of a caption, tokens ``start`` to ``end`` (exclusive): a noun phrase, or the link between
    two.
    """

    start: int
    end: int
    kind: Literal["noun", "link"]


@dataclass(frozen=True)
class Caption:
    """A caption in two parts: ``core`` (what a query is about) and ``context`` (its trailing place phrase, or
    empty).
    """

    core: Tokens
    context: Tokens = ()

    @property
    def text(self) -> str:
        return " ".join(self.core)

    @property
    def whole_text(self) -> str:
        return " ".join((*self.core, *self.context))

    @cached_property
    def spans(self) -> list[Span]:
        return find_spans(self.core)

    @cached_property
    def lemmas(self) -> Tokens:
        """The core with "an" as "a", and the plural after a number as the singular: what captions are
        compared by.
        """
        lemmas = ["a" if word == "an" else word for word in self.core]
        for span in self.spans:
            if span.kind == "noun" and NUMBERS.get(self.core[span.start], 0) > 1:
                lemmas[span.end - 1] = singular(lemmas[span.end - 1])
        return tuple(lemmas)

    def head(self, span: Span) -> str:
        """The noun of a noun phrase, as written: its last word.

        Args:
            span: The noun phrase.

        Returns:
            The word.
        """
        return self.core[span.end - 1]

    def is_part(self, span: Span) -> bool:
        """Whether a noun phrase is a part of what comes before it ("... with long sleeves and a v neck").

        Args:
            span: The noun phrase.

        Returns:
            True for a part.
        """
        before = [other for other in self.spans if other.end <= span.start]
        for link in reversed([other for other in before if other.kind == "link"]):
            words = self.core[link.start : link.end]
            if words != ("and",):
                return words == ("with",)
        return False


def tokenise(text: str) -> Tokens:
    """The words of a text in lower case; punctuation goes.

    Args:
        text: The text.

    Returns:
        Its words.
    """
    return tuple(_WORD.findall(text.lower()))


def parse_captions(texts: Sequence[str]) -> list[Caption]:
    """Captions split into core and context.

    The context is what follows a caption's last place preposition, if it is short and the same words follow
    at least two different cores among the captions: it then names a place, not a detail of one image.

    Args:
        texts: The captions.

    Returns:
        The parsed captions, in order.
    """
    token_lists = [tokenise(text) for text in texts]
    cuts = [_context_start(tokens) for tokens in token_lists]
    cores: defaultdict[Tokens, set[Tokens]] = defaultdict(set)
    for tokens, cut in zip(token_lists, cuts, strict=True):
        if cut is not None:
            cores[tokens[cut:]].add(tokens[:cut])
    captions: list[Caption] = []
    for tokens, cut in zip(token_lists, cuts, strict=True):
        shared = cut is not None and len(cores[tokens[cut:]]) >= _FEWEST_CORES
        captions.append(Caption(tokens[:cut], tokens[cut:]) if shared else Caption(tokens))
    return captions


def find_spans(tokens: Tokens) -> list[Span]:
    """Cut tokens into noun phrases and links.

    Args:
        tokens: The words of a caption.

    Returns:
        The stretches, in order and without gaps.
    """
    spans: list[Span] = []
    position = 0
    while position < len(tokens):
        length = _link_length(tokens, position)
        if length:
            spans.append(Span(position, position + length, "link"))
            position += length
            continue
        end = position + 1
        while end < len(tokens) and not _link_length(tokens, end) and tokens[end] not in _DETERMINERS:
            end += 1
        spans.append(Span(position, end, "noun"))
        position = end
    return spans


def is_small_word(word: str) -> bool:
    """Whether ``word`` says nothing by itself.

    Args:
        word: A word in lower case.

    Returns:
        True for a determiner, a number, or a word that links noun phrases.
    """
    return word in _DETERMINERS or word in _LINK_WORDS


def singular(noun: str) -> str:
    """A plural noun's singular, by the regular rules of English.

    Args:
        noun: A noun.

    Returns:
        Its singular.
    """
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("shes", "ches", "xes", "sses", "zes")):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith(("ss", "us", "is")) else noun


def plural(noun: str) -> str:
    """A singular noun's plural, by the regular rules of English.

    Args:
        noun: A noun.

    Returns:
        Its plural; a plural stays as it is.
    """
    if singular(noun) != noun:
        return noun
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("sh", "ch", "x", "ss", "z")) else "s")


def with_article(words: Sequence[str]) -> str:
    """Words with "a" or "an" before them, unless they bring a determiner or are plural.

    Args:
        words: A noun phrase.

    Returns:
        The text.
    """
    if words[0] in _DETERMINERS or plural(words[-1]) == words[-1]:
        return " ".join(words)
    return " ".join(("an" if words[0][0] in "aeiou" else "a", *words))


def without_determiner(words: Tokens) -> Tokens:
    """A noun phrase without its determiner ("the", "a").

    Args:
        words: The noun phrase.

    Returns:
        Its other words.
    """
    return words[1:] if len(words) > 1 and words[0] in _DETERMINERS else words


def _link_length(tokens: Tokens, position: int) -> int:
    """How many tokens from ``position`` on are a link; 0 where a noun phrase goes on."""
    for phrase in _LINK_PHRASES:
        if tokens[position : position + len(phrase)] == phrase:
            return len(phrase)
    token, after = tokens[position], tokens[position + 1 : position + 2]
    if token in _LINK_WORDS:
        return 1
    # "a man riding a horse": a verb form before a determiner or another link joins two noun phrases.
    verb = token.endswith("ing") and len(token) > 5 and position > 0
    return int(verb and bool(after) and (after[0] in _DETERMINERS or after[0] in _LINK_WORDS))


def _context_start(tokens: Tokens) -> int | None:
    links = [
        span
        for span in find_spans(tokens)
        if span.kind == "link" and tokens[span.start] in CONTEXT_PREPOSITIONS
    ]
    if not links:
        return None
    start = links[-1].start
    return start if start >= 2 and len(tokens) - start <= _LONGEST_CONTEXT else None
