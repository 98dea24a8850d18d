"""SETR's version in words."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import setr_lib


def version_words() -> str:
    """SETR's version, Python's, and the folder of the code that runs.

    Returns:
        ``setr 0.1.0 (Python 3.11.7, /home/me/setr)``.
    """
    try:
        own = version("setr")
    except PackageNotFoundError:
        own = "(not installed: run from its folder)"
    folder = Path(setr_lib.__file__).resolve().parent.parent
    return f"setr {own} (Python {platform.python_version()}, {folder})"
