"""Text in drawn pictures: a font for any script, and lines that fit a width."""

from __future__ import annotations

from PIL import ImageFont

from setr_lib.escaping import visible

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

LINES = 40
"""Lines of a text that are drawn, at most: no caption or modification text of a benchmark comes near it."""
_LONGEST = 2000
"""Characters of a text that are drawn, at most."""
# The font bundled with PIL knows Latin only; these common ones are tried for any other script.
_WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
)


def font_for(size: int, text: str) -> Font:
    """PIL's own font, the same on every machine, unless a text needs a script that it lacks.

    Args:
        size: The size in pixels.
        text: What is to be drawn.

    Returns:
        The font.
    """
    if any(ord(letter) > 0x24F and letter not in "“”‘’…–—·−" for letter in text):
        for name in _WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """A text in lines that fit a width; words that are longer are broken, and characters that turn the
    direction of others, or act, are spelt out.

    Args:
        text: Any text.
        font: The font that it is drawn in.
        width: Pixels of a line.

    Returns:
        The lines, :data:`LINES` at most; a longer text ends in an ellipsis.
    """
    lines: list[str] = []
    line = ""
    for word in visible(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…").split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
        while font.getlength(line) > width and (fits := _fitting(line, font, width)) < len(line):
            lines.append(line[:fits])
            line = line[fits:]
    lines.append(line)
    if len(lines) <= LINES:
        return lines
    last = lines[LINES - 1]
    return [*lines[: LINES - 1], last[: _fitting(last, font, width, "…")].rstrip() + "…"]


def _fitting(text: str, font: Font, width: int, end: str = "") -> int:
    """How many characters of a text fit into a line, with ``end`` behind them; one at least."""
    fits, fails = 1, len(text) + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if font.getlength(text[:middle] + end) <= width else (fits, middle)
    return fits
