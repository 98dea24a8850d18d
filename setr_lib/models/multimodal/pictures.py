"""Images as the multimodal model is given them: a file or its bytes, identified by a fingerprint and by how
they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.models.multimodal.errors import JudgeError
from setr_lib.pixel_rules import PixelRules, picture_identity

if TYPE_CHECKING:
    from PIL import Image

    from setr_lib.pixels import PictureFile

_THREADS = 4
_FEW = 8
"""Fewer pictures than this are opened one after the other: threads would cost more than they save."""


class PictureError(JudgeError):
    """One picture cannot be opened, or is another than when its table was made; others may be fine."""


@dataclass(frozen=True)
class Picture:
    """One image file, not yet decoded.

    Attributes:
        fingerprint: Digest of the file's bytes; those that are read must have it.
        source: The file's path, or its bytes.
        pixels: How they become RGB, ``PixelRules.id``; as the benchmarks' own pipelines do by default.
    """

    fingerprint: str
    source: Path | bytes
    pixels: str = ""

    @property
    def identity(self) -> str:
        """What the image is to a model: its identity in every cache."""
        return picture_identity(self.fingerprint, self.pixels)

    def open(self) -> Image.Image:
        """Decode the image.

        Returns:
            The image in RGB.

        Raises:
            PictureError: The file cannot be read, or has other bytes than the fingerprint names; the message
                names it.
        """
        from setr_lib.pixels import UnreadableImageError, decode_image

        try:
            if isinstance(self.source, Path):
                return self._file(self.source).read()
            return decode_image(self.source, PixelRules.from_id(self.pixels))
        except UnreadableImageError as error:
            where = f"{len(self.source):,} bytes: " if isinstance(self.source, bytes) else ""
            raise PictureError(f"{where}{error}") from error

    def content_as_shown(self) -> bytes:
        """Bytes that, read without any rules, give the image as :meth:`open` does.

        Returns:
            The file's own bytes, or a PNG of the image where rules change it.

        Raises:
            PictureError: As of :meth:`open`.
        """
        from setr_lib.pixels import UnreadableImageError

        if isinstance(self.source, bytes):
            return self.source
        try:
            return self._file(self.source).content_as_shown()
        except UnreadableImageError as error:
            raise PictureError(str(error)) from error

    def _file(self, path: Path) -> PictureFile:
        from setr_lib.pixels import PictureFile

        return PictureFile(str(path), self.fingerprint, self.pixels)


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
