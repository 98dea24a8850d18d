"""Images as the multimodal model is given them: a file or its bytes, identified by a fingerprint."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.models.multimodal.errors import JudgeError

if TYPE_CHECKING:
    from PIL import Image

_THREADS = 4
_FEW = 8
"""Fewer pictures than this are opened one after the other: threads would cost more than they save."""


class PictureError(JudgeError):
    """One picture cannot be opened; others may be fine."""


@dataclass(frozen=True)
class Picture:
    """One image file, not yet decoded.

    Attributes:
        fingerprint: Digest of the file's bytes; the image's identity in every cache.
        source: The file's path, or its bytes.
    """

    fingerprint: str
    source: Path | bytes

    def open(self) -> Image.Image:
        """Decode the image.

        Returns:
            The image in RGB, as the file stores it: an EXIF rotation is not applied, as in the encoder.

        Raises:
            PictureError: The file cannot be read; the message names it.
        """
        from PIL import Image

        try:
            file = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
            with Image.open(file) as image:
                return image.convert("RGB")
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
            where = f"{len(self.source)} bytes" if isinstance(self.source, bytes) else self.source
            raise PictureError(f"{where}: the image cannot be read ({error})") from error


def open_pictures(pictures: Sequence[Picture]) -> list[Image.Image]:
    """Decode several images, in threads where there are many.

    Args:
        pictures: What to open.

    Returns:
        One RGB image per picture, in order.

    Raises:
        PictureError: One of them cannot be read.
    """
    if len(pictures) < _FEW:
        return [picture.open() for picture in pictures]
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return list(pool.map(Picture.open, pictures))
