"""What of a project is still of another folder, after it was moved or copied: ``.env``, the installed code,
``.venv``, and MLflow's locations.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import setr_lib
from setr_lib.commands import env
from setr_lib.commands.venv import made_elsewhere
from setr_lib.files import sqlite_path
from setr_lib.registry.locations import Relocation, is_own, moved
from setr_lib.settings import Settings


def of_elsewhere(settings: Settings) -> Iterator[str]:
    """What a command tells before it runs: nothing where all is of this folder.

    Args:
        settings: The settings.

    Yields:
        A sentence each, which ends with the command that mends it.
    """
    if (words := env.stale_in_words(settings)) is not None:
        yield words
    if (words := code_in_words(settings)) is not None:
        yield words


def code_in_words(settings: Settings) -> str | None:
    """Whose code runs, where the settings' folder has code of its own, and this is another's.

    Args:
        settings: The settings.

    Returns:
        The words; None where it is this folder's, or this folder has none.
    """
    checkout, running = _checkout(settings), Path(setr_lib.__file__).resolve().parent.parent
    if checkout is None or checkout.resolve() == running:
        return None
    return (
        f"this is the code of {running}, not that of {checkout}: `make setup` there installs it, and "
        "`.venv/bin/setr` there runs it"
    )


def venv_in_words(settings: Settings) -> str | None:
    """Why ``.venv`` beside the settings is not one of this folder.

    Args:
        settings: The settings.

    Returns:
        The words; None where it is, or there is none.
    """
    checkout = _checkout(settings)
    reason = made_elsewhere(settings.base_dir / ".venv", checkout)
    if reason is None:
        return None
    mended = "`make setup` makes it anew" if checkout else "remove it, make one here, and install setr in it"
    return f"{reason}: {mended}"


def locations(settings: Settings) -> Relocation:
    """MLflow's locations of artifacts that are of another folder, in a store of the project's own.

    Args:
        settings: The settings.

    Returns:
        How many, and of which folder.

    Raises:
        RegistryError: The store cannot be read.
    """
    database = sqlite_path(settings.tracking_uri)
    if database is None or not is_own(database, settings.artifact_root):
        return Relocation()
    found = moved(database, settings.artifact_root)
    return found if found.before is not None else Relocation()


def _checkout(settings: Settings) -> Path | None:
    """The settings' folder, if it has SETR's code."""
    folder = settings.base_dir
    return folder if (folder / "setr_lib" / "__init__.py").is_file() else None
