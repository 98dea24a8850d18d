"""Where a model's weights were when something was trained on top of them, and how they are found again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from setr_lib.registry.errors import RegistryError


@dataclass(frozen=True)
class Place:
    """Where a model was: a folder of that machine, or a hub id.

    Attributes:
        name: What settings called it.
        path: The absolute folder; None for a hub id.
        relative: The same from the folder that holds the ``setr_lib`` package, where it lies below it.
    """

    name: str
    path: str | None
    relative: str | None

    @classmethod
    def of(cls, name: str, loaded_from: str) -> Place:
        """Where a model is that was loaded here.

        Args:
            name: What settings call it.
            loaded_from: The folder or hub id that it was loaded from.

        Returns:
            The place.
        """
        folder = Path(loaded_from)
        if not folder.is_dir():
            return cls(name, None, None)
        path, home = folder.resolve(), _package_home()
        return cls(name, str(path), os.path.relpath(path, home) if path.is_relative_to(home) else None)

    def find(self, what: str, variable: str, key: str, override: str | None = None) -> str:
        """The folder or hub id to load.

        Args:
            what: The model, for messages: ``"base model qwen@0a1b"``.
            variable: The environment variable that names another place.
            key: The key of MLflow's ``model_config`` that does.
            override: What a caller names; it comes first, the variable second. Then it is looked for below
                the folder of the package, where it was recorded, and below the current folder.

        Returns:
            What to load.

        Raises:
            RegistryError: It is not there; the message lists the folders that were tried.
        """
        given = {f"model_config {key}": override, variable: os.environ.get(variable)}
        for where, named in given.items():
            if named:
                return _existing(named, where)
        if self.path is None:
            return self.name
        # In a copied checkout, its own files come before those of the checkout that it was copied from.
        below = [] if self.relative is None else [_package_home() / self.relative, Path.cwd() / self.relative]
        tried = [*below[:1], Path(self.path), *below[1:]]
        for folder in tried:
            if folder.is_dir():
                return str(folder)
        raise RegistryError(
            f"the {what} is not in {', '.join(map(str, dict.fromkeys(tried)))}; say where it is with "
            f"{variable}=FOLDER or load_model(..., model_config={{{key!r}: FOLDER}})"
        )


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
