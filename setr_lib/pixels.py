"""The one way from an image file to pixels, for encoder, judge, reports, search and served models.

A file is read once, from a regular file only; its bytes are what a fingerprint names. How they become RGB is
said by :class:`PixelRules`: whether an EXIF turn is applied, and what is behind transparent pixels.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from setr_lib.errors import SetrError
from setr_lib.hashing import fingerprint_bytes
from setr_lib.image_formats import not_a_picture, readable_endings
from setr_lib.pixel_rules import (
    MAX_PIXELS,
    OFFICIAL,
    OWN_FOLDER,
    PIXELS_VERSION,
    PixelRules,
    picture_identity,
)

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "OFFICIAL",
    "OWN_FOLDER",
    "PIXELS_VERSION",
    "ChangedImageError",
    "PictureFile",
    "PixelRules",
    "UnreadableImageError",
    "as_picture_file",
    "decode_for_inspection",
    "decode_image",
    "kind_of_file",
    "picture_files",
    "picture_identity",
    "read_file",
    "read_image",
    "stored_notes",
    "to_rgb",
]

MAX_BYTES = 1 << 30
"""Bytes of an image file, at most."""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO = 0
_RANGE_TAGS = ((340, 341), (280, 281))  # SMin/SMaxSampleValue, then Min/MaxSampleValue
_SIGNED = 2
_ORIENTATION = 0x0112  # of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NEVER = frozenset({"EPS"})
"""Formats of Pillow that are not read, whatever a file is called: Ghostscript would run what is in them."""
_SHALLOW_GREY = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies a PNG's grey values of 2 and 4 bits by, and not the one that is transparent."""
_BEGINNINGS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}
"""The first bytes of formats that no other begins with."""
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


class UnreadableImageError(SetrError):
    """A file is missing, is no regular file, is not an image, ends too early, or has no defined pixels."""


class TooManyPixelsError(UnreadableImageError):
    """A picture has more pixels than are looked at."""


class ChangedImageError(UnreadableImageError):
    """A file's bytes are not those that its fingerprint names."""


class RefusedImageError(UnreadableImageError):
    """A model's processor, or an encoder's preprocessing, refuses a picture that was read."""


@dataclass(frozen=True)
class PictureFile:
    """An image file as a table names it.

    Attributes:
        path: The file.
        fingerprint: Of its bytes when the table was made; None where nobody looked.
        pixels: How it becomes RGB, :attr:`PixelRules.id`.
    """

    path: str
    fingerprint: str | None = None
    pixels: str = ""

    def read(self, least: tuple[int, int] | None = None) -> Image.Image:
        """The picture as the models see it.

        Args:
            least: As of :func:`decode_image`.

        Returns:
            The image in RGB.

        Raises:
            UnreadableImageError: As of :func:`read_image`.
        """
        # What was looked at has passed the limit on pixels already, if its bytes are the same.
        limit = MAX_PIXELS if self.fingerprint is None else None
        rules = PixelRules.from_id(self.pixels, limit)
        return read_image(self.path, rules, fingerprint=self.fingerprint, least=least)

    def check(self) -> bytes:
        """Read the file without decoding it.

        Returns:
            Its bytes.

        Raises:
            ChangedImageError: They are not those that the fingerprint names.
            UnreadableImageError: It cannot be read.
        """
        return _checked_content(self.path, self.fingerprint)

    def content_as_shown(self) -> bytes:
        """Bytes that, read without any rules, give the picture as it is shown here.

        Returns:
            The file's own bytes, or a PNG of the picture where rules change it.

        Raises:
            UnreadableImageError: As of :func:`read_image`.
        """
        if not self.pixels:
            return self.check()
        shown = io.BytesIO()
        self.read().save(shown, format="PNG")
        return shown.getvalue()


def as_picture_file(source: PictureFile | str) -> PictureFile:
    """A file that may be given as a path.

    Args:
        source: The file, or its path: it is then read as the benchmarks' own pipelines do.

    Returns:
        The file.
    """
    return source if isinstance(source, PictureFile) else PictureFile(str(source))


def picture_files(images: pl.DataFrame) -> dict[str, PictureFile]:
    """The files of a table's images.

    Args:
        images: ``image_id``, ``path`` and, where they were inspected, ``fingerprint`` and ``pixels``.

    Returns:
        File by image id.
    """
    rows = [
        images[name].to_list() if name in images.columns else [None] * images.height
        for name in ("image_id", "path", "fingerprint", "pixels")
    ]
    return {
        image: PictureFile(path, fingerprint, pixels or "")
        for image, path, fingerprint, pixels in zip(*rows, strict=True)
    }


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
            found = os.fstat(descriptor)
            _check_regular(found, path)
            return _content(file, path, found.st_size)
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{path}: there is no such file") from error
    except OSError as error:
        raise UnreadableImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a null byte in the name
        raise UnreadableImageError(f"{str(path)!r}: no file can have this name ({error})") from error


def read_image(
    path: str | Path,
    rules: PixelRules = OFFICIAL,
    *,
    fingerprint: str | None = None,
    least: tuple[int, int] | None = None,
) -> Image.Image:
    """Read an image file as RGB, fully decoded.

    Args:
        path: The file.
        rules: How it becomes RGB.
        fingerprint: The fingerprint that the file must have; None: any.
        least: As of :func:`decode_image`.

    Returns:
        The image.

    Raises:
        ChangedImageError: The file has other bytes than the fingerprint names.
        UnreadableImageError: It cannot be read as a picture; the message names the file.
    """
    content = _checked_content(path, fingerprint)
    try:
        return decode_image(content, rules, least=least)
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
    return _decoded(content, rules, lambda size: least)[0]


def decode_for_inspection(content: bytes, rules: PixelRules = OFFICIAL) -> tuple[int, int]:
    """Decode the bytes of an image file to see whether it can be: JPEG at an eighth of its size, which is
    several times faster, and to the last byte as any other.

    Args:
        content: The file's bytes.
        rules: How they become RGB.

    Returns:
        Width and height in pixels, as stored.

    Raises:
        UnreadableImageError: As of :func:`decode_image`.
    """
    return _decoded(content, rules, lambda size: (size[0] // 8, size[1] // 8))[1]


def stored_size(content: bytes, formats: Sequence[str]) -> tuple[int, int]:
    """Width and height that the header of an image file names; nothing is decoded.

    Args:
        content: The file's bytes.
        formats: Pillow's names of the formats that are allowed, e.g. ``JPEG``; those that Pillow lacks here
            count as not allowed.

    Returns:
        Pixels, as stored.

    Raises:
        TooManyPixelsError: The header names more than Pillow itself looks at.
        UnreadableImageError: It is no image of these formats.
    """
    Image.init()
    try:
        known = [name for name in formats if name in Image.OPEN]
        with Image.open(io.BytesIO(content), formats=known) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError("it has too many pixels") from error
    except Exception as error:  # Pillow's plug-ins raise nearly anything on damaged bytes
        raise UnreadableImageError(f"it is no readable picture ({', '.join(formats)})") from error


def stored_notes(path: str | Path) -> Mapping[str | tuple[int, int], object]:
    """What the header of an image file says besides its pixels, e.g. which program wrote it.

    Args:
        path: The file.

    Returns:
        Pillow's ``info``: ``Software`` and other texts of a PNG, ``comment`` of a JPEG.

    Raises:
        UnreadableImageError: It is no regular file, or no image.
    """
    content = read_file(path)
    try:
        with Image.open(io.BytesIO(content)) as image:
            return dict(image.info)
    except Exception as error:  # Pillow's plug-ins raise nearly anything on damaged bytes
        raise UnreadableImageError(f"{path}: it is no readable picture") from error


def _checked_content(path: str | Path, fingerprint: str | None) -> bytes:
    content = read_file(path)
    if fingerprint is not None and fingerprint_bytes(content) != fingerprint:
        raise ChangedImageError(f"{path}: changed since gallery_images was made")
    return content


def _decoded(
    content: bytes,
    rules: PixelRules,
    least: Callable[[tuple[int, int]], tuple[int, int] | None],
) -> tuple[Image.Image, tuple[int, int]]:
    """An image in RGB, and its size as stored; whatever a decoder raises is our error."""
    try:
        return _loaded(content, rules, least)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(
            f"it has more than the {rules.max_pixels or MAX_PIXELS:,} pixels that are allowed"
        ) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        if isinstance(error, UnidentifiedImageError) and (found := not_a_picture(content)):
            raise UnreadableImageError(f"it {found}") from error
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
    turn = _TURNS.get(_orientation(image)) if rules.upright else None
    image = _eight_bits(image)
    if rules.background is not None and image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, ImageColor.getrgb(rules.background))
        image.alpha_composite(layer)
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _loaded(
    content: bytes,
    rules: PixelRules,
    least: Callable[[tuple[int, int]], tuple[int, int] | None],
) -> tuple[Image.Image, tuple[int, int]]:
    if not content:
        raise UnreadableImageError("it cannot be read as a picture (it is empty, 0 bytes)")
    _allow(rules.max_pixels)
    with _opened(content, rules.max_pixels) as image:
        size = image.size
        _check_size(size, rules.max_pixels)
        if (enough := least(size)) is not None:
            image.draft(None, (max(1, enough[0]), max(1, enough[1])))
        raw_mode = _raw_mode(image)
        image.load()
        _mend_transparency(image, raw_mode)
        return to_rgb(image, rules), size


def _opened(content: bytes, max_pixels: int | None) -> Image.Image:
    Image.init()
    # Pillow tries formats in turn, some by reading on: what the first bytes say is tried first.
    likely = [name for name, begins in _BEGINNINGS.items() if content.startswith(begins) and name in Image.ID]
    formats = likely + [name for name in Image.ID if name not in _NEVER and name not in likely]
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except Image.DecompressionBombError:
        if max_pixels is not None:
            raise
    # The settings of an earlier process allowed it, above Pillow's own limit, which is of the process.
    Image.MAX_IMAGE_PIXELS = None
    return Image.open(io.BytesIO(content), formats=formats)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none, or EXIF data that cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF raises nearly anything, and the pixels are fine
        return 1


def _raw_mode(image: Image.Image) -> str:
    """How a PNG's values are stored; empty for other formats. Known before the pixels are loaded only."""
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or not tiles:
        return ""
    arguments = tiles[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _mend_transparency(image: Image.Image, raw_mode: str) -> None:
    """Bring a PNG's transparent value to the scale that Pillow brings its pixels to."""
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and raw_mode in _SHALLOW_GREY:
        image.info["transparency"] = transparent * _SHALLOW_GREY[raw_mode]
    elif isinstance(transparent, tuple) and raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _allow(max_pixels: int | None) -> None:
    """Raise Pillow's own limit, of the process, to ours: above it Pillow would warn."""
    readable_endings()  # registers the optional decoders
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def _check_size(size: tuple[int, int], max_pixels: int | None) -> None:
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        raise UnreadableImageError(
            f"it has {size[0]:,} x {size[1]:,} pixels, more than the {max_pixels:,} that are allowed"
        )


def _check_regular(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    raise UnreadableImageError(f"{path}: is {kind_of_file(found.st_mode)}; only regular files are read")


def kind_of_file(mode: int) -> str:
    """What a file is that is no regular one, in words: ``a named pipe``.

    Args:
        mode: ``st_mode`` of the file.
    """
    return next((name for is_kind, name in _KINDS.items() if is_kind(mode)), "no regular file")


def _content(file: io.BufferedReader, path: str | Path, size: int) -> bytes:
    content = file.read(min(size, MAX_BYTES) + 1)
    if size < len(content) <= MAX_BYTES:  # it has grown, or the system does not know its size
        content += file.read(MAX_BYTES + 1 - len(content))
    if len(content) > MAX_BYTES:
        raise UnreadableImageError(f"{path}: has more than {MAX_BYTES >> 20:,} MB")
    return content


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of more than 8 bits, or of signed ones, as 8-bit ones, by the file's own range; all others
    as they are.
    """
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        low, high = _float_range(image, values)
    elif image.mode == "L" and _is_signed(_tags(image)):
        values, low, high = _signed_bytes(image)
    elif image.mode == "I" or image.mode.startswith("I;"):
        values, low, high = _integers(image)
    else:
        return image
    scaled = np.clip(np.rint((values - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    if _first(_tags(image).get(_PHOTOMETRIC)) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    return _with_alpha(Image.fromarray(scaled), image, values)


def _with_alpha(grey: Image.Image, image: Image.Image, values: NDArray[np.float64]) -> Image.Image:
    """The same with a PNG's one transparent value, if it has one, as an alpha channel."""
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _integers(image: Image.Image) -> tuple[NDArray[np.float64], float, float]:
    """Values of an integer image, and the lowest and highest that its file can hold."""
    tags = _tags(image)
    bits, is_signed = _first(tags.get(_BITS_PER_SAMPLE)), _is_signed(tags)
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


def _signed_bytes(image: Image.Image) -> tuple[NDArray[np.float64], float, float]:
    """Values of a TIFF of signed bytes, which Pillow takes for unsigned ones, and their range."""
    values = np.asarray(image).view(np.int8).astype(np.float64)
    declared = _declared_range(_tags(image))
    return (values, *declared) if declared is not None else (_not_negative(values), 0, 127)


def _is_signed(tags: Mapping[int, object]) -> bool:
    return _first(tags.get(_SAMPLE_FORMAT)) == _SIGNED


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
warnings.filterwarnings("ignore", message="Palette images with Transparency", module=r"PIL\.")
