"""The schemas of every table that SETR writes, their check, and their writing."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from setr_lib.errors import SetrError
from setr_lib.files import replacing
from setr_lib.hashing import digest_json, digest_strings, fingerprint_bytes

_TEXTS = pl.List(pl.String())
_DIGESTED_ROWS = 100_000  # at a time: some tens of MB of text

QUERIES = pl.Schema(
    {
        "query_id": pl.String(),
        "reference_id": pl.String(),
        "modification": pl.String(),
        "captions": _TEXTS,
        "target_ids": _TEXTS,
        "subset_ids": _TEXTS,
        "gallery": pl.String(),
        "aspects": _TEXTS,
    }
)
GALLERY = pl.Schema(
    {
        "image_id": pl.String(),
        "path": pl.String(),
        "galleries": _TEXTS,
        "status": pl.String(),
        "detail": pl.String(),
        "width": pl.Int32(),
        "height": pl.Int32(),
        "fingerprint": pl.String(),
        "pixels": pl.String(),
    }
)
"""``fingerprint`` is of the file's bytes, ``pixels`` how they become RGB (``PixelRules.id``; empty is as the
benchmarks' own pipelines do)."""
TRAINING_IMAGES = pl.Schema(
    {
        "image_id": pl.String(),
        "path": pl.String(),
        "caption": pl.String(),
        "status": pl.String(),
        "detail": pl.String(),
        "width": pl.Int32(),
        "height": pl.Int32(),
        "fingerprint": pl.String(),
        "pixels": pl.String(),
    }
)
SPLIT_TRIPLETS = pl.Schema(
    {
        "split": pl.String(),
        "reference_id": pl.String(),
        "modification": pl.String(),
        "target_id": pl.String(),
    }
)
"""Triplets of one source for trained retrieval systems; ``split`` is train or held_out."""
TRIPLET_IMAGES = pl.Schema({**TRAINING_IMAGES, "split": pl.String()})
"""Their images; those of ``held_out`` are what held-out triplets search."""
CAPTIONS = pl.Schema(
    {
        "image_id": pl.String(),
        "caption": pl.String(),
        "status": pl.String(),
        "detail": pl.String(),
        "model": pl.String(),
        "prompt_hash": pl.String(),
        "fingerprint": pl.String(),
    }
)
COMPOSITIONS = pl.Schema(
    {
        "query_id": pl.String(),
        "keep": _TEXTS,
        "add": _TEXTS,
        "remove": _TEXTS,
        "drop": _TEXTS,
        "target_caption": pl.String(),
        "status": pl.String(),
        "detail": pl.String(),
        "model": pl.String(),
        "prompt_hash": pl.String(),
    }
)
IMPORTED_CAPTIONS = pl.Schema(
    {
        "image_id": pl.String(),
        "caption": pl.String(),
        "model": pl.String(),
        "prompt_hash": pl.String(),
        "fingerprint": pl.String(),
        "made_at": pl.String(),
    }
)
"""Captions from elsewhere, kept for the next materialisation; unknown fingerprints and times are empty."""
IMPORTED_COMPOSITIONS = pl.Schema(
    {
        "query_id": pl.String(),
        "keep": _TEXTS,
        "add": _TEXTS,
        "remove": _TEXTS,
        "drop": _TEXTS,
        "target_caption": pl.String(),
        "model": pl.String(),
        "prompt_hash": pl.String(),
        "reference_id": pl.String(),
        "modification": pl.String(),
        "fingerprint": pl.String(),
        "made_at": pl.String(),
    }
)
"""Compositions from elsewhere, with what they were made from, so that they serve no other query."""
RANKINGS = pl.Schema(
    {
        "query_id": pl.String(),
        "pool": pl.String(),
        "rank": pl.Int32(),
        "image_id": pl.String(),
        "score": pl.Float64(),
        "coarse_score": pl.Float64(),
        "judge_score": pl.Float64(),
    }
)
TRIPLETS = pl.Schema({"reference_id": pl.String(), "modification": pl.String(), "target_id": pl.String()})
"""Training triplets, as a file or a benchmark's train split has them."""
PAIRS = pl.Schema(
    {
        "pair_id": pl.String(),
        "split": pl.String(),
        "group": pl.String(),
        "reference_id": pl.String(),
        "modification": pl.String(),
        "candidate_id": pl.String(),
        "label": pl.Boolean(),
        "kind": pl.String(),
        "source": pl.String(),
    }
)
FUSIONS = pl.Schema(
    {
        "method": pl.String(),
        "reranker": pl.String(),
        "version": pl.String(),
        "fusion": pl.String(),
        "weight": pl.Float64(),
        "mean_reciprocal_rank": pl.Float64(),
        "top_1": pl.Float64(),
        "queries": pl.Int64(),
        "chosen": pl.Boolean(),
    }
)
"""Fusions tried on the calibration, for each method and re-ranker (and registered version of its weights);
one of each is ``chosen``."""
FAULTS = pl.Schema({"kind": pl.String(), "item": pl.String(), "detail": pl.String()})
"""Single images, queries and texts with which something went wrong: what (``gallery images broken``), its id
or the text itself, and why."""
FAILURES = pl.Schema(
    {
        "query_id": pl.String(),
        "method": pl.String(),
        "reranker": pl.String(),
        "rank_before": pl.Int32(),
        "rank_after": pl.Int32(),
        "first_image": pl.String(),
        "kind": pl.String(),
        "detail": pl.String(),
        "left_out": _TEXTS,
    }
)
"""Each query's ranks before and after stage 2, and why its target is not in first place."""
METRICS = pl.Schema(
    {
        "dataset": pl.String(),
        "split": pl.String(),
        "method": pl.String(),
        "reranker": pl.String(),
        "metric": pl.String(),
        "value": pl.Float64(),
        "ci_low": pl.Float64(),
        "ci_high": pl.Float64(),
        "n_queries": pl.Int64(),
        "gallery": pl.String(),
        "coverage": pl.Float64(),
        "comparable": pl.Boolean(),
        "label": pl.String(),
        "model_version": pl.String(),
        "overlap": pl.String(),
    }
)
"""Scores of rows, in percent. ``model_version`` names the registered models that a row used, each with its
version: ``setr-reranker 3``; it is empty where none was used. ``overlap`` is how much of the evaluation set
these have seen in training, in words; it is empty where none was used."""
COMPARISON = pl.Schema(
    {
        "dataset": pl.String(),
        "split": pl.String(),
        "method": pl.String(),
        "reranker": pl.String(),
        "metric": pl.String(),
        "value": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "label": pl.String(),
        "source": pl.String(),
        "ms_per_query": pl.Float64(),
        "llm_calls": pl.Float64(),
        "model_version": pl.String(),
    }
)
"""Scores of compared rows, in percent with 95 % intervals, and what a query costs: milliseconds on the
machine that compared, and calls of the multimodal LLM (texts that are generated, and candidates that are
judged)."""


def conform(frame: pl.DataFrame, schema: pl.Schema, what: str) -> pl.DataFrame:
    """A table in the column order and types of a schema.

    Args:
        frame: The table.
        schema: The schema.
        what: What the table holds, for the message.

    Returns:
        The table, its columns cast.

    Raises:
        SetrError: A column is missing, unexpected, or of a type that does not cast exactly; the message names
            it.
    """
    missing = [name for name in schema if name not in frame.columns]
    extra = [name for name in frame.columns if name not in schema]
    if missing or extra:
        raise SetrError(f"the table of {what} does not fit its schema: missing {missing}, unexpected {extra}")
    try:
        return frame.select([pl.col(name).cast(kind, strict=True) for name, kind in schema.items()])
    except (pl.exceptions.InvalidOperationError, pl.exceptions.SchemaError) as error:
        raise SetrError(f"the table of {what} does not fit its schema: {error}") from error


def digest_table(frame: pl.DataFrame) -> str:
    """Digest of a table's columns, types and rows in their order; the same on every machine and library
    version.

    Args:
        frame: The table.

    Returns:
        32 hexadecimal digits.
    """
    digests = [digest_json([[name, str(kind)] for name, kind in frame.schema.items()])]
    for rows in frame.iter_slices(_DIGESTED_ROWS):
        buffer = io.BytesIO()
        rows.write_ndjson(buffer)
        digests.append(fingerprint_bytes(buffer.getvalue()))
    return digest_strings(digests)


def write_parquet_atomically(frame: pl.DataFrame, path: Path) -> None:
    """Write a table so that a reader, or a killed run, never sees half of it.

    Args:
        frame: The table.
        path: The Parquet file; its folder is made.
    """
    with replacing(path) as partial:
        frame.write_parquet(partial)
