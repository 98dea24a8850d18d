"""From the bytes of a text file to its text: byte-order marks, UTF-16, and, where asked for, Windows-1252."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_SPREADSHEETS = (b"xl/workbook", b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet")
"""What the zip archive of a spreadsheet has in it."""
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How the files of Excel before 2007 begin."""
_PACKED = (
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a",
)
"""How gzip, zip, bzip2, xz, Zstandard, 7z and RAR files begin."""
EXPORT = (
    "save it as CSV first (Excel: Save As, 'CSV UTF-8'; LibreOffice: Save As, 'Text CSV', UTF-8; "
    "Google Sheets: Download, 'Comma-separated values')"
)
"""What to do with a spreadsheet, as the end of a sentence."""


@dataclass(frozen=True)
class Decoded:
    """The text of a file, line ends as ``\\n``."""

    text: str
    encoding: str
    """``UTF-8``, ``UTF-16``, ``UTF-32`` or ``Windows-1252``."""


def decode(content: bytes, *, windows: bool = False) -> Decoded:
    """The text of a file. A byte-order mark decides; without one it is UTF-8.

    Args:
        content: The file's bytes.
        windows: Whether what is not UTF-8 is read as Windows-1252, as spreadsheets in Western Europe and
            America write it.

    Returns:
        Text and encoding.

    Raises:
        ValueError: It is compressed, a spreadsheet, or no such text; the message is the end of a sentence.
    """
    if content.startswith(_OLE) or (
        content.startswith(b"PK\x03\x04") and any(mark in content for mark in _SPREADSHEETS)
    ):
        raise ValueError(f"is a spreadsheet: {EXPORT}")
    if content.startswith(b"version https://git-lfs"):
        raise ValueError("is a pointer of Git LFS, not the file: fetch it with `git lfs pull`")
    if content.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise ValueError("is a web page, not the file: download it again")
    if content.startswith(_PACKED):
        raise ValueError("is a compressed file: unpack it first")
    for mark, codec, name in _MARKS:
        if content.startswith(mark):
            return Decoded(_text(content[len(mark) :], codec, name), name)
    try:
        return Decoded(_text(content, "utf-8", "UTF-8"), "UTF-8")
    except ValueError:
        if not windows or b"\x00" in content or _is_mixed(content):
            raise
    return Decoded(_text(content, "cp1252", "UTF-8, nor Windows-1252"), "Windows-1252")


def _is_mixed(content: bytes) -> bool:
    """Whether bytes that are not UTF-8 hold characters of UTF-8: Windows-1252 is then not the one reading."""
    return any(not character.isascii() for character in content.decode("utf-8", "ignore"))


def _text(content: bytes, codec: str, name: str) -> str:
    try:
        text = content.decode(codec)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        utf16 = ": is it UTF-16 without a byte-order mark?" if b"\x00" in content else ""
        raise ValueError(f"not {name} text: {error}, in line {line}{utf16}: save it as UTF-8") from error
    if "\x00" in text[:1000] and text[:1000].count("\x00") >= len(text[:1000]) // 3:
        raise ValueError("is UTF-16 without a byte-order mark: save it as UTF-8")
    # Line ends as Python reads them from a text file: the same on every system.
    return text.replace("\r\n", "\n").replace("\r", "\n")
