"""Which code made something: SETR's version, and the git commit where it runs from a checkout."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VERSION_TAG = "setr.version"
"""The tag with the version of the package ``setr``."""
COMMIT_TAG = "setr.commit"
"""The tag with the commit of the checkout, and whether its tracked files differ from it."""
_COMMIT, _DIRTY = "mlflow.source.git.commit", "mlflow.source.git.dirty"
"""MLflow's own tags of the same, which its tables of runs show."""
SOURCE_TAGS = {"mlflow.source.name": "setr", "mlflow.source.type": "LOCAL"}
"""MLflow's own tags of runs that say what started them."""
_PATIENCE = 10.0
"""Seconds for an answer of git."""


@lru_cache(maxsize=4)
def code_tags(checkout: Path | None = None) -> dict[str, str]:
    """The tags of a run or version that say which code made it.

    Args:
        checkout: The folder that holds the package; that of this process by default.

    Returns:
        The version of the package; where the folder is a git checkout, its commit, and whether it was
        changed since. Nothing of a repository around an installed package.
    """
    tags: dict[str, str] = {}
    with suppress(PackageNotFoundError):  # the source tree, not installed
        tags[VERSION_TAG] = version("setr")
    folder = checkout or Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return tags
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        is_changed = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
        tags[COMMIT_TAG] = f"{commit} (with changes)" if is_changed else commit
        tags |= {_COMMIT: commit, _DIRTY: str(is_changed).lower()}
    return tags


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers about a folder; None where there is no git, or no answer."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
