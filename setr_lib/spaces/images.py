"""Opening an image file for an encoder: decoded whole, or an error that says what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from setr_lib.pixels import UnreadableImageError


def open_image(path: str | Path) -> Image.Image:
    """Open an image file as RGB, fully decoded (a truncated file fails here, not later in a batch).

    EXIF orientation is not applied: the benchmarks' own pipelines do not.

    Args:
        path: The file.

    Returns:
        The image.

    Raises:
        UnreadableImageError: The file is missing, is not an image, or ends too early.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = str(error) or type(error).__name__
        raise UnreadableImageError(f"{path}: cannot be read as a picture ({reason})") from error
