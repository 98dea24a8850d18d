"""Opening of images: whether each is there and whole, how large, and the fingerprint of its bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from PIL import Image

from setr_lib.hashing import fingerprint_bytes
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


def _inspect(path: str) -> _Inspection:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return _Inspection("missing", "there is no such file")
    except (OSError, ValueError) as error:
        return _Inspection("broken", f"cannot be read: {error}")
    fingerprint = fingerprint_bytes(content)
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            # All of the data must decode: a cut-off file opens well. Draft mode lets JPEG do so at an eighth
            # of the size.
            image.draft(None, (max(1, width // 8), max(1, height // 8)))
            image.load()
    except Exception as error:  # Pillow's plug-ins raise all sorts; whatever it is, the image cannot be used
        # Pillow names its source by address, which would make two inspections of one file differ.
        reason = str(error).split("<_io.BytesIO")[0].strip() or type(error).__name__
        return _Inspection("broken", f"not a readable image: {reason}", fingerprint=fingerprint)
    return _Inspection("ok", "", width, height, fingerprint)


def _inspect_all(paths: list[str], progress: Progress) -> Iterator[_Inspection]:
    every = max(1, len(paths) // _REPORTS)
    # Pillow and the hash release the interpreter lock; some more threads than cores hide a slow disk.
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 4)) as pool:
        for done, inspection in enumerate(pool.map(_inspect, paths), start=1):
            if done % every == 0 or done == len(paths):
                progress(done, len(paths), "images inspected")
            yield inspection


def inspect_images(images: pl.DataFrame, progress: Progress = silent) -> pl.DataFrame:
    """Open every image of a table; never raises because of an image.

    Args:
        images: Any frame with ``path``.
        progress: Told how many images are opened.

    Returns:
        ``images`` with ``status``, ``detail``, ``width`` and ``height`` (pixels as stored, before any EXIF
        turn) and ``fingerprint`` (of the file's bytes, also of a broken one).
    """
    found = list(_inspect_all(images["path"].to_list(), progress))
    return images.with_columns(
        pl.Series("status", [inspection.status for inspection in found], dtype=pl.String()),
        pl.Series("detail", [inspection.detail for inspection in found], dtype=pl.String()),
        pl.Series("width", [inspection.width for inspection in found], dtype=pl.Int32()),
        pl.Series("height", [inspection.height for inspection in found], dtype=pl.Int32()),
        pl.Series("fingerprint", [inspection.fingerprint for inspection in found], dtype=pl.String()),
    )


def find_images(images: pl.DataFrame) -> pl.DataFrame:
    """Look for every image of a table without opening any.

    Args:
        images: Any frame with ``path``.

    Returns:
        ``images`` with ``status`` (``ok`` or ``missing``) and ``detail``.
    """
    there = [_is_file(path) for path in images["path"]]
    return images.with_columns(
        pl.Series("status", ["ok" if is_there else "missing" for is_there in there], dtype=pl.String()),
        pl.Series(
            "detail", ["" if is_there else "there is no such file" for is_there in there], dtype=pl.String()
        ),
    )


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False
