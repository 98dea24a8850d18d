"""The held-out part of training triplets: whole groups of images, so that training and held-out triplets
share none.

Triplets are the edges of a graph whose nodes are images. Its connected components are held out whole where
they fit. Of one that holds too many images (CIRR's pairs chain through their image sets), regions are grown
image by image, always by the one that leaves the fewest triplets with one image on either side; these are
dropped.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

import numpy as np
import polars as pl
from numpy.typing import NDArray

TRAIN, HELD_OUT, DROPPED = "train", "held_out", "dropped"
_REGION = 500
"""Images of a region at most: several regions are more like the whole than a single one."""


def split_triplets(triplets: pl.DataFrame, held_out_share: float, seed: int) -> pl.Series:
    """Which triplets are trained on and which are held out, so that these share no image.

    Args:
        triplets: ``reference_id`` and ``target_id``.
        held_out_share: Share of the images to hold out, between 0 and 1.
        seed: Of the choice; it does not depend on the order of the triplets.

    Returns:
        A series ``split``: ``train``, ``held_out``, or ``dropped`` where a triplet has an image on either
        side, in the order of ``triplets``. Of fewer than four images none is held out.
    """
    references, targets = triplets["reference_id"].to_list(), triplets["target_id"].to_list()
    row_of = {image: row for row, image in enumerate(sorted({*references, *targets}))}
    edges = [(row_of[a], row_of[b]) for a, b in zip(references, targets, strict=True)]
    rng = Random(f"held-out/{seed}")  # noqa: S311 - reproducible, not secret
    held_out = held_out_images(edges, len(row_of), held_out_share, rng)
    names = {(False, False): TRAIN, (True, True): HELD_OUT}
    splits = [names.get((bool(held_out[a]), bool(held_out[b])), DROPPED) for a, b in edges]
    return pl.Series("split", splits, dtype=pl.String)


def split_in_words(splits: pl.Series) -> str:
    """How many triplets are where.

    Args:
        splits: As of :func:`split_triplets`.

    Returns:
        E.g. ``3,280 triplets for training, 820 held out, 81 dropped for having an image on either side``.
    """
    counts = Counter(splits.to_list())
    words = f"{counts[TRAIN]:,} triplets for training, {counts[HELD_OUT]:,} held out"
    dropped = counts[DROPPED]
    return f"{words}, {dropped:,} dropped for having an image on either side" if dropped else words


def held_out_images(
    edges: Sequence[tuple[int, int]], count: int, share: float, rng: Random
) -> NDArray[np.bool_]:
    """Choose images to hold out, so that few pairs have an image on either side.

    Args:
        edges: Pairs of images that belong together, as rows.
        count: All images.
        share: Share of the images to choose, between 0 and 1.
        rng: Draws where to begin.

    Returns:
        ``bool[count]``: more than half of ``share`` of it set, and no more than ``share``; nothing where
        there are fewer than four images.
    """
    chosen = np.zeros(count, dtype=bool)
    if count < 4:
        return chosen
    wanted = min(max(round(count * share), 2), count - 2)
    # Neighbours in an order of their own, so that that of the pairs makes no difference.
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        neighbours[a].append(b)
        neighbours[b].append(a)
    for near in neighbours:
        near.sort()
    component = _components(neighbours)
    sizes = Counter(component)
    # What may still be chosen of a component that cannot be held out whole: its share of all.
    budget = {name: max(2, -(-wanted * size // count)) for name, size in sizes.items() if size > wanted / 2}
    order = list(range(count))
    rng.shuffle(order)
    left = wanted
    for seed in order:
        name = component[seed]
        most = min(left, budget[name], _REGION) if name in budget else sizes[name]
        if chosen[seed] or not 0 < most <= left:
            continue
        for row in _region(seed, neighbours, chosen, most):
            chosen[row] = True
            left -= 1
            if name in budget:
                budget[name] -= 1
    return chosen


def _components(neighbours: Sequence[Sequence[int]]) -> list[int]:
    """The connected component of each row, named by its smallest row."""
    component = [-1] * len(neighbours)
    for start in range(len(neighbours)):
        if component[start] >= 0:
            continue
        component[start] = start
        queue = [start]
        for row in queue:
            for other in neighbours[row]:
                if component[other] < 0:
                    component[other] = start
                    queue.append(other)
    return component


def _region(
    seed: int, neighbours: Sequence[Sequence[int]], chosen: NDArray[np.bool_], most: int
) -> Iterator[int]:
    """Up to ``most`` connected rows that were not chosen before, each that which adds the fewest pairs across
    the border."""
    inside: set[int] = set()
    # (pairs across the border that the row adds less those that it closes, row)
    border = [(0, seed)]
    while border and len(inside) < most:
        _, row = heapq.heappop(border)
        if row in inside:
            continue  # an entry from before it had so many neighbours inside
        inside.add(row)
        yield row
        for other in set(neighbours[row]):
            if other not in inside and not chosen[other]:
                closed = sum(near in inside or bool(chosen[near]) for near in neighbours[other])
                heapq.heappush(border, (len(neighbours[other]) - 2 * closed, other))
