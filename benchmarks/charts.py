"""Line charts for the documentation: rows of panels, lines named where they end, intervals as bands; SVG, the
same bytes every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 14,
    "axes.titlesize": 16,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#555555",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "setr",
}
LABEL_GAP = 7.0
"""Between the names of two lines, in units of the axis (percent)."""
PANEL_WIDTH, HEIGHT = 4.6, 4.4


@dataclass(frozen=True)
class Point:
    """A value and its interval, in percent, at ``x``."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One ranker over a dial."""

    name: str
    colour: str
    points: Sequence[Point]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One data set."""

    title: str
    y_label: str
    lines: Sequence[Line]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least a gap apart, as near to the wanted ones as that allows.

    Args:
        wanted: The wanted places.
        gap: The least distance of two.
        low: The lowest place.
        high: The highest place.

    Returns:
        A place for each of ``wanted``, in its order.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    blocks: list[list[float]] = []
    for position, index in enumerate(order):
        blocks.append([wanted[index] - position * gap])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    starts = [_mean(block) for block in blocks for _ in block]
    last = high - (len(wanted) - 1) * gap
    placed = [0.0] * len(wanted)
    for position, index in enumerate(order):
        placed[index] = max(low, min(last, starts[position])) + position * gap
    return placed


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def draw(rows: Sequence[Sequence[Panel]], title: str, x_label: str, path: Path) -> None:
    """Write a chart as SVG.

    Args:
        rows: Rows of as many panels each.
        title: The chart's title.
        x_label: What the horizontal axis shows.
        path: The file; its folder is made.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        columns = len(rows[0])
        figure = Figure(figsize=(PANEL_WIDTH * columns, HEIGHT * len(rows)), facecolor="white")
        figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
        for places, panels in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
            for axes, panel in zip(places, panels, strict=True):
                _draw_panel(axes, panel)
        figure.suptitle(title, fontsize=18)
        figure.supxlabel(x_label, fontsize=14)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left")
    axes.set_ylabel(panel.y_label)
    axes.set_ylim(0, 100)
    axes.set_xticks(sorted({point.x for line in panel.lines for point in line.points}))
    axes.xaxis.set_major_formatter("{x:g}")
    lines = [line for line in panel.lines if line.points]
    places = spread([line.points[-1].value for line in lines], LABEL_GAP, 1.0, 99.0)
    for line, place in zip(lines, places, strict=True):
        xs = [point.x for point in line.points]
        style = {"color": line.colour, "linewidth": 2.5, "linestyle": "--" if line.dashed else "-"}
        axes.plot(xs, [point.value for point in line.points], marker="o", markersize=6, **style)
        axes.fill_between(
            xs,
            [point.low for point in line.points],
            [point.high for point in line.points],
            color=line.colour,
            alpha=0.12,
            linewidth=0,
        )
        axes.annotate(
            line.name,
            (1.03, place),
            xycoords=("axes fraction", "data"),
            color=line.colour,
            va="center",
            annotation_clip=False,
        )
