"""Which data sources there are: the miniature, and those of installed packages (entry points
``setr.sources``).

An entry point names a subclass of ``setr_lib.benchmarks.source.DataSource``; its name is the source's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from setr_lib.benchmarks.sets import train_set
from setr_lib.benchmarks.source import DataSource
from setr_lib.catalogue import Catalogue
from setr_lib.errors import SetrError
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    from setr_lib.settings import Settings

ENTRY_POINTS = "setr.sources"
_PLAIN = re.compile(r"[a-z0-9_-]+")


class SourceError(SetrError):
    """A data source of an installed package cannot be used; the message names its entry point."""


def data_sources(settings: Settings) -> list[DataSource]:
    """Every data source, made for ``settings``.

    Args:
        settings: The settings.

    Returns:
        The built-in ones and those of installed packages.

    Raises:
        SourceError: One of an installed package cannot be loaded, or is not a data source.
    """
    return [CATALOGUE.get(name)(settings) for name in CATALOGUE.names()]


def sources_in_use(settings: Settings) -> list[DataSource]:
    """The data sources that make a configured data set, or what the re-ranker is trained on.

    Args:
        settings: The settings.

    Returns:
        Those that own a configured path.

    Raises:
        SourceError: As for :func:`data_sources`.
    """
    training = settings.training.triplets or settings.training.captions
    named = [dataset.root for dataset in settings.datasets.values()] + ([training] if training else [])
    trained = settings.datasets.get(settings.training.dataset or "")
    if trained is not None and trained.train_root is not None:
        named.append(trained.train_root)
    paths = [settings.resolve(path) for path in named]
    return [source for source in data_sources(settings) if any(map(source.owns, paths))]


def ensure_train_split(settings: Settings, dataset: str, progress: Progress = silent) -> None:
    """Have the train split of a data set made, where a data source makes it; nothing for downloaded data.

    Args:
        settings: The settings.
        dataset: The data set's name, e.g. ``cirr``.
        progress: Told how far it is.

    Raises:
        DatasetError: The data set is not in the settings, or has no train split.
        SourceError: As for :func:`data_sources`.
        SetrError: The source cannot make what settings ask for.
    """
    root = train_set(settings, dataset).root
    for source in data_sources(settings):
        if source.owns(root):
            source.prepare_train_split(root, progress)


def _load_built_in() -> dict[str, type[DataSource]]:
    from setr_lib.miniature.source import Miniature

    return {Miniature.name: Miniature}


def _checked(candidate: Any, where: str) -> type[DataSource]:
    if not (isinstance(candidate, type) and issubclass(candidate, DataSource)):
        raise SourceError(f"{where} is not a subclass of setr_lib.benchmarks.source.DataSource")
    if missing := sorted(candidate.__abstractmethods__):
        raise SourceError(f"{where} lacks {', '.join(missing)}")
    if not _PLAIN.fullmatch(getattr(candidate, "name", "")):
        raise SourceError(f"{where}: 'name' must consist of lower-case letters, digits, '-' and '_'")
    if not getattr(candidate, "advice", ""):
        raise SourceError(f"{where}: 'advice' must say what makes the data")
    return candidate


CATALOGUE: Catalogue[type[DataSource]] = Catalogue(
    "data source", (ENTRY_POINTS,), _checked, SourceError, _load_built_in
)
