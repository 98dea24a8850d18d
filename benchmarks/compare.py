"""docs/compare.md and its picture: the last comparison of the miniature, beside what papers published.

    make compare

It reads what `setr compare` stored and computes nothing anew.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.charts import STYLE, spread
from benchmarks.pages import kept
from setr_lib.benchmarks import headlines
from setr_lib.datasets import evaluation_sets
from setr_lib.errors import SetrError
from setr_lib.escaping import markdown
from setr_lib.evaluation.comparison import Column, Line, as_markdown, columns_of, footnotes, lines_of
from setr_lib.evaluation.row import Row
from setr_lib.pipeline.comparison import ComparisonRecord, last_comparison
from setr_lib.pipeline.context import PipelineContext
from setr_lib.settings import Settings, load_settings

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "compare.md"
PICTURE = REPOSITORY / "docs" / "figures" / "compare.svg"
PUBLISHED = Path(__file__).with_name("published.toml")
TRAINED = "trained systems"
"""The section of the page that `make compare-trained` writes."""
COLOURS = {"": "#3566a8", "base judge": "#c07d1a", "adapter": "#2d8a4e"}
OTHER = "#7a4fa3"
NAMED = 7
"""Of the rows without a re-ranker, how many of the best are named in a panel; a re-ranked one always is."""

INTRODUCTION = """# Methods and re-rankers side by side

Made by `make compare`; not written by hand. Every built-in method that can run on the miniature
(`setr.compare.toml`), on its three data sets. The same on data of your own: `setr compare METHOD ...
--set NAME`, or `setr compare all`; `--json`, `--csv` and `--markdown` print the last one again.

**What it can tell, and what not.** The miniature is a drawn world, and its small multimodal LLM only
describes, composes and judges. The texts of `cirevl`, `soft`, `cotmr`, `sdr_cir` and `role` are
therefore *derived* from its compositions (the label says so): their order here says how their formulas
deal with the same words, and little of the papers' prompts. A percentage is no rival of a published one.

**Costs.** *ms per query* is measured with nothing kept: texts written anew, texts encoded anew,
candidates judged with their vision features computed anew, the sampled queries in batches. What is made
once for a gallery is not counted: its vectors, and what a method prepares of them. *LLM calls* counts the
texts that are written and the candidates that are judged, for one query; a text of a reference image is
shared by the queries of a set that have this reference. Both are means over the sets."""


WHY = """## Why some do badly here

- `cirevl`, and `soft` over it, stand near `union_text`: the edited caption, as it is derived, keeps all of
  the reference that the text does not take away, which is what the method asks of its language model. What is
  beside the point then outweighs the change, as it does for the union.
- `projection` encodes each kept phrase alone. A sum of phrases' vectors does not say which property is whose:
  already the mean of the kept phrases and the added one, without any image, is far behind the same words in
  one text, and the reference's projection lies in the span of those phrases.
- `soft_intersection` is no better than `intersection`: the two sentences, as they are derived, hold nothing
  that the target caption does not say.
- `text` and `image` lack half of the query; near misses in the galleries share either half."""


def page(frame: pl.DataFrame, record: ComparisonRecord, settings: Settings) -> str:
    """The text of docs/compare.md.

    Args:
        frame: A COMPARISON table.
        record: What it was made of.
        settings: Those that were compared with.

    Returns:
        Markdown.
    """
    notes = [f"- {sentence}" for sentence in (*sorted(record.left_out_sentences), *record.notes)]
    parts = [
        INTRODUCTION,
        "![Accuracy against cost](figures/compare.svg)",
        as_markdown(frame, headlines(settings)),
        *(markdown(each) for each in footnotes(frame, headlines(settings))),
        f"Timed on {record.sample} queries of each set, on {record.device}.",
        WHY,
        "## What could not run here, and what it needs",
        "\n".join(notes) or "Everything could.",
        "## Published, other data",
        "What papers report on the real data sets, with large models and texts of their own: on CIRR's and "
        "CIRCO's test split and FashionIQ's val unless the source says otherwise. The table above is of the "
        "miniature.",
        published_table(tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))["published"]),
    ]
    return "\n\n".join(parts) + "\n"


def check_whole(frame: pl.DataFrame, record: ComparisonRecord, settings: Settings) -> None:
    """Refuse a comparison that is not of everything that its settings file names: the page is of the whole.

    Args:
        frame: A COMPARISON table.
        record: What it was made of.
        settings: Those of the file.

    Raises:
        SetrError: It is of some queries, sets, methods or re-rankings only; the message says which lack.
    """
    again = "run `setr compare all` with this settings file and no other option first"
    if record.limit is not None:
        raise SetrError(f"the last comparison is of the first {record.limit} queries of each set: {again}")
    every = {one.key for one in evaluation_sets(settings) if not one.hidden}
    if lacking := sorted(every.difference(record.sets)):
        raise SetrError(f"the last comparison lacks {', '.join(lacking)}: {again}")
    context = PipelineContext(settings)
    methods = list(context.methods.configured)
    reranked = [context.methods.get(name).name for name in settings.reranked_methods]
    rows = [Row(name) for name in methods]
    rows += [Row(name, one.name) for name in reranked for one in context.rerankers.configured]
    told = {one.what for one in record.left_out}
    known = {Row.of(entry) for entry in frame.select("method", "reranker").unique().iter_rows(named=True)}
    lacking = [row.title for row in rows if row not in known and not told & {row.title, *astuple(row)}]
    if lacking:
        raise SetrError(f"the last comparison lacks {', '.join(lacking)}: {again}")


def published_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Published figures as a table.

    Args:
        rows: Those of ``published.toml``.

    Returns:
        Markdown.
    """
    about = ("method", "backbone", "source")
    metrics = list(dict.fromkeys(name for row in rows for name in row if name not in about))
    lines = [["method", "backbone", *metrics, "source"], ["---", "---", *(["--:"] * len(metrics)), "---"]]
    for row in rows:
        values = [f"{row[name]:.2f}" if name in row else "–" for name in metrics]
        lines.append([f"`{row['method']}`", row["backbone"], *values, row["source"]])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(frame: pl.DataFrame, settings: Settings, path: Path) -> None:
    """Draw accuracy against cost, one panel for each evaluation set.

    Args:
        frame: A COMPARISON table.
        settings: Those that were compared with.
        path: The SVG file; its folder is made.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = columns_of(frame, headlines(settings), most=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6 * len(columns), 5.6), facecolor="white")
        figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
        for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            of_set = frame.filter(dataset=column.dataset, split=column.split)
            _draw_panel(axes, column, lines_of(of_set, [column]))
        figure.suptitle(
            "Accuracy against what a query costs (95 % intervals)", x=0.01, ha="left", fontsize=18
        )
        figure.supxlabel("milliseconds per query, with nothing kept (logarithmic)", fontsize=14)
        figure.legend(*_legend(frame), loc="outside upper right", ncols=4, frameon=False, fontsize=13)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _legend(frame: pl.DataFrame) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    names = [name or "" for name in frame["reranker"].unique(maintain_order=True)]
    names = [name for name in COLOURS if name in names] + [name for name in names if name not in COLOURS]
    handles = [Line2D([], [], marker="o", linestyle="", color=COLOURS.get(name, OTHER)) for name in names]
    return handles, [name or "stage 1 alone" for name in names]


def _draw_panel(axes: Axes, column: Column, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    measured = [line for line in lines if line.ms_per_query is not None and column in line.values]
    axes.set_title(f"{column.dataset} {column.split}", loc="left")
    axes.set_ylabel(f"{column.metric}, %")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 100)
    for line in measured:
        value, colour = line.values[column], COLOURS.get(line.row.reranker, OTHER)
        below, above = max(value.value - value.low, 0), max(value.high - value.value, 0)
        x = line.ms_per_query or 1.0
        axes.errorbar(
            x,
            value.value,
            yerr=[[below], [above]],
            fmt="o",
            color=colour,
            ecolor=colour,
            elinewidth=1.4,
            markersize=7,
        )
    named = [line for line in measured if line.row.reranker]
    named += [line for line in measured if not line.row.reranker][:NAMED]
    places = spread([line.values[column].value for line in named], 5.0, 2.0, 98.0)
    for line, place in zip(named, places, strict=True):
        colour = COLOURS.get(line.row.reranker, OTHER)
        axes.annotate(
            line.row.method,
            (line.ms_per_query or 1.0, line.values[column].value),
            xytext=(1.02, place),
            textcoords=("axes fraction", "data"),
            color=colour,
            fontsize=11,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.35, "linewidth": 0.8},
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and the picture.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status: 1 where nothing was compared yet, or not the whole.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("settings", type=Path, help="the settings file of the comparison")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.settings)
        frame, record = last_comparison(settings)
        check_whole(frame, record, settings)
    except SetrError as error:
        print(error, file=sys.stderr)
        return 1
    draw(frame, settings, PICTURE)
    earlier = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    PAGE.write_text(kept(page(frame, record, settings), earlier, TRAINED), encoding="utf-8")
    print(f"written: {PAGE.relative_to(REPOSITORY)}, {PICTURE.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
