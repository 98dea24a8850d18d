"""What a ranking file of any system holds, as a benchmark reads it: the decoded JSON, its lists, and why it
is refused.

Checking the lists against queries and gallery is ``setr_lib.evaluation.ranking_files``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from setr_lib.benchmarks.annotations import shown
from setr_lib.benchmarks.metrics import GALLERY
from setr_lib.errors import SetrError


class RankingError(SetrError):
    """A ranking breaks the rules of its benchmark; the message names queries and images."""


class RankingFileError(RankingError):
    """A ranking file cannot be what the queries were answered with.

    Args:
        reason: What is wrong.
        file: The file.
        query: The query at fault; None where it is not a single one.
    """

    def __init__(self, reason: str, *, file: Path, query: str | None = None) -> None:
        self.file = file
        self.query = query
        self.reason = reason
        where = str(file) if query is None else f"{file}: query {shown(query)}"
        super().__init__(f"{where}: {reason}")


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
            Its entries, not checked.

        Raises:
            RankingFileError: There is something else than a list.
        """
        value = self.content[query]
        if not isinstance(value, list):
            raise self.error(f"must have a list of images, not {named(value)}", query)
        return value

    def image_names(self, query: str) -> list[str]:
        """The list under a query's id, checked to be of texts.

        Args:
            query: The id, a key of ``content``.

        Returns:
            The image names, best first.

        Raises:
            RankingFileError: There is something else than a list, or an entry is not text.
        """
        names: list[str] = []
        for entry in self.entries(query):
            if not isinstance(entry, str):
                raise self.error(f"an image name must be text, not {named(entry)}", query)
            names.append(entry)
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
