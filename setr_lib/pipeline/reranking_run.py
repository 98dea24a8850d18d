"""Stage 2 of evaluation sets: the candidates of each configured method, in the order of each re-ranker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.pipeline.reranking import (
    FusionInUse,
    OpenReranker,
    fusion_in_use,
    open_reranker,
    rerank_candidates,
)
from setr_lib.progress import CallCounter, Progress, silent
from setr_lib.records import CoarseRecord, Record, RerankedRecord, RerankedRow, content_digest

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.evaluation.row import Row
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.trained_weights import Versions
    from setr_lib.reranking.reranker import Reranker

NOTHING_TO_JUDGE = "there are captions, and no image to judge"
"""Why an evaluation set whose images are stood in for by captions is not re-ranked."""


@dataclass(frozen=True)
class RerankedTable:
    """One method's candidates of an evaluation set in the order of one re-ranker.

    Attributes:
        row: The method and the re-ranker.
        rankings: A RANKINGS table.
        made_by: The re-ranker, its weights and the fusion.
        calls: How many pairs were scored, and how many of them now.
        depth: How many candidates of a query are re-ranked.
    """

    row: Row
    rankings: pl.DataFrame
    made_by: RerankedRow
    calls: CallCounter
    depth: int

    @property
    def not_judged(self) -> int:
        """Pairs to re-rank that have no score: a picture cannot be read, or the model's processor refuses it,
        or its tokenizer the query's text.
        """
        import polars as pl

        from setr_lib.reranking.rerank import GALLERY_POOL

        to_judge = (pl.col("pool") != GALLERY_POOL) | (pl.col("rank") <= self.depth)
        left = self.rankings.filter(to_judge & pl.col("judge_score").is_null())
        return left.select("query_id", "image_id").n_unique()

    @property
    def facts(self) -> dict[str, str | int]:
        """What a person may want to know of it, by name."""
        by, calls = self.made_by, self.calls
        facts = {"pairs": calls.total, "judged now": calls.new, "model": by.model}
        facts |= {"prompt": by.prompt} if by.prompt else {}
        facts |= {"not judged": self.not_judged} if self.not_judged else {}
        return {**facts, "fusion": by.fusion}

    @property
    def words(self) -> str:
        """How many pairs were scored, and the fusion, in a sentence."""
        calls = self.calls
        counted = f"{calls.total:,} pairs: {calls.new:,} judged now, {calls.kept or 0:,} kept"
        if self.not_judged:
            counted += f", {self.not_judged:,} without a score (a picture or text that cannot be used)"
        return f"{counted}; {self.made_by.fusion}"


@dataclass(frozen=True)
class RerankedSet:
    """An evaluation set re-ranked by every configured pair of method and re-ranker.

    Attributes:
        record: Of the set, as it is stored.
        tables: One per row, in the order of the settings.
        default: The default method of the set.
        left_out: Why rows are not there, where those that fail are left out.
    """

    record: RerankedRecord
    tables: list[RerankedTable]
    default: str
    left_out: dict[Row, str] = field(default_factory=dict)

    @property
    def data_version(self) -> str:
        """Digest of the rankings and of what made them."""
        parts: list[Record | pl.DataFrame | str] = []
        for table in self.tables:
            parts += (table.row.title, table.rankings)
        return content_digest(*parts, self.record)

    @property
    def methods(self) -> str:
        """The re-ranked methods, in words."""
        return ", ".join(dict.fromkeys(row.method for row in self.record.rows)) or "none"

    def name(self, row: Row) -> str:
        """What a row is called where most are of the default method.

        Args:
            row: The row.

        Returns:
            The re-ranker's name; the row's title where its method is another than the default one.
        """
        return (row.reranker or row.method) if row.method == self.default else row.title

    @property
    def facts(self) -> dict[str, str | int]:
        """What a person may want to know, by row and name."""
        return {
            f"{self.name(table.row)}: {fact}": value
            for table in self.tables
            for fact, value in table.facts.items()
        }


@dataclass
class RerankingRun:
    """Re-ranks evaluation sets, each re-ranker opened once, when it is first needed.

    Attributes:
        context: Settings, tables and models.
        versions: Version by registered model, for re-rankers that are trained; of one that is not named, the
            champion when the run begins.
    """

    context: PipelineContext
    versions: Versions

    def __post_init__(self) -> None:
        self.versions = {**self.versions, **self.context.rerankers.in_use(self.versions)}
        self._open: dict[str, OpenReranker] = {}

    def opened(self, named: Reranker) -> OpenReranker:
        """A re-ranker, ready to score; it is opened once.

        Args:
            named: The re-ranker.

        Returns:
            The opened one.
        """
        if named.name not in self._open:
            version = self.context.rerankers.version(named, self.versions)
            self._open[named.name] = open_reranker(self.context, named.name, version)
        return self._open[named.name]

    def under(self, context: PipelineContext) -> RerankingRun:
        """The same run under another context, with the re-rankers that are open already.

        Args:
            context: A context that is narrowed to some methods.

        Returns:
            The run.
        """
        run = replace(self, context=context)
        run._open = self._open
        return run

    def rerank(
        self,
        key: str,
        progress: Progress = silent,
        told: Callable[[str], None] = lambda words: None,
        *,
        leave_out_failing: bool = False,
    ) -> RerankedSet:
        """Re-rank an evaluation set by every configured pair of method and re-ranker; tables are stored as
        they are made.

        Args:
            key: The evaluation set.
            progress: Told how many pairs of a row are scored.
            told: Told in a sentence of each row that is finished, in the order of the settings.
            leave_out_failing: Whether a row that cannot be made is left out with the reason, and the others
                go on; else it ends the re-ranking.

        Returns:
            The tables and the record of the set, stored.

        Raises:
            NotMadeYetError: Something is missing; the message names the asset to materialise.
            SetrError: A re-ranker cannot be loaded, or gives what cannot be scores.
        """
        from setr_lib.datasets import evaluation_set
        from setr_lib.evaluation.row import Row
        from setr_lib.tables import GALLERY, QUERIES

        context, tables = self.context, self.context.tables
        dataset, default = evaluation_set(context.settings, key).dataset, context.methods.default(key)
        depth, asked = context.settings.rerank_depth(dataset), context.settings.rerank_asked(dataset)
        if asked > depth:
            told(f"{depth} of the {asked} asked for are re-ranked: [coarse] top_k keeps no more")
        queries, gallery = tables.read("queries", QUERIES, key), tables.read("gallery_images", GALLERY, key)
        found = RerankedSet(self._record(key, default, depth, []), [], default.name)
        for method in context.methods.reranked(key):
            for named in context.rerankers.usable(self.versions):
                try:
                    opened = self.opened(named)
                    table = self._reranked(key, method, opened, (queries, gallery), depth, progress)
                except SetrError as error:
                    if not leave_out_failing:
                        raise
                    found.left_out[Row(method.name, named.name)] = str(error)
                    continue
                found.tables.append(table)
                told(f"{found.name(table.row)}: {table.words}")
        record = self._record(key, default, depth, [table.made_by for table in found.tables])
        tables.write_record("reranked_rankings", record, key)
        return RerankedSet(record, found.tables, default.name, found.left_out)

    def _reranked(
        self,
        key: str,
        method: Method,
        reranker: OpenReranker,
        material: tuple[pl.DataFrame, pl.DataFrame],
        depth: int,
        progress: Progress,
    ) -> RerankedTable:
        """One row of an evaluation set, stored."""
        from setr_lib.evaluation.row import Row
        from setr_lib.tables import RANKINGS

        tables, row, calls = self.context.tables, Row(method.name, reranker.name), CallCounter(progress)
        coarse = tables.read(tables.coarse(key, method.name), RANKINGS)
        fused = fusion_in_use(self.context, method, reranker.scorer, reranker.version)
        ranked = rerank_candidates(
            self.context, reranker, coarse, *material, k=depth, fused=fused, progress=calls
        )
        by = made_by(row, reranker, fused)
        record = self._record(key, method, depth, [by])
        tables.write(tables.reranked(key, row), ranked, RANKINGS, made_by=record)
        return RerankedTable(row, ranked, by, calls, depth)

    def leave_out(self, key: str) -> RerankedRecord:
        """Store that an evaluation set is not re-ranked: it has captions and no image to look at.

        Args:
            key: The evaluation set.

        Returns:
            The record, stored.

        Raises:
            NotMadeYetError: The set is not ranked by stage 1 yet.
        """
        tables = self.context.tables
        coarse = tables.read_record(tables.coarse(key, self.context.methods.default(key).name), CoarseRecord)
        record = RerankedRecord(**coarse.stated(), stage_2=f"none: {NOTHING_TO_JUDGE}", rows=[])
        tables.write_record("reranked_rankings", record, key)
        return record

    def _record(self, key: str, method: Method, depth: int, rows: list[RerankedRow]) -> RerankedRecord:
        from importlib.metadata import version

        tables = self.context.tables
        coarse = tables.read_record(tables.coarse(key, method.name), CoarseRecord)
        return RerankedRecord(**coarse.stated(), rows=rows, rerank_top_k=depth, setr=version("setr"))


def made_by(row: Row, reranker: OpenReranker, fused: FusionInUse) -> RerankedRow:
    """What a re-ranked table's record says of the method, the re-ranker and the fusion that made it.

    Args:
        row: The method and the re-ranker.
        reranker: The opened re-ranker.
        fused: The fusion in use.

    Returns:
        The record of the row.
    """
    return RerankedRow(
        method=row.method,
        reranker=row.reranker,
        version=reranker.version,
        registered_model=reranker.registered_model,
        label=reranker.label,
        model=reranker.scorer.model_id,
        prompt=reranker.scorer.prompt_hash,
        fusion=fused.words,
        is_logit=reranker.scorer.is_logit,
        **({"is_listwise": True} if reranker.scorer.listwise else {}),
    )
