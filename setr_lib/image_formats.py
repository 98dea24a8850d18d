"""Which image files are read here: the endings, and the decoder that an optional package adds to Pillow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import lru_cache

_ALWAYS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_AVIF = ".avif"
_HEIF = frozenset({".heic", ".heif", ".hif"})
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BRANDS: dict[bytes, str] = {**dict.fromkeys(_HEIF_BRANDS, ".heic"), b"avif": _AVIF, b"avis": _AVIF}
"""Endings by the four letters with which such files say what they are."""
_HEIF_PACKAGE = "pillow_heif"


@lru_cache(maxsize=1)
def readable_endings() -> frozenset[str]:
    """What the image files that are read here end with; registers the optional decoders on the first call.

    AVIF is read where this Pillow was built with it, HEIC where the package ``pillow-heif`` is installed
    (``pip install "setr[heic]"``).

    Returns:
        Endings in lower case, with their dot.
    """
    from PIL import features

    avif = {_AVIF} if features.check("avif") else set()
    return _ALWAYS | avif | (_HEIF if _registered_heif() else frozenset())


def how_to_read() -> Mapping[str, str]:
    """What would make image files readable that are not read here.

    Returns:
        By ending in lower case, what to do.
    """
    readable = readable_endings()
    heif = dict.fromkeys(_HEIF, 'install the extra, `pip install "setr[heic]"`')
    ways = heif | {_AVIF: "install a Pillow that is built with AVIF"}
    return {ending: way for ending, way in ways.items() if ending not in readable}


def not_a_picture(content: bytes) -> str:
    """What a file that no decoder knows often is in truth.

    Args:
        content: The file's bytes.

    Returns:
        What it is and what to do, without a subject; empty where nothing is known.
    """
    if content.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the picture: fetch it with `git lfs pull`"
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a picture: download it again"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "is an SVG drawing, which is not read: save it as PNG"
    ways, ending = how_to_read(), _BRANDS.get(content[8:12], "")
    if content[4:8] == b"ftyp" and ending in ways:
        return f"is a {ending} file, whatever its name: {ways[ending]}"
    return ""


def _registered_heif() -> bool:
    """Have Pillow open HEIC files by ``pillow-heif``; whether that package is here and works."""
    try:
        importlib.import_module(_HEIF_PACKAGE).register_heif_opener()
    except (ImportError, OSError, AttributeError):
        return False
    return True
