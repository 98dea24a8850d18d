"""``setr search IMAGE "TEXT"``: one composed query of a person's own, through both stages, over an embedded
gallery.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.commands.console import progress_on_terminal, quieten_libraries
from setr_lib.errors import SetrError
from setr_lib.pipeline.context import NotMadeYetError, PipelineContext, pipeline_context
from setr_lib.records import EmbeddingsRecord
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from setr_lib.datasets import EvaluationSet
    from setr_lib.methods.inputs import EncodedQueries, GalleryIndex
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.reranking import OpenReranker
    from setr_lib.progress import Progress

_QUERY, _REFERENCE = "search", "(reference)"


@dataclass(frozen=True)
class Found:
    """The answer to one query. ``coarse`` and ``judged`` are RANKINGS frames; ``reranker`` scored."""

    target_caption: str
    coarse: pl.DataFrame
    judged: pl.DataFrame
    reranker: OpenReranker
    paths: dict[str, str]


def run(
    settings: Settings,
    *,
    image: Path,
    text: str,
    dataset: str | None,
    gallery: str | None,
    method: str | None,
    reranker: str | None,
    k: int,
    output: Path | None,
) -> int:
    """Print the first ``k`` images as a table and write a contact sheet."""
    if not text.strip():
        raise SetrError("the modification text is empty: say what should differ from the image")
    quieten_libraries()
    context = pipeline_context(settings)
    if warning := context.prompts().unused_files_warning():
        print(f"setr: warning: {warning}", file=sys.stderr)
    searched = embedded_set(context, dataset)
    key, depth = searched.key, settings.rerank_depth(searched.dataset)
    if k > depth:
        raise SetrError(
            f"--k {k}: only the first {depth} are judged; raise [reranking] top_k, or rerank_top_k in "
            f"[datasets.{searched.dataset}], and [coarse] top_k where that is less, to see more"
        )
    chosen = context.methods.get(method or settings.coarse.default)
    with progress_on_terminal() as progress:
        found = search(context, key, image, text.strip(), gallery, progress, chosen, reranker)
    path = output or settings.report_root / "searches" / f"{_slug(image.stem)}-{_slug(text)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _sheet(image, text, found, chosen.name, k).save(path)
    except (OSError, ValueError) as error:
        raise SetrError(f"{path}: the contact sheet cannot be written ({error})") from error
    is_first = reranker is None and found.reranker.version is None
    _print(found, key, k, path, " (no adapter promoted yet)" if is_first else "")
    return 0


def embedded_set(context: PipelineContext, name: str | None) -> EvaluationSet:
    """The evaluation set called ``name`` (or the first of that data set, or the first of all) that is
    embedded.

    Raises ``SetrError`` listing what may be named, or saying that nothing is embedded yet.
    """
    from setr_lib.datasets import evaluation_sets

    every = evaluation_sets(context.settings)
    named = [each for each in every if name is None or name in (each.key, each.dataset)]
    if not named:
        known = ", ".join(sorted({each.key for each in every}))
        raise SetrError(f"there is no evaluation set or data set {name!r}; there is {known or 'none'}")
    for each in named:
        try:
            stored = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, each.key)
        except NotMadeYetError:
            continue
        if stored.has_vectors:  # captions alone have no vectors to search
            return each
    raise NotMadeYetError(
        f"the gallery of {', '.join(each.key for each in named)} is not embedded yet: materialize "
        "gallery_embeddings, or run `make demo`"
    )


def search(
    context: PipelineContext,
    key: str,
    image: Path,
    text: str,
    gallery_name: str | None,
    progress: Progress,
    method: Method | None = None,
    reranker_name: str | None = None,
) -> Found:
    """Both stages on one query.

    The reference itself is left out of the answer where it lies in the gallery.

    Args:
        context: Settings, tables and models.
        key: The evaluation set whose gallery is searched.
        image: The reference image.
        text: The modification text.
        gallery_name: One gallery of several, e.g. a category of FashionIQ.
        progress: Told how far the models are.
        method: The retrieval method, one over vectors; the default one of the settings by default.
        reranker_name: Who re-ranks; the champion adapter by default, else the base judge.

    Returns:
        The images before and after re-ranking.

    Raises:
        SetrError: Something is missing; the message says what to do.
    """
    import polars as pl

    from setr_lib.datasets import evaluation_set
    from setr_lib.methods.method import ranks_captions
    from setr_lib.methods.ranking import rank
    from setr_lib.pipeline.reranking import chosen_reranker, fusion_in_use, rerank_candidates
    from setr_lib.tables import GALLERY

    settings = context.settings
    each = evaluation_set(settings, key)
    depth = settings.rerank_depth(each.dataset)
    gallery = context.tables.read("gallery_images", GALLERY, key)
    reference = _reference_row(image)
    gallery = _searched(gallery, gallery_name).filter(pl.col("fingerprint") != reference["fingerprint"][0])
    query = _query(text)
    method = method or context.methods.get(settings.coarse.default)
    if ranks_captions(method):
        raise SetrError(
            f"retrieval method {method.name!r} ranks captions; a search looks at images: name another"
        )
    encoded, index, caption = _encoded(context, key, query, reference, method, progress)
    coarse = rank(
        method,
        encoded,
        gallery,
        index,
        depth,
        remove_reference=False,
        options=context.methods.options(method),
    )
    reranker = chosen_reranker(context, reranker_name)
    judged = rerank_candidates(
        context,
        reranker,
        coarse,
        query,
        pl.concat([gallery, reference]),
        k=depth,
        fused=fusion_in_use(context, method, reranker.scorer, reranker.version),
        progress=progress,
    )
    return Found(caption, coarse, judged, reranker, dict(gallery.select("image_id", "path").iter_rows()))


def _encoded(
    context: PipelineContext,
    key: str,
    query: pl.DataFrame,
    reference: pl.DataFrame,
    method: Method,
    progress: Progress,
) -> tuple[EncodedQueries, GalleryIndex, str]:
    from setr_lib.datasets import evaluation_set
    from setr_lib.methods.inputs import CAPTIONS, COMPOSITIONS, GalleryIndex, encode_queries
    from setr_lib.pipeline.retrieval import vectors_of
    from setr_lib.pipeline.texts import texts_for
    from setr_lib.spaces.images import open_image
    from setr_lib.tables import QUERIES

    kind = evaluation_set(context.settings, key).kind
    texts = texts_for(
        context,
        [method],
        query,
        reference,
        also=(CAPTIONS, COMPOSITIONS),
        dataset=kind,
        progress=progress,
    )
    stored = vectors_of(context, "gallery_embeddings", f"the gallery of {key}", key)
    ids, vectors = context.gallery_store.read(stored.table, stored.version)
    encoded = encode_queries(
        query,
        context.models.space(),
        ids,
        vectors,
        texts=texts,
        center_texts=context.tables.read("queries", QUERIES, key)["modification"].to_list(),
        reference_vectors=context.models.space().embed_images([open_image(reference.item(0, "path"))]),
    )
    return encoded, GalleryIndex(ids, vectors), texts[COMPOSITIONS].item(0, "target_caption")


def _reference_row(image: Path) -> pl.DataFrame:
    import polars as pl

    from setr_lib.datasets import inspect_gallery

    frame = pl.DataFrame({"image_id": [_REFERENCE], "path": [str(image.absolute())], "galleries": [["all"]]})
    row = inspect_gallery(frame)
    if row.item(0, "status") != "ok":
        raise SetrError(f"{image}: the reference image is {row.item(0, 'status')}: {row.item(0, 'detail')}")
    return row


def _searched(gallery: pl.DataFrame, name: str | None) -> pl.DataFrame:
    import polars as pl

    if name is not None:
        chosen = gallery.filter(pl.col("galleries").list.contains(name))
        if chosen.is_empty():
            known = sorted(gallery["galleries"].explode(empty_as_null=True, keep_nulls=True).unique())
            raise SetrError(f"there is no gallery {name!r}: use one of {', '.join(known)}")
        gallery = chosen
    return gallery.with_columns(galleries=pl.lit(["all"]))


def _query(text: str) -> pl.DataFrame:
    import polars as pl

    from setr_lib.tables import QUERIES

    row = {
        "query_id": _QUERY,
        "reference_id": _REFERENCE,
        "modification": text,
        "captions": [text],
        "target_ids": [],
        "subset_ids": [],
        "gallery": "all",
        "aspects": [],
    }
    return pl.DataFrame([row], schema=QUERIES)


def _sheet(image: Path, text: str, found: Found, strategy: str, k: int) -> Image.Image:
    from setr_lib.evaluation.contact_sheet import Strip, draw_contact_sheet, tiles_of

    titles = (f"coarse · {strategy}", f"re-ranked · {found.reranker.title}")
    is_logit = found.reranker.scorer.is_logit
    strips = [
        Strip(title, tiles_of(frame, found.paths, top=k, is_logit=is_logit))
        for title, frame in zip(titles, (found.coarse, found.judged), strict=True)
    ]
    return draw_contact_sheet(image, text, strips, detail=f"composed: {found.target_caption}")


def _print(found: Found, key: str, k: int, sheet: Path, note: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from setr_lib.evaluation.contact_sheet import judge_words

    is_logit = found.reranker.scorer.is_logit
    before = dict(found.coarse.select("image_id", "rank").iter_rows())
    table = Table(title=f"{key} · {found.reranker.title}{note}", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("rank", "image", "judge" if is_logit else "score", "coarse rank", "cosine"):
        table.add_column(column, overflow="fold")
    for row in found.judged.sort("rank").head(k).iter_rows(named=True):
        table.add_row(
            str(row["rank"]),
            Text(row["image_id"]),
            "-" if row["judge_score"] is None else judge_words(row["judge_score"], is_logit=is_logit),
            str(before.get(row["image_id"], "-")),
            f"{row['coarse_score']:.3f}",
        )
    console = Console()
    console.print(Text(f"looking for: {found.target_caption}"))
    console.print(table)
    print(f"contact sheet: {sheet}")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:40] or "search"
