"""Reading of modification texts and captions by word lists: which words are wanted or rejected, which
captions stay.

No model and no statistics: lists of English function words and a few patterns of refusal ("instead of",
"remove", "change X to Y", "X is missing"). ``setr_lib.methods.caption_reading`` weighs what is
read here. Words compare by ``Term``, the search index's own stemming; without an index, by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Term = Callable[[str], str | None]
"""A word -> what it is searched as; None for what cannot be searched."""

_TOKEN = re.compile(r"[^\W_]+|[.,;:!?]")
_CONTRACTED_NOT = re.compile(r"n['\u2019]t\b")
_ENDS = frozenset(".,;:!?") | {"but"}
"""What ends a clause."""


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


FUNCTION_WORDS = _listed(
    """a an the this that these those it its they them their there he him his she her i my me you your we
    us our of in on at to and or by as for from with without into onto out up down off over under about
    while where which who whose what when how if so than then is are was were be been being am do does did
    doing done has have had having can could should would will may might must not no nor only just very too
    also both all any some each one s t"""
)
FRAMING_WORDS = _listed(
    """image images photo photos photograph photographs picture pictures pictured pic pics shot shots
    target reference show shows showing shown display displays displayed depict depicts depicted feature
    features featured featuring capture captures captured showcase showcases contain contains include
    includes including appear appears set seen see visible view focus change changes changed changing make
    makes making made add adds added adding remove removes removed removing put place placed instead rather
    need needs want wants same similar different another other more less like first second keep"""
)
"""Words that speak of the picture or give the order, and name nothing in it."""

_BACKGROUND_AFTER = _listed(
    """on in at with near next by behind under over beside against inside from wearing holding standing
    sitting laying lying"""
)
"""A caption names its subject first; after one of these it is about surroundings, clothes and poses."""

_REJECTS_CLAUSE = _listed("instead rather than unlike excluding exclude excludes")
_REJECTS_THINGS = _listed("remove removes removing delete without no eliminate eliminating omit omitting")
_REJECTS_NEXT = _listed("not")
_NEXT = 3
_AMOUNTS = _listed("one two three four five six all some most half")
"""To remove one of several is not to reject their kind; nor is to ask for fewer."""
_GONE = _listed("missing gone removed absent")
_EXCHANGES = {
    **dict.fromkeys(
        _listed("change changes changed changing turn turns turned transform"), _listed("to into")
    ),
    **dict.fromkeys(
        _listed("replace replaces replaced replacing swap swaps swapped"), _listed("with by for")
    ),
}
"""Verb -> the words between its two objects: of "change X to Y", X is rejected."""
_LONGEST_EXCHANGE = 11
_NEW_ORDER = _listed(
    """add adds added adding change changes changed changing make makes making put puts place places has
    have having show shows showing zoom turn turns focus take include includes replace replaces keep keeps
    give let set is are be"""
)
"""After "and", these begin another order: a list of removed things ends there."""
_AFTER_THINGS = _listed("from with so in on to add make change put")
_ATTRIBUTES = _listed(
    """color colors colour colours angle view position background setting size direction pose perspective
    orientation camera location shape style type breed number amount quantity environment place lighting
    scene surface shot kind"""
)
"""To change the colour of X is not to reject X."""
_COLOURS = _listed(
    """white black brown red green blue yellow orange pink purple gray grey tan gold golden silver beige
    cream teal turquoise dark light bright solid plain colorful multicolored multicolor color colour
    colored coloured"""
)
_STATES = _listed("be have face look sit")


@dataclass(frozen=True)
class ModificationWords:
    """The words of a modification text in its order, each with whether the text rejects it."""

    words: tuple[str, ...]
    rejections: tuple[bool, ...]

    @property
    def wanted(self) -> list[str]:
        """The words that are not rejected."""
        return [word for word, no in zip(self.words, self.rejections, strict=True) if not no]

    @property
    def rejected(self) -> list[str]:
        """The words that are rejected."""
        return [word for word, no in zip(self.words, self.rejections, strict=True) if no]


@dataclass(frozen=True)
class Mention:
    """How the captions of one image speak of a term."""

    word: str
    """As first written."""
    share: float
    """Of the captions, those that have it."""
    foreground: float
    """Of its occurrences, those before the caption turns to the surroundings."""


def words_of(text: str) -> list[str]:
    """The words of ``text`` in lower case, without punctuation.

    Args:
        text: Any text.

    Returns:
        The words, in order, repeated ones too.
    """
    return [token for token in _TOKEN.findall(text.lower()) if token[0].isalnum()]


def read_modification(text: str) -> ModificationWords:
    """Tell what a modification text asks for from what it refuses.

    Args:
        text: The modification text.

    Returns:
        Its words, and whether each is rejected.
    """
    tokens = _TOKEN.findall(_CONTRACTED_NOT.sub(" not", text.lower()))
    rejected = [False] * len(tokens)
    for start, stop in _refusals(tokens):
        rejected[start:stop] = [True] * (stop - start)
    words = [(token, no) for token, no in zip(tokens, rejected, strict=True) if token[0].isalnum()]
    return ModificationWords(tuple(word for word, _ in words), tuple(no for _, no in words))


def _refusals(tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(start, stop) of every stretch of ``tokens`` that is refused."""
    for at, token in enumerate(tokens):
        if token in _REJECTS_CLAUSE:
            yield at, _until(tokens, at + 1, len(tokens), _ENDS)
        elif token in _REJECTS_THINGS:
            yield at + 1, _end_of_things(tokens, at + 1)
        elif token in _REJECTS_NEXT:
            yield at + 1, _until(tokens, at + 1, at + 1 + _NEXT, _ENDS | {"and"})
        elif token in _GONE:
            yield _start_of_clause(tokens, at), at
        elif token in _EXCHANGES:
            yield at + 1, _end_of_exchanged(tokens, at + 1, _EXCHANGES[token])


def _until(tokens: Sequence[str], start: int, limit: int, ends: frozenset[str]) -> int:
    stops = (at for at in range(start, min(limit, len(tokens))) if tokens[at] in ends)
    return next(stops, min(limit, len(tokens)))


def _start_of_clause(tokens: Sequence[str], stop: int) -> int:
    ends = (at + 1 for at in range(stop - 1, -1, -1) if tokens[at] in _ENDS or tokens[at] == "and")
    return next(ends, 0)


def _begins_order(tokens: Sequence[str], at: int) -> bool:
    return tokens[at] == "and" and at + 1 < len(tokens) and tokens[at + 1] in _NEW_ORDER


def _end_of_things(tokens: Sequence[str], start: int) -> int:
    """Where the list of things after "remove" or "no" ends; ``start`` where only their number is to
    change.
    """
    if start < len(tokens) and tokens[start] in _AMOUNTS:
        return start
    stop = _until(tokens, start, len(tokens), _ENDS | _AFTER_THINGS)
    return next((at for at in range(start, stop) if _begins_order(tokens, at)), stop)


def _end_of_exchanged(tokens: Sequence[str], start: int, between: frozenset[str]) -> int:
    """Where X ends in "change X to Y"; ``start`` (nothing is refused) where X stays and only changes
    somehow.
    """
    limit = start + _LONGEST_EXCHANGE
    stop = _until(tokens, start, limit, _ENDS | between)
    if stop >= min(limit, len(tokens)) or tokens[stop] not in between:
        return start
    if any(_begins_order(tokens, at) for at in range(start, stop)):
        return start
    new = tokens[stop + 1] if stop + 1 < len(tokens) else ""
    stays = not _ATTRIBUTES.isdisjoint(tokens[start:stop]) or new in _COLOURS or new in _STATES
    return start if stays else stop


def is_content(word: str) -> bool:
    """Whether ``word`` can name something in a picture.

    Args:
        word: A word in lower case.

    Returns:
        False for function words, and for words that speak of the picture itself.
    """
    return word not in FUNCTION_WORDS and word not in FRAMING_WORDS


def caption_words(caption: str) -> list[tuple[str, bool]]:
    """The words of a caption, and which of them are about its subject.

    Args:
        caption: The caption.

    Returns:
        (word in lower case, whether it stands before the caption turns to surroundings, clothes and poses),
        in order.
    """
    found: list[tuple[str, bool]] = []
    surroundings = False
    for word in words_of(caption):
        surroundings = surroundings or word in _BACKGROUND_AFTER
        found.append((word, not surroundings))
    return found


def read_captions(captions: Sequence[str], term: Term = str) -> dict[str, Mention]:
    """The terms of an image's captions, function words included.

    Args:
        captions: The captions of one image.
        term: From a word to the term that is searched, or None.

    Returns:
        Term -> how the captions mention it, in the order of first mention.
    """
    words: dict[str, str] = {}
    captions_with: dict[str, int] = {}
    before: dict[str, list[bool]] = {}
    for caption in captions:
        seen: set[str] = set()
        for word, is_foreground in caption_words(caption):
            if (key := term(word)) is None:
                continue
            words.setdefault(key, word)
            before.setdefault(key, []).append(is_foreground)
            if key not in seen:
                seen.add(key)
                captions_with[key] = captions_with.get(key, 0) + 1
    return {
        key: Mention(word, captions_with[key] / len(captions), sum(before[key]) / len(before[key]))
        for key, word in words.items()
    }
