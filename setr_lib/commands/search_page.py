"""The answer to a search as a person sees it: a table, and a contact sheet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.commands.console import terminal
from setr_lib.errors import SetrError
from setr_lib.pipeline.reranking import STAGE_1_ALONE
from setr_lib.pixels import PictureFile, UnreadableImageError, stored_notes

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from setr_lib.commands.searching import Search
    from setr_lib.pipeline.retriever import SearchResult

_MARK = "SETR contact sheet"


def print_answer(found: SearchResult, search: Search, title: str = "") -> None:
    """Print an answer as a table: each image with its rank before and after, what the order is made of, and
    the order's formula.

    Args:
        found: The answer.
        search: What was searched.
        title: A line above it.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from setr_lib.evaluation.contact_sheet import judge_words

    console = terminal()
    if title:
        console.print(Text(title, style="bold"))
    if found.target_caption:
        console.print(Text(f"looking for: {found.target_caption}"))
    # A table's own title is broken at the table's width.
    heading = f"{search.where} · {_method(found)} · {_reranker(found)}{_not_promoted(found, search)}"
    console.print(Text(heading), soft_wrap=True)
    is_reranked, order = found.reranker is not None, found.order
    if is_reranked:
        console.print(Text(f"in order of {order.words}"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD)
    for column in (
        "rank",
        *(["before"] if is_reranked else []),
        "image",
        *(["fused"] if order.is_fused else []),
        *(["judge" if found.is_logit else "re-ranker"] if is_reranked else []),
        "cosine" if found.is_cosine else "score",
    ):
        table.add_column(column, overflow="fold")
    before = dict(found.coarse.select("image_id", "rank").iter_rows())
    for hit in found:
        judged = "-" if hit.judge_score is None else judge_words(hit.judge_score, is_logit=found.is_logit)
        fused = "-" if hit.judge_score is None else order.number(hit.score)
        table.add_row(
            str(hit.rank),
            *([str(before.get(hit.image_id, "-"))] if is_reranked else []),
            Text(hit.image_id),
            *([fused] if order.is_fused else []),
            *([judged] if is_reranked else []),
            f"{hit.coarse_score:.3f}",
        )
    console.print(table)


def save_sheet(path: Path, image: Path, text: str, found: SearchResult, search: Search) -> None:
    """Draw the contact sheet of an answer into a file.

    Args:
        path: The file; its folder is made.
        image: The reference image.
        text: The modification text.
        found: The answer.
        search: What was searched.

    Raises:
        SetrError: It cannot be written.
    """
    # The bytes that were searched with, whatever lies there by now.
    shown = PictureFile(str(image), found.reference, search.searched.pixels.id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sheet(shown, text, found, search.k).save(path, pnginfo=_mark(), comment=_MARK)
    except (OSError, ValueError) as error:
        raise SetrError(f"{path}: the contact sheet cannot be written ({error})") from error


def sheet_name(image: Path, text: str, found: SearchResult, gallery: str | None) -> str:
    """The name of a contact sheet, without an ending.

    Args:
        image: The reference image.
        text: The modification text.
        found: The answer.
        gallery: The one gallery of several that was searched.

    Returns:
        Image, text, method and re-ranker in plain letters.
    """
    parts = [image.stem, text, found.method, found.reranker or STAGE_1_ALONE[0]]
    return "-".join(map(_slug, [*parts, *([] if gallery is None else [gallery])]))


def is_contact_sheet(file: Path) -> bool:
    """Whether a file was drawn by :func:`save_sheet`, and may be replaced.

    Args:
        file: A file that is there.

    Returns:
        Whether its notes say so.
    """
    try:
        notes = stored_notes(file)
    except UnreadableImageError:
        return False
    said = notes.get("Software"), notes.get("comment")
    return _MARK in said or _MARK.encode() in said


def check_sheet_ending(file: Path | None) -> None:
    """Refuse a contact sheet's file whose ending names no kind of picture that can be written.

    Args:
        file: The file; None where none is drawn.

    Raises:
        SetrError: It has no such ending; the message names some.
    """
    if file is None:
        return
    from PIL import Image

    kinds = Image.registered_extensions()  # of what can be read, too
    if kinds.get(file.suffix.lower()) not in Image.SAVE:
        ending = f"the ending {file.suffix!r}" if file.suffix else "a name without an ending"
        raise SetrError(f"--output {file}: {ending} is no picture's: write .png, .jpg or .webp")


def _mark() -> PngInfo:
    """What a PNG file says of its maker, so that it is known as one that may be replaced."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", _MARK)
    return info


def _sheet(image: PictureFile, text: str, found: SearchResult, k: int) -> Image.Image:
    from setr_lib.evaluation.contact_sheet import Strip, draw_contact_sheet, tiles_of
    from setr_lib.reranking.order import coarse_order

    first = coarse_order(is_cosine=found.is_cosine)
    rankings = [(f"coarse · {_method(found)}", found.coarse, first)]
    if found.reranker is not None:
        rankings.append((f"re-ranked · {_reranker(found)}", found.ranking, found.order))
    strips = [
        Strip(
            title,
            tiles_of(frame, found.files, top=k, is_logit=found.is_logit, order=order),
            order.words,
        )
        for title, frame, order in rankings
    ]
    detail = f"composed: {found.target_caption}" if found.target_caption else ""
    return draw_contact_sheet(image, text, strips, detail=detail)


def _method(found: SearchResult) -> str:
    return f"{found.method} v{found.method_version}" if found.method_version else found.method


def _reranker(found: SearchResult) -> str:
    if found.reranker is None:
        return "stage 1 alone"
    return f"{found.reranker} v{found.version}" if found.version else found.reranker


def _not_promoted(found: SearchResult, search: Search) -> str:
    """That a trained re-ranker would have been taken, and is not promoted yet; empty where one was named."""
    waiting = [one.name for one in search.context.rerankers.configured if one.trained]
    if search.wanted.reranker is not None or found.version is not None or not waiting:
        return ""
    return f" (no {' and no '.join(waiting)} promoted yet)"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:40] or "search"
