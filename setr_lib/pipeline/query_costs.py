"""What a composed query costs by each method and re-ranker: milliseconds, and calls of the multimodal LLM.

Times are measured on the first queries of an evaluation set, with nothing kept from before: generated texts
are written anew, texts encoded anew, and candidates judged with their vision features computed anew. Reading
the gallery's vectors is not counted, as a service holds them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.evaluation.comparison import Cost
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.evaluation.row import Row
    from setr_lib.methods.method import Method
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

    @property
    def device(self) -> str:
        """Where models run, as torch names it."""
        from setr_lib.models.device import pick_device

        return str(pick_device(self._context.settings.models.device))

    def of_set(self, key: str, rows: Sequence[Row], progress: Progress = silent) -> dict[Row, Cost]:
        """The costs of the rows of an evaluation set that is ranked already.

        Args:
            key: The evaluation set.
            rows: Rows of methods, and of methods with a re-ranker.
            progress: Told how many rows are timed.

        Returns:
            Cost by row.
        """
        material = _Material(self._run, key, self._sample)
        found: dict[Row, Cost] = {}
        for number, row in enumerate(rows, 1):
            progress(number, len(rows), "rows timed")
            method = self._context.methods.get(row.method)
            found[row] = material.ranked(method) + material.written(method)
            if row.reranker:
                reranker = next(one for one in self._context.rerankers.configured if one.name == row.reranker)
                found[row] += material.judged(row, self._run.opened(reranker))
        return found


class _Material:
    """The sample of one evaluation set, and what was measured on it so far."""

    def __init__(self, run: RerankingRun, key: str, sample: int) -> None:
        from setr_lib.datasets import evaluation_set
        from setr_lib.tables import GALLERY, QUERIES

        self.context, self.key = run.context, key
        tables = self.context.tables
        self.queries = tables.read("queries", QUERIES, key).head(sample)
        self.gallery = tables.read("gallery_images", GALLERY, key)
        self.evaluated = evaluation_set(self.context.settings, key)
        self._sets: dict[str, QuerySet] = {}
        self._texts: dict[str, Cost] = {}
        self._ranked: dict[str, Cost] = {}
        self._judged: dict[str, Cost] = {}

    def ranked(self, method: Method) -> Cost:
        """Encoding and ranking by one method."""
        from setr_lib.methods.method import ranks_captions

        if method.name in self._ranked:
            return self._ranked[method.name]
        opened = self.context.weights.open(method).method
        again = self._captioned if ranks_captions(method) else self._encoded
        k = self.context.settings.coarse.top_k

        def rank(rows: int) -> object:
            return again(opened, rows).ranked(opened, k)

        rank(1)  # what is loaded or prepared once is not a query's cost
        seconds = _seconds(lambda: rank(self.queries.height))
        self._ranked[method.name] = found = Cost(1000 * seconds / max(self.queries.height, 1))
        return found

    def written(self, method: Method) -> Cost:
        """The texts that the multimodal LLM writes for the method."""
        kinds = self._kinds(method)
        return sum((self._cost_of(kind) for kind in kinds.values()), Cost())

    def judged(self, row: Row, reranker: OpenReranker) -> Cost:
        """Scoring all candidates of a query."""
        from setr_lib.models.multimodal import Picture
        from setr_lib.reranking.reranker import JudgedQuery
        from setr_lib.tables import RANKINGS

        depth = self.context.settings.rerank_depth(self.evaluated.dataset)
        if row.reranker not in self._judged:
            tables = self.context.tables
            rankings = tables.read(tables.coarse(self.key, row.method), RANKINGS)
            readable = self.gallery.filter(status="ok")
            pictures = {
                image_id: Picture(fingerprint, Path(path))
                for image_id, fingerprint, path in readable.select(
                    "image_id", "fingerprint", "path"
                ).iter_rows()
            }
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
        references = self.gallery.filter(
            self.gallery["image_id"].is_in(self.queries["reference_id"].unique().implode())
        )
        rows = self.queries if kind.per == "query" else references
        texts = self._tables
        model = self.context.models.multimodal()

        def write(of: pl.DataFrame) -> object:
            with tempfile.TemporaryDirectory() as folder, model.vision.separate_memory():
                cache = ContentCache(Path(folder) / "texts.sqlite", CACHE_KIND)
                generator = Generator(model, self.context.prompts(), cache, self.evaluated.kind)
                return generate(kind, generator, of, references, texts)

        write(rows.head(1))
        calls = rows.height / max(self.queries.height, 1)
        seconds = _seconds(lambda: write(rows)) / max(self.queries.height, 1)
        self._texts[kind.name] = found = Cost(1000 * seconds, calls)
        return found

    def _encoded(self, method: Method, rows: int) -> QuerySet:
        """The first queries, encoded anew for a method's space, with the texts that it reads."""
        from setr_lib.pipeline.query_set import encode
        from setr_lib.pipeline.retrieval import encoded_queries

        if method.space not in self._sets:
            self._sets[method.space], _ = encoded_queries(self.context, self.key, method.space)
        known, queries = self._sets[method.space], self.queries.head(rows)
        read = {*method.needs, *(kind.name for kind in method.texts)}
        return encode(
            self.context,
            queries,
            known.images,
            known.index,
            space=self.context.weights.space(method.space).model,
            texts={kind: table for kind, table in self._tables.items() if kind in read},
            benchmark=self.evaluated.benchmark,
            center_texts=[],
        )

    @cached_property
    def _tables(self) -> dict[str, pl.DataFrame]:
        """The generated texts of the whole set, by kind."""
        from setr_lib.pipeline.retrieval import built_in_texts, method_texts

        return {**built_in_texts(self.context, self.key), **method_texts(self.context, self.key)}

    def _captioned(self, method: Method, rows: int) -> QuerySet:
        """The first queries with the gallery's captions."""
        from dataclasses import replace

        from setr_lib.methods.inputs import plain_queries
        from setr_lib.pipeline.retrieval import captioned_queries

        if "captions" not in self._sets:
            self._sets["captions"], _ = captioned_queries(self.context, self.key)
        return replace(self._sets["captions"], queries=plain_queries(self.queries.head(rows)))


def _per_query(reranker: OpenReranker, asked: list) -> Cost:
    """Scoring the candidates of queries, with every picture seen anew."""
    from contextlib import nullcontext

    if not asked:
        return Cost()
    model = getattr(reranker.scorer, "model", None)
    vision = getattr(model, "vision", None)
    pairs = sum(len(query.candidates) for query in asked)
    reranker.scorer.score(asked[:1])
    with nullcontext() if vision is None else vision.separate_memory():
        seconds = _seconds(lambda: reranker.scorer.score(asked))
    return Cost(1000 * seconds / len(asked), pairs / len(asked) if model is not None else 0.0)


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
