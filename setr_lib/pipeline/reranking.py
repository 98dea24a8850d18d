"""Stage 2: opens re-rankers by name, and says how a re-ranker's score and stage 1's become one order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.pipeline.storage import NotMadeYetError
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.reranking.fusion import Fusion
    from setr_lib.reranking.yes_no_judge import YesNoJudge

BASE, ADAPTER = "base judge", "adapter"
"""The re-rankers: the multimodal LLM as it is, and with the champion adapter."""


@dataclass(frozen=True)
class OpenReranker:
    """A loaded re-ranker: its name in rows, the object that scores, and the registered version of its weights."""

    name: str
    scorer: YesNoJudge
    version: str | None = None


@dataclass(frozen=True)
class FusionInUse:
    """How a re-ranker's score and stage 1's become one order, and how that was chosen."""

    fusion: Fusion
    weight: float
    how: str

    @property
    def words(self) -> str:
        """The fusion as records and reports state it."""
        weight = f", w = {self.weight:g}" if self.fusion == "cosine_judge" else ""
        return f"{self.fusion}{weight} ({self.how})"


def open_reranker(context: PipelineContext, name: str, version: str | None = None) -> OpenReranker:
    """Load a re-ranker.

    Args:
        context: Settings and models.
        name: The re-ranker's name.
        version: The registered version of its weights, for one that has any.

    Returns:
        The re-ranker.

    Raises:
        SetrError: It cannot be loaded; the message says what is missing.
    """
    adapted = version if name == ADAPTER else None
    return OpenReranker(name, yes_no_judge(context, adapted), adapted)


def yes_no_judge(context: PipelineContext, version: str | None = None) -> YesNoJudge:
    """The Yes/No judge: the base model, or with a registered adapter.

    The base model's prompt is ``judge.jinja`` of the prompt set that the settings name; an adapter's prompt is
    the one that it was trained under, read from its registered bundle.

    Args:
        context: Settings and models.
        version: The registered version of the adapter.

    Returns:
        The judge.

    Raises:
        SetrError: The model, the prompt or the version cannot be had.
    """
    from setr_lib.reranking.yes_no_judge import YesNoJudge

    template = context.prompts().get("judge") if version is None else context.bundle(version).judge_prompt
    return YesNoJudge(context.models.multimodal(version), template)


def best_reranker(context: PipelineContext) -> OpenReranker:
    """The champion adapter, where one is promoted, else the base judge."""
    version = context.champion_version()
    return open_reranker(context, BASE if version is None else ADAPTER, version)


def fusion_in_use(context: PipelineContext, method: Method, name: str, version: str | None) -> FusionInUse:
    """How scores are fused for one retrieval method and re-ranker.

    By ``auto``, as ``reranking_fusion`` chose. An adapter that it has not seen yet is treated like the adapter
    it has seen, a re-ranker without any calibration like LamRA's: cosine plus P(Yes).

    Args:
        context: Settings and tables.
        method: The retrieval method.
        name: The re-ranker's name.
        version: The registered version of its weights.

    Returns:
        The fusion.
    """
    from setr_lib.tables import FUSIONS

    options = context.settings.reranking
    if options.fusion != "auto":
        return FusionInUse(options.fusion, options.judge_weight, "by the settings")
    try:
        known = context.tables.read("reranking_fusion", FUSIONS).filter(stage=name, chosen=True)
    except NotMadeYetError:
        return FusionInUse(
            "cosine_judge", options.judge_weight, "no calibration yet: materialize reranking_fusion"
        )
    if known.is_empty():
        return FusionInUse("cosine_judge", options.judge_weight, "no calibration of an adapter yet")
    row = known.row(0, named=True)
    how = f"best on {row['queries']} held-out synthesised queries"
    if row["adapter_version"] != version:
        how += f" for version {row['adapter_version']}"
    return FusionInUse(row["fusion"], row["weight"] or 1.0, how)


def rerank_candidates(
    context: PipelineContext,
    reranker: OpenReranker,
    rankings: pl.DataFrame,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    *,
    k: int,
    fused: FusionInUse | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Re-order the first candidates of every query; scores are kept by content.

    Args:
        context: The cache of scores.
        reranker: Who scores.
        rankings: A RANKINGS table of one retrieval method.
        queries: A QUERIES table.
        gallery: GALLERY rows of candidates and references.
        k: Candidates per query.
        fused: How scores become an order; by the re-ranker's score alone by default.
        progress: Told how many pairs are scored.

    Returns:
        A RANKINGS table.

    Raises:
        SetrError: A ranking names an unknown query, or a score is not finite.
    """
    from setr_lib.reranking.rerank import CACHE_KIND, rerank

    return rerank(
        rankings,
        queries,
        gallery,
        reranker.scorer,
        context.cache(CACHE_KIND),
        fusion=fused.fusion if fused else "judge",
        weight=fused.weight if fused else 1.0,
        k=k,
        progress=progress,
    )
