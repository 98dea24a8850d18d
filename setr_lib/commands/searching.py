"""What a search needs before its first query: a gallery that is embedded, a method, a re-ranker, and how many
images are shown. What is wrong is told before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.commands.console import talk
from setr_lib.errors import SetrError
from setr_lib.near_names import did_you_mean
from setr_lib.pipeline.context import NotMadeYetError, PipelineContext, pipeline_context
from setr_lib.pipeline.reranking import BEST, STAGE_1_ALONE, wanted_reranker
from setr_lib.pipeline.storage import or_run_everything
from setr_lib.pipeline.toy_models import toy_models_note
from setr_lib.records import EmbeddingsRecord
from setr_lib.settings import Settings
from setr_lib.typed import typed

if TYPE_CHECKING:
    from setr_lib.datasets import EvaluationSet
    from setr_lib.methods.method import Method

_IMAGES = 10
"""Images shown where nothing is said."""


@dataclass(frozen=True)
class Wanted:
    """What a person asks of a search, besides image and text.

    Attributes:
        dataset: An evaluation set or data set; None for the first that is embedded.
        gallery: One of its galleries, e.g. a category; None for all.
        method: The retrieval method; None for that of the settings.
        reranker: The re-ranker, or ``none`` for stage 1 alone; None for the best configured one.
        k: Images shown; None for 10, or as many as are judged where these are fewer.
    """

    dataset: str | None = None
    gallery: str | None = None
    method: str | None = None
    reranker: str | None = None
    k: int | None = None


@dataclass(frozen=True)
class Search:
    """A search that can be made.

    Attributes:
        context: Settings and tables.
        searched: The evaluation set whose gallery is searched.
        wanted: What was asked for.
        k: Images shown.
    """

    context: PipelineContext
    searched: EvaluationSet
    wanted: Wanted
    k: int

    @property
    def reranker(self) -> str:
        """The re-ranker's name as the retriever takes it."""
        return self.wanted.reranker or BEST

    @property
    def where(self) -> str:
        """The set, and the gallery where it is one of several."""
        key, gallery = self.searched.key, self.wanted.gallery
        return key if gallery is None else f"{key} · gallery {gallery}"

    def paths(self) -> dict[str, str]:
        """The file of each image of the gallery, by id."""
        from setr_lib.tables import GALLERY

        images = self.context.tables.read("gallery_images", GALLERY, self.searched.key)
        return dict(images.select("image_id", "path").iter_rows())

    def stale_words(self, stale: dict[str, str], candidates: int) -> str:
        """That the gallery is stale: which picture, how many, and what to do.

        Args:
            stale: Why candidates are not what the gallery was made of, by id; one at least.
            candidates: How many there are.

        Returns:
            The words.
        """
        first, why = next(iter(stale.items()))
        key = self.searched.key
        return (
            f"the gallery of {key} is stale: {len(stale)} of {candidates} candidates are not the pictures "
            f"that it was made of, the first is {first} ({why}); materialize gallery_images and "
            f"gallery_embeddings, {or_run_everything(self.context.settings, key, 'gallery_embeddings')}"
        )


def prepared(settings: Settings, wanted: Wanted) -> Search:
    """Find out what a search needs, and have the system read ahead the weights that it will load.

    Args:
        settings: The settings.
        wanted: What is asked for.

    Returns:
        The search.

    Raises:
        SetrError: Something is not known or not made yet; the message says what to do.
    """
    from setr_lib.models.read_ahead import read_ahead
    from setr_lib.pipeline.texts import asks_model

    context = pipeline_context(settings)
    if warning := context.prompts().unused_files_warning():
        talk(warning, warning=True)
    searched = embedded_set(context, wanted.dataset)
    if toys := toy_models_note(settings, searched.dataset):
        talk(toys, warning=True)
    reranker = wanted_reranker(context, wanted.reranker or BEST)
    k = _shown(settings, searched, wanted.k, is_judged=reranker is not None)
    method = context.methods.get(wanted.method or settings.coarse.default)
    writes = asks_model([method], context.prompts(), searched.kind)
    if reranker is None and writes and wanted.reranker in STAGE_1_ALONE:
        talk(_writer_words(context, method, searched.kind))
    read_ahead(settings, space=method.space, judge=writes or reranker is not None)
    return Search(context, searched, wanted, k)


def _shown(settings: Settings, searched: EvaluationSet, k: int | None, *, is_judged: bool) -> int:
    """How many images are shown: no more than are judged."""
    depth = settings.rerank_depth(searched.dataset)
    if k is None:
        return min(_IMAGES, depth) if is_judged else _IMAGES
    if is_judged and k > depth:
        raise SetrError(
            f"--k {k}: only the first {depth} are judged; raise [reranking] top_k, or rerank_top_k in "
            f"[datasets.{searched.dataset}], and [coarse] top_k where that is less, to see more; or search "
            "with --coarse-only"
        )
    return k


def _writer_words(context: PipelineContext, method: Method, kind: str) -> str:
    """That stage 1 alone asks the multimodal LLM, too, and the configured methods that do not."""
    from setr_lib.methods.method import ranks_captions
    from setr_lib.pipeline.texts import asks_model

    prompts = context.prompts()
    others = [
        other.name
        for other in context.methods.configured.values()
        if not ranks_captions(other) and not asks_model([other], prompts, kind)
    ]
    instead = f"; --method {', '.join(others)} ask it for nothing" if others else ""
    return (
        f"stage 1 alone, but method {method.name!r} reads what the multimodal LLM writes about the query, so "
        f"that is loaded where the answer is not kept{instead}"
    )


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
        known = sorted({candidate.key for candidate in every})
        there = f"{', '.join(known) or 'none'}{did_you_mean(name or '', known)}"
        if name is None:
            raise SetrError("settings name no data set: there is no gallery to search")
        raise SetrError(f"there is no evaluation set or data set {name!r}; there is {there}")
    captioned: list[EvaluationSet] = []
    for candidate in named:
        try:
            stored = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, candidate.key)
        except NotMadeYetError:
            continue
        if stored.has_vectors:
            return candidate
        captioned += [candidate] if stored.has_captions else []
    if captioned and len(captioned) == len(named):
        raise SetrError(_without_pictures(captioned))
    raise NotMadeYetError(
        f"the gallery of {', '.join(candidate.key for candidate in named)} is not embedded yet: materialize "
        f"gallery_embeddings, {or_run_everything(context.settings, named[0].key, 'gallery_embeddings')}"
    )


def _without_pictures(captioned: Sequence[EvaluationSet]) -> str:
    """Why sets whose captions stand in for their pictures cannot be searched, and what to do."""
    keys, first = ", ".join(each.key for each in captioned), captioned[0]
    return (
        f"{keys}: captions stand in for the pictures, none of which can be read, and a search needs "
        f"pictures: put them into {first.benchmark.image_folder(first)}, then run "
        f"`{typed(f'run {first.key} --until gallery_embeddings')}`"
    )
