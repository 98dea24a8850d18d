"""Whether a command has a project to work on: a settings file, or variables that stand in for one."""

from __future__ import annotations

import os
from pathlib import Path

from setr_lib.errors import SetrError
from setr_lib.settings import CONFIG_VARIABLE, SETTINGS_FILE, find_settings_file

_STAND_IN = ("SETR_DATASETS", "SETR_STORAGE__ROOT")
"""How the variables begin that say by themselves what to work on: data sets, or where results are."""


class NoProjectError(SetrError):
    """There is no settings file from the current folder upwards."""


def is_project(config: Path | None) -> bool:
    """Whether there is a settings file, or a variable that names data sets or the storage.

    Args:
        config: The settings file that the command line names, if any; whether it is there is not looked at.

    Returns:
        Whether a command has something to work on.

    Raises:
        SettingsError: ``$SETR_CONFIG`` cannot be expanded.
    """
    if config is not None or find_settings_file() is not None:
        return True
    return any(name.upper().startswith(_STAND_IN) for name in os.environ)


def no_project_words(command: str) -> str:
    """That there is no settings file, and how to name or make one.

    Args:
        command: The command as it was typed, without ``setr``.

    Returns:
        The words.
    """
    return (
        f"no {SETTINGS_FILE} was found in {Path.cwd()} or above it. Go into the folder of a project; or name "
        f"its settings file, `setr {command} --config FILE`, or for good `export {CONFIG_VARIABLE}=FILE`; or "
        "write the first one for a folder of pictures: `setr init PHOTOS`"
    )
