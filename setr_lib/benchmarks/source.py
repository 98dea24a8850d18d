"""A data source: something that makes data sets on this machine, rather than a download in an official
layout.

The miniature is one (``setr_lib/miniature/source.py``). ``setr_lib/sources.py`` lists those that there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from setr_lib.paths import kind_of

if TYPE_CHECKING:
    from setr_lib.progress import Progress
    from setr_lib.settings import Settings


class DataSource(ABC):
    """A maker of data sets: it writes them below folders of its own, as settings say, whenever they are not
    current.

    Their counts are its own: they are not held against a benchmark's official ones. Making an object costs
    nothing and reads no file.

    Args:
        settings: Those that say what is made, and where.
    """

    name: ClassVar[str]
    """Lower-case letters, digits, '-' and '_': the word for it in ``setr doctor --json`` (``counts_of``)."""
    title: ClassVar[str] = ""
    """The name in sentences, e.g. ``the miniature``; ``name`` by default."""
    advice: ClassVar[str]
    """What makes the data, as the end of a sentence, e.g. ``"`setr miniature write` draws it"``."""
    image_bytes: ClassVar[int | None] = None
    """About what an image takes on disk; None where that is not known."""

    banner: ClassVar[str] = ""
    """What reports say of such data first, in a few words; nothing by default."""
    banner_text: ClassVar[str] = ""
    """A sentence that goes with it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def owns(self, path: Path) -> bool:
        """Whether :meth:`prepare` makes what is, or will be, at ``path``.

        Args:
            path: An absolute path of a file or a folder, which need not exist.

        Returns:
            Whether it is below a folder of this source.
        """

    @abstractmethod
    def prepare(self, progress: Progress) -> None:
        """Make the data, or bring it up to date; does nothing where it is current.

        Args:
            progress: Told how far it is.

        Raises:
            SetrError: The data that settings ask for cannot be made.
        """

    def prepare_train_split(self, folder: Path, progress: Progress) -> None:
        """Make the train split in ``folder``, where :meth:`prepare` leaves it out; nothing by default.

        Args:
            folder: The root of a train split that this source owns (``sets.train_set``).
            progress: Told how far it is.

        Raises:
            SetrError: The data that settings ask for cannot be made.
        """
        return

    @property
    def shown_name(self) -> str:
        """``title``, or ``name`` without one."""
        return self.title or self.name

    @property
    def stamp(self) -> str:
        """The name of the file that :meth:`prepare` leaves beside each data set: data that was moved keeps
        its maker.
        """
        return f"{self.name}.json"

    def made(self, folder: Path) -> bool:
        """Whether the data set in ``folder`` is of this source: below its own folders, or with its stamp.

        Args:
            folder: A data set's root.

        Returns:
            Whether it is below a folder of this source, or has its stamp.
        """
        return self.owns(folder) or kind_of(folder / self.stamp) == "file"

    def remedy(self, folder: Path) -> str:
        """How to get what is missing from the data set in ``folder``, as the end of "it comes from ...".

        Args:
            folder: A data set's root.

        Returns:
            The phrase, without a full stop.
        """
        stamp = folder / self.stamp
        first = f"delete {stamp}, then " if kind_of(stamp) == "file" else ""
        return f"{self.shown_name}: {first}{self.advice}"


def maker_of(folder: Path, sources: Sequence[DataSource]) -> DataSource | None:
    """The data source that made a data set.

    Args:
        folder: The data set's root.
        sources: The sources that there are.

    Returns:
        The source; None for downloads and people's own pictures.
    """
    return next((source for source in sources if source.made(folder)), None)
