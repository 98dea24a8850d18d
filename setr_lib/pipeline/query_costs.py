"""What a composed query costs by each method and re-ranker: milliseconds, and calls of the multimodal LLM.

Times are measured on the first queries of an evaluation set, with nothing of these queries kept from before:
generated texts are written anew, texts encoded anew, and candidates judged with their vision features
computed anew. What is made once for a gallery is not counted, as a service holds it: its vectors, those of
the references among them, and what a method prepares of them (its statistics, the centred vectors). The
queries of the sample are encoded, scored and judged in batches, as in an evaluation.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.evaluation.comparison import Cost
from setr_lib.methods.method import Method
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from setr_lib.evaluation.row import Row
    from setr_lib.methods.inputs import GalleryIndex, MethodInputs, SearchedGallery
    from setr_lib.pipeline.query_set import QuerySet
    from setr_lib.pipeline.reranking import OpenReranker
    from setr_lib.pipeline.reranking_run import RerankingRun
    from setr_lib.texts.kind import TextKind

_JUDGED_QUERIES = 2
"""A query's candidates are many: two queries are a sample."""


class QueryCosts:
    """Measures the costs of rows, each part once for a set.

    Args:
        run: The context, and the opened re-rankers.
        sample: Queries that are timed.
    """

    def __init__(self, run: RerankingRun, sample: int = 16) -> None:
        self._run, self._context, self._sample = run, run.context, sample
        self.failed: dict[Row, str] = {}
        """Why rows could not be timed."""

    def of_set(self, key: str, rows: Sequence[Row], progress: Progress = silent) -> dict[Row, Cost]:
        """The costs of the rows of an evaluation set that is ranked already.

        Args:
            key: The evaluation set.
            rows: Rows of methods, and of methods with a re-ranker.
            progress: Told how many rows are timed.

        Returns:
            Cost by row; none of a row that could not be timed (:attr:`failed`).
        """
        material = _Material(self._run, key, self._sample)
        found: dict[Row, Cost] = {}
        for number, row in enumerate(rows, 1):
            progress(number, len(rows), "rows timed")
            try:
                found[row] = self._of_row(row, material)
            except SetrError as error:
                self.failed[row] = str(error)
        return found

    def _of_row(self, row: Row, material: _Material) -> Cost:
        method = self._context.methods.get(row.method)
        found = material.ranked(method) + material.written(method)
        if not row.reranker:
            return found
        reranker = next(one for one in self._context.rerankers.configured if one.name == row.reranker)
        return found + material.judged(row, self._run.opened(reranker))


class _Prepared(Method):
    """A method with what it prepares of each gallery kept from the first time, and a clock of the rest:
    ``seconds`` of scoring and sorting.

    Args:
        method: The method, opened.
    """

    def __init__(self, method: Method) -> None:
        self._method = method
        self.name, self.space, self.needs, self.texts = method.name, method.space, method.needs, method.texts
        self.files, self.option_keys = method.files, method.option_keys
        self._galleries: dict[tuple[type, tuple[str, ...]], tuple[SearchedGallery, Any]] = {}
        self._gallery: SearchedGallery | None = None
        self.seconds = self._begun = 0.0

    def statistics(self, gallery: SearchedGallery) -> Any:
        """Those of the first time; the clock goes on when they are there."""
        kind = type(gallery), tuple(gallery.ids)
        if kind not in self._galleries:
            self._galleries[kind] = gallery, self._method.statistics(gallery)
        self._gallery, found = self._galleries[kind]
        self._begun = time.perf_counter()
        return found

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The method's own, over the gallery that is prepared."""
        return self._method.scores(replace(inputs, gallery=self._gallery or inputs.gallery))

    def search_vectors(self, inputs: MethodInputs) -> NDArray[np.float32] | None:
        """The method's own."""
        return self._method.search_vectors(replace(inputs, gallery=self._gallery or inputs.gallery))

    def block_done(self, done: int, total: int, what: str) -> None:
        """Told after each block of queries: the clock counts until here."""
        now = time.perf_counter()
        self.seconds, self._begun = self.seconds + now - self._begun, now


class _Material:
    """The sample of one evaluation set, and what was measured on it so far."""

    def __init__(self, run: RerankingRun, key: str, sample: int) -> None:
        from setr_lib.datasets import evaluation_set
        from setr_lib.tables import GALLERY, QUERIES

        self.context, self.key = run.context, key
        tables = self.context.tables
        self.every_query = tables.read("queries", QUERIES, key)
        self.queries = self.every_query.head(sample)
        self.gallery = tables.read("gallery_images", GALLERY, key)
        self.evaluated = evaluation_set(self.context.settings, key)
        wanted = self.queries["reference_id"].unique().implode()
        self._references = self.gallery.filter(self.gallery["image_id"].is_in(wanted))
        self._sets: dict[str, QuerySet] = {}
        self._indices: dict[str, GalleryIndex] = {}
        self._texts: dict[str, Cost] = {}
        self._ranked: dict[str, Cost] = {}
        self._judged: dict[str, Cost] = {}

    def ranked(self, method: Method) -> Cost:
        """Encoding the queries and ranking by one method, what it prepares of a gallery left out."""
        from setr_lib.methods.method import ranks_captions

        if method.name in self._ranked:
            return self._ranked[method.name]
        prepared = _Prepared(self.context.weights.open(method).method)
        again = self._captioned if ranks_captions(method) else self._encoded
        seconds = 0.0
        for _ in range(2):  # the first time, models are loaded and galleries prepared
            begun = time.perf_counter()
            queries = again(prepared)
            seconds, prepared.seconds = time.perf_counter() - begun, 0.0
            queries.ranked(prepared, self.context.settings.coarse.top_k, prepared.block_done)
            seconds += prepared.seconds
        self._ranked[method.name] = found = Cost(1000 * seconds / max(self.queries.height, 1))
        return found

    def written(self, method: Method) -> Cost:
        """The texts that the multimodal LLM writes for the method."""
        kinds = self._kinds(method)
        return sum((self._cost_of(kind) for kind in kinds.values()), Cost())

    def judged(self, row: Row, reranker: OpenReranker) -> Cost:
        """Scoring all candidates of a query."""
        from setr_lib.reranking.held_out import pictures_of
        from setr_lib.reranking.reranker import JudgedQuery
        from setr_lib.tables import RANKINGS

        depth = self.context.settings.rerank_depth(self.evaluated.dataset)
        if row.reranker not in self._judged:
            tables = self.context.tables
            rankings = tables.read(tables.coarse(self.key, row.method), RANKINGS)
            pictures = pictures_of(self.gallery)
            asked: list[JudgedQuery] = []
            for query in self.queries.iter_rows(named=True):
                own = rankings.filter(query_id=query["query_id"], pool="gallery").sort("rank").head(depth)
                candidates = [pictures[image_id] for image_id in own["image_id"] if image_id in pictures]
                if query["reference_id"] in pictures and candidates:
                    reference = pictures[query["reference_id"]]
                    asked.append(JudgedQuery(reference, query["modification"], tuple(candidates)))
            asked = asked[:_JUDGED_QUERIES]
            self._judged[row.reranker] = _per_query(reranker, asked)
        return self._judged[row.reranker]

    def _kinds(self, method: Method) -> dict[str, TextKind]:
        """The kinds of text that the method reads and that are written, each after those it is made from."""
        from setr_lib.pipeline.texts import text_kinds
        from setr_lib.texts.generation import CAPTION_TEXTS, COMPOSITION_TEXTS

        prompts, kind = self.context.prompts(), self.evaluated.kind
        own = {one.name: one for one in text_kinds([method])}
        read = {*method.needs, *(name for one in own.values() for name in one.made_from(prompts, kind))}
        built_in = {one.name: one for one in (CAPTION_TEXTS, COMPOSITION_TEXTS) if one.name in read}
        return {
            name: one
            for name, one in {**built_in, **own}.items()
            if one.template(prompts, kind) is not None and not self._from_captions
        }

    @property
    def _from_captions(self) -> bool:
        return self.context.is_caption_proxy(self.key)

    def _cost_of(self, kind: TextKind) -> Cost:
        """Writing one kind of text anew, per query."""
        from setr_lib.content_cache import ContentCache
        from setr_lib.texts.generation import CACHE_KIND, Generator, generate

        if kind.name in self._texts:
            return self._texts[kind.name]
        references = self._references
        rows, per_query = (self.queries, 1.0) if kind.per == "query" else (references, self._images_per_query)
        texts = self._tables
        model = self.context.models.multimodal()

        def write(of: pl.DataFrame) -> object:
            with tempfile.TemporaryDirectory() as folder, model.vision.separate_memory():
                cache = ContentCache(Path(folder) / "texts.sqlite", CACHE_KIND)
                generator = Generator(model, self.context.prompts(), cache, self.evaluated.kind)
                return generate(kind, generator, of, references, texts)

        write(rows.head(1))
        seconds = _seconds(lambda: write(rows)) / max(rows.height, 1)
        self._texts[kind.name] = found = Cost(1000 * seconds * per_query, per_query)
        return found

    @cached_property
    def _images_per_query(self) -> float:
        """Distinct reference images of the whole set for each of its queries."""
        return self.every_query["reference_id"].n_unique() / max(self.every_query.height, 1)

    def _set(self, method: Method) -> QuerySet:
        """The whole set as the method searches it."""
        from setr_lib.methods.method import caption_space, ranks_captions
        from setr_lib.pipeline.retrieval import captioned_queries, encoded_queries

        captions = ranks_captions(method)
        name = f"captions in {caption_space(method)}" if captions else method.space
        if name not in self._sets:
            found = (
                captioned_queries(self.context, self.key, caption_space(method))
                if captions
                else encoded_queries(self.context, self.key, method.space)
            )
            self._sets[name], _ = found
        return self._sets[name]

    def _encoded(self, method: Method) -> QuerySet:
        """The first queries, encoded anew for a method's space, with the texts that it reads."""
        from setr_lib.pipeline.query_set import encode

        known = self._set(method)
        read = {*method.needs, *(kind.name for kind in method.texts)}
        encoded = encode(
            self.context,
            self.queries,
            self._references,
            self._vectors_of_references(method.space, known.index),
            space=self.context.weights.space(method.space).model,
            texts={kind: table for kind, table in self._tables.items() if kind in read},
            benchmark=self.evaluated.benchmark,
            center_texts=[],
        )
        return replace(encoded, images=known.images, index=known.index)

    def _vectors_of_references(self, space: str, index: GalleryIndex) -> GalleryIndex:
        """Of a gallery's vectors those of the sample's references."""
        import numpy as np

        from setr_lib.methods.inputs import GalleryIndex

        if space not in self._indices:
            wanted = set(self._references["image_id"])
            rows = [row for row, image_id in enumerate(index.ids) if image_id in wanted]
            self._indices[space] = GalleryIndex([index.ids[row] for row in rows], index.take(np.array(rows)))
        return self._indices[space]

    @cached_property
    def _tables(self) -> dict[str, pl.DataFrame]:
        """The generated texts of the whole set, by kind."""
        from setr_lib.pipeline.retrieval import built_in_texts, method_texts

        return {**built_in_texts(self.context, self.key), **method_texts(self.context, self.key)}

    def _captioned(self, method: Method) -> QuerySet:
        """The first queries with the gallery's captions, and what encodes texts where these have vectors."""
        from setr_lib.methods.inputs import plain_queries
        from setr_lib.methods.method import caption_space

        space, known = caption_space(method), self._set(method)
        encoder = None if space is None else self.context.weights.space(space).model
        return replace(known, queries=plain_queries(self.queries, encoder))


def _per_query(reranker: OpenReranker, asked: list) -> Cost:
    """Scoring the candidates of queries, with every picture seen anew."""
    from contextlib import nullcontext

    from setr_lib.reranking.checked_scores import checked_scores

    if not asked:
        return Cost()
    model = getattr(reranker.scorer, "model", None)
    vision = getattr(model, "vision", None)
    pairs = sum(len(query.candidates) for query in asked)
    checked_scores(reranker.scorer, asked[:1])
    with nullcontext() if vision is None else vision.separate_memory():
        seconds = _seconds(lambda: checked_scores(reranker.scorer, asked))
    return Cost(1000 * seconds / len(asked), pairs / len(asked) if model is not None else 0.0)


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
