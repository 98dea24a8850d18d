"""Small charts as pictures, for places that show no HTML: Dagster's metadata."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from setr_lib.escaping import visible
from setr_lib.evaluation.charts import nice_ticks
from setr_lib.evaluation.drawn_text import font_for

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 190, 56, 20, 24, 40
_INK, _QUIET, _GRID, _LINE, _TEXT = "#15202b", "#5b6673", "#e3e7ec", "#0b6e99", 12


def draw_line(xs: Sequence[float], ys: Sequence[float], name: str, along: str) -> Image.Image:
    """A line chart with ticks and names on both axes.

    Args:
        xs: n values of the horizontal axis.
        ys: n values of the vertical axis; those that are not finite are left out.
        name: What the values are.
        along: What the horizontal axis is.

    Returns:
        The chart; without a line for fewer than two values.
    """
    kept = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    across = _ticks([x for x, _ in kept])
    up = _ticks([y for _, y in kept])
    chart = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(chart)

    def place(x: float, y: float) -> tuple[float, float]:
        right, top = (x - across[0]) / (across[-1] - across[0]), (y - up[0]) / (up[-1] - up[0])
        wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + right * wide, _HEIGHT - _BOTTOM - top * high

    for tick in up:
        left, level = place(across[0], tick)
        draw.line((left, level, _WIDTH - _RIGHT, level), fill=_GRID)
        _write(draw, (left - 6, level), f"{tick:g}", "rm")
    for tick in across:
        at, floor = place(tick, up[0])
        draw.line((at, floor, at, floor + 4), fill=_QUIET)
        _write(draw, (at, floor + 6), f"{tick:g}", "ma")
    corner, end, top = place(across[0], up[0]), place(across[-1], up[0]), place(across[0], up[-1])
    draw.line((top, corner, end), fill=_QUIET)
    _write(draw, (_LEFT, 4), name, "la", _INK)
    _write(draw, (_WIDTH - _RIGHT, _HEIGHT - 4), along, "rd", _INK)
    if len(kept) > 1:
        draw.line([place(x, y) for x, y in kept], fill=_LINE, width=2)
    return chart


def _ticks(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return nice_ticks(low, high if high > low else low + (abs(low) or 1.0))


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, anchor: str, ink: str = _QUIET
) -> None:
    text = visible(text)
    draw.text(at, text, fill=ink, font=font_for(_TEXT, text), anchor=anchor)
