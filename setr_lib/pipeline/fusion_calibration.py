"""Calibration of the fusion: held-out synthesised queries go through both stages over the training images' own
table.

It answers how stage 1's score and a re-ranker's are best put together (``reranking.fusion = "auto"``) on
material that is like an evaluation set in everything, but is not a benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.pipeline.context import PipelineContext
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import polars as pl

MOST_QUERIES = 150
"""Enough to tell fusions apart; each costs ``reranking.top_k`` judgements per judge."""


@dataclass(frozen=True)
class Calibration:
    """``queries`` (QUERIES, ``target_ids`` known), the ``gallery`` (GALLERY) they search, stage 1's
    ``rankings``.
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


def calibrate(context: PipelineContext, progress: Progress = silent) -> Calibration:
    """Stage 1 of the calibration, by the default strategy. Raises ``NotMadeYetError`` naming what is to be made
    first.
    """
    import polars as pl

    from setr_lib.methods.inputs import CAPTIONS, COMPOSITIONS, GalleryIndex, encode_queries
    from setr_lib.methods.ranking import rank
    from setr_lib.pipeline.method_texts import make_texts, text_kinds
    from setr_lib.tables import PAIRS, TRAINING_IMAGES
    from setr_lib.texts.generation import CACHE_KIND, compose_queries, describe_images

    settings = context.settings
    images = context.read_table("training_images", TRAINING_IMAGES)
    queries = held_out_queries(context.read_table("reranker_pairs", PAIRS), images)
    gallery = images.drop("caption").with_columns(galleries=pl.lit(["all"]))
    stored = context.vectors_of("training_embeddings", "the training images' table")
    ids, vectors = context.gallery_store.read(stored.table, stored.version)
    method = context.method(settings.coarse.default)
    kinds = text_kinds([method])
    needed = set(method.needs).union(*(kind.after for kind in kinds))
    cache, texts = context.cache(CACHE_KIND), {}
    if CAPTIONS in needed:
        references = gallery.filter(pl.col("image_id").is_in(queries["reference_id"].unique().to_list()))
        texts[CAPTIONS] = describe_images(context.judge(), context.prompts(), references, cache, progress)
    if COMPOSITIONS in needed:
        texts[COMPOSITIONS] = compose_queries(
            context.judge(), context.prompts(), queries, gallery, cache, progress=progress
        )
    texts |= make_texts(context, kinds, queries, gallery, texts, progress=progress)
    rankings = rank(
        method,
        encode_queries(queries, context.encoder(), ids, vectors, texts=texts),
        gallery,
        GalleryIndex(ids, vectors),
        settings.rerank_depth(),
        remove_reference=False,
        options=context.method_options(method),
    )
    return Calibration(queries, gallery, rankings)


def rerank_calibration(
    context: PipelineContext, calibration: Calibration, version: str | None, progress: Progress = silent
) -> pl.DataFrame:
    """Stage 2 of the calibration, by the base model or the adapter of registry ``version``: a RANKINGS frame."""
    from setr_lib.reranking.rerank import CACHE_KIND, rerank

    return rerank(
        calibration.rankings,
        calibration.queries,
        calibration.gallery,
        context.reranker(version),
        context.cache(CACHE_KIND),
        k=context.settings.rerank_depth(),
        progress=progress,
    )


def held_out_queries(pairs: pl.DataFrame, images: pl.DataFrame, most: int = MOST_QUERIES) -> pl.DataFrame:
    """The held-out groups of ``pairs`` as a QUERIES frame, at most ``most``.

    Their targets are the group's own and, where captions made the pairs, every image whose caption says the
    same but for its context: the text asks no more than that. Where the text names the target's context it
    must be the same too. A reference is no target of its own query.
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
        place = " ".join(said.context)
        place_matters = bool(place) and place in modification
        alike = [
            image
            for image in saying.get(said.lemmas, [])
            if image not in (target, reference)
            and not (place_matters and captions[image].context != said.context)
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
