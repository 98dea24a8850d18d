"""Images as the multimodal model is given them: a file or its bytes, identified by a fingerprint and by how
they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from setr_lib.feeding import prepared
from setr_lib.models.multimodal.errors import JudgeError
from setr_lib.models.refusals import check_sides, control_image, may_be_a_refusal, reason_of
from setr_lib.pixel_rules import PixelRules, picture_identity
from setr_lib.pixels import UnreadableImageError

if TYPE_CHECKING:
    from PIL import Image

    from setr_lib.pixels import PictureFile

_FEW = 8
"""Fewer pictures than this are opened one after the other: threads would cost more than they save."""

_ODD_SIZES = ((310, 230), (48, 40), (333, 251))
"""Widths and heights of pictures; some are rounded otherwise by patches than by pairs of patches."""

Processed = TypeVar("Processed")


class PictureError(JudgeError, UnreadableImageError):
    """Pictures cannot be opened, are others than when their table was made, or are refused by the model's
    processor; others may be fine.

    Args:
        message: What is wrong; by default what is wrong with the first of ``refused``.
        refused: What is wrong with each of them, by identity; empty where it is not known which.
    """

    def __init__(self, message: str = "", refused: Mapping[str, str] | None = None) -> None:
        self.refused = dict(refused or {})
        more = f" (and {len(self.refused) - 1} more pictures)" if len(self.refused) > 1 else ""
        super().__init__(message or next(iter(self.refused.values()), "") + more)

    def about(self, pictures: Sequence[Picture]) -> str | None:
        """What is wrong with some pictures.

        Args:
            pictures: The pictures.

        Returns:
            What is wrong with the first of them that is at fault; None where none is.
        """
        return next((self.refused[p.identity] for p in pictures if p.identity in self.refused), None)


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

    @property
    def name(self) -> str:
        """What messages call it: its file, or how many bytes it has."""
        return f"{len(self.source)} bytes" if isinstance(self.source, bytes) else str(self.source)

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
            # Whoever took the bytes has decoded them within the limit on pixels that holds there.
            return decode_image(self.source, PixelRules.from_id(self.pixels, None))
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
    with closing(prepared(pictures, Picture.open, len(pictures))) as opened:
        return [picture.result() for picture in opened]


def processed(
    pictures: Sequence[Picture],
    process: Callable[[list[Image.Image]], Processed],
    alone: Callable[[Image.Image], object],
) -> Processed:
    """Open pictures and give them to a model's processor.

    Args:
        pictures: The pictures of a batch.
        process: Runs the processor over all of them.
        alone: Runs it over one.

    Returns:
        What ``process`` gives.

    Raises:
        PictureError: Some cannot be opened, or the processor refuses them alone, too; it knows which.
    """
    try:
        images = open_pictures(pictures)
        for image in images:
            check_sides(image)
        return process(images)
    except Exception as error:
        if not may_be_a_refusal(error):
            raise
        first = error
    if refused := _refused(pictures, alone):
        raise PictureError(refused=refused) from first
    raise first


def image_options(processor: Any) -> dict[str, Any]:
    """What a model's processor tells its image processor beside the pictures, such as to cut them in tiles.

    Args:
        processor: The transformers processor.

    Returns:
        Keyword arguments of the image processor, ``return_tensors`` among them.
    """
    asked = {"return_tensors": "pt"}
    try:
        merged = processor._merge_kwargs(tokenizer_init_kwargs=processor.tokenizer.init_kwargs, **asked)
        return {**merged["images_kwargs"], **asked}
    except (AttributeError, KeyError, TypeError):  # a processor that has no such rule
        return asked


def prepares_pictures_alone(processor: Any) -> bool:
    """Whether a model's image processor by itself prepares a picture as the whole processor does.

    Args:
        processor: The transformers processor.

    Returns:
        False where tokens or numbers differ, as where the processor changes what it asks of the other
        (Pixtral's rounds sizes itself).
    """
    from PIL import Image

    try:
        return all(_prepared_alike(processor, Image.new("RGB", size, (90, 120, 150))) for size in _ODD_SIZES)
    except Exception as error:
        if not may_be_a_refusal(error):
            raise
        return False


def _prepared_alike(processor: Any, image: Image.Image) -> bool:
    import torch

    text = getattr(processor, "image_token", None) or "<image>"
    whole = processor(text=[text], images=[[image]], return_tensors="pt", add_special_tokens=False)
    alone = processor.image_processor(images=[[image]], **image_options(processor))
    replaced = processor.replace_image_token(alone, image_idx=0)
    ids = processor.tokenizer(replaced, add_special_tokens=False)["input_ids"]
    shared = [name for name in whole if name in alone and isinstance(whole[name], torch.Tensor)]
    return whole["input_ids"][0].tolist() == ids and all(
        torch.equal(whole[name], torch.as_tensor(alone[name])) for name in shared
    )


def _refused(pictures: Sequence[Picture], alone: Callable[[Image.Image], object]) -> dict[str, str]:
    """What is wrong with those that are at fault, by identity; none where the processor takes nothing."""
    found: dict[str, str] = {}
    works: bool | None = None
    for picture in {picture.identity: picture for picture in pictures}.values():
        try:
            image = picture.open()
        except PictureError as error:
            found[picture.identity] = str(error)
            continue
        if (reason := _refusal(alone, image)) is not None:
            works = _refusal(alone, control_image()) is None if works is None else works
            if works:
                found[picture.identity] = (
                    f"{picture.name}: the model's processor refuses this picture of {image.width:,} x "
                    f"{image.height:,} pixels ({reason})"
                )
    return found


def _refusal(alone: Callable[[Image.Image], object], image: Image.Image) -> str | None:
    try:
        check_sides(image)
        alone(image)
    except Exception as error:
        if not may_be_a_refusal(error):
            raise
        return reason_of(error)
    return None
