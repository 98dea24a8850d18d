"""How good a trained retrieval system is on held-out triplets: R@10, and the paired difference of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.systems.data import Features, SystemData
    from setr_lib.systems.models.system_model import SystemModel

DEPTH = 10
"""R@10: whether the target is among the ten nearest images."""
_EQUAL = 1e-9
"""Scores no further apart are equal."""
_BLOCK = 256
"""Queries whose scores are held at once."""


def encoded_queries(
    model: SystemModel, features: Features, references: Sequence[str], texts: Sequence[str]
) -> NDArray[np.float32]:
    """The query vectors of a model, in batches of the encoder's size.

    Args:
        model: The trained system.
        features: Gives the features of the references.
        references: Image ids.
        texts: A modification text for each.

    Returns:
        float32 [queries, d], norm 1.
    """
    import torch

    size, rows = model.encoder.batch_size, []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(texts), size):
            block = slice(start, start + size)
            rows.append(model.encode_queries(features.of(references[block]), texts[block]).float().cpu())
    return torch.cat(rows).numpy() if rows else np.zeros((0, model.dimension), dtype=np.float32)


def encoded_images(model: SystemModel, features: Features, images: Sequence[str]) -> NDArray[np.float32]:
    """The image vectors of a model, in batches of the encoder's size.

    Args:
        model: The trained system.
        features: Gives the features of the images.
        images: Image ids.

    Returns:
        float32 [images, d], norm 1.
    """
    import torch

    size, rows = model.encoder.batch_size, []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(images), size):
            block = features.of(images[start : start + size])
            rows.append(model.encode_images(block).float().cpu())
    return torch.cat(rows).numpy() if rows else np.zeros((0, model.dimension), dtype=np.float32)


def held_out_ranks(
    model: SystemModel, data: SystemData, features: Features, progress: Progress = silent
) -> NDArray[np.int64]:
    """The rank of each held-out triplet's target among the held-out images.

    A query's own reference is not searched, as on CIRR. Among equal scores the target comes last, so that a
    system whose vectors collapse gains nothing by it.

    Args:
        model: The trained system.
        data: The triplets.
        features: Gives the images' features.
        progress: Told when the queries are ranked.

    Returns:
        int64 [triplets], from 1, in the order of ``data.held_out``.
    """
    held_out, gallery = data.held_out, data.gallery
    references, targets = held_out["reference_id"].to_list(), held_out["target_id"].to_list()
    queries = encoded_queries(model, features, references, held_out["modification"].to_list())
    images = encoded_images(model, features, gallery)
    ranks = ranks_of_targets(queries, images, gallery, references, targets)
    progress(held_out.height, held_out.height, "held-out queries ranked")
    return ranks


def ranks_of_targets(
    queries: NDArray[np.float32],
    images: NDArray[np.float32],
    gallery: Sequence[str],
    references: Sequence[str],
    targets: Sequence[str],
) -> NDArray[np.int64]:
    """The rank of each query's target, its own reference left out, last among equal scores.

    A score that is not a number counts against the target, whose own it is or another image's.

    Args:
        queries: float32 [q, d].
        images: float32 [n, d].
        gallery: The ids of ``images``.
        references: The reference of each query.
        targets: The target of each query; it is in the gallery.

    Returns:
        int64 [q], from 1.
    """
    row_of = {image: row for row, image in enumerate(gallery)}
    columns, ranks = images.astype(np.float64).T, np.zeros(len(targets), dtype=np.int64)
    for start in range(0, len(targets), _BLOCK):
        block = slice(start, start + _BLOCK)
        scores = queries[block].astype(np.float64) @ columns
        for query, reference in enumerate(references[block]):
            if reference in row_of:
                scores[query, row_of[reference]] = -np.inf
        own = scores[np.arange(len(scores)), [row_of[target] for target in targets[block]]]
        # Rounding must not decide between a target and what is equal to it.
        ranks[block] = (~(scores < own[:, None] - _EQUAL)).sum(axis=1)
    return ranks


def recall(ranks: NDArray[np.int64], depth: int = DEPTH) -> float:
    """The share of queries whose target is among the first ``depth``, in percent.

    Args:
        ranks: int [q], from 1.
        depth: How many images count.

    Returns:
        From 0 to 100.
    """
    return 100 * float((ranks <= depth).mean())
