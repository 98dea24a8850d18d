"""The known id that is nearest to an unknown one, and in which way the two are spelt differently.

Ids are compared by a canonical form from which everything is taken away that tools and people change without
meaning another image: case, Unicode form, blanks, back-slashes, percent signs of addresses, endings, zeros in
front of numbers. One pass over the known ids makes an index; a look-up then costs next to nothing, so that it
serves a gallery of 100,000 images as well as a subset of five.
"""

from __future__ import annotations

import ast
import bisect
import difflib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from setr_lib.image_formats import how_to_read, readable_endings

_SHOWN = 80
_MOST_PARTS = 1_000
"""A cell is taken apart into this many ids at most."""
_CLOSE = 0.75
"""How alike two ids must be, by ``difflib``'s ratio, where nothing but letters differ."""
_NEIGHBOURS = 40
"""Ids before and after the unknown one, in order of their beginnings and of their ends, whose letters are
compared."""
_LONGEST = 2_000
"""Characters of an id that are looked at."""
_SEPARATORS = ("|", ";", "\n", "\t", ",")
_INVISIBLE = re.compile(
    "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
_QUOTES = re.compile(r"""^[\s'"\[(\u2018\u2019\u201c\u201d`]+|[\s'"\])\u2018\u2019\u201c\u201d`]+$""")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_BLANKS_AT_ENDS = re.compile(r"^\s+|\s+$|(?<=/)\s+|\s+(?=/)")
_BLANKS = re.compile(r"\s+")
_DOTS = re.compile(r"(?:^|(?<=/))(?:\./|/)+")
_FLOAT = re.compile(r"^([+-]?[0-9]+)\.0+$")
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
_ZEROS = re.compile(r"(^|/)0+(?=[0-9]+(?:\.[^/]*)?$)")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*(?:\.[A-Za-z][A-Za-z0-9]{1,4})?")
"""An id in which only case, ending and zeros can be taken away, as most are."""
_BLANKS_INSIDE, _OTHER_FORM, _ENDINGS = "blanks inside", "the Unicode form of a character", "the ending"
_BROAD = (_BLANKS_INSIDE, _OTHER_FORM)
"""Steps that take away what a narrower one does, too: named only where that one is not enough."""


def _without_escapes(text: str) -> str:
    return unquote(text) if _ESCAPE.search(text) else text


_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("an invisible character", lambda text: _INVISIBLE.sub("", text)),
    ("quotation marks or brackets around it", lambda text: _QUOTES.sub("", text)),
    ("URL escapes such as %20", _without_escapes),
    ("back-slashes in place of '/'", lambda text: text.replace("\\", "/")),
    ("blanks at the ends of a name", lambda text: _BLANKS_AT_ENDS.sub("", text)),
    (_BLANKS_INSIDE, lambda text: _BLANKS.sub("", text)),
    ("'./' or a doubled '/'", lambda text: _DOTS.sub("", text)),
    ("the Unicode form of accents (NFC or NFD)", lambda text: unicodedata.normalize("NFC", text)),
    (_OTHER_FORM, lambda text: unicodedata.normalize("NFKC", text)),
    ("upper and lower case", lambda text: text.casefold()),
    ("a whole number written with '.0'", lambda text: _FLOAT.sub(r"\1", text)),
    (_ENDINGS, lambda text: _ENDING.sub("", text)),
    ("zeros in front of the number", lambda text: _ZEROS.sub(r"\1", text)),
)
"""What may differ between two spellings of one id, and what takes the difference away; in this order."""


def _canonical(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return _ZEROS.sub(r"\1", _ENDING.sub("", text).lower())
    for _, step in _STEPS:
        text = step(text)
    return text


def _differences(one: str, other: str) -> list[str]:
    """The fewest steps (see :data:`_STEPS`) that make two ids of one canonical form equal."""
    kept = list(_STEPS)
    for step in sorted(_STEPS, key=lambda step: step[0] not in _BROAD):
        fewer = [each for each in kept if each is not step]
        if _after(one, fewer) == _after(other, fewer):
            kept = fewer
    return [_ending_words(one, other) if words == _ENDINGS else words for words, _ in kept]


def _ending_words(unknown: str, known: str) -> str:
    if not _ENDING.search(unknown):
        return "the ending, which is missing"
    return _ENDINGS if _ENDING.search(known) else "the ending, which the id does not have"


def _after(text: str, steps: Iterable[tuple[str, Callable[[str], str]]]) -> str:
    for _, step in steps:
        text = step(text)
    return text


@dataclass(frozen=True)
class NearId:
    """The known id nearest to an unknown one."""

    id: str
    """A known id; of a cell with several, the first of them."""
    reason: str
    """In which way the unknown one is spelt differently, as a sentence without its full stop."""


class NearIds:
    """Known ids, to be asked for the one that is nearest to an unknown one.

    Args:
        known: The known ids.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self.known = known if isinstance(known, set | frozenset | dict) else frozenset(known)
        self._whole: dict[str, list[str]] = {}
        self._last: dict[str, list[str]] = {}
        for each in self.known:
            form = _canonical(each[:_LONGEST])
            self._whole.setdefault(form, []).append(each)
            if "/" in form:
                self._last.setdefault(form.rpartition("/")[2], []).append(each)
        self._sorted: tuple[list[str], list[str]] | None = None

    def near(self, unknown: str, folder: Path | None = None) -> NearId | None:
        """The known id that is nearest to an unknown one.

        Args:
            unknown: The unknown id.
            folder: The folder that image ids are paths below, where they are.

        Returns:
            The id and how the unknown one differs; None where no known id is like it.
        """
        text = unknown[:_LONGEST]
        return (
            self.respelt(text)
            or self._several(text)
            or self._below(text, folder)
            or self._elsewhere(text)
            or self._alike(text)
        )

    def respelt(self, unknown: str) -> NearId | None:
        """The known id that is the unknown one in another spelling.

        Args:
            unknown: The unknown id.

        Returns:
            The id and how the two differ; None where more than the spelling differs.
        """
        if not (found := self._whole.get(_canonical(unknown))):
            return None
        ways = {each: _differences(unknown, each) for each in sorted(found)[:_NEIGHBOURS]}
        nearest = min(ways, key=lambda each: (len(ways[each]), each))
        return NearId(nearest, f"the two differ in {_joined(ways[nearest])}" + _code_points(unknown))

    def _several(self, unknown: str) -> NearId | None:
        """Whether ``unknown`` is several ids in one cell."""
        parts, between = ids_in(unknown)
        if len(parts) < 2:
            return None
        found = [part if part in self.known else near.id for part in parts if (near := self._part(part))]
        if not found or (len(found) < len(parts) and not any(part in self.known for part in parts)):
            return None
        unknown_part = next((f", and {part!r} is not known" for part in parts if not self._part(part)), "")
        reason = (
            f"these are {len(parts)} ids in one cell, {between}{unknown_part}: write one id a cell, or a list"
        )
        return NearId(found[0], reason)

    def _part(self, part: str) -> NearId | None:
        return NearId(part, "") if part in self.known else self.respelt(part)

    def _below(self, unknown: str, folder: Path | None) -> NearId | None:
        """Whether a known id is the end of ``unknown``, with folders before it."""
        parts = _canonical(unknown).split("/")
        spelt = [part for part in re.split(r"[/\\]", unknown.strip()) if part not in ("", ".")]
        for start in range(1, len(parts)):
            if found := self._whole.get("/".join(parts[start:])):
                nearest = min(found)
                if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", unknown):
                    return NearId(
                        nearest, "this is an address (URL), and ids are paths below the image folder"
                    )
                if re.match(r"\s*(?:[/\\~]|[A-Za-z]:[/\\])", unknown):
                    return NearId(
                        nearest, "this is an absolute path, and ids are paths below the image folder"
                    )
                before = "/".join(spelt[:start])
                besides = _besides("/".join(spelt[start:]), nearest)
                if folder is not None and before == folder.name:
                    return NearId(
                        nearest, f"this begins with the image folder's own name, {before!r}{besides}"
                    )
                return NearId(nearest, f"this has the folder {before!r} before the id{besides}")
        return None

    def _elsewhere(self, unknown: str) -> NearId | None:
        """Whether a known id has the same file name in another folder."""
        name = _canonical(unknown).rpartition("/")[2]
        found = self._last.get(name) or (self._whole.get(name) if name else None)
        if not found:
            return None
        others = "" if len(found) == 1 else f" ({len(found):,} ids end so)"
        what = "is in another folder" if "/" in unknown.strip("/") else "lacks the folder"
        nearest = min(found)
        besides = _besides(re.split(r"[/\\]", unknown)[-1], nearest.rpartition("/")[2])
        return NearId(nearest, f"this {what}{others}{besides}")

    def _alike(self, unknown: str) -> NearId | None:
        """The id with nearly the same letters, of those that begin or end like it."""
        form = _canonical(unknown)
        if form.isdigit():  # another number is another image
            return None
        if self._sorted is None:
            self._sorted = sorted(self._whole), sorted(each[::-1] for each in self._whole)
        ahead, reverse = _around(self._sorted[0], form), _around(self._sorted[1], form[::-1])
        close = sorted({*ahead, *(each[::-1] for each in reverse)})
        if not form or not (found := difflib.get_close_matches(form, close, n=1, cutoff=_CLOSE)):
            return None
        return NearId(min(self._whole[found[0]]), "the two have nearly the same letters")


def _besides(unknown: str, known: str) -> str:
    """What differs besides folders, as the end of a sentence."""
    if _canonical(unknown) != _canonical(known) or not (ways := _differences(unknown, known)):
        return ""
    return f", and the two differ in {_joined(ways)}"


def _around(ordered: list[str], form: str) -> list[str]:
    place = bisect.bisect_left(ordered, form)
    return ordered[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS]


def _joined(words: list[str]) -> str:
    return (
        words[0]
        if len(words) == 1
        else f"{', '.join(words[:-1])} and {words[-1]}"
        if words
        else "nothing seen"
    )


def _code_points(text: str) -> str:
    found = dict.fromkeys(f"U+{ord(character):04X}" for character in _INVISIBLE.findall(text))
    return f" ({', '.join(list(found)[:3])})" if found else ""


def ids_in(cell: str) -> tuple[list[str], str]:
    """The ids of a cell that holds a list: as JSON or Python writes it, or with something between them.

    Args:
        cell: The text of the cell.

    Returns:
        The ids, and in words how the cell separates them; the cell itself where it is no list.
    """
    text = cell.strip()
    if text[:1] in ("[", "(", "{") and text[-1:] in ("]", ")", "}"):
        return _listed(text), "a list in brackets"
    for separator in _SEPARATORS:
        if separator in text:
            parts = [part for each in text.split(separator) if (part := each.strip())]
            return parts[:_MOST_PARTS], f"separated by {separator!r}"
    return [text], ""


def _listed(text: str) -> list[str]:
    """The entries of a list that was written as text, by JSON, Python, NumPy or a person."""
    quoted = re.findall(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", text)
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        entries = list(value) if isinstance(value, list | tuple | set) else [value]
        # Python joins texts that nothing separates, as NumPy prints them: ['a' 'b'].
        if all(type(entry) in (str, int) for entry in entries) and len(entries) >= len(quoted):
            return [str(entry) for entry in entries][:_MOST_PARTS]
    if quoted:
        return [one or other for one, other in quoted][:_MOST_PARTS]
    inside = text[1:-1]
    separator = next((each for each in _SEPARATORS if each in inside), None)
    parts = [inside] if separator is None else inside.split(separator)
    return [part for each in parts if (part := each.strip())][:_MOST_PARTS]


_recent: list[tuple[object, int, NearIds]] = []


def near_ids(known: Iterable[str]) -> NearIds:
    """The index of known ids; that of the ids that were asked for last is kept.

    Args:
        known: The known ids. Where they are a set or a dict, the same object asked for again is not indexed
            again.

    Returns:
        The index.
    """
    size = len(known) if isinstance(known, Sized) else -1
    for owner, length, index in _recent:
        if owner is known and length == size:
            return index
    index = NearIds(known)
    if size >= 0:
        _recent[:] = [(known, size, index), *_recent[:1]]
    return index


def meant(unknown: object, known: Iterable[str] | None, folder: Path | None = None) -> str:
    """The end of a sentence about an unknown id: which known one is meant, and what differs.

    Args:
        unknown: The unknown id.
        known: The known ids; None where they are not known.
        folder: The folder that image ids are paths below, where they are.

    Returns:
        E.g. ``; did you mean 'dogs/rex.jpg'? (the two differ in upper and lower case)``, or that the very
        file is there and is not read; empty where no known id is like it.
    """
    if known is None or not isinstance(unknown, str):
        return ""
    if unread := unread_file(unknown, folder):
        return unread
    found = near_ids(known).near(unknown, folder)
    if found is None or found.id == unknown:  # refused for another reason
        return ""
    name = repr(found.id)
    name = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
    return f"; did you mean {name}? ({found.reason})"


def unread_file(name: str, folder: Path | None) -> str:
    """The end of a sentence about an unknown image: that a file of this very name is there, and not read.

    Args:
        name: The unknown id.
        folder: The folder that image ids are paths below; None where they are no paths.

    Returns:
        Which file it is, and what would make it readable; empty where there is no such file.
    """
    parts = PurePosixPath(name)
    if (
        folder is None
        or parts.is_absolute()
        or ".." in parts.parts
        or parts.suffix.lower() in readable_endings()
    ):
        return ""
    try:
        if not (folder / parts).is_file():
            return ""
    except (OSError, ValueError):  # no file can have this name
        return ""
    ending = parts.suffix.lower()
    what = f"{ending} files" if ending else "files without an ending"
    way = how_to_read().get(ending, "save it as PNG or JPEG")
    return f"; the file {folder / parts} is there, and {what} are not read here: {way}"
