"""What a ranking file of any system holds, as a benchmark reads it: the decoded JSON, its lists, and why it
is refused.

Checking the lists against queries and gallery is ``setr_lib.evaluation.ranking_files``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from setr_lib.benchmarks.annotations import shown
from setr_lib.benchmarks.metrics import GALLERY
from setr_lib.errors import SetrError

_SHOWN_FAULTS = 5
"""Of each kind."""


class RankingError(SetrError):
    """A ranking breaks the rules of its benchmark; the message names queries and images."""


class RankingFileError(RankingError):
    """A ranking file cannot be what the queries were answered with.

    Args:
        reason: What is wrong.
        file: The file.
        query: The query at fault; None where it is not a single one.
        faults: All that is wrong, where it is more than one thing.
    """

    def __init__(
        self, reason: str, *, file: Path, query: str | None = None, faults: Sequence[Fault] = ()
    ) -> None:
        self.file = file
        self.faults = tuple(faults)
        self.query = query
        self.reason = reason
        where = str(file) if query is None else f"{file}: query {shown(query)}"
        super().__init__(f"{where}: {reason}")


class Kind(StrEnum):
    """What can be wrong with a ranking file, as the heading of its faults; in the order of messages."""

    FILE = "what is wrong with a file as a whole"
    REPEATED_QUERY = "queries that a file has more than once"
    SECOND_ANSWER = "queries that another file answers already"
    NO_LIST = "queries without a list of images"
    EMPTY_CELLS = "empty cells"
    NO_ID = "entries that are no image id"
    NO_NUMBER = "scores that are no number"
    RANKS = "ranks that do not run 1, 2, 3"
    UNKNOWN_QUERY = "queries that there are not"
    MISSING_QUERY = "queries that are not answered"
    TWICE = "images that a list has more than once"
    REFERENCE = "references in their own query's list"
    UNKNOWN_IMAGE = "images that there are not"
    LENGTH = "lists of a wrong length"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a ranking file, or the same thing several times in one list."""

    kind: Kind
    file: Path
    reason: str
    query: str | None = None
    """The query at fault; None where it is not a single one."""
    count: int = 1
    """How many entries, cells or lists are at fault."""

    @property
    def error(self) -> RankingFileError:
        """The fault as an error of its own."""
        return RankingFileError(self.reason, file=self.file, query=self.query)


def faults_error(faults: Sequence[Fault]) -> RankingFileError:
    """All faults as one error: how many there are of each kind, and the first five of it.

    Args:
        faults: The faults, at least one.

    Returns:
        The error; that of the fault itself where there is but one.
    """
    if len(faults) == 1:
        return faults[0].error
    files = list(dict.fromkeys(fault.file for fault in faults))
    lines = [f"{sum(fault.count for fault in faults):,} faults:"]
    for kind in Kind:
        if not (found := [fault for fault in faults if fault.kind is kind]):
            continue
        lines.append(f"  {kind.value}: {sum(fault.count for fault in found):,}")
        for fault in found[:_SHOWN_FAULTS]:
            where = "" if len(files) == 1 else f"{fault.file.name}: "
            query = "" if fault.query is None else f"query {shown(fault.query)}: "
            lines.append(f"    {where}{query}{fault.reason}")
        if more := sum(fault.count for fault in found[_SHOWN_FAULTS:]):
            lines.append(f"    and {more:,} more")
    return RankingFileError("\n".join(lines), file=files[0], faults=faults)


@dataclass(frozen=True)
class RankingLists:
    """One file's lists of one pool."""

    lists: dict[str, list[str]]
    """Query id -> image ids, best first."""
    pool: str = GALLERY
    """``gallery`` or ``subset``."""
    submission: bool = False
    """Whether the file is in the format of the benchmark's server: the lengths of its lists are then checked.
    """
    notes: tuple[str, ...] = ()
    """What a reader of the scores must know."""


@dataclass(frozen=True)
class RankingFile:
    """A JSON ranking file, decoded."""

    path: Path
    content: dict[str, object]
    size: int
    """Bytes."""
    hidden: bool
    """Whether it answers a split whose targets only the benchmark's server knows."""
    faults: list[Fault] = field(default_factory=list)
    """What was found wrong while it was read."""
    without_list: set[str] = field(default_factory=set)
    """Queries that have something else than a list."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Query id -> entries of its list that are no image id, and are in ``faults``."""

    def fault(self, kind: Kind, reason: str, query: str | None = None) -> None:
        """Note something that is wrong; reading goes on, so that all faults are told at once.

        Args:
            kind: What is wrong.
            reason: The same, of this one.
            query: The query at fault; None where it is not a single one.
        """
        self.faults.append(Fault(kind, self.path, reason, query))
        if kind is Kind.NO_ID and query is not None:
            self.left_out[query] = self.left_out.get(query, 0) + 1

    def error(self, reason: str, query: str | None = None) -> RankingFileError:
        """The error to raise for this file, or for one query of it.

        Args:
            reason: What is wrong.
            query: The query at fault; None where it is not a single one.

        Returns:
            The error, which names file and query.
        """
        return RankingFileError(reason, file=self.path, query=query)

    def entries(self, query: str) -> list[object]:
        """The list under a query's id.

        Args:
            query: The id, a key of ``content``.

        Returns:
            Its entries, not checked; none where there is something else than a list, which is noted.
        """
        value = self.content[query]
        if isinstance(value, list):
            return value
        if query not in self.without_list:
            self.without_list.add(query)
            self.fault(Kind.NO_LIST, f"must have a list of images, not {named(value)}", query)
        return []

    def image_names(self, query: str) -> list[str]:
        """The texts in the list under a query's id; entries that are none are noted.

        Args:
            query: The id, a key of ``content``.

        Returns:
            The image names, best first.
        """
        names: list[str] = []
        for entry in self.entries(query):
            if isinstance(entry, str):
                names.append(entry)
            else:
                self.fault(Kind.NO_ID, f"an image name must be text, not {named(entry)}", query)
        return names


def named(value: object) -> str:
    """``value`` as messages print it: of a list or an object only what it is.

    Args:
        value: Any value of a file.

    Returns:
        A few words.
    """
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else shown(value)


def either(words: Sequence[str]) -> str:
    """Words joined as ``'a' or 'b'``.

    Args:
        words: The words.

    Returns:
        The phrase.
    """
    return " or ".join(repr(word) for word in words)
