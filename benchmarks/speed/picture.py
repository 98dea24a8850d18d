"""The picture of docs/performance.md: how much of the bound is achieved, and how SETR does against the
alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.charts import STYLE
from benchmarks.speed.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REACHED, MISSED, NEUTRAL = "#0072B2", "#D55E00", "#666666"
"""Of Okabe and Ito's palette, which colour-blind people can tell apart; markers differ, too."""
WIDTH, ROW, FRAME = 13.0, 0.42, 1.9
"""Inches: of the picture, of a figure's line, of title, axis and legend together."""


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Write the picture as SVG, the same bytes for the same figures.

    Args:
        figures: The figures in the order of the page; those that consist of steps are left out.
        path: The file; its folder is made.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    shown = [figure for figure in figures if not figure.steps]
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        canvas = Canvas(figsize=(WIDTH, FRAME + ROW * max(len(shown), 3)), facecolor="white")
        canvas.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
        bound, alternative = canvas.subplots(1, 2, sharey=True)
        _draw_bound(bound, shown)
        _draw_alternative(alternative, shown)
        _name_lines(bound, shown)
        canvas.legend(handles=_legend(), loc="outside lower center", ncols=3, frameon=False)
        canvas.savefig(path, metadata={"Date": None, "Creator": None})


def _name_lines(axes: Axes, figures: Sequence[Figure]) -> None:
    axes.set_yticks(range(len(figures)), [figure.name for figure in figures])
    axes.set_ylim(max(len(figures), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _draw_bound(axes: Axes, figures: Sequence[Figure]) -> None:
    axes.set_title("Of the counted bound, %", loc="left")
    axes.set_xlim(0, 115)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.axvline(100, color=NEUTRAL, linewidth=1.5, linestyle="--")
    for line, figure in enumerate(figures):
        if figure.bound_s is None:
            axes.annotate("no bound counted", (1, line), color=NEUTRAL, va="center", fontsize=11)
            continue
        share = 100 * figure.bound_s / figure.ours_s
        axes.barh(line, min(share, 115), height=0.6, color=_colour(figure))
        inside = share > 20
        axes.annotate(
            f"{share:.0f}" if share >= 10 else f"{share:.1f}",
            (min(share, 115), line),
            xytext=(-5 if inside else 5, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            color="white" if inside else _colour(figure),
        )


def _draw_alternative(axes: Axes, figures: Sequence[Figure]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set_title("Times as fast as the alternative", loc="left")
    speedups = [
        figure.alternative_s / figure.ours_s for figure in figures if figure.alternative_s is not None
    ]
    low, high = min([0.5, *speedups]) / 1.5, max([2.0, *speedups]) * 2.2
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [tick for tick in (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if low < tick < high]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} x"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(1, color=NEUTRAL, linewidth=1.5, linestyle="--")
    for line, figure in enumerate(figures):
        if figure.alternative_s is None:
            continue
        speedup, colour = figure.alternative_s / figure.ours_s, _colour(figure)
        axes.plot([1, speedup], [line, line], color=colour, linewidth=2.5)
        axes.plot(speedup, line, marker=_marker(figure), markersize=9, color=colour)
        left = speedup < 1
        axes.annotate(
            f"{speedup:#.3g}".rstrip("."),
            (max(speedup, 1) if left else speedup, line),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )


def _colour(figure: Figure) -> str:
    return {True: REACHED, False: MISSED, None: NEUTRAL}[figure.met]


def _marker(figure: Figure) -> str:
    return {True: "o", False: "X", None: "D"}[figure.met]


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    words = ((REACHED, "o", "target reached"), (MISSED, "X", "target missed"), (NEUTRAL, "D", "no target"))
    return [
        Line2D([], [], color=colour, marker=marker, markersize=9, linestyle="-", linewidth=2.5, label=label)
        for colour, marker, label in words
    ]
