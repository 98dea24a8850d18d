"""What one caption says that another does not: a token-level difference, read as one or two edits.

The edits are what a modification text can ask for; ``phrasing`` puts them into words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from setr_lib.reranking.captions import NUMBERS, Caption, Span, Tokens, is_small_word, singular

EditKind = Literal[
    "attribute", "noun", "count", "addition", "removal", "relation", "swap", "context", "phrase"
]
MOST_EDITS = 2
_LONGEST_PHRASE = 6
Substitutions = Collection[tuple[str, str]]
"""Word pairs that were seen in the same place of two otherwise equal captions ("red", "blue"), in both
orders."""


@dataclass(frozen=True)
class Edit:
    """One change from a reference caption to a target caption.

    ``noun`` is the thing concerned, as the reference names it; ``other`` a second thing where there is one (a
    relation's other end, what stays after a removal). ``evidence`` are words that an image which fulfils this
    edit would have in its caption; ``against`` words that it would not have.
    """

    kind: EditKind
    old: Tokens = ()
    new: Tokens = ()
    noun: str = ""
    other: str = ""
    link: Tokens = ()
    new_comes_first: bool = False
    is_part: bool = False
    is_alone: bool = False
    evidence: Tokens = ()
    against: Tokens = ()


def find_edits(
    reference: Caption, target: Caption, substitutions: Substitutions = frozenset()
) -> list[Edit] | None:
    """The one or two edits that turn a caption's core into another's.

    Args:
        reference: The reference's caption.
        target: The target's caption.
        substitutions: Word pairs that are known to replace each other.

    Returns:
        The edits; None where it takes more than two, or none.
    """
    before, after = reference.lemmas, target.lemmas
    if before == after:
        return None
    if swap := _swap(reference, target):
        return [swap]
    matcher = SequenceMatcher(a=before, b=after, autojunk=False)
    opcodes = matcher.get_opcodes()
    changes = [(i1, i2, j1, j2) for tag, i1, i2, j1, j2 in opcodes if tag != "equal"]
    kept = [word for tag, i1, i2, _, _ in opcodes if tag == "equal" for word in before[i1:i2]]
    # Where only small words stay, the second picture is another one, not a changed one.
    if len(changes) > MOST_EDITS or all(map(is_small_word, kept)):
        return None
    edits: list[Edit] = []
    for change in changes:
        found = _read_change(reference, target, change, substitutions)
        if not found:
            return None
        edits += found
    # A thing that is gone in one part and there in another is not an edit that its own target would fulfil.
    sayable = len(edits) <= MOST_EDITS and _go_together(edits) and not is_contradicted(edits, target)
    return edits if sayable else None


def single_word_change(before: Tokens, after: Tokens) -> tuple[str, str] | None:
    """The words in which two token lists of the same length differ, if it is exactly one pair.

    Args:
        before: The one list.
        after: The other.

    Returns:
        The two words, or None.
    """
    if len(before) != len(after):
        return None
    differing = [words for words in zip(before, after, strict=True) if words[0] != words[1]]
    return differing[0] if len(differing) == 1 else None


def is_contradicted(edits: Sequence[Edit], caption: Caption) -> bool:
    """Whether a caption certainly is not a result of edits: it lacks a word that they bring in, or has one
    that they take out.

    A swap shows in no single word, and is never called contradicted.

    Args:
        edits: The edits.
        caption: The caption.

    Returns:
        True where it is contradicted.
    """
    words = set(caption.lemmas)
    return any(
        caption.context != edit.new
        if edit.kind == "context"
        else not words.issuperset(edit.evidence) or not words.isdisjoint(edit.against)
        for edit in edits
    )


def _go_together(edits: Sequence[Edit]) -> bool:
    """Whether two edits can be said in one text: not two changes of one noun of which one replaces it."""
    if len(edits) < MOST_EDITS:
        return True
    first, second = edits
    kinds = {first.kind, second.kind}
    same = singular(first.noun) == singular(second.noun) or kinds == {"count", "noun"}
    return not (same and first.noun and kinds & {"noun", "addition", "removal"})


def _read_change(
    reference: Caption, target: Caption, change: tuple[int, int, int, int], substitutions: Substitutions
) -> list[Edit]:
    """The edits behind one differing stretch (reference tokens i1:i2 became target tokens j1:j2); [] if
    unreadable.
    """
    i1, i2, j1, j2 = change
    if i1 == i2 and (added := _whole_thing(target, j1, j2)):
        return [_addition(target, added)]
    if j1 == j2 and (gone := _whole_thing(reference, i1, i2)):
        return [_removal(reference, gone)]
    mine, theirs = _noun_span(reference, i1, i2), _noun_span(target, j1, j2)
    if mine and theirs:
        return _inside_noun_phrase(reference, target, change, mine, theirs, substitutions)
    if relation := _relation(reference, target, change):
        return [relation]
    old, new = reference.core[i1:i2], target.core[j1:j2]
    whole = _is_whole(reference, i1, i2) and _is_whole(target, j1, j2)
    if not whole or max(len(old), len(new)) > _LONGEST_PHRASE:
        return []
    return [Edit("phrase", old, new, evidence=target.lemmas[j1:j2], against=_lost(reference, target, i1, i2))]


def _inside_noun_phrase(
    reference: Caption,
    target: Caption,
    change: tuple[int, int, int, int],
    mine: Span,
    theirs: Span,
    substitutions: Substitutions,
) -> list[Edit]:
    i1, i2, j1, j2 = change
    old, new = reference.lemmas[i1:i2], target.lemmas[j1:j2]
    noun = reference.head(mine)
    alone = sum(s.kind == "noun" and not reference.is_part(s) for s in reference.spans) == 1
    is_part = reference.is_part(mine)
    if i2 == mine.end or j2 == theirs.end:
        if i2 != mine.end or j2 != theirs.end:
            return []
        return [_noun_change(reference, target, change, theirs, noun)]
    head = target.lemmas[theirs.end - 1]
    edits: list[Edit] = []
    if old and new and old[0] in NUMBERS and new[0] in NUMBERS and old[0] != new[0]:
        now = target.head(theirs)
        edits.append(Edit("count", old[:1], new[:1], noun=now, evidence=(new[0], head), is_alone=alone))
        old, new = old[1:], new[1:]
    for gone, come in _pair_words(old, new, substitutions):
        whole = target.core[theirs.start : theirs.end] if is_part else ()
        edits.append(
            Edit(
                "attribute",
                (gone,) if gone else (),
                (come,) if come else (),
                noun=noun,
                link=whole,
                is_part=is_part,
                is_alone=alone,
                evidence=(come, head) if come else (head,),
                against=() if come or not gone or gone in target.lemmas else (gone,),
            )
        )
    return edits


def _noun_change(
    reference: Caption, target: Caption, change: tuple[int, int, int, int], theirs: Span, noun: str
) -> Edit:
    i1, i2, j1, j2 = change
    new = target.core[j1:j2]
    if target.core[theirs.start] in NUMBERS and j1 > theirs.start:
        count = NUMBERS[target.core[theirs.start]]
        # "two red stars" -> "two red balls" is "replace the stars with two balls".
        new = (target.core[theirs.start], *new) if count > 1 else new
    return Edit(
        "noun",
        reference.core[i1:i2],
        new,
        noun=noun,
        evidence=target.lemmas[j1:j2],
        against=_lost(reference, target, i1, i2),
    )


def _pair_words(old: Tokens, new: Tokens, substitutions: Substitutions) -> list[tuple[str, str]]:
    """Old attribute words with the new ones that take their place; "" where there is none."""
    if len(old) == len(new):
        return list(zip(old, new, strict=True))
    pairs: list[tuple[str, str]] = []
    left = list(new)
    for word in old:
        match = next((other for other in left if (word, other) in substitutions), "")
        if match:
            left.remove(match)
        pairs.append((word, match))
    return [*pairs, *(("", word) for word in left)]


def _whole_thing(caption: Caption, start: int, end: int) -> tuple[Span, Span] | None:
    """The noun phrase and the link that tokens ``start:end`` consist of, if it is one of each."""
    inside = [span for span in caption.spans if start <= span.start and span.end <= end]
    if (
        len(inside) != 2
        or inside[0].start != start
        or inside[1].end != end
        or inside[0].kind == inside[1].kind
    ):
        return None
    noun, link = inside if inside[0].kind == "noun" else inside[::-1]
    return noun, link


def _addition(target: Caption, added: tuple[Span, Span]) -> Edit:
    noun, link = added
    first = noun.start < link.start
    return Edit(
        "addition",
        new=target.core[noun.start : noun.end],
        noun=target.head(noun),
        other=_neighbour(target, noun, link),
        link=target.core[link.start : link.end],
        new_comes_first=first,
        is_part=target.is_part(noun),
        evidence=target.lemmas[noun.start : noun.end],
    )


def _removal(reference: Caption, gone: tuple[Span, Span]) -> Edit:
    noun, link = gone
    return Edit(
        "removal",
        old=reference.core[noun.start : noun.end],
        noun=reference.head(noun),
        other=_neighbour(reference, noun, link),
        link=reference.core[link.start : link.end],
        is_part=reference.is_part(noun),
        against=(reference.lemmas[noun.end - 1],),
    )


def _neighbour(caption: Caption, noun: Span, link: Span) -> str:
    """The head of the noun phrase on the other side of ``link``."""
    for span in caption.spans:
        touches = span.start == link.end or span.end == link.start
        if span.kind == "noun" and span != noun and touches:
            return caption.head(span)
    return ""


def _relation(reference: Caption, target: Caption, change: tuple[int, int, int, int]) -> Edit | None:
    """A link that became another between the same two things ("above" -> "to the left of")."""
    i1, i2, j1, j2 = change
    mine = next((s for s in reference.spans if s.kind == "link" and s.start <= i1 and i2 <= s.end), None)
    theirs = next((s for s in target.spans if s.kind == "link" and s.start <= j1 and j2 <= s.end), None)
    if not (mine and theirs and mine.start > 0 and mine.end < len(reference.core)):
        return None
    ends = [reference.head(s) for s in reference.spans if s.end == mine.start or s.start == mine.end]
    if len(ends) != 2:
        return None
    old, new = reference.core[mine.start : mine.end], target.core[theirs.start : theirs.end]
    return Edit("relation", old, new, noun=ends[0], other=ends[1], evidence=new)


def _swap(reference: Caption, target: Caption) -> Edit | None:
    """The same two things in the other order around the same link."""
    spans, others = reference.spans, target.spans
    kinds = [span.kind for span in spans]
    if kinds != ["noun", "link", "noun"] or kinds != [span.kind for span in others]:
        return None
    first, link, second = (reference.lemmas[s.start : s.end] for s in spans)
    if (second, link, first) != tuple(target.lemmas[s.start : s.end] for s in others):
        return None
    return Edit("swap", noun=reference.head(spans[0]), other=reference.head(spans[2]))


def _noun_span(caption: Caption, start: int, end: int) -> Span | None:
    """The noun phrase that tokens ``start:end`` (or, where empty, the gap at ``start``) lie in."""
    for span in caption.spans:
        # A gap at a noun phrase's very end lies outside: a word put there would be the new head.
        if span.kind == "noun" and span.start <= start and end <= span.end and start < span.end:
            return span
    return None


def _is_whole(caption: Caption, start: int, end: int) -> bool:
    """Whether tokens ``start:end`` cut no noun phrase or link in two."""
    return start == end or (
        any(span.start == start for span in caption.spans) and any(span.end == end for span in caption.spans)
    )


def _lost(reference: Caption, target: Caption, start: int, end: int) -> Tokens:
    return tuple(word for word in reference.lemmas[start:end] if word not in target.lemmas)
