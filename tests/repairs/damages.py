"""Kinds of damage to a file, and what every message about one must be."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from setr_lib.cli import main
from setr_lib.damage import Part

Damage = Callable[[Path], None]
_CLASS_NAMES = re.compile(r"\b\w*(Error|Exception|Panic)\b|Traceback|\brust\b|LanceError", re.I)


def gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(max(600, path.stat().st_size)))


def holed(path: Path) -> None:
    """Garbage in the middle; beginning, end and length are whole."""
    content = bytearray(path.read_bytes())
    size = min(4096, len(content) // 3)
    start = (len(content) - size) // 2
    content[start : start + size] = np.random.default_rng(0).bytes(size)
    path.write_bytes(content)


def a_folder(path: Path) -> None:
    gone(path)
    path.mkdir()
    (path / "file").write_text("x", encoding="utf-8")


def a_file(path: Path) -> None:
    gone(path)
    path.write_text("x", encoding="utf-8")


def text(words: str) -> Damage:
    def written(path: Path) -> None:
        path.write_text(words, encoding="utf-8")

    written.__name__ = f"is {words!r}"
    return written


def name_of(value: object) -> str:
    return getattr(value, "__name__", str(value))


def assert_told(message: str, part: Part, *named: object) -> None:
    """One line that names what is damaged and the command, and no class of exceptions."""
    words = message.strip()
    assert "\n" not in words
    assert f"`setr repair {part}`" in words
    assert not _CLASS_NAMES.search(words), words
    assert all(str(each) in words for each in named), words


def mend(folder: Path, part: Part, *options: str) -> int:
    """Run ``setr repair`` as a person does, in the project of ``folder``."""
    config = folder / "setr.toml"
    if not config.exists():
        config.write_text("", encoding="utf-8")
    return main(["--config", str(config), "repair", part, *options])
