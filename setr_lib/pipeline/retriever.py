"""Composed image retrieval over one gallery: a reference image and a text in, a ranking out."""

from __future__ import annotations

import logging
import operator
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

from setr_lib.errors import SetrError
from setr_lib.escaping import is_unicode
from setr_lib.pipeline.context import pipeline_context
from setr_lib.pipeline.held_gallery import HeldGallery
from setr_lib.pipeline.query_set import QuerySet, encode
from setr_lib.pipeline.reranking import BEST, open_reranker, wanted_reranker
from setr_lib.progress import Progress, silent
from setr_lib.reranking.order import COSINE, Order, coarse_order
from setr_lib.settings import DatasetSettings, Settings, load_settings

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from setr_lib.datasets import EvaluationSet
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.reranking import OpenReranker, WantedReranker
    from setr_lib.pipeline.trained_weights import OpenMethod, OpenSpace
    from setr_lib.pixel_rules import PixelRules
    from setr_lib.pixels import PictureFile
    from setr_lib.spaces.removals import RemovalRule
    from setr_lib.spaces.space import EmbeddingSpace


_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """An image of the answer.

    Attributes:
        rank: 1 for the best.
        image_id: Its id in the gallery; of a folder, its path from there.
        path: Its file.
        score: What the answer is ordered by.
        coarse_score: Stage 1's score.
        judge_score: The re-ranker's score; None where the image was not re-ranked.
    """

    rank: int
    image_id: str
    path: str
    score: float
    coarse_score: float
    judge_score: float | None


@dataclass(frozen=True)
class SearchResult:
    """The answer to one composed query; iterating gives its hits, best first.

    Attributes:
        hits: The first ``k`` images.
        coarse: All candidates of stage 1, a RANKINGS table.
        ranking: The same after stage 2, or ``coarse`` where there is none.
        target_caption: What the multimodal LLM took the query to look for; None where it was not asked.
        paths: The file of each image of the gallery, by id.
        method: The retrieval method's name.
        reranker: The re-ranker's name; None for stage 1 alone.
        version: The registered version of the re-ranker's weights, where it has one.
        is_logit: Whether the re-ranker's scores are the log-odds of a Yes.
        method_version: The registered version of the method's weights, or of the space that it searches,
            where they are trained.
        is_cosine: Whether stage 1's scores are cosines, or as small.
        cut: Texts of the query that were longer than the text encoder reads, and lost their end.
        files: The file of each image of the gallery, by id, with its fingerprint and how it is read.
        stale: Why a candidate is not the picture any more that the gallery was made of, by id: its vector and
            its scores are those of the earlier one, and it was not scored now.
        reference: The fingerprint of the reference image's bytes.
        order: What ``hits`` are ordered by, e.g. ``cosine + 0.5 P(Yes)`` (``order.words``). A hit's number
            is its ``score``, in words ``order.number(hit.score)``.
    """

    hits: list[Hit]
    coarse: pl.DataFrame
    ranking: pl.DataFrame
    target_caption: str | None
    paths: Mapping[str, str]
    method: str
    reranker: str | None = None
    version: str | None = None
    is_logit: bool = True
    method_version: str | None = None
    is_cosine: bool = True
    cut: tuple[str, ...] = ()
    files: Mapping[str, PictureFile] = field(default_factory=dict)
    stale: Mapping[str, str] = field(default_factory=dict)
    reference: str | None = None
    order: Order = COSINE

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


class Retriever:
    """Searches one gallery by composed queries, through both stages, with models held in memory.

    Make it by :meth:`from_folder` or :meth:`from_evaluation_set`. Several threads may search at once; their
    models compute one after the other.

    With ``hold_vectors``, the gallery's vectors are held, too. Without, they are read from the store for each
    search: in blocks of bounded memory (``[coarse] memory_mb``) for a method that is one query vector and a
    cosine (a ``VectorMethod`` whose query vector needs no more of the gallery than its mean), as a whole for
    any other. The answers are the same.

    Args:
        gallery: The gallery, and with it settings, stores and models.
        center_texts: Modification texts whose mean the method ``product`` subtracts; none by default.
    """

    def __init__(self, gallery: HeldGallery, center_texts: Sequence[str] = ()) -> None:
        self.gallery, self.context = gallery, gallery.context
        self.center_texts = list(center_texts)
        settings, dataset = self.context.settings, gallery.evaluation_set.dataset
        self.depth = settings.rerank_depth(dataset if dataset in settings.datasets else None)
        """Candidates that stage 1 hands to stage 2."""

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        settings: Settings | None = None,
        progress: Progress = silent,
        *,
        hold_vectors: bool = True,
        accept_removals: bool = False,
        outside_links: bool = False,
    ) -> Retriever:
        """A retriever over all images below a folder.

        Vectors are kept in the storage root: only new and changed images are embedded. What of the folder is
        no part of the gallery (links elsewhere, files that are not read) is told in a warning of the log.

        Args:
            folder: The gallery.
            settings: Models and storage; by default those of ``setr.toml`` (looked for from the current
                folder upwards) and the environment.
            progress: Told how many images are inspected and embedded.
            hold_vectors: Whether the gallery's vectors are held in memory, for many searches; see the class.
            accept_removals: Whether the vectors of any number of images that are gone are removed; without
                it, of a fifth at most.
            outside_links: Whether links to folders are followed that end outside of ``folder``.

        Returns:
            The retriever.

        Raises:
            SetrError: The folder has no readable image or cannot be listed, a model cannot be loaded, or so
                many images are gone that ``accept_removals`` is needed.
        """
        from setr_lib.datasets import evaluation_set
        from setr_lib.pipeline.removals import folder_rule

        root, settings = _expanded(folder).absolute(), settings or load_settings()
        if not root.is_dir():
            raise SetrError(f"{folder}: there is no such folder")
        name, context = _gallery_name(root), pipeline_context(settings)
        dataset = DatasetSettings(kind="folder", root=root, outside_links=outside_links)
        found = evaluation_set(settings.model_copy(update={"datasets": {name: dataset}}), name)
        rule = folder_rule(settings, root, accepted=accept_removals)
        images = _folder_images(context, found, rule, progress)
        gallery = HeldGallery(
            context, found, images, is_folder=True, hold_vectors=hold_vectors, removals=rule
        )
        gallery.embed(context.weights.space(context.methods.get(settings.coarse.default).space), progress)
        return cls(gallery)

    @classmethod
    def from_evaluation_set(
        cls, key: str, settings: Settings | None = None, *, hold_vectors: bool = True
    ) -> Retriever:
        """A retriever over the gallery of an evaluation set that the pipeline has embedded.

        Args:
            key: The evaluation set, e.g. ``cirr-val``.
            settings: As in :meth:`from_folder`.
            hold_vectors: As in :meth:`from_folder`.

        Returns:
            The retriever.

        Raises:
            NotMadeYetError: The gallery is not embedded; the message names the asset to materialise.
        """
        from setr_lib.datasets import evaluation_set
        from setr_lib.pipeline.set_data import queries_of
        from setr_lib.tables import GALLERY, QUERIES

        context = pipeline_context(settings or load_settings())
        images = context.tables.read("gallery_images", GALLERY, key)
        # Of a gallery that was embedded and not evaluated, there need not be a table of queries.
        made = context.tables.exists("queries", key)
        queries = context.tables.read("queries", QUERIES, key) if made else queries_of(context, key).frame
        found = evaluation_set(context.settings, key)
        texts = queries["modification"].to_list()
        return cls(HeldGallery(context, found, images, hold_vectors=hold_vectors), texts)

    def search(
        self,
        image: Path | str | bytes | bytearray | Image.Image,
        text: str,
        *,
        k: int = 10,
        method: str | None = None,
        reranker: str | None = BEST,
        gallery: str | None = None,
        progress: Progress = silent,
    ) -> SearchResult:
        """Search by one reference image and one modification text.

        The reference itself is left out of the answer where it lies in the gallery.

        Args:
            image: The reference image: a file, the bytes of one, or an opened image.
            text: What should differ from it.
            k: Images in the answer.
            method: The retrieval method of stage 1 by name; ``[coarse] default`` by default.
            reranker: The re-ranker of stage 2 by name; by default the best configured one: the champion
                adapter, else the first that can score. None, or ``none``, for stage 1 alone.
            gallery: One gallery of several, e.g. a category of FashionIQ.
            progress: Told how far the models are.

        Returns:
            The answer.

        Raises:
            SetrError: The text is empty, ``k`` is not a number of images, the image cannot be read, or
                something is missing; the message says what to do.
        """
        if not isinstance(text, str) or not text.strip():
            said = "is empty" if isinstance(text, str) else f"is {_shown(text)}"
            raise SetrError(f"the modification text {said}: say what should differ from the image")
        if not is_unicode(text):
            raise SetrError("the modification text is no UTF-8 (half a character): write it again")
        k = _whole_number(k)
        chosen, wanted = _open_method(self.context, method), wanted_reranker(self.context, reranker)
        if wanted is not None and k > self.depth:
            raise SetrError(
                f"k = {k}: only the first {self.depth} are re-ranked; raise [reranking] top_k, and [coarse] "
                "top_k where that is less, or search without a re-ranker"
            )
        with self.context.models.lock, tempfile.TemporaryDirectory(prefix="setr-query-") as scratch:
            query = _query(text.strip(), self._reference(image, Path(scratch)))
            space = self.context.weights.space(chosen.method.space, chosen.versions)
            found = self._search(
                query, chosen.method, space, wanted, max(k, self.depth), k, gallery, progress
            )
            return replace(found, method_version=chosen.version)

    def _reference(self, image: Path | str | bytes | bytearray | Image.Image, scratch: Path) -> pl.DataFrame:
        """The GALLERY row of a query's reference image, which is read as the gallery's images are."""
        rules = self.gallery.evaluation_set.pixels
        return reference_row(_image_file(image, scratch, rules), rules)

    def _search(
        self,
        query: _Query,
        method: Method,
        space: OpenSpace,
        reranker: WantedReranker | None,
        depth: int,
        k: int,
        gallery: str | None,
        progress: Progress,
    ) -> SearchResult:
        from setr_lib.methods.inputs import COMPOSITIONS

        searched = self.gallery.searched(gallery)
        own = set(searched.filter(searched["fingerprint"] == query.fingerprint)["image_id"])
        self.gallery.require(space)  # before a model is asked for texts
        encoded, texts = self._encoded(query, method, space.model, searched, progress)
        coarse = _coarse(self.gallery, space, encoded, method, own, depth)
        ranking, opened, order = coarse, None, coarse_order(is_cosine=method.is_cosine)
        if reranker is not None:
            ranking, opened, order = self._reranked(coarse, query, method, reranker, searched, progress)
        composed = texts.get(COMPOSITIONS)
        return SearchResult(
            hits=_hits(ranking, self.gallery.paths, k),
            coarse=coarse,
            ranking=ranking,
            target_caption=None if composed is None else composed.item(0, "target_caption"),
            paths=self.gallery.paths,
            method=method.name,
            reranker=opened.name if opened else None,
            version=opened.version if opened else None,
            is_logit=opened is None or opened.scorer.is_logit,
            is_cosine=method.is_cosine,
            cut=tuple(encoded.queries.encode.cut),
            files=self.gallery.files,
            stale=self.gallery.stale(space, coarse["image_id"].to_list()),
            reference=query.fingerprint,
            order=order,
        )

    def _encoded(
        self,
        query: _Query,
        method: Method,
        space: EmbeddingSpace,
        searched: pl.DataFrame,
        progress: Progress,
    ) -> tuple[QuerySet, dict[str, pl.DataFrame]]:
        """The query, with the images that it searches; their vectors are not read yet."""
        import numpy as np

        from setr_lib.methods.inputs import GalleryIndex
        from setr_lib.pipeline.texts import texts_for
        from setr_lib.pixels import picture_files
        from setr_lib.spaces.taken_images import embed_image

        kind = self.gallery.evaluation_set.kind
        texts = texts_for(
            self.context, [method], query.queries, query.reference, dataset=kind, progress=progress
        )
        encoded = encode(
            self.context,
            query.queries,
            searched,
            GalleryIndex([], np.zeros((0, space.dimension), dtype=np.float32)),
            space=space,
            texts=texts,
            center_texts=self.center_texts or None,
            reference_vectors=embed_image(space, next(iter(picture_files(query.reference).values())).read()),
            benchmark=self.gallery.evaluation_set.benchmark,
            references=query.reference,
        )
        return encoded, texts

    def _reranked(
        self,
        coarse: pl.DataFrame,
        query: _Query,
        method: Method,
        reranker: WantedReranker,
        searched: pl.DataFrame,
        progress: Progress,
    ) -> tuple[pl.DataFrame, OpenReranker, Order]:
        import polars as pl

        from setr_lib.pipeline.reranking import fusion_in_use, rerank_candidates

        opened = open_reranker(self.context, reranker.name, reranker.version)
        fused = fusion_in_use(self.context, method, opened.scorer, opened.version)
        candidates = searched.filter(pl.col("image_id").is_in(coarse["image_id"].implode()))
        ranking = rerank_candidates(
            self.context,
            opened,
            coarse,
            query.queries,
            pl.concat([candidates, query.reference]),
            k=self.depth,
            fused=fused,
            progress=progress,
        )
        return ranking, opened, fused.order(method, opened.scorer)


def _open_method(context: PipelineContext, name: str | None) -> OpenMethod:
    """The method of a name, or the default one, with its weights."""
    from setr_lib.methods.method import ranks_captions

    method = context.methods.get(name or context.settings.coarse.default)
    if ranks_captions(method):
        raise SetrError(
            f"retrieval method {method.name!r} ranks captions; a search looks at images: name another"
        )
    return context.weights.open(method)


def _hits(ranking: pl.DataFrame, paths: Mapping[str, str], k: int) -> list[Hit]:
    """The first ``k`` images of a ranking."""
    return [
        Hit(
            rank=row["rank"],
            image_id=row["image_id"],
            path=paths[row["image_id"]],
            score=row["score"],
            coarse_score=row["coarse_score"],
            judge_score=row["judge_score"],
        )
        for row in ranking.sort("rank").head(k).iter_rows(named=True)
    ]


_QUERY, _REFERENCE = "search", "(reference)"


@dataclass(frozen=True)
class _Query:
    """One query as the stages read it: a QUERIES table of one row, and the GALLERY row of its reference."""

    queries: pl.DataFrame
    reference: pl.DataFrame

    @property
    def fingerprint(self) -> str:
        return self.reference.item(0, "fingerprint")


def _folder_images(
    context: PipelineContext, found: EvaluationSet, rule: RemovalRule, progress: Progress
) -> pl.DataFrame:
    """The images of a folder, a GALLERY table; what is no part of it is told in the log.

    Raises:
        SetrError: None can be read, the folder cannot be listed, or too many are gone.
    """
    from setr_lib.benchmarks.folder_gallery import gallery_listing
    from setr_lib.benchmarks.loading import read_gallery
    from setr_lib.datasets import inspect_gallery
    from setr_lib.pipeline.removals import check_gallery

    listing = gallery_listing(found)
    images = inspect_gallery(read_gallery(found), progress, found.pixels)
    check_gallery(context, found.gallery_key, images, rule, [listing] if listing else [])
    told = [] if listing is None else [*listing.faults, *listing.notes]
    if images.filter(status="ok").is_empty():
        none = f"{found.root}: none of its {images.height} files can be read as an image"
        raise SetrError("; ".join([none, *told]))
    for sentence in told:
        _LOG.warning(sentence)
    return images


def _query(text: str, reference: pl.DataFrame) -> _Query:
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
    return _Query(pl.DataFrame([row], schema=QUERIES), reference)


def reference_row(file: Path, rules: PixelRules) -> pl.DataFrame:
    """The GALLERY row of a reference image, which is opened to the end.

    Args:
        file: The image.
        rules: How the images of the gallery are read.

    Returns:
        One row.

    Raises:
        SetrError: It cannot be read; the message says why.
    """
    import polars as pl

    from setr_lib.datasets import inspect_gallery

    frame = pl.DataFrame({"image_id": [_REFERENCE], "path": [str(file.absolute())], "galleries": [["all"]]})
    row = inspect_gallery(frame, rules=rules)
    if row.item(0, "status") != "ok":
        raise SetrError(f"{file}: the reference image is {row.item(0, 'status')}: {row.item(0, 'detail')}")
    return row


def _image_file(
    image: Path | str | bytes | bytearray | Image.Image, scratch: Path, rules: PixelRules
) -> Path:
    """``image`` as a file; bytes and opened images are written into ``scratch``."""
    from PIL import Image

    from setr_lib.pixels import UnreadableImageError, to_rgb

    if isinstance(image, str | Path):
        return _expanded(image)
    file = scratch / "reference"
    if isinstance(image, bytes | bytearray | memoryview):
        file.write_bytes(image)
    elif isinstance(image, Image.Image):
        try:
            to_rgb(image, rules).save(file, format="PNG")
        except (OSError, ValueError, UnreadableImageError) as error:
            raise SetrError(f"the reference image cannot be read: {error}") from error
    else:
        raise SetrError(
            f"the reference image is {_shown(image)}: give a file, the bytes of one, or an opened image (PIL)"
        )
    return file


def _expanded(path: Path | str) -> Path:
    """``path`` with ``~`` and ``~user`` replaced by the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # there is no such user
        raise SetrError(f"{path}: {error}; write ./{path} for a name that begins with ~") from error


def _whole_number(k: object) -> int:
    if isinstance(k, bool) or not isinstance(k, SupportsIndex) or operator.index(k) < 1:
        raise SetrError(f"k = {_shown(k)}: it is how many images the answer has: a whole number from 1")
    return operator.index(k)


def _shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:60]}..."


def _coarse(
    gallery: HeldGallery, space: OpenSpace, encoded: QuerySet, method: Method, own: set[str], depth: int
) -> pl.DataFrame:
    """Stage 1's first ``depth`` images; ``own``, the reference and its copies, are not among them."""
    # A larger cut only appends: what is left after the reference is taken out is the first ``depth``.
    found = replace(encoded, index=gallery.index(space)).ranked(method, depth + len(own))
    return _without(found, own, depth)


def _without(ranking: pl.DataFrame, images: set[str], k: int) -> pl.DataFrame:
    """The first ``k`` rows of a RANKINGS table of one query once ``images`` are taken out."""
    import polars as pl

    from setr_lib.tables import RANKINGS

    kept = ranking.filter(~pl.col("image_id").is_in(list(images))).sort("rank").head(k)
    return kept.with_columns(rank=pl.int_range(1, pl.len() + 1).cast(RANKINGS["rank"]))


def _gallery_name(root: Path) -> str:
    """A name for a folder's gallery: its own, and a digest of where it is."""
    from setr_lib.hashing import digest_strings

    plain = re.sub(r"[^a-z0-9_]+", "-", root.name.lower()).strip("-")[:40] or "folder"
    return f"{plain}-{digest_strings([str(root)])[:8]}"
