"""Opening of images: whether each is there and whole, how large, and the fingerprint of its bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from setr_lib.hashing import fingerprint_bytes
from setr_lib.pixels import (
    OFFICIAL,
    PictureFile,
    PixelRules,
    UnreadableImageError,
    decode_for_inspection,
    kind_of_file,
    read_file,
)
from setr_lib.progress import Progress, silent

_REPORTS = 100
"""Calls of the progress listener per inspection, at most."""


@dataclass(slots=True)
class _Inspection:
    status: str
    detail: str = ""
    width: int | None = None
    height: int | None = None
    fingerprint: str | None = None


def _inspect(rules: PixelRules, path: str) -> _Inspection:
    missing = _looked_for(path)
    if missing is not None:
        return missing
    try:
        content = read_file(path)
    except UnreadableImageError as error:
        return _Inspection("broken", _without(path, error))
    fingerprint = fingerprint_bytes(content)
    try:
        # All of the data must decode: a cut-off file opens well.
        width, height = decode_for_inspection(content, rules)
    except UnreadableImageError as error:
        return _Inspection("broken", str(error), fingerprint=fingerprint)
    return _Inspection("ok", "", width, height, fingerprint)


def _looked_for(path: str) -> _Inspection | None:
    """Why there is nothing to read at a path; None where there is a regular file."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return _Inspection("missing", "there is no such file")
    except OSError as error:
        return _Inspection("broken", f"cannot be read ({error.strerror or error})")
    except ValueError as error:  # a null byte in the name
        return _Inspection("broken", f"no file can have this name ({error})")
    if stat.S_ISREG(mode):
        return None
    return _Inspection("broken", f"is {kind_of_file(mode)}; only regular files are read")


def _without(path: str, error: UnreadableImageError) -> str:
    """What is wrong with a file, without its name, which stands beside it in a table."""
    return str(error).removeprefix(f"{path}: ").removeprefix(f"{path!r}: ")


def _inspect_all(paths: list[str], rules: PixelRules, progress: Progress) -> Iterator[_Inspection]:
    every = max(1, len(paths) // _REPORTS)
    # Pillow and the hash release the interpreter lock; some more threads than cores hide a slow disk.
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 4)) as pool:
        for done, inspection in enumerate(pool.map(partial(_inspect, rules), paths), start=1):
            if done % every == 0 or done == len(paths):
                progress(done, len(paths), "images inspected")
            yield inspection


def inspect_images(
    images: pl.DataFrame, progress: Progress = silent, rules: PixelRules = OFFICIAL
) -> pl.DataFrame:
    """Open every image of a table; never raises because of an image.

    Args:
        images: Any frame with ``path``.
        progress: Told how many images are opened.
        rules: How the images become RGB.

    Returns:
        ``images`` with ``status``, ``detail``, ``width`` and ``height`` (pixels as stored, before any EXIF
        turn), ``fingerprint`` (of the file's bytes, also of a broken one) and ``pixels`` (the rules' id).
    """
    found = list(_inspect_all(images["path"].to_list(), rules, progress))
    return images.with_columns(
        pl.Series("status", [inspection.status for inspection in found], dtype=pl.String()),
        pl.Series("detail", [inspection.detail for inspection in found], dtype=pl.String()),
        pl.Series("width", [inspection.width for inspection in found], dtype=pl.Int32()),
        pl.Series("height", [inspection.height for inspection in found], dtype=pl.Int32()),
        pl.Series("fingerprint", [inspection.fingerprint for inspection in found], dtype=pl.String()),
        pl.lit(rules.id).alias("pixels"),
    )


def find_images(images: pl.DataFrame) -> pl.DataFrame:
    """Look for every image of a table without opening any.

    Args:
        images: Any frame with ``path``.

    Returns:
        ``images`` with ``status`` (``ok``, ``missing``, or ``broken`` for what is no regular file) and
        ``detail``.
    """
    found = [_looked_for(path) or _Inspection("ok") for path in images["path"]]
    return images.with_columns(
        pl.Series("status", [inspection.status for inspection in found], dtype=pl.String()),
        pl.Series("detail", [inspection.detail for inspection in found], dtype=pl.String()),
    )


def changed_images(files: Sequence[PictureFile]) -> list[tuple[PictureFile, str]]:
    """The files whose bytes are not those that a table names; nothing is decoded.

    Args:
        files: The files, with their fingerprints.

    Returns:
        Those that have changed or cannot be read any more, and why, in their order.
    """

    def fault(file: PictureFile) -> str | None:
        try:
            file.check()
        except UnreadableImageError as error:
            return _without(file.path, error)
        return None

    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 4)) as pool:
        faults = list(pool.map(fault, files))
    return [(file, why) for file, why in zip(files, faults, strict=True) if why is not None]
