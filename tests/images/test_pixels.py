"""From a file's bytes to RGB: golden values for depths, transparency and turns; and what is never opened."""

from __future__ import annotations

import io
import os
import socket
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from setr_lib.hashing import fingerprint_bytes
from setr_lib.pixels import (
    OFFICIAL,
    OWN_FOLDER,
    ChangedImageError,
    PictureFile,
    PixelRules,
    UnreadableImageError,
    decode_for_inspection,
    decode_image,
    picture_identity,
    read_file,
    read_image,
)

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
"""Every grey value once."""
ON_WHITE = PixelRules(background="#ffffff")


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def grey(content: bytes, rules: PixelRules = OFFICIAL) -> np.ndarray:
    """The one channel of a picture whose three are equal."""
    pixels = np.asarray(decode_image(content, rules))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def tiff(values: np.ndarray, sample_format: int, photometric: int = 1, bits: int = 0) -> bytes:
    """An uncompressed grey TIFF, with tags that Pillow does not write."""
    raw, (height, width) = values.tobytes(), values.shape
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits or values.itemsize * 8), (259, 3, 1)]
    tags += [(262, 3, photometric), (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(raw))]
    tags += [(339, 3, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return (
        b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + struct.pack("<H", len(tags)) + entries + b"\0" * 4
    )


def png(width: int, depth: int, colour: int, row: bytes, transparent: bytes, palette: bytes = b"") -> bytes:
    """A PNG of one line, with a depth and a transparent value that Pillow does not write together."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))]
    parts += [chunk(b"PLTE", palette)] if palette else []
    parts += [chunk(b"tRNS", transparent), chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SIXTEEN = RAMP.astype("<u2") * 257
DEEP = {
    "8 bits": encoded(Image.fromarray(RAMP), "PNG"),
    "PNG of 16 bits": encoded(Image.fromarray(SIXTEEN), "PNG"),
    "TIFF of 16 bits": encoded(Image.fromarray(SIXTEEN), "TIFF"),
    "JPEG 2000 of 16 bits": encoded(Image.fromarray(SIXTEEN), "JPEG2000", irreversible=False),
    "PGM of 16 bits": b"P5 16 16 65535\n" + SIXTEEN.astype(">u2").tobytes(),
    "TIFF of 16 bits, signed": tiff(np.rint(RAMP * (32767 / 255)).astype("<i2"), 2),
    "TIFF of 32 bits": tiff((RAMP.astype("<u8") * 16843009).astype("<u4"), 1),
    "TIFF of 32 bits, signed": tiff(np.rint(RAMP * ((2**31 - 1) / 255)).astype("<i4"), 2),
    "floats from 0 to 1": encoded(Image.fromarray((RAMP / 255).astype("<f4")), "TIFF"),
    "PFM": b"Pf\n16 16\n-1.0\n" + (RAMP[::-1] / 255).astype("<f4").tobytes(),
}


@pytest.mark.parametrize("name", DEEP)
def test_every_depth_gives_the_same_grey(name: str) -> None:
    np.testing.assert_array_equal(grey(DEEP[name]), RAMP)
    assert decode_for_inspection(DEEP[name]) == (16, 16)


@pytest.mark.parametrize("values", [RAMP, SIXTEEN, (RAMP / 255).astype("<f4")], ids=["8", "16", "float"])
def test_white_that_is_zero_is_turned_over_at_every_depth(values: np.ndarray) -> None:
    is_float = values.dtype.kind == "f"
    np.testing.assert_array_equal(grey(tiff(values, 3 if is_float else 1, photometric=0)), 255 - RAMP)


def with_range(values: np.ndarray, low: float, high: float) -> bytes:
    tags = ImageFileDirectory_v2()
    tags.tagtype[340] = tags.tagtype[341] = 11
    tags[340], tags[341] = low, high
    return encoded(Image.fromarray(values.astype("<f4")), "TIFF", tiffinfo=tags)


def test_floats_are_scaled_by_the_range_that_the_file_says() -> None:
    np.testing.assert_array_equal(grey(with_range(RAMP / 255 * 8 - 3, -3, 5)), RAMP)
    half = grey(with_range(RAMP / 255, 0, 2))
    assert half.max() == 128, "half of the range"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[0.0, 255.0]], "floats from 0 to 255, and the file does not say what range"),
        ([[-0.5, 0.5]], "floats from -0.5 to 0.5"),
        ([[0.5, np.nan]], "no numbers"),
        ([[0.5, np.inf]], "no numbers"),
    ],
)
def test_floats_without_a_range_are_broken_and_said_so(values: list[list[float]], words: str) -> None:
    content = encoded(Image.fromarray(np.array(values, dtype=np.float32)), "TIFF")
    for read in (decode_image, decode_for_inspection):
        with pytest.raises(UnreadableImageError, match=words):
            read(content)


def test_negative_integers_without_a_range_are_broken() -> None:
    with pytest.raises(UnreadableImageError, match="negative values"):
        decode_image(encoded(Image.fromarray(np.array([[-1, 5]], dtype=np.int32)), "TIFF"))


def test_signed_bytes_are_scaled_by_their_own_range() -> None:
    np.testing.assert_array_equal(grey(tiff(np.array([[0, 1, 127]], dtype="<i1"), 2))[0], [0, 2, 255])
    with pytest.raises(UnreadableImageError, match="negative values"):
        decode_image(tiff(np.array([[-1, 5]], dtype="<i1"), 2))


def test_a_deep_photograph_is_what_its_8_bit_copy_is() -> None:
    values = np.random.default_rng(1).integers(0, 256, (40, 30), dtype=np.uint8)
    deep = encoded(Image.fromarray(values.astype(np.uint16) * 257), "PNG")
    np.testing.assert_array_equal(grey(deep, OWN_FOLDER), grey(encoded(Image.fromarray(values), "PNG")))


CLEAR = {
    # name: (content, colours on white, colours as they are hidden)
    "RGBA": (
        encoded(Image.fromarray(np.array([[[9, 8, 7, 0], [1, 2, 3, 255]]], np.uint8)), "PNG"),
        [[255, 255, 255], [1, 2, 3]],
        [[9, 8, 7], [1, 2, 3]],
    ),
    "LA": (
        encoded(Image.fromarray(np.array([[[0, 0], [60, 255]]], np.uint8), "LA"), "PNG"),
        [[255] * 3, [60] * 3],
        [[0] * 3, [60] * 3],
    ),
    "half transparent": (
        encoded(Image.fromarray(np.array([[[0, 0, 0, 128], [5, 5, 5, 255]]], np.uint8)), "PNG"),
        [[127] * 3, [5] * 3],
        [[0] * 3, [5] * 3],
    ),
    "palette": (
        png(2, 8, 3, bytes([0, 1]), b"\0\xff", bytes([9, 9, 9, 1, 2, 3])),
        [[255] * 3, [1, 2, 3]],
        [[9] * 3, [1, 2, 3]],
    ),
    "grey of 16 bits": (
        png(2, 16, 0, struct.pack(">HH", 1285, 1542), struct.pack(">H", 1285)),
        [[255] * 3, [6] * 3],
        [[5] * 3, [6] * 3],
    ),
    "colour of 16 bits": (
        png(
            2, 16, 2, struct.pack(">6H", 514, 771, 1028, 2570, 2570, 2570), struct.pack(">3H", 514, 771, 1028)
        ),
        [[255] * 3, [10] * 3],
        [[2, 3, 4], [10] * 3],
    ),
    "grey of 4 bits": (
        png(2, 4, 0, b"\x3f", struct.pack(">H", 3)),
        [[255] * 3, [255] * 3],
        [[51] * 3, [255] * 3],
    ),
    "grey of 2 bits": (
        png(2, 2, 0, b"\x60", struct.pack(">H", 1)),
        [[255] * 3, [170] * 3],
        [[85] * 3, [170] * 3],
    ),
    "grey of 1 bit": (
        png(2, 1, 0, b"\x80", struct.pack(">H", 0)),
        [[255] * 3, [255] * 3],
        [[255] * 3, [0] * 3],
    ),
    "GIF": (
        encoded(Image.fromarray(np.array([[0, 1]], np.uint8), "P"), "GIF", transparency=0),
        None,
        None,
    ),
}


@pytest.mark.parametrize("name", [name for name in CLEAR if name != "GIF"])
def test_transparency_is_on_the_background_or_dropped(name: str) -> None:
    content, on_white, hidden = CLEAR[name]
    assert np.asarray(decode_image(content, ON_WHITE))[0].tolist() == on_white
    assert np.asarray(decode_image(content, OFFICIAL))[0].tolist() == hidden


@pytest.mark.parametrize("name", CLEAR)
def test_another_background_shows_behind_what_is_transparent_alone(name: str) -> None:
    content = CLEAR[name][0]
    white, red = (
        np.asarray(decode_image(content, PixelRules(background=colour)))[0].tolist()
        for colour in ("#ffffff", "#ff0000")
    )
    changed = [one != other for one, other in zip(white, red, strict=True)]
    assert sorted(changed) == [False, True]


def test_two_logos_on_transparency_are_two_pictures() -> None:
    """Black everywhere, and their shapes in the alpha channel alone."""
    shapes = np.zeros((2, 8, 8, 4), dtype=np.uint8)
    shapes[0, 2:4, :, 3] = shapes[1, :, 5:, 3] = 255
    files = [encoded(Image.fromarray(shape), "PNG") for shape in shapes]
    one, other = (np.asarray(decode_image(file, OFFICIAL)) for file in files)
    assert np.array_equal(one, other)
    one, other = (np.asarray(decode_image(file, OWN_FOLDER)) for file in files)
    assert not np.array_equal(one, other)


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a.T[:, ::-1],
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: a.T[::-1],
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "PNG of 16 bits"])
def test_exif_turns_where_the_rules_say_so(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = RAMP[:6]
    values = lying.astype(np.uint16) * 257 if "16" in form else lying
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(Image.fromarray(values), form.split()[0], exif=exif.tobytes(), **options)
    np.testing.assert_array_equal(grey(content, OWN_FOLDER), TURNS[orientation](lying))
    np.testing.assert_array_equal(grey(content, OFFICIAL), lying)
    assert decode_for_inspection(content, OWN_FOLDER) == (16, 6), "as stored"


def test_a_tiff_is_turned_once() -> None:
    content = encoded(Image.fromarray(RAMP[:6]), "TIFF", tiffinfo={274: 6})
    for rules in (OFFICIAL, OWN_FOLDER):  # Pillow turns a TIFF itself
        np.testing.assert_array_equal(grey(content, rules), TURNS[6](RAMP[:6]))


def test_damaged_exif_is_no_turn() -> None:
    content = encoded(Image.fromarray(RAMP), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(grey(content, OWN_FOLDER), RAMP)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "PA", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]
)
def test_every_mode_becomes_rgb(mode: str) -> None:
    from setr_lib.pixels import to_rgb

    for rules in (OFFICIAL, OWN_FOLDER):
        assert to_rgb(Image.new(mode, (3, 2)), rules).mode == "RGB"


@given(
    values=strategies.lists(strategies.integers(0, 65535), min_size=1, max_size=50),
    upright=strategies.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_16_bits_are_divided_by_257_and_rounded(values: list[int], upright: bool) -> None:
    content = encoded(Image.fromarray(np.array([values], dtype=np.uint16)), "PNG")
    expected = [int(value / 257 + 0.5) for value in values]
    assert grey(content, PixelRules(upright=upright))[0].tolist() == expected


@given(
    background=strategies.none() | strategies.from_regex(r"#[0-9a-f]{6}", fullmatch=True),
    upright=strategies.booleans(),
)
def test_rules_are_known_by_their_id(background: str | None, upright: bool) -> None:
    rules = PixelRules(upright, background)
    assert PixelRules.from_id(rules.id) == rules
    assert (rules.id == "") == (rules == OFFICIAL)
    assert picture_identity("f", rules.id) != picture_identity("f", PixelRules(not upright, background).id)


@pytest.mark.parametrize("name", ["pipe", "folder.png", "socket", "device", "absent", "null", "long", "loop"])
def test_only_regular_files_are_read(tmp_path: Path, name: str) -> None:
    path: str | Path = tmp_path / name
    words = {"pipe": "a named pipe", "folder.png": "a folder", "socket": "a socket", "device": "a device"}
    words |= {"absent": "there is no such file", "null": "no file can have this name"}
    if name == "pipe":
        os.mkfifo(path)
    elif name == "folder.png":
        Path(path).mkdir()
    elif name == "device":
        Path(path).symlink_to("/dev/zero")
    elif name == "null":
        path = str(path) + "\0.png"
    elif name == "long":
        path = tmp_path / ("x" * 300)
    elif name == "loop":
        Path(path).symlink_to(path)
    server = socket.socket(socket.AF_UNIX) if name == "socket" else None
    try:
        if server is not None:
            server.bind(str(path))
        with pytest.raises(UnreadableImageError, match=words.get(name, "cannot be read")):
            read_file(path)
    finally:
        if server is not None:
            server.close()


def test_a_picture_over_the_limit_is_refused_before_it_is_decoded() -> None:
    content = png(1 << 20, 1, 0, b"\0" * (1 << 17), struct.pack(">H", 1))
    huge = PixelRules(max_pixels=1 << 19)
    for read in (decode_image, decode_for_inspection):
        with pytest.raises(UnreadableImageError, match=r"1,048,576 x 1 pixels, more than the 524,288"):
            read(content, huge)
    assert decode_image(content, PixelRules(max_pixels=None)).size == (1 << 20, 1)


def test_a_picture_above_pillows_own_limit_is_read_where_it_was_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = encoded(Image.new("1", (40, 40)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match="pixels"):
        decode_image(content, PixelRules(max_pixels=100))
    assert decode_image(content, PixelRules(max_pixels=1600)).size == (40, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(content, PixelRules(max_pixels=None)).size == (40, 40)


def test_bytes_that_are_not_those_of_the_fingerprint_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(DEEP["8 bits"])
    known = PictureFile(str(file), fingerprint_bytes(DEEP["8 bits"]))
    assert known.read().size == (16, 16) and known.check() == DEEP["8 bits"]
    file.write_bytes(DEEP["PNG of 16 bits"])
    for read in (known.read, known.check, known.content_as_shown):
        with pytest.raises(ChangedImageError, match=r"a\.png: changed since gallery_images was made"):
            read()
    assert read_image(file).size == (16, 16), "without a fingerprint any bytes will do"


def test_bytes_that_are_handed_on_give_the_same_picture_without_rules(tmp_path: Path) -> None:
    for name in ("RGBA", "palette", "half transparent"):
        file = tmp_path / "a.png"
        file.write_bytes(CLEAR[name][0])
        shown = PictureFile(str(file), None, OWN_FOLDER.id)
        handed = decode_image(shown.content_as_shown())
        np.testing.assert_array_equal(np.asarray(handed), np.asarray(shown.read()))
        assert PictureFile(str(file)).content_as_shown() == CLEAR[name][0]


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(UnreadableImageError, match="it is empty"):
        decode_image(b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "it is a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html></html>", "it is a web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "it is an SVG drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"it is a \.heic file|cannot be read as a picture"),
        (b"nothing of the kind", "cannot identify image file"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(content: bytes, words: str) -> None:
    with pytest.raises(UnreadableImageError, match=words):
        decode_image(content)


def test_no_program_is_run_for_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PostScript file, whatever it is called: Ghostscript would run what is in it."""
    from PIL import EpsImagePlugin

    ran: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: ran.append(arguments))
    content = encoded(Image.new("RGB", (4, 4), "red"), "EPS")
    for read in (decode_image, decode_for_inspection):
        with pytest.raises(UnreadableImageError, match="cannot identify"):
            read(content)
    assert not ran


@pytest.mark.parametrize("size", [0, 3, 10])
def test_a_file_is_read_to_its_end_whatever_size_the_system_names(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may grow, and files of a system's own have a size of 0."""
    (tmp_path / "file").write_bytes(b"0123456789")
    monkeypatch.setattr(
        "setr_lib.pixels.os.fstat", lambda of: os.stat_result((stat.S_IFREG, *[0] * 5, size, *[0] * 3))
    )
    assert read_file(tmp_path / "file") == b"0123456789"
