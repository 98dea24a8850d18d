"""What a modification text asks for, word by word, and which other texts have it: whether a composition
leaves out an attribute, whether a caption says what was asked.

Reading by word lists, like ``lexical.py``, whose reading of refusals it takes. It judges texts after the
fact, for reports; no ranking depends on it. It misses what is said in other words (*puppy* for *dog*), so
what it finds are candidates for a look, not verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from setr_lib.texts.lexical import is_content, read_modification, words_of

_ORDER_WORDS = """
    turn turns turned turning paint paints painted swap swaps swapped trade trades replace replaces
    replaced replacing give gives given let set sets zoom take takes taken move moves moved use uses
    used exchange switch become becomes get gets transform convert color colors colour colours colored
    coloured size shape style kind type position number amount surface background place places side
    right left top bottom middle front back same away cut length look looks looking pattern patterned
    above below beneath next against along around through towards toward during
"""
_PARTICLES = """
    but however although though please now still such exactly every much bit slightly somewhat similarly
    identical completely together addition item product desired
"""
_ORDERS = frozenset((_ORDER_WORDS + _PARTICLES).split())
"""Orders, names of attributes, places in the picture, and words that only join or weigh others: they name
nothing that a caption must have."""
_TAKES_AWAY = re.compile(r"\b(?:tak(?:e|es|en|ing)|get rid) (?:away|off|out|of)\b", re.IGNORECASE)
_NUMBERS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "grey": "gray"}
_ENDINGS = (("ies", "y"), ("ing", ""), ("est", ""), ("ed", ""), ("er", ""), ("es", ""), ("s", ""))
_STEM, _PREFIX = 3, 4
UNSAID = frozenset({"plain", "solid", "bare", "empty", "blank", "nothing", "none"})
"""Words for what is not there: captions leave it unsaid."""


@dataclass(frozen=True)
class Asked:
    """The content words of a modification text, in its order.

    Attributes:
        wanted: What is to be there.
        rejected: What is to be gone.
    """

    wanted: tuple[str, ...]
    rejected: tuple[str, ...]

    @property
    def attributes(self) -> tuple[str, ...]:
        """What the text is about: what it wants; of a text that only takes away, what is to be gone."""
        return self.wanted or self.rejected


def asked_for(modification: str) -> Asked:
    """Read a modification text.

    Args:
        modification: The text.

    Returns:
        Its content words, each once.
    """
    read = read_modification(_TAKES_AWAY.sub("remove", modification))
    wanted, rejected = (
        tuple(dict.fromkeys(word for word in words if is_content(word) and word not in _ORDERS))
        for words in (read.wanted, read.rejected)
    )
    return Asked(wanted, rejected)


def absent_words(words: Iterable[str], texts: Iterable[str]) -> list[str]:
    """The words that no text has.

    Args:
        words: Words in lower case.
        texts: The texts that are searched.

    Returns:
        Those of ``words`` that are in none of them, by their stems: *dots* is found in *dotted*, *neckline*
        in *neck*.
    """
    there = {_stem(word) for text in texts for word in words_of(text)}
    return [word for word in words if not any(_same(_stem(word), other) for other in there)]


def left_out(modification: str, texts: Iterable[str]) -> list[str]:
    """What a text asks for and a composition leaves out.

    Args:
        modification: The modification text.
        texts: The composition's phrases to add and to remove, and its target caption.

    Returns:
        The content words asked for that none of them has.
    """
    return absent_words(asked_for(modification).attributes, texts)


def satisfies(caption: str, modification: str) -> bool:
    """Whether an image, by its caption, is what a text asks for.

    Args:
        caption: The image's caption.
        modification: The modification text.

    Returns:
        True where the caption has every content word that is wanted and none that is rejected; False for a
        text without content words.
    """
    asked = asked_for(modification)
    wanted = [word for word in asked.wanted if word not in UNSAID]
    rejected = [word for word in asked.rejected if word not in asked.wanted]
    if not (wanted or rejected) or absent_words(wanted, [caption]):
        return False
    return len(absent_words(rejected, [caption])) == len(rejected)


def _stem(word: str) -> str:
    """A word without its ending; a heuristic for English that serves comparison alone."""
    word = _NUMBERS.get(word, word)
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _STEM:
            word = word.removesuffix(ending) + instead
            break
    return word[:-1] if len(word) > _STEM and word[-1] == word[-2] else word


def _same(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return one == other or (len(shorter) >= _PREFIX and longer.startswith(shorter))
