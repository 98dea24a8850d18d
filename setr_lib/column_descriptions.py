"""What the columns of SETR's tables hold, in a sentence each: Dagster shows them beside a table's schema.

A column has the same meaning in every table that has it, unless its table says otherwise here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from setr_lib import tables

if TYPE_CHECKING:
    import polars as pl

EVERYWHERE: Mapping[str, str] = {
    "aspects": "What kinds of change the text asks for, by the benchmark's names; empty where it names none.",
    "add": "Phrases that the wanted image has and the reference lacks.",
    "candidate_id": "The image that is judged.",
    "captions": "The data set's raw captions of the query, of which the modification text is made.",
    "chosen": "Whether this fusion is the one in use.",
    "ci_high": "Upper end of the 95 % interval, in percent; empty where there is none.",
    "ci_low": "Lower end of the 95 % interval, in percent; empty where there is none.",
    "coarse_score": "Stage 1's score of the image.",
    "comparable": "Whether the value may be compared with published numbers.",
    "coverage": "Share of the official gallery that is there and readable, 0 to 1.",
    "dataset": "The data set, as settings name it.",
    "detail": "Why the status is what it is, or the evidence; empty where there is nothing to say.",
    "drop": "Phrases of the reference that do not matter to the query.",
    "fingerprint": "Digest of the picture file's bytes; empty where it is not known.",
    "first_image": "The image in first place after the last stage.",
    "fusion": "How stage 1's score and the re-ranker's become one order.",
    "galleries": "The galleries that the image belongs to; none for a reference that is not searched.",
    "gallery": "The gallery that is searched: all, or a category.",
    "group": "The pairs made of one reference, target and text; a group is held out as a whole.",
    "height": "Height of the picture in pixels.",
    "high": "Upper end of the 95 % interval, in percent.",
    "image_id": "The image, by its id in the data set.",
    "item": "The image, query or text with which something went wrong, by its id or itself.",
    "judge_score": "The re-ranker's score, for the Yes/No judge logit(Yes) - logit(No); empty where the "
    "image was not judged.",
    "keep": "Phrases that reference and wanted image share.",
    "kind": "What kind of thing it is.",
    "label": "What the row has learned from, and why it is not comparable, if so.",
    "left_out": "Words that the text asks for and the composition has nowhere.",
    "llm_calls": "Calls of the multimodal LLM for each query.",
    "low": "Lower end of the 95 % interval, in percent.",
    "made_at": "When the text was made elsewhere; empty where it is not known.",
    "mean_reciprocal_rank": "Mean of 1 / rank of the target over the held-out queries.",
    "method": "The retrieval method of stage 1.",
    "metric": "The metric, by the benchmark's name for it.",
    "model": "The model that wrote the text.",
    "model_version": "The registered models that the row used, each with its version; empty without any.",
    "modification": "The modification text: what should differ from the reference image.",
    "ms_per_query": "Milliseconds for each query on the machine that measured.",
    "n_queries": "Queries that the value is over.",
    "overlap": "How much of the evaluation set the trained models have seen in training, in words.",
    "pair_id": "The pair, by a digest of what it is.",
    "path": "The picture's file.",
    "pixels": "How the file becomes RGB; empty is as the benchmarks' own pipelines do.",
    "pool": "What was ranked: the gallery, or the query's subset.",
    "prompt_hash": "Digest of the prompt that the text was made with.",
    "queries": "Held-out queries that the trial was measured on.",
    "query_id": "The query, by its id in the data set.",
    "rank": "Place in the ranking, 1 for the best.",
    "rank_after": "Best rank of a target after stage 2; empty where none is ranked, and without stage 2.",
    "rank_before": "Best rank of a target in stage 1; empty where none is ranked.",
    "reference_id": "The reference image, by its id in the data set.",
    "remove": "Phrases of the reference that the wanted image lacks.",
    "reranker": "The re-ranker of stage 2; empty for stage 1 alone.",
    "score": "What the image is ordered by: stage 1's score, or the fused one.",
    "source": "Where it comes from.",
    "split": "The split of the data set, e.g. val.",
    "status": "Whether it is usable: ok, or what is wrong.",
    "subset_ids": "The images of the query's subset (CIRR); empty elsewhere.",
    "target_caption": "The caption of the wanted image, which stage 1 searches.",
    "target_id": "The target image, by its id in the data set.",
    "target_ids": "The images that answer the query, by its annotation; empty where they are not public.",
    "top_1": "Share of held-out queries whose target is in first place, 0 to 1.",
    "value": "The metric's value, in percent.",
    "version": "The registered version of the re-ranker's weights; empty for one without.",
    "weight": "The w of cosine + w P(Yes); empty for other fusions.",
    "width": "Width of the picture in pixels.",
}
"""By column."""

ELSEWISE: Mapping[str, Mapping[str, str]] = {
    "TRAINING_IMAGES": {"caption": "The image's caption, from the training file."},
    "TRIPLET_IMAGES": {
        "caption": "The image's caption, where it has one.",
        "split": "train or held_out.",
    },
    "SPLIT_TRIPLETS": {"split": "train or held_out."},
    "CAPTIONS": {
        "caption": "What the multimodal LLM sees in the image.",
        "status": "ok, or failed where no caption could be made.",
    },
    "COMPOSITIONS": {
        "status": "ok, or fallback where no answer could be read and the modification text stands in.",
    },
    "IMPORTED_CAPTIONS": {"caption": "The caption, as it was imported."},
    "GALLERY": {"status": "ok, missing or broken."},
    "PAIRS": {
        "split": "train or held_out.",
        "label": "Whether the candidate answers the query: Yes or No.",
        "kind": "positive, or what makes the negative one.",
        "source": "Where reference, target and text come from.",
    },
    "FAULTS": {
        "kind": "What went wrong, e.g. gallery images broken.",
        "detail": "Why it went wrong.",
    },
    "FAILURES": {
        "kind": "Why no target is in first place, or that one is; empty where targets are not public.",
        "detail": "The evidence for the kind.",
    },
    "COMPARISON": {
        "label": "What the row has learned from.",
        "source": "Where the method was published.",
    },
}
"""By the schema's name in ``setr_lib.tables``: columns that it alone has, or means otherwise."""


def declared_schemas() -> dict[str, pl.Schema]:
    """The schemas of ``setr_lib.tables``, by their names.

    Returns:
        Name -> schema.
    """
    import polars as pl

    return {name: value for name, value in vars(tables).items() if isinstance(value, pl.Schema)}


def descriptions(schema: pl.Schema) -> dict[str, str]:
    """What the columns of a table hold.

    Args:
        schema: The table's schema; one that is not declared (a text kind of one's own) has descriptions of
            the columns that mean the same everywhere.

    Returns:
        Column -> sentence.
    """
    own = next((ELSEWISE.get(name, {}) for name, one in declared_schemas().items() if one == schema), {})
    said = {**EVERYWHERE, **own}
    return {name: said[name] for name in schema if name in said}
