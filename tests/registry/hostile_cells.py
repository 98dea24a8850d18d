"""Cells that strangers may send to a served model, and what is wrong with each."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin

from tests.tiny_judges import tiny_picture

MEGABYTE = 1 << 20


class Cell(NamedTuple):
    """A cell, and words that its row's error has."""

    name: str
    value: Any
    words: str


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of(width: int, height: int) -> bytes:
    """The beginning of a PNG that says how large it is, and has next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100)))


def with_huge_text() -> bytes:
    """A small PNG with 100 MB of compressed text."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", " " * (100 * MEGABYTE), zip=True)
    return encoded(Image.new("RGB", (8, 8)), pnginfo=info)


GOOD = tiny_picture(0)
NULLS = [
    Cell("None", None, "a null"),
    Cell("NaN", float("nan"), "a null"),
    Cell("NA", pd.NA, "a null"),
    Cell("NaT", pd.NaT, "a null"),
]
WRONG_TYPES = [
    Cell("an integer", 7, "a number"),
    Cell("a large integer", 10**400, "a number"),
    Cell("a numpy float", np.float32(1.5), "a number"),
    Cell("a truth value", True, "a number"),
    Cell("a list", ["a"] * 1000, "a list"),
    Cell("an array", np.zeros((100, 100)), "a list"),
    Cell("an object", {"path": "/etc/passwd"}, "an object"),
    Cell("a function", len, "another kind of value"),
]
PICTURES = [
    *NULLS,
    *WRONG_TYPES,
    Cell("empty bytes", b"", "these are empty"),
    Cell("an empty bytearray", bytearray(), "these are empty"),
    Cell("no picture", b"no picture at all", "no readable picture"),
    Cell("a cut picture", GOOD[:-40], "truncated"),
    Cell("a cut beginning", b"\x89PNG and no more", "no readable picture"),
    Cell("too many pixels", png_of(20_000, 20_000), "pixels"),
    Cell("far too many pixels", png_of(2**31 - 1, 2**31 - 1), "pixels"),
    Cell("huge text", with_huge_text(), "no readable picture"),
    Cell("a thread", encoded(Image.new("RGB", (60_000, 3))), "more than 250 times as long"),
    Cell("too many bytes", GOOD + bytes(2 * MEGABYTE), "more than the 1 MB"),
    Cell("a program", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "no readable picture"),
    Cell("vector graphics", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no readable picture"),
    Cell("damaged base64", "data:image/png;base64,@@@@", "base64"),
    Cell("a data URL without base64", "data:,hello", "base64"),
    Cell("an empty data URL", "data:;base64,", "these are empty"),
    Cell("large base64", "data:;base64," + "A" * (4 * MEGABYTE), "more than the 1 MB"),
    Cell("large base64 of a picture", base64.b64encode(GOOD).decode() + "A" * (4 * MEGABYTE), "1 MB"),
]
NAMES = [
    Cell("a name longer than the system allows", "a" * 300, "no picture of this name"),
    Cell("a megabyte of a name", "a/" * (MEGABYTE // 2), "1,024"),
    Cell("a loop of links", "loop", "no picture of this name"),
    Cell("a null byte", "picture\0.png", "no file can have this name"),
    Cell("a lone surrogate", "pic\ud800ture.png", "no file can have this name"),
    Cell("an empty name", "", "no file can have this name"),
    Cell("the root", ".", "no picture of this name"),
    Cell("a folder", "folder", "no picture of this name"),
    Cell("a named pipe", "pipe", "no picture of this name"),
    Cell("a link to a device", "zero", "no picture of this name"),
    Cell("above the root", "../secret.png", "no picture of this name"),
    Cell("above the root and back", "folder/../../secret.png", "no picture of this name"),
    Cell("a link that leads out", "out.png", "no picture of this name"),
    Cell("a folder's link that leads out", "outside/secret.png", "no picture of this name"),
    Cell("a file that may not be read, or is absent", "absent.png", "no picture of this name"),
    Cell("the system's own", "/etc/passwd", "no picture of this name"),
    Cell("a process's files", "/proc/self/environ", "no picture of this name"),
    Cell("a file within a file", "picture.png/x", "no picture of this name"),
    Cell("no picture", "text.png", "no readable picture"),
    Cell("a URL", "http://localhost/picture.png", "no picture of this name"),
    Cell("a large file", "large.png", "more than the 1 MB"),
]
TEXTS = [
    *NULLS,
    *WRONG_TYPES,
    Cell("bytes", b"make it red", "bytes"),
    Cell("a lone surrogate", "make it \ud800 red", "lone surrogate"),
    Cell("a megabyte of text", "a" * MEGABYTE, "1,048,576 characters"),
    Cell("a character too many", "b" * 10_001, "10,001 characters"),
]
EMPTY = [Cell("empty text", "", "this one is empty"), Cell("blanks", " \n\t", "this one is empty")]
