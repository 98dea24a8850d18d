"""Small worlds for the tests of stage 1: tables of queries, and an encoder whose vectors follow from the text
alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from setr_lib.hashing import fingerprint_bytes
from setr_lib.methods.inputs import MethodInputs, SearchedGallery, TextEncoder, encode_queries
from setr_lib.methods.method import get_method, lacking_files, method_names
from setr_lib.methods.similarity import unit
from setr_lib.tables import CAPTIONS, COMPOSITIONS, QUERIES, conform
from setr_lib.texts.kind import TextKind

DIMENSION = 8


def random_unit(count: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, DIMENSION)))


class TableEncoder:
    """Encodes a text as a direction drawn from its hash, and counts how often it was asked to."""

    dimension = DIMENSION

    def __init__(self) -> None:
        self.encoded: Counter[str] = Counter()

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.encoded.update(texts)
        seeds = [int(fingerprint_bytes(text.encode())[:8], 16) for text in texts]
        return np.concatenate([random_unit(1, seed) for seed in seeds]) if texts else np.zeros((0, DIMENSION))

    def count_truncated(self, texts: Sequence[str]) -> int:
        return sum(len(text.split()) > 20 for text in texts)


def queries_of(
    references: Sequence[str],
    galleries: Sequence[str] | None = None,
    subsets: Sequence[Sequence[str]] | None = None,
) -> pl.DataFrame:
    count = len(references)
    frame = pl.DataFrame(
        {
            "query_id": [f"q{(7 * i) % 101:03d}" for i in range(count)],  # not in the order of the rows
            "reference_id": list(references),
            "modification": [f"make it number {i % 5}" for i in range(count)],
            "captions": [[f"make it number {i % 5}"] for i in range(count)],
            "target_ids": [[] for _ in range(count)],
            "subset_ids": [list(subset) for subset in subsets or [[]] * count],
            "gallery": list(galleries or ["all"] * count),
            "aspects": [[] for _ in range(count)],
        },
        schema_overrides=dict(QUERIES),
    )
    return conform(frame, QUERIES, "queries")


def captions_of(queries: pl.DataFrame) -> pl.DataFrame:
    images = queries["reference_id"].unique(maintain_order=True)
    return pl.DataFrame(
        {
            "image_id": images,
            "caption": [f"picture {image}." for image in images],
            "status": "ok",
            "detail": "",
            "model": "m",
            "prompt_hash": "p",
            "fingerprint": "f",
        },
        schema=CAPTIONS,
    )


def compositions_of(queries: pl.DataFrame) -> pl.DataFrame:
    lists = {name: [[] for _ in range(len(queries))] for name in ("keep", "add", "remove", "drop")}
    targets = [f"target of {query}" for query in queries["query_id"]]
    frame = pl.DataFrame({"query_id": queries["query_id"], "target_caption": targets, **lists}).with_columns(
        status=pl.lit("ok"), detail=pl.lit(""), model=pl.lit("m"), prompt_hash=pl.lit("p")
    )
    return conform(frame.select(list(COMPOSITIONS)).reverse(), COMPOSITIONS, "compositions")


def inputs_with(
    texts: Mapping[TextKind, Sequence[Mapping[str, Any]]],
    gallery: np.ndarray,
    options: Mapping[str, Any] | None = None,
) -> MethodInputs:
    """Queries with generated texts of kinds per query, the fields of each given in their order."""
    ids = [f"i{number:02d}" for number in range(len(gallery))]
    queries = queries_of(ids[: len(next(iter(texts.values())))])
    written = {"status": "ok", "detail": "", "model": "m", "prompt_hash": "p"}
    tables = {
        kind.name: pl.DataFrame(
            [
                {"query_id": query, **fields, **written}
                for query, fields in zip(queries["query_id"], rows, strict=True)
            ],
            schema=kind.schema,
        ).reverse()
        for kind, rows in texts.items()
    }
    encoded = encode_queries(queries, TableEncoder(), ids, gallery, texts=tables)
    return MethodInputs(encoded, SearchedGallery(gallery, ids), options or {})


def methods_of_vectors() -> list[str]:
    """The methods whose every need these worlds have: vectors, captions of references and compositions."""
    there = {"captions", "compositions"}
    every = ((name, get_method(name)) for name in method_names())
    return [
        name
        for name, made in every
        if made.needs <= there and not made.texts and made.trained is None and not lacking_files(made, {})
    ]


GALLERY = random_unit(30, seed=1)
IDS = [f"i{i:02d}" for i in range(30)]


def texts_of(kind: TextKind, queries: pl.DataFrame, fields: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A table of a method's own texts, as if the model had written ``fields``, a row for each query."""
    written = {"status": "ok", "detail": "", "model": "m", "prompt_hash": "p"}
    rows = [
        {"query_id": query, **row, **written} for query, row in zip(queries["query_id"], fields, strict=True)
    ]
    return pl.DataFrame(rows, schema=kind.schema).reverse()


def composed(queries: pl.DataFrame, lists: Sequence[Mapping[str, list[str]]]) -> pl.DataFrame:
    """Compositions whose lists are given, a row for each query; a list that is not named is empty."""
    columns = {
        name: pl.Series([row.get(name, []) for row in lists], dtype=pl.List(pl.String()))
        for name in ("keep", "add", "remove", "drop")
    }
    ordered = queries.select("query_id").join(
        compositions_of(queries), on="query_id", how="left", maintain_order="left"
    )
    return ordered.with_columns(**columns).select(list(COMPOSITIONS))


def method_inputs(
    references: Sequence[str] = ("i03", "i07", "absent"),
    texts: Callable[[pl.DataFrame], Mapping[str, pl.DataFrame]] = lambda queries: {},
    options: Mapping[str, Any] | None = None,
    dataset_kind: str = "",
    encoder: TextEncoder | None = None,
) -> MethodInputs:
    """What a method reads of queries over ``GALLERY``; a reference that is not in it has no vector."""
    queries = queries_of(references)
    encoded = encode_queries(
        queries, encoder or TableEncoder(), IDS, GALLERY, texts=texts(queries), dataset_kind=dataset_kind
    )
    return MethodInputs(encoded, SearchedGallery(GALLERY, IDS), options or {})


def vectors_of_references(inputs: MethodInputs) -> np.ndarray:
    """The references' vectors, looked up again; zeros for one without."""
    rows = [
        GALLERY[IDS.index(each)] if each in IDS else np.zeros(DIMENSION)
        for each in inputs.queries.frame["reference_id"]
    ]
    return np.array(rows)


def embedded(texts: Sequence[str]) -> np.ndarray:
    """The vectors of texts in these worlds."""
    return TableEncoder().embed_texts(texts).astype(np.float64)
