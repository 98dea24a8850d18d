"""Queries, galleries and rankings of CIRR's and CIRCO's official sizes, made of random numbers: what all of
SETR but its models works on.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from setr_lib.benchmarks import EvaluationSet
from setr_lib.datasets import set_of_split
from setr_lib.hashing import fingerprint_bytes
from setr_lib.reranking.reranker import JudgedQuery, Reranker
from setr_lib.settings import Settings
from setr_lib.tables import GALLERY, QUERIES, RANKINGS

PICTURES = 64
"""Small pictures that stand for all images."""
_FOUND = 0.7
"""The share of queries whose target is in the list."""


@dataclass(frozen=True)
class Size:
    """One benchmark's official size."""

    kind: str
    split: str
    queries: int
    images: int
    most_targets: int
    has_subsets: bool


CIRR = Size("cirr", "val", 4_181, 2_297, 1, True)
CIRCO = Size("circo", "test", 800, 123_403, 14, False)


@dataclass(frozen=True)
class RealSize:
    """An evaluation set of random numbers: its queries, gallery and one ranking of stage 1."""

    size: Size
    evaluation_set: EvaluationSet
    queries: pl.DataFrame
    gallery: pl.DataFrame
    rankings: pl.DataFrame


class RandomScores(Reranker):
    """A re-ranker whose scores are digests of the pair: it computes next to nothing."""

    name = "random scores"
    id = "digests of pairs"
    is_logit = True

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        """A number from -4 to 4 for each pair."""
        return [
            np.array([random_score(query.modification, picture.identity) for picture in query.candidates])
            for query in queries
        ]


def random_score(modification: str, identity: str) -> float:
    """The score of a pair.

    Args:
        modification: The modification text.
        identity: The candidate's.

    Returns:
        A number from -4 to 4, the same every time.
    """
    return 8 * zlib.crc32(f"{modification}\n{identity}".encode()) / 2**32 - 4


def real_size(size: Size, folder: Path, k: int = 100, seed: int = 0) -> RealSize:
    """An evaluation set of an official size.

    Args:
        size: The size.
        folder: Where the pictures are drawn.
        k: Images of each ranking.
        seed: Of all that is random.

    Returns:
        Queries, gallery and a ranking.
    """
    rng = np.random.default_rng(seed)
    settings = Settings.model_validate({"datasets": {size.kind: {"root": folder}}})
    names = np.array(
        [
            f"{1 + 3 * number:012d}" if size.has_subsets else str(1 + 3 * number)
            for number in range(size.images)
        ]
    )
    references = rng.integers(size.images, size=size.queries)
    targets = _targets(size, references, rng)
    return RealSize(
        size,
        set_of_split(settings, size.kind, size.split),
        _queries(names, references, targets, size),
        _gallery(names, folder),
        _rankings(names, references, targets, size, k, rng),
    )


def _targets(size: Size, references: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The target images of each query; of a query with a subset, a member of it."""
    if size.has_subsets:
        return [(reference + 1 + rng.integers(5, size=1)) % size.images for reference in references]
    counts = rng.integers(1, size.most_targets + 1, size=size.queries)
    return [
        (reference + 1 + rng.choice(size.images - 1, count, replace=False)) % size.images
        for reference, count in zip(references, counts, strict=True)
    ]


def _queries(
    names: np.ndarray, references: np.ndarray, targets: Sequence[np.ndarray], size: Size
) -> pl.DataFrame:
    texts = [f"the same with {number % 97} more of it, and text {number}" for number in range(size.queries)]
    subsets = [_members(reference, size).tolist() for reference in references]
    return pl.DataFrame(
        {
            "query_id": [str(number) for number in range(size.queries)],
            "reference_id": names[references].tolist(),
            "modification": texts,
            "captions": [[text] for text in texts],
            "target_ids": [names[each].tolist() for each in targets],
            "subset_ids": [[str(names[member]) for member in each] for each in subsets],
            "gallery": ["all"] * size.queries,
            "aspects": [[] for _ in texts],
        },
        schema=QUERIES,
    )


def _members(reference: int, size: Size) -> np.ndarray:
    """The images of a query's subset, the reference left out."""
    return (reference + 1 + np.arange(5 if size.has_subsets else 0)) % size.images


def _gallery(names: np.ndarray, folder: Path) -> pl.DataFrame:
    """GALLERY rows; all images share a few small files."""
    files = [folder / f"{number:02d}.png" for number in range(PICTURES)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        Image.new("RGB", (160, 120), (4 * number, 255 - 4 * number, 128)).save(file)
    count = len(names)
    return pl.DataFrame(
        {
            "image_id": names.tolist(),
            "path": [str(files[number % PICTURES]) for number in range(count)],
            "galleries": [["all"]] * count,
            "status": ["ok"] * count,
            "detail": [""] * count,
            "width": [160] * count,
            "height": [120] * count,
            "fingerprint": [fingerprint_bytes(name.encode()) for name in names.tolist()],
            "pixels": [""] * count,
        },
        schema=GALLERY,
    )


def _rankings(
    names: np.ndarray,
    references: np.ndarray,
    targets: Sequence[np.ndarray],
    size: Size,
    k: int,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Random lists without the reference; most have the first target somewhere."""
    parts: list[pl.DataFrame] = []
    for number, reference in enumerate(references):
        others = (reference + 1 + rng.choice(size.images - 1, k, replace=False)) % size.images
        target = targets[number][0]
        if rng.random() < _FOUND and target not in others:
            others[rng.integers(k)] = target
        parts.append(_list(str(number), "gallery", names[others], rng))
        if size.has_subsets:
            parts.append(_list(str(number), "subset", names[rng.permutation(_members(reference, size))], rng))
    return pl.concat(parts).cast(dict(RANKINGS))  # pyright: ignore[reportArgumentType]


def _list(query_id: str, pool: str, images: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    scores = np.sort(rng.random(len(images)))[::-1]
    return pl.DataFrame(
        {
            "query_id": [query_id] * len(images),
            "pool": [pool] * len(images),
            "rank": np.arange(1, len(images) + 1),
            "image_id": images.tolist(),
            "score": scores,
            "coarse_score": scores,
            "judge_score": [None] * len(images),
        },
        schema_overrides={"judge_score": pl.Float64},
    )
