"""Where a model's weights were when something was trained on top of them, and how they are found again.

What is stored holds no absolute path of the project: a folder or file below the project's is recorded from
there, one below the ``setr_lib`` package's from there. Only what lies outside of both has its own path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.registry.errors import RegistryError

if TYPE_CHECKING:
    from setr_lib.settings import Settings

_projects: ContextVar[tuple[Path, ...]] = ContextVar("projects", default=())


@contextmanager
def searched_below(*projects: Path) -> Iterator[None]:
    """For the duration of the block, models are looked for below these project folders, too.

    Args:
        projects: The folders.
    """
    token = _projects.set((*projects, *_projects.get()))
    try:
        yield
    finally:
        _projects.reset(token)


@dataclass(frozen=True)
class Project:
    """A project, as places are recorded from it.

    Attributes:
        folder: Its folder.
        artifacts: The artifact root of its MLflow store.
    """

    folder: Path
    artifacts: Path

    @classmethod
    def of(cls, settings: Settings) -> Project:
        """The project of some settings.

        Args:
            settings: The settings.
        """
        return cls(settings.base_dir, settings.artifact_root)


@dataclass(frozen=True)
class Place:
    """Where a model was: a folder or file of that machine, or a hub id.

    Attributes:
        name: What settings called it.
        path: The absolute path of one that lies neither below the project's folder nor below the package's.
            Versions of earlier releases have it of every folder.
        relative: The same from the folder that holds the ``setr_lib`` package, where it lies below it.
        in_project: The same from the project's folder, where it lies below it.
        store: The artifact root from the project's folder, where it lies below it: from something that is
            stored there, the project is found.
    """

    name: str
    path: str | None
    relative: str | None
    in_project: str | None = None
    store: str | None = None

    @classmethod
    def of(cls, name: str, loaded_from: str, project: Project | None = None) -> Place:
        """Where a model is that was loaded here.

        Args:
            name: What settings call it.
            loaded_from: The folder, file or hub id that it was loaded from.
            project: The project; None for none.

        Returns:
            The place.
        """
        found = Path(loaded_from)
        if not found.exists():
            return cls(name, None, None)
        path = found.resolve()
        relative = _below(path, _package_home())
        folder = None if project is None else project.folder.resolve()
        in_project = None if folder is None else _below(path, folder)
        if relative is None and in_project is None:
            return cls(name, str(path), None)
        store = _below(project.artifacts.resolve(), folder) if project and folder and in_project else None
        return cls(in_project or relative or name, None, relative, in_project, store)

    @property
    def is_local(self) -> bool:
        """Whether it was a folder or file; else it is a hub id."""
        return any(where is not None for where in (self.path, self.relative, self.in_project))

    def find(
        self, what: str, variable: str, key: str, override: str | None = None, beside: Path | None = None
    ) -> str:
        """The folder, file or hub id to load.

        Args:
            what: The model, for messages: ``"base model qwen@0a1b"``.
            variable: The environment variable that names another place.
            key: The key of MLflow's ``model_config`` that does.
            override: What a caller names; it comes first, the variable second. Then it is looked for below
                the folder of the package, below the project that ``beside`` is stored in, where it was
                recorded, and below the current folder.
            beside: What is stored with it, e.g. the bundle's folder; None for nothing.

        Returns:
            What to load.

        Raises:
            RegistryError: It is not there; the message lists the folders that were tried.
        """
        given = {f"model_config {key}": override, variable: os.environ.get(variable)}
        for where, named in given.items():
            if named:
                return _existing(named, where)
        if not self.is_local:
            return self.name
        if (found := self.recorded(beside)) is not None:
            return str(found)
        tried = ", ".join(map(str, dict.fromkeys(self._candidates(beside))))
        raise RegistryError(
            f"the {what} is not in {tried}; say where it is with {variable}=FOLDER or "
            f"load_model(..., model_config={{{key!r}: FOLDER}})"
        )

    def recorded(self, beside: Path | None = None) -> Path | None:
        """Where it is, by what was recorded.

        Args:
            beside: As of :meth:`find`.

        Returns:
            The folder or file; None where it is in no place that is known.
        """
        return next((found for found in self._candidates(beside) if found.exists()), None)

    def _candidates(self, beside: Path | None) -> Iterator[Path]:
        """Where it may be. In a copied checkout, its own files come before those of the checkout that it was
        copied from.
        """
        if self.relative is not None:
            yield _package_home() / self.relative
        if self.in_project is not None:
            for project in (*_projects.get(), *self._projects_around(beside)):
                yield project / self.in_project
        if self.path is not None:
            yield Path(self.path)
        for below in (self.relative, self.in_project):
            if below is not None:
                yield Path.cwd() / below

    def _projects_around(self, beside: Path | None) -> Iterator[Path]:
        """The folders whose artifact root something is stored in."""
        if beside is not None and self.store is not None:
            stored = beside.resolve()
            yield from (folder for folder in stored.parents if stored.is_relative_to(folder / self.store))


def _below(path: Path, folder: Path) -> str | None:
    """A path from a folder that it lies below, as it is written on any system; else None."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else None


def _existing(named: str, where: str) -> str:
    """``named`` as a folder that is there, or as a hub id."""
    folder = Path(named).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if folder.is_absolute() or named.startswith((".", "~")) or named.count("/") > 1:
        raise RegistryError(f"{where} = {named!r}: there is no such folder")
    return named


def _package_home() -> Path:
    """The folder that holds the installed ``setr_lib`` package: the repository root of a checkout."""
    import setr_lib

    return Path(setr_lib.__file__).resolve().parent.parent
