"""Small pictures and tables for an asset's metadata: what a person should see in the Dagster UI without
opening a file.

They are kept in the event log for ever, so each stays below 100 KB; full reports are files that metadata
links to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from setr_assets.data_versions import rounded
from setr_lib.escaping import markdown

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from setr_lib.evaluation.contact_sheet import ImageSource
    from setr_lib.pipeline.evaluation_runs import Told

_LONGEST_CELL = 1000
"""Characters of a cell that are shown; the end of a longer one is in the table itself."""
PICTURES = 16
"""Pictures of a preview: two lines of eight."""


def pictures(sources: Sequence[ImageSource], captions: Sequence[str] = ()) -> dg.MarkdownMetadataValue:
    """The first images of a list as a grid.

    Args:
        sources: The images; the first sixteen are shown.
        captions: What stands under each, whole, in the same order.

    Returns:
        Markdown with the picture inside.
    """
    from setr_lib.evaluation.contact_sheet import Tile, draw_grid

    shown = list(sources)[:PICTURES]
    words = [*captions, *[""] * len(shown)]
    tiles = [Tile(source, caption=words[i]) for i, source in enumerate(shown)]
    # Sentences need wider tiles, or they become columns of single words.
    grid = draw_grid(tiles, columns=4, tile=168) if any(captions) else draw_grid(tiles, columns=8, tile=96)
    return picture(grid, "first pictures")


def mlflow_run(told: Told) -> dict[str, dg.MetadataValue]:
    """The MLflow run of an evaluation, as metadata.

    Args:
        told: What became of the evaluation in MLflow.

    Returns:
        Its page and its id; nothing where there is no run.
    """
    if told.run_id is None or told.url is None:
        return {}
    return {"MLflow run": dg.MetadataValue.url(told.url), "MLflow run id": dg.MetadataValue.text(told.run_id)}


def picture(image: Image.Image, alt: str) -> dg.MarkdownMetadataValue:
    """An image as Markdown, shrunk until it fits.

    Args:
        image: The image.
        alt: Its alternative text.

    Returns:
        Markdown with the picture inside.
    """
    from setr_lib.evaluation.contact_sheet import preview_markdown

    return dg.MetadataValue.md(preview_markdown(image, alt))


def line_chart(
    xs: Sequence[float], ys: Sequence[float], name: str, along: str = "step"
) -> dg.MarkdownMetadataValue:
    """A small line chart with both axes, and the first and last value in words.

    Args:
        xs: n values of the horizontal axis.
        ys: n values of the vertical axis.
        name: What the values are.
        along: What the horizontal axis is.

    Returns:
        Markdown with the picture inside.
    """
    from setr_lib.evaluation.drawn_charts import draw_line

    chart = draw_line(xs, ys, name, along)
    words = f"{name}: {ys[0]:.3f} at {xs[0]:g}, {ys[-1]:.3f} at {xs[-1]:g}" if ys else f"{name}: none yet"
    return dg.MetadataValue.md(f"{picture(chart, name).md_str}\n\n{markdown(words)}")


def rows(frame: pl.DataFrame, limit: int = 20, digits: int | None = None) -> dg.MarkdownMetadataValue:
    """The first rows of a frame as a Markdown table.

    Args:
        frame: The frame.
        limit: How many rows, at most.
        digits: As for :func:`table`.

    Returns:
        The Markdown.
    """
    return table(list(frame.columns), frame.head(limit).rows(), digits)


def table(
    columns: Sequence[str], lines: Sequence[Sequence[Any]], digits: int | None = None
) -> dg.MarkdownMetadataValue:
    """A Markdown table; its cells show texts as they are, whatever Markdown or HTML is in them.

    Args:
        columns: The column headings.
        lines: The rows, a value per column.
        digits: Digits after the point of every number that is no whole one by its type, so that they compare
            at a glance (percentages have one); by default as many as each number has to say.

    Returns:
        The Markdown.
    """
    text = [f"| {' | '.join(map(markdown, columns))} |", f"|{'---|' * len(columns)}"]
    text += [f"| {' | '.join(_cell(value, digits) for value in line)} |" for line in lines]
    return dg.MetadataValue.md("\n".join(text))


def columns(frame: pl.DataFrame) -> dg.TableSchemaMetadataValue:
    """The columns of a table, their types and what they hold, for Dagster's well-known key
    ``dagster/column_schema``.

    Args:
        frame: The table.

    Returns:
        Dagster's schema of it.
    """
    from setr_lib.column_descriptions import descriptions

    said = descriptions(frame.schema)
    return dg.MetadataValue.table_schema(
        dg.TableSchema(
            [dg.TableColumn(name, str(kind), said.get(name)) for name, kind in frame.schema.items()]
        )
    )


def counts(values: Mapping[str, int]) -> str:
    """Counts in words, e.g. ``"3 ok, 1 missing"``: those that are not zero, and the first one always.

    Args:
        values: What is counted -> count.

    Returns:
        The words.
    """
    first = next(iter(values), None)
    return ", ".join(f"{count:,} {name}" for name, count in values.items() if count or name == first)


def _cell(value: Any, digits: int | None) -> str:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    text = str(value)
    if isinstance(value, float):
        text = str(rounded(value)) if digits is None else f"{value:.{digits}f}"
    return markdown(text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…")
