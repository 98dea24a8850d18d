"""Calibration of the fusion: held-out synthesised queries go through both stages over the training images.

It answers how stage 1's score and a re-ranker's are best put together (``reranking.fusion = "auto"``) on
material that is like an evaluation set in everything, but is not a benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.trained_weights import CHAMPIONS, NoWeightsError, Versions
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.evaluation.row import Row
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.reranking import OpenReranker
    from setr_lib.reranking.fusion_choice import FusionChoice

MOST_QUERIES = 150
"""Enough to tell fusions apart; each costs ``reranking.top_k`` scores per method and re-ranker."""


@dataclass(frozen=True)
class Calibration:
    """Held-out queries (QUERIES, ``target_ids`` known), the gallery (GALLERY) that they search, and stage 1's
    rankings.
    """

    queries: pl.DataFrame
    gallery: pl.DataFrame
    rankings: pl.DataFrame

    @property
    def targets(self) -> dict[str, frozenset[str]]:
        """The right images by query id."""
        return {
            query: frozenset(images)
            for query, images in self.queries.select("query_id", "target_ids").iter_rows()
        }


def calibration_set(
    context: PipelineContext,
    progress: Progress = silent,
    method: Method | None = None,
    versions: Versions = CHAMPIONS,
) -> Calibration:
    """Held-out synthesised queries, ranked by a retrieval method.

    Args:
        context: Tables and models.
        progress: Told how far the models are.
        method: The method, one over vectors; the default one by default.
        versions: Version by registered model, for a method or a space that is trained; the champion of the
            moment for one that is not named.

    Returns:
        Queries, gallery and rankings.

    Raises:
        NotMadeYetError: A table is missing; the message names the asset to materialise.
        NoWeightsError: The method, or the space that it searches, is trained, and no version is promoted.
    """
    import polars as pl

    from setr_lib.pipeline.query_set import encode
    from setr_lib.pipeline.retrieval import training_vectors
    from setr_lib.pipeline.texts import texts_for
    from setr_lib.tables import PAIRS, TRAINING_IMAGES

    settings = context.settings
    opened = context.weights.open(method or context.methods.get(settings.coarse.default), versions)
    method, space = opened.method, context.weights.space(opened.method.space, opened.versions)
    images = context.tables.read("training_images", TRAINING_IMAGES)
    queries = held_out_queries(context.tables.read("reranker_pairs", PAIRS), images)
    gallery = images.drop("caption").with_columns(galleries=pl.lit(["all"]))
    _, index = training_vectors(context, space)
    texts = texts_for(context, [method], queries, gallery, progress=progress)
    encoded = encode(context, queries, gallery, index, space=space.model, texts=texts)
    rankings = encoded.ranked(method, settings.rerank_depth())
    return Calibration(queries, gallery, rankings)


def rerank_calibration(
    context: PipelineContext, calibration: Calibration, reranker: OpenReranker, progress: Progress = silent
) -> pl.DataFrame:
    """The calibration's candidates with a re-ranker's scores.

    Args:
        context: The cache of scores.
        calibration: Queries, gallery and rankings.
        reranker: Who scores.
        progress: Told how many pairs are scored.

    Returns:
        A RANKINGS table.
    """
    from setr_lib.pipeline.reranking import rerank_candidates

    return rerank_candidates(
        context,
        reranker,
        calibration.rankings,
        calibration.queries,
        calibration.gallery,
        k=context.settings.rerank_depth(),
        progress=progress,
    )


def calibrate(
    context: PipelineContext,
    versions: Versions = CHAMPIONS,
    progress: Progress = silent,
    told: Callable[[str, bool], None] = lambda words, is_warning: None,
    *,
    leave_out_failing: bool = False,
) -> pl.DataFrame:
    """Try every fusion on the calibration, for each configured method and re-ranker.

    Stage 1 ranks once per method. A method over captions is left out (training images are searched by
    vectors), and one without weights yet.

    Args:
        context: Tables and models.
        versions: Version by registered model, for what is trained; the champion of the moment for one that is
            not named.
        progress: Told how far the models are.
        told: Told in a sentence what was chosen for each pair, and whether that is a warning.
        leave_out_failing: Whether a method or re-ranker that fails is left out with a warning, and the others
            go on; else it ends the calibration.

    Returns:
        A FUSIONS table.

    Raises:
        NotMadeYetError: A table is missing; the message names the asset to materialise.
    """
    import polars as pl

    from setr_lib.evaluation.row import Row
    from setr_lib.methods.method import ranks_captions
    from setr_lib.pipeline.reranking import no_sum_because
    from setr_lib.pipeline.reranking_run import RerankingRun
    from setr_lib.reranking.fusion_choice import choose_fusion
    from setr_lib.tables import FUSIONS

    run, frames = RerankingRun(context, versions), [FUSIONS.to_frame()]
    rerankers = context.rerankers.usable(run.versions)
    for method in map(context.methods.get, context.settings.reranked_methods if rerankers else ()):
        if ranks_captions(method):
            told(f"{method.name}: searches captions, so its fusion cannot be calibrated", True)
            continue
        try:
            calibration = calibration_set(context, progress, method, versions)
        except SetrError as error:
            if not leave_out_failing and not isinstance(error, NoWeightsError):
                raise
            told(str(error), True)
            continue
        for named in rerankers:
            row = Row(method.name, named.name)
            try:
                reranker = run.opened(named)
                judged = rerank_calibration(context, calibration, reranker, progress)
            except SetrError as error:
                if not leave_out_failing:
                    raise
                told(f"{row.title}: its fusion is not calibrated: {error}", True)
                continue
            why = no_sum_because(method, named)
            choice = choose_fusion(judged, calibration.targets, summable=why is None)
            frames.append(_marked(choice, row, reranker.version))
            queries = int(choice.trials["queries"][0])
            not_tried = f"; cosine_judge is not tried: {why}" if why else ""
            chosen = f"{choice.fusion}, weight {choice.weight:g}, by {queries} held-out queries"
            told(f"{row.title}: {chosen}{not_tried}", not queries)
    return pl.concat(frames)


def _marked(choice: FusionChoice, row: Row, version: str | None) -> pl.DataFrame:
    """The trials with the row they belong to, the best one marked."""
    import polars as pl

    from setr_lib.tables import FUSIONS

    weight = choice.weight if choice.fusion == "cosine_judge" else None
    chosen = (pl.col("fusion") == choice.fusion) & pl.col("weight").eq_missing(pl.lit(weight))
    return choice.trials.with_columns(
        method=pl.lit(row.method),
        reranker=pl.lit(row.reranker),
        version=pl.lit(version, dtype=pl.String),
        chosen=chosen,
    ).select(list(FUSIONS))


def held_out_queries(pairs: pl.DataFrame, images: pl.DataFrame, most: int = MOST_QUERIES) -> pl.DataFrame:
    """The held-out groups of the Yes/No pairs as queries.

    Their targets are the group's own and, where captions made the pairs, every image whose caption says the
    same but for its context: the text asks no more than that. Where the text names the target's context it
    must be the same too. A reference is never a target of its own query.

    Args:
        pairs: A PAIRS frame.
        images: The training images: ``image_id`` and ``caption``.
        most: Queries at most.

    Returns:
        A QUERIES frame.
    """
    import polars as pl

    from setr_lib.reranking.captions import parse_captions
    from setr_lib.reranking.pairs import POSITIVE
    from setr_lib.tables import QUERIES, conform

    positives = pairs.filter(split="held_out", kind=POSITIVE).unique("group", maintain_order=True).head(most)
    captions = dict(
        zip(images["image_id"], parse_captions(images["caption"].fill_null("").to_list()), strict=True)
    )
    saying: dict[object, list[str]] = {}
    for image, caption in captions.items():
        if caption.lemmas:
            saying.setdefault(caption.lemmas, []).append(image)

    def answers(target: str, reference: str, modification: str, source: str) -> list[str]:
        said = captions.get(target)
        if source != "captions" or said is None:
            return [target]
        context = " ".join(said.context)
        context_matters = bool(context) and context in modification
        alike = [
            image
            for image in saying.get(said.lemmas, [])
            if image not in (target, reference)
            and not (context_matters and captions[image].context != said.context)
        ]
        return [target, *alike]

    rows = [
        {
            "query_id": row["group"],
            "reference_id": row["reference_id"],
            "modification": row["modification"],
            "captions": [row["modification"]],
            "target_ids": answers(
                row["candidate_id"], row["reference_id"], row["modification"], row["source"]
            ),
            "subset_ids": [],
            "gallery": "all",
            "aspects": [],
        }
        for row in positives.iter_rows(named=True)
    ]
    return conform(pl.DataFrame(rows, schema=QUERIES), QUERIES, "held-out queries")
