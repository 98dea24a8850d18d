"""Opening one picture file for an encoder: decoded whole, or an error that says what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from setr_lib.errors import SetrError


class UnreadableImageError(SetrError):
    """A file is missing, is no picture, or ends too early."""


def open_image(path: str | Path) -> Image.Image:
    """The picture at ``path`` as RGB, fully decoded (a truncated file fails here, not later in a batch).

    EXIF orientation is not applied: the benchmarks' own pipelines do not. Raises ``UnreadableImageError``.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = str(error) or type(error).__name__
        raise UnreadableImageError(f"{path}: cannot be read as a picture ({reason})") from error
