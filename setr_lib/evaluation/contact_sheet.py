"""Pictures of results, drawn with PIL: contact sheets of a query, grids of images, and small previews of
either.

Belongs here: everything that turns image files plus a ranking into one raster image. The HTML report
(``report.py``) takes its thumbnails from here too. A picture is shown as the models see it
(``setr_lib.pixels``), made smaller. One that cannot be read, or is another than when its table was made,
becomes a hatched tile; no function here raises for one.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from PIL import Image, ImageDraw, ImageOps

from setr_lib.escaping import markdown
from setr_lib.evaluation.drawn_text import font_for, wrapped
from setr_lib.pixels import OWN_FOLDER, PictureFile, UnreadableImageError, to_rgb
from setr_lib.reranking.order import Order

ImageSource = PictureFile | Path | str | Image.Image | None
"""A file of a table, any other file, an image already open (both read as images of one's own are), or nothing
(drawn as an unreadable image)."""

PREVIEW_BYTES = 100_000
"""The most that a preview may add to a Dagster event: the event log is a database, not an image store."""

_PAPER = "#ffffff"
_CELL = "#f1f3f6"
_INK = "#15202b"
_QUIET = "#5b6673"
_LINE = "#d5dae1"
_TARGET = "#0b8f4d"
_REFERENCE = "#7a4fd0"
_RANK_CHIP = (21, 32, 43, 205)
_MARGIN = 24
_GAP = 10
_FRAME = 5


@dataclass(frozen=True, slots=True)
class Tile:
    """One image of a strip or grid. ``rank`` (1-based) is drawn in its corner, ``caption`` under it, in as
    many lines as it takes.
    """

    image: ImageSource
    rank: int | None = None
    caption: str = ""
    is_target: bool = False
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """One ranking of a contact sheet: a title such as ``coarse · intersection``, its first tiles, best first,
    and what they are ordered by (``cosine + 0.5 P(Yes)``).
    """

    title: str
    tiles: Sequence[Tile]
    order: str = ""


def open_thumbnail(source: ImageSource, size: int) -> Image.Image | None:
    """A small picture of an image, in RGB. Small images are not enlarged.

    Args:
        source: A file of a table, which is read by its rules; another file or an image that is open: upright
            (EXIF), transparency on white; or None.
        size: The longest side in pixels, at most.

    Returns:
        The picture; None where the image cannot be read.
    """
    if source is None:
        return None
    try:
        if isinstance(source, Image.Image):
            picture = to_rgb(source, OWN_FOLDER)
        else:
            file = (
                source if isinstance(source, PictureFile) else PictureFile(str(source), None, OWN_FOLDER.id)
            )
            picture = file.read(least=(2 * size, 2 * size))
    except (UnreadableImageError, OSError, ValueError, SyntaxError):  # the last three of open images
        return None
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    return picture


def encode_webp(image: Image.Image, quality: int = 80) -> bytes:
    """An image as lossy WebP, which every current browser shows; about 2 to 5 kB for a 112-pixel photograph.

    Args:
        image: The image.
        quality: WebP's quality, 0 to 100.

    Returns:
        The encoded bytes.
    """
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def data_uri(content: bytes, mime: str = "image/webp") -> str:
    """Bytes as a ``data:`` URI.

    Args:
        content: The encoded bytes.
        mime: Their media type.

    Returns:
        The URI.
    """
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def tiles_of(
    ranking: pl.DataFrame,
    paths: Mapping[str, PictureFile] | Mapping[str, Path] | Mapping[str, str],
    *,
    target_ids: Collection[str] = (),
    reference_id: str | None = None,
    top: int = 10,
    is_logit: bool = True,
    order: Order | None = None,
) -> list[Tile]:
    """The first tiles of one query's ranking, captioned by what they are ordered by, and by the re-ranker's
    score where there is one.

    Args:
        ranking: ``RANKINGS`` rows of one query and one pool.
        paths: Image id -> file; an id that it lacks is drawn as unreadable.
        target_ids: The images that are marked as targets.
        reference_id: The image that is marked as the reference.
        top: How many tiles to make, at most.
        is_logit: Whether the re-ranker's scores are the log-odds of a Yes.
        order: What the ranking is ordered by; without it, a tile of a fused order shows the re-ranker's score
            alone.

    Returns:
        The tiles, best first.
    """
    rows = ranking.sort("rank").head(top).select("rank", "image_id", "score", "judge_score")
    return [
        Tile(
            image=paths.get(image_id),
            rank=rank,
            caption=" · ".join(score_words(score, judge, order, is_logit=is_logit)),
            is_target=image_id in target_ids,
            is_reference=image_id == reference_id,
        )
        for rank, image_id, score, judge in rows.iter_rows()
    ]


def score_words(
    score: float, judge_score: float | None, order: Order | None = None, *, is_logit: bool = True
) -> list[str]:
    """What a tile says of an image's scores.

    Args:
        score: What the image is ordered by.
        judge_score: The re-ranker's score; None where it has none.
        order: What the ranking is ordered by; unknown by default.
        is_logit: Whether the re-ranker's score is the log-odds of a Yes.

    Returns:
        The fused score and the re-ranker's (``0.912``, ``yes +2.3``); one of them where the other says
        nothing more.
    """
    if judge_score is None:
        number = f"{score:.3f}"
        return [number, "not judged"] if order is not None and order.is_fused else [number]
    said = judge_words(judge_score, is_logit=is_logit)
    return [order.number(score), said] if order is not None and order.is_fused else [said]


def judge_words(judge_score: float, *, is_logit: bool = True) -> str:
    """The judge's answer and the score behind it: ``yes +2.3`` or ``no -0.7``.

    Args:
        judge_score: The difference of the two answers' logits, in fp32.
        is_logit: Whether it is such a difference; of a re-ranker that answers otherwise the number is shown.

    Returns:
        The words.
    """
    if not is_logit:
        return f"{judge_score:.3g}"
    digits = 1 if abs(judge_score) >= 0.1 else 2  # "no -0.0" would look like a mistake
    return f"{'yes' if judge_score > 0 else 'no'} {judge_score:+.{digits}f}"


def draw_contact_sheet(
    reference: ImageSource,
    modification: str,
    strips: Sequence[Strip],
    *,
    detail: str = "",
    tile: int = 128,
    columns: int = 10,
) -> Image.Image:
    """One query on one sheet: the reference image, the modification text, and the tiles of each ranking.

    Targets have a thick frame and a ticked corner, so that they are found without telling colours apart.

    Args:
        reference: The reference image.
        modification: The modification text.
        strips: The rankings; those longer than ``columns`` wrap.
        detail: A second, quieter text (e.g. the composed target caption).
        tile: Side of a tile in pixels.
        columns: Tiles in a line, at most.

    Returns:
        The sheet.
    """
    columns = max(1, min(columns, max((len(strip.tiles) for strip in strips), default=1)))
    head = _draw_head(reference, modification, detail, tile, _grid_width(columns, tile))
    parts = [head]
    for strip in strips:
        title = f"{strip.title} · ordered by {strip.order}" if strip.order else strip.title
        parts += [_draw_title(title, head.width), draw_grid(strip.tiles, columns=columns, tile=tile)]
    return _pad(stack(parts, gap=_GAP), _MARGIN)


def draw_grid(tiles: Sequence[Tile], *, columns: int = 10, tile: int = 128) -> Image.Image:
    """Tiles from left to right and top to bottom, with its whole caption under each that has one.

    Args:
        tiles: The tiles.
        columns: Tiles in a line, at most.
        tile: Side of a tile in pixels.

    Returns:
        The grid.
    """
    columns = max(1, min(columns, len(tiles) or 1))
    size, step = max(11, tile // 9), tile + _GAP
    captions = [
        wrapped(item.caption, font_for(size, item.caption), tile) if item.caption else [] for item in tiles
    ]
    lines = [captions[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [tile + (size + 3) * max(map(len, line)) + (6 if any(line) else 0) for line in lines] or [tile]
    tops = [sum(heights[:at]) + at * _GAP for at in range(len(heights))]
    grid = Image.new("RGB", (_grid_width(columns, tile), tops[-1] + heights[-1]), _PAPER)
    draw = ImageDraw.Draw(grid)
    for index, item in enumerate(tiles):
        left, top = (index % columns) * step, tops[index // columns]
        grid.paste(_draw_tile(item, tile), (left, top))
        for at, text in enumerate(captions[index]):
            place = (left + tile / 2, top + tile + 4 + at * (size + 3))
            draw.text(place, text, fill=_QUIET, font=font_for(size, item.caption), anchor="ma")
    return grid


def stack(images: Sequence[Image.Image], *, gap: int = 2 * _GAP) -> Image.Image:
    """Images under one another, left-aligned, on white.

    Args:
        images: The images, the top one first.
        gap: Pixels between two of them.

    Returns:
        The stacked image; one white pixel for no images.
    """
    if not images:
        return Image.new("RGB", (1, 1), _PAPER)
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (max(image.width for image in images), height), _PAPER)
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height + gap
    return sheet


def encode_preview(image: Image.Image, max_bytes: int = PREVIEW_BYTES) -> bytes:
    """An image as WebP that fits a size: first coarser, then smaller.

    Args:
        image: The image.
        max_bytes: The most that the result may have.

    Returns:
        The encoded bytes.

    Raises:
        ValueError: Not even a picture of 16 pixels fits.
    """
    shrunk = image.convert("RGB")
    while True:
        content = b""
        for quality in (82, 60, 40):
            content = encode_webp(shrunk, quality)
            if len(content) <= max_bytes:
                return content
        if max(shrunk.size) <= 16:
            raise ValueError(f"no WebP image fits into {max_bytes} bytes: allow a few hundred at least")
        factor = min(0.85, 0.95 * math.sqrt(max(1, max_bytes) / len(content)))
        shrunk = shrunk.resize((max(1, int(shrunk.width * factor)), max(1, int(shrunk.height * factor))))


def preview_markdown(image: Image.Image, alt: str, max_bytes: int = PREVIEW_BYTES) -> str:
    """A Markdown image with the picture inside, for the metadata of a run.

    Args:
        image: The image.
        alt: Its alternative text.
        max_bytes: The most characters that the result may have.

    Returns:
        The Markdown.

    Raises:
        ValueError: ``max_bytes`` leaves no room for any picture.
    """
    words = markdown(alt)
    room = max_bytes - len(words.encode()) - len("![](data:image/webp;base64,)")
    return f"![{words}]({data_uri(encode_preview(image, room * 3 // 4 - 3))})"


def _grid_width(columns: int, tile: int) -> int:
    return columns * (tile + _GAP) - _GAP


def _pad(image: Image.Image, margin: int) -> Image.Image:
    return ImageOps.expand(image, border=margin, fill=_PAPER)


def _draw_tile(item: Tile, size: int) -> Image.Image:
    cell = Image.new("RGB", (size, size), _CELL)
    inner = size - 2 * (_FRAME + 1)
    picture = open_thumbnail(item.image, inner)
    if picture is None:
        _hatch(cell)
    else:
        picture = _enlarge(picture, inner)
        cell.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    draw = ImageDraw.Draw(cell, "RGBA")
    if item.is_target or item.is_reference:
        colour = _TARGET if item.is_target else _REFERENCE
        draw.rectangle((0, 0, size - 1, size - 1), outline=colour, width=_FRAME)
    else:
        draw.rectangle((0, 0, size - 1, size - 1), outline=_LINE, width=1)
    if item.rank is not None:
        _draw_chip(draw, str(item.rank), size)
    if item.is_target:
        _draw_tick(draw, size)
    return cell


def _enlarge(picture: Image.Image, size: int) -> Image.Image:
    """A miniature picture fills its tile: two sizes in one strip would look like two kinds of result."""
    factor = size / max(picture.size)
    if factor <= 1:
        return picture
    new_size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(new_size, Image.Resampling.BICUBIC)


def _draw_chip(draw: ImageDraw.ImageDraw, text: str, size: int) -> None:
    font = font_for(max(11, size // 9), text)
    width, height = font.getlength(text) + 12, max(11, size // 9) + 7
    left = top = _FRAME + 1
    draw.rounded_rectangle((left, top, left + width, top + height), radius=5, fill=_RANK_CHIP)
    draw.text((left + width / 2, top + height / 2), text, fill="#ffffff", font=font, anchor="mm")


def _draw_tick(draw: ImageDraw.ImageDraw, size: int) -> None:
    """A tick in the right upper corner: the target is marked by shape as well as by colour."""
    side = max(16, size // 6)
    left, top = size - side, 0
    draw.rectangle((left, top, size, side), fill=_TARGET)
    points = [(left + side * x, top + side * y) for x, y in ((0.24, 0.52), (0.43, 0.70), (0.76, 0.30))]
    draw.line(points, fill="#ffffff", width=max(2, side // 8), joint="curve")


def _hatch(cell: Image.Image) -> None:
    draw = ImageDraw.Draw(cell)
    for start in range(-cell.height, cell.width, 14):
        draw.line((start, cell.height, start + cell.height, 0), fill=_LINE, width=2)
    font = font_for(max(11, cell.width // 10), "no image")
    draw.text((cell.width / 2, cell.height / 2), "no image", fill=_QUIET, font=font, anchor="mm")


def _draw_title(title: str, width: int) -> Image.Image:
    font = font_for(17, title)
    lines = wrapped(title, font, width)
    band = Image.new("RGB", (width, 18 + 22 * len(lines)), _PAPER)
    draw = ImageDraw.Draw(band)
    draw.line((0, 8, width, 8), fill=_LINE)
    for at, line in enumerate(lines):
        draw.text((0, 15 + 22 * at), line, fill=_INK, font=font, anchor="la")
    return band


def _draw_head(reference: ImageSource, modification: str, detail: str, tile: int, width: int) -> Image.Image:
    side = round(tile * 1.25)
    text_left = side + 20
    width = max(width, text_left + 240)
    quote = wrapped(f"“{modification}”", font_for(24, modification), width - text_left)
    small = wrapped(detail, font_for(16, detail), width - text_left) if detail else []
    text_height = 24 + 32 * len(quote) + (8 + 22 * len(small) if small else 0)
    head = Image.new("RGB", (width, max(side, text_height)), _PAPER)
    head.paste(_draw_tile(Tile(reference, is_reference=True), side), (0, 0))
    draw = ImageDraw.Draw(head)
    draw.text((text_left, 0), "reference image + modification text", fill=_REFERENCE, font=font_for(15, ""))
    top = 26
    for line in quote:
        draw.text((text_left, top), line, fill=_INK, font=font_for(24, modification))
        top += 32
    for line in small:
        draw.text((text_left, top + 8), line, fill=_QUIET, font=font_for(16, detail))
        top += 22
    return head
