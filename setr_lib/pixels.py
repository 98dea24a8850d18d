"""The one way from an image file to pixels, for encoder, judge, reports, search and served models.

A file is read once, from a regular file only; its bytes are what a fingerprint names. How they become RGB is
said by :class:`PixelRules`: whether an EXIF turn is applied, and what is behind transparent pixels.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageColor, ImageOps

from setr_lib.errors import SetrError
from setr_lib.hashing import fingerprint_bytes
from setr_lib.image_formats import readable_endings

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS_VERSION = "2"
"""Rises when the same bytes and rules give other pixels; part of every identity of a picture."""
MAX_PIXELS = 178_956_970
"""Pixels of a picture, at most, where settings say nothing: a picture of this size takes 0.5 GB as RGB."""
MAX_BYTES = 1 << 30
"""Bytes of an image file, at most."""

_BLOCK = 1 << 20
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # tags of TIFF
_RANGE_TAGS = ((340, 341), (280, 281))  # SMin/SMaxSampleValue, then Min/MaxSampleValue
_SIGNED = 2
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


class UnreadableImageError(SetrError):
    """A file is missing, is no regular file, is not an image, ends too early, or has no defined pixels."""


class ChangedImageError(UnreadableImageError):
    """A file's bytes are not those that its fingerprint names."""


@dataclass(frozen=True)
class PixelRules:
    """How a decoded image becomes RGB.

    Attributes:
        upright: Apply the turn that EXIF asks for.
        background: The colour behind transparent pixels, as ``#rrggbb``. None: transparency is dropped and
            the colours that it hid are kept, as the benchmarks' own pipelines do.
        max_pixels: Pixels of a picture, at most. It decides whether a picture is read, never what it looks
            like.
    """

    upright: bool = False
    background: str | None = None
    max_pixels: int = MAX_PIXELS

    @property
    def id(self) -> str:
        """What of the rules changes pixels, e.g. ``upright,#ffffff``; empty for those of the benchmarks."""
        return ",".join(part for part in ("upright" if self.upright else "", self.background or "") if part)

    @classmethod
    def from_id(cls, name: str, max_pixels: int = MAX_PIXELS) -> PixelRules:
        """The rules of an :attr:`id`.

        Args:
            name: The id.
            max_pixels: Pixels of a picture, at most.

        Returns:
            The rules.
        """
        parts = [part for part in name.split(",") if part]
        colours = [part for part in parts if part.startswith("#")]
        return cls("upright" in parts, colours[0] if colours else None, max_pixels)


OFFICIAL = PixelRules()
"""What the benchmarks' own pipelines do: no EXIF turn, transparency dropped."""
OWN_FOLDER = PixelRules(upright=True, background="#ffffff")
"""Images of one's own: upright, transparency on white."""


def picture_identity(fingerprint: str, rules_id: str) -> str:
    """What a picture is to a model, for the keys of kept results: a file's bytes and how they are read.

    Args:
        fingerprint: Of the file's bytes.
        rules_id: :attr:`PixelRules.id`.

    Returns:
        The fingerprint, the version of the reading and the rules.
    """
    return f"{fingerprint}-{PIXELS_VERSION}" + (f"-{rules_id}" if rules_id else "")


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file; a pipe, a device, a socket or a folder is never read.

    Args:
        path: The file; links are followed.

    Returns:
        Its bytes.

    Raises:
        UnreadableImageError: There is no such file, it is no regular file, is too large, or cannot be read.
    """
    try:
        _check_regular(Path(path).stat(), path)  # before it is opened: opening a device may do something
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(descriptor, "rb") as file:
            _check_regular(os.fstat(descriptor), path)
            return _content(file, path)
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{path}: there is no such file") from error
    except OSError as error:
        raise UnreadableImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a null byte in the name
        raise UnreadableImageError(f"{str(path)!r}: no file can have this name ({error})") from error


def read_image(
    path: str | Path, rules: PixelRules = OFFICIAL, *, fingerprint: str | None = None
) -> Image.Image:
    """Read an image file as RGB, fully decoded.

    Args:
        path: The file.
        rules: How it becomes RGB.
        fingerprint: The fingerprint that the file must have; None: any.

    Returns:
        The image.

    Raises:
        ChangedImageError: The file has other bytes than the fingerprint names.
        UnreadableImageError: It cannot be read as a picture; the message names the file.
    """
    content = read_file(path)
    if fingerprint is not None and fingerprint_bytes(content) != fingerprint:
        raise ChangedImageError(f"{path}: changed since gallery_images was made")
    try:
        return decode_image(content, rules)
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{path}: {error}") from error


def decode_image(
    content: bytes, rules: PixelRules = OFFICIAL, *, least: tuple[int, int] | None = None
) -> Image.Image:
    """Decode the bytes of an image file as RGB, to the last of them: a file that was cut fails here.

    Args:
        content: The file's bytes.
        rules: How they become RGB.
        least: Width and height that suffice: JPEG then decodes at a fraction of its size, several times
            faster. For previews and inspection, never for a model.

    Returns:
        The image.

    Raises:
        UnreadableImageError: It is no image, is cut off, has more pixels than allowed, or values without a
            defined range.
    """
    _allow(rules.max_pixels)
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_size(image.size, rules.max_pixels)
            if least is not None:
                image.draft(None, (max(1, least[0]), max(1, least[1])))
            image.load()
            return to_rgb(image, rules)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(
            f"it has more than the {rules.max_pixels:,} pixels that are allowed"
        ) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        # Pillow names its source by address, which would make two readings of one file differ.
        reason = str(error).split("<_io.BytesIO")[0].strip() or type(error).__name__
        raise UnreadableImageError(f"it cannot be read as a picture ({reason})") from error


def to_rgb(image: Image.Image, rules: PixelRules = OFFICIAL) -> Image.Image:
    """A decoded image as RGB: more than 8 bits scaled to 8, turned upright and put on a background by the
    rules.

    Args:
        image: Any mode of Pillow.
        rules: How it becomes RGB.

    Returns:
        The image in mode ``RGB``.

    Raises:
        UnreadableImageError: Its values have no defined range: floats outside of 0 to 1 without range tags,
            NaN, infinite or negative ones.
    """
    image = _eight_bits(image)
    if rules.upright:
        image = ImageOps.exif_transpose(image)
    if rules.background is not None and image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, ImageColor.getrgb(rules.background))
        image.alpha_composite(layer)
    return image.convert("RGB")


def _allow(max_pixels: int) -> None:
    """Raise Pillow's own limit, of the process, to ours: above it Pillow would warn."""
    readable_endings()  # registers the optional decoders
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise UnreadableImageError(
            f"it has {size[0]:,} x {size[1]:,} pixels, more than the {max_pixels:,} that are allowed"
        )


def _check_regular(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    kind = next((name for is_kind, name in _KINDS.items() if is_kind(found.st_mode)), "no regular file")
    raise UnreadableImageError(f"{path}: is {kind}; only regular files are read")


def _content(file: io.BufferedReader, path: str | Path) -> bytes:
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UnreadableImageError(f"{path}: has more than {MAX_BYTES >> 20:,} MB")
    return content


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of more than 8 bits as 8-bit ones, by the file's own range; all others as they are."""
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        low, high = _float_range(image, values)
    elif image.mode == "I" or image.mode.startswith("I;"):
        values, low, high = _integers(image)
    else:
        return image
    scaled = np.clip(np.rint((values - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    grey = Image.fromarray(scaled)
    grey.info.update({key: image.info[key] for key in ("exif",) if key in image.info})
    return _with_alpha(grey, image, values)


def _with_alpha(grey: Image.Image, image: Image.Image, values: NDArray[np.float64]) -> Image.Image:
    """The same with a PNG's one transparent value, if it has one, as an alpha channel."""
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    layered = Image.merge("LA", (grey, alpha))
    layered.info.update(grey.info)
    return layered


def _integers(image: Image.Image) -> tuple[NDArray[np.float64], float, float]:
    """Values of an integer image, and the lowest and highest that its file can hold."""
    tags = _tags(image)
    bits, is_signed = _first(tags.get(_BITS_PER_SAMPLE)), _first(tags.get(_SAMPLE_FORMAT)) == _SIGNED
    if image.mode != "I":
        return np.asarray(image, dtype=np.float64), 0, 2 ** (int(bits) if bits else 16) - 1
    if not tags:  # Pillow brings other formats to 16 bits
        return _not_negative(np.asarray(image, dtype=np.float64)), 0, 2**16 - 1
    values = np.asarray(image, dtype=np.int32)
    bits = int(bits) if bits else 32
    if not is_signed:
        unsigned = values.view(np.uint32) if bits == 32 else values
        return unsigned.astype(np.float64), 0, 2**bits - 1
    declared = _declared_range(tags)
    if declared is not None:
        return values.astype(np.float64), *declared
    return _not_negative(values.astype(np.float64)), 0, 2 ** (bits - 1) - 1


def _not_negative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if values.size and values.min() < 0:
        raise UnreadableImageError("it has negative values, and the file does not say what range they have")
    return values


def _float_range(image: Image.Image, values: NDArray[np.float64]) -> tuple[float, float]:
    if not np.isfinite(values).all():
        raise UnreadableImageError("some of its values are no numbers (NaN or infinite)")
    declared = _declared_range(_tags(image))
    if declared is not None:
        return declared
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise UnreadableImageError(
            f"its values are floats from {low:g} to {high:g}, and the file does not say what range they have "
            "(SMinSampleValue and SMaxSampleValue of TIFF); without it they must lie between 0 and 1"
        )
    return 0.0, 1.0


def _tags(image: Image.Image) -> Mapping[int, object]:
    return getattr(image, "tag_v2", None) or {}


def _declared_range(tags: Mapping[int, object]) -> tuple[float, float] | None:
    for lowest, highest in _RANGE_TAGS:
        low, high = _first(tags.get(lowest)), _first(tags.get(highest))
        if high is None:
            continue
        low = low or 0.0
        if np.isfinite([low, high]).all() and low < high:
            return low, high
    return None


def _first(value: object) -> float | None:
    """A tag's value, or the first of several."""
    if isinstance(value, tuple):
        value = value[0] if value else None
    try:
        return None if value is None else float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None


warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module=r"PIL\.")
