"""``setr search IMAGE "TEXT"``: one composed query of a person's own, through both stages, over an embedded
gallery.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.commands.console import progress_on_terminal, quieten_libraries, terminal
from setr_lib.commands.outputs import check_output_file
from setr_lib.errors import SetrError
from setr_lib.models.read_ahead import read_ahead
from setr_lib.pipeline.context import NotMadeYetError, PipelineContext, pipeline_context
from setr_lib.pipeline.faults import IMAGES, cut_words, fault_lines
from setr_lib.pipeline.reranking import BEST, STAGE_1_ALONE, wanted_reranker
from setr_lib.pipeline.retriever import Retriever, SearchResult
from setr_lib.pipeline.storage import or_run_everything
from setr_lib.pipeline.toy_models import toy_models_note
from setr_lib.pixels import PictureFile, UnreadableImageError, stored_notes
from setr_lib.records import EmbeddingsRecord
from setr_lib.settings import Settings

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from setr_lib.datasets import EvaluationSet

_IMAGES = 10
"""Images shown where nothing is said."""


def run(
    settings: Settings,
    *,
    image: Path,
    text: str,
    dataset: str | None,
    gallery: str | None,
    method: str | None,
    reranker: str | None,
    k: int | None,
    output: Path | None,
) -> int:
    """Print the first images as a table and write a contact sheet.

    Args:
        settings: The settings.
        image: The reference image's file.
        text: The modification text.
        dataset: An evaluation set or data set; by default the first that is embedded.
        gallery: One of its galleries, e.g. a category; by default all.
        method: The retrieval method; by default that of the settings.
        reranker: The re-ranker, or ``none`` for stage 1 alone; by default the best configured one.
        k: Images shown; by default 10, or as many as are judged where these are fewer.
        output: The contact sheet's file; by default one under the report root.

    Returns:
        The exit status.

    Raises:
        SetrError: The query, or what it names, cannot be searched; the message says what to do.
    """
    if not text.strip():
        raise SetrError("the modification text is empty: say what should differ from the image")
    check_output_file(output, _is_contact_sheet)
    quieten_libraries()
    context = pipeline_context(settings)
    if warning := context.prompts().unused_files_warning():
        print(f"setr: warning: {warning}", file=sys.stderr)
    searched = embedded_set(context, dataset)
    if toys := toy_models_note(settings, searched.dataset):
        print(f"setr: warning: {toys}", file=sys.stderr)
    _refuse_missing(image, context, searched.key)
    key, depth = searched.key, settings.rerank_depth(searched.dataset)
    wanted = wanted_reranker(context, reranker or BEST)
    if k is None:
        k = _IMAGES if wanted is None else min(_IMAGES, depth)
    if wanted is not None and k > depth:
        raise SetrError(
            f"--k {k}: only the first {depth} are judged; raise [reranking] top_k, or rerank_top_k in "
            f"[datasets.{searched.dataset}], and [coarse] top_k where that is less, to see more"
        )
    chosen = context.methods.get(method or settings.coarse.default)
    asks = wanted is not None or bool(chosen.needs or chosen.texts)
    read_ahead(settings, space=chosen.space, judge=asks)
    with progress_on_terminal() as progress:
        # One query is not worth holding the gallery's vectors for.
        retriever = Retriever.from_evaluation_set(key, settings, hold_vectors=False)
        found = retriever.search(
            image, text, k=k, method=method, reranker=reranker or BEST, gallery=gallery, progress=progress
        )
    path = output or settings.report_root / "searches" / f"{_file_name(image, text, found, gallery)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    # The bytes that were searched with, whatever lies there by now.
    shown = PictureFile(str(image), found.reference, searched.pixels.id)
    try:
        sheet = _sheet(shown, text, found, k)
        sheet.save(path, pnginfo=_mark(), comment=_MARK)
    except (OSError, ValueError) as error:
        raise SetrError(f"{path}: the contact sheet cannot be written ({error})") from error
    waiting = [configured.name for configured in context.rerankers.configured if configured.trained]
    is_first = reranker is None and found.version is None and waiting
    where = key if gallery is None else f"{key} · gallery {gallery}"
    if found.stale:
        print(f"setr: warning: {_stale_words(settings, key, found)}", file=sys.stderr)
    _print(found, where, path, f" (no {' and no '.join(waiting)} promoted yet)" if is_first else "")
    for line in [*cut_words(found.cut), *fault_lines(context, key, only=IMAGES)]:
        print(line)
    return 0


_MARK = "SETR contact sheet"


def _mark() -> PngInfo:
    """What a PNG file says of its maker, so that it is known as one that may be replaced."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", _MARK)
    return info


def _is_contact_sheet(file: Path) -> bool:
    try:
        notes = stored_notes(file)
    except UnreadableImageError:
        return False
    said = notes.get("Software"), notes.get("comment")
    return _MARK in said or _MARK.encode() in said


def _refuse_missing(image: Path, context: PipelineContext, key: str) -> None:
    """Say which image is meant where there is no file: ids of the gallery are no paths from here."""
    from setr_lib.benchmarks.annotations import is_there
    from setr_lib.benchmarks.near_ids import near_ids
    from setr_lib.tables import GALLERY

    if is_there(image):
        return
    images = context.tables.read("gallery_images", GALLERY, key)
    paths: dict[str, str] = dict(images.select("image_id", "path").iter_rows())
    name, hint = str(image), ""
    if name in paths:
        hint = f"; {name!r} is an id of {key}: write the path of its file, {paths[name]}"
    elif (found := near_ids(paths).near(name)) is not None:
        hint = f"; did you mean {paths[found.id]}, the image {found.id!r} of {key}? ({found.reason})"
    raise SetrError(f"{image}: the reference image is missing: there is no such file{hint}")


def embedded_set(context: PipelineContext, name: str | None) -> EvaluationSet:
    """The first evaluation set of a name that is embedded.

    Args:
        context: Settings and tables.
        name: An evaluation set, a data set, or None for all.

    Returns:
        The evaluation set.

    Raises:
        SetrError: There is no such set; the message lists those that there are.
        NotMadeYetError: None of them is embedded yet.
    """
    from setr_lib.datasets import evaluation_sets

    every = evaluation_sets(context.settings)
    named = [candidate for candidate in every if name is None or name in (candidate.key, candidate.dataset)]
    if not named:
        known = ", ".join(sorted({candidate.key for candidate in every}))
        raise SetrError(f"there is no evaluation set or data set {name!r}; there is {known or 'none'}")
    for candidate in named:
        try:
            stored = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, candidate.key)
        except NotMadeYetError:
            continue
        if stored.has_vectors:  # captions alone have no vectors to search
            return candidate
    raise NotMadeYetError(
        f"the gallery of {', '.join(candidate.key for candidate in named)} is not embedded yet: materialize "
        f"gallery_embeddings, {or_run_everything(context.settings, named[0].key)}"
    )


def _stale_words(settings: Settings, key: str, found: SearchResult) -> str:
    """That the gallery is stale: which picture, how many, and what to do."""
    first, why = next(iter(found.stale.items()))
    return (
        f"the gallery of {key} is stale: {len(found.stale)} of {found.coarse.height} candidates are not the "
        f"pictures that it was made of, the first is {first} ({why}); materialize gallery_images and "
        f"gallery_embeddings, {or_run_everything(settings, key)}"
    )


def _sheet(image: PictureFile, text: str, found: SearchResult, k: int) -> Image.Image:
    from setr_lib.evaluation.contact_sheet import Strip, draw_contact_sheet, tiles_of

    rankings = [(f"coarse · {_method(found)}", found.coarse)]
    if found.reranker is not None:
        rankings.append((f"re-ranked · {_reranker(found)}", found.ranking))
    strips = [
        Strip(title, tiles_of(frame, found.files, top=k, is_logit=found.is_logit))
        for title, frame in rankings
    ]
    detail = f"composed: {found.target_caption}" if found.target_caption else ""
    return draw_contact_sheet(image, text, strips, detail=detail)


def _method(found: SearchResult) -> str:
    return f"{found.method} v{found.method_version}" if found.method_version else found.method


def _reranker(found: SearchResult) -> str:
    if found.reranker is None:
        return "stage 1 alone"
    return f"{found.reranker} v{found.version}" if found.version else found.reranker


def _file_name(image: Path, text: str, found: SearchResult, gallery: str | None) -> str:
    parts = [image.stem, text, found.method, found.reranker or STAGE_1_ALONE[0]]
    return "-".join(map(_slug, [*parts, *([] if gallery is None else [gallery])]))


def _print(found: SearchResult, where: str, sheet: Path, note: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from setr_lib.evaluation.contact_sheet import judge_words

    before = dict(found.coarse.select("image_id", "rank").iter_rows())
    table = Table(box=box.SIMPLE_HEAD)
    reranked = ("judge" if found.is_logit else "score", "coarse rank") if found.reranker is not None else ()
    for column in ("rank", "image", *reranked, "cosine" if found.is_cosine else "score"):
        table.add_column(column, overflow="fold")
    for hit in found:
        judged = "-" if hit.judge_score is None else judge_words(hit.judge_score, is_logit=found.is_logit)
        second = (judged, str(before.get(hit.image_id, "-"))) if reranked else ()
        table.add_row(str(hit.rank), Text(hit.image_id), *second, f"{hit.coarse_score:.3f}")
    console = terminal()
    if found.target_caption:
        console.print(Text(f"looking for: {found.target_caption}"))
    title = f"{where} · {_method(found)} · {_reranker(found)}{note}"
    console.print(Text(title), soft_wrap=True)  # a table's own title is broken at the table's width
    console.print(table)
    print(f"contact sheet: {sheet}")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:40] or "search"
