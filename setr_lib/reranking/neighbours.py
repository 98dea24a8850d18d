"""Which captions are near which, found by their words without comparing every pair token by token."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from random import Random

import numpy as np
from numpy.typing import NDArray

from setr_lib.reranking.captions import Caption, Tokens
from setr_lib.reranking.differences import Edit, find_edits, single_word_change

_BUCKETS = 1024
_MOST_CORES = 20_000
"""Of more different captions than this, a random sample is compared: pairs are made by the thousand, not by
the million."""
_BANDS = ((0, 0), (1, 2), (3, 4), (5, 8), (9, 16))
"""Squared distances of word counts. Each band is sampled by itself: one changed word is frequent, an added
thing rare."""
_PER_BAND = 10
_BLOCK = 256


class CaptionGraph:
    """The different cores among captions, and for each the others that one or two edits lead to.

    Args:
        captions: A caption per image.
        rng: Draws the sample where there are too many.
    """

    def __init__(self, captions: Sequence[Caption], rng: Random) -> None:
        rows: defaultdict[Tokens, list[int]] = defaultdict(list)
        for row, caption in enumerate(captions):
            if caption.core:
                rows[caption.lemmas].append(row)
        cores = list(rows)
        if len(cores) > _MOST_CORES:
            cores = rng.sample(cores, _MOST_CORES)
        self._rows = rows
        self._captions = captions
        self._cores = [captions[rows[core][0]] for core in cores]
        self._index_of = {core: index for index, core in enumerate(cores)}
        self._rng = rng
        self._edits: dict[Tokens, list[tuple[Tokens, list[Edit]]]] = {}

    def edits_from(self, reference: Caption) -> list[tuple[Tokens, list[Edit]]]:
        """Cores that one or two edits lead to from a caption: a sample of them, always the same.

        Args:
            reference: The caption.

        Returns:
            Each core with the edits that lead to it.
        """
        core = reference.lemmas
        if core not in self._edits:
            index = self._index_of.get(core)
            nearby = [] if index is None else [self._cores[other] for other in self._nearby[index]]
            found = ((other.lemmas, find_edits(reference, other, self._substitutions)) for other in nearby)
            self._edits[core] = [(lemmas, edits) for lemmas, edits in found if edits]
        return self._edits[core]

    def nearest_images(self, row: int) -> list[int]:
        """The images whose captions are nearest to that of an image, those of the same core first.

        Args:
            row: The image's row.

        Returns:
            The rows of the others.
        """
        core = self._captions[row].lemmas
        index = self._index_of.get(core)
        nearby = [] if index is None else self._nearby[index]
        rows = [other for other in self._rows.get(core, []) if other != row]
        return rows + [image for other in nearby for image in self._rows[self._cores[other].lemmas]]

    @cached_property
    def _nearby(self) -> list[list[int]]:
        """For each core, the indices of others near it, nearest band first."""
        counts = np.zeros((len(self._cores), _BUCKETS), dtype=np.float32)
        for index, caption in enumerate(self._cores):
            for word in caption.lemmas:
                counts[index, zlib.crc32(word.encode()) % _BUCKETS] += 1
        norms = np.einsum("ij,ij->i", counts, counts)
        found: list[list[int]] = []
        for start in range(0, len(counts), _BLOCK):
            block = counts[start : start + _BLOCK]
            distances = norms[start : start + _BLOCK, None] + norms[None, :] - 2 * (block @ counts.T)
            for offset, row in enumerate(np.rint(distances)):
                found.append(self._sample_bands(row, start + offset))
        return found

    def _sample_bands(self, distances: NDArray[np.float32], index: int) -> list[int]:
        nearby: list[int] = []
        for low, high in _BANDS:
            inside = [int(p) for p in np.flatnonzero((distances >= low) & (distances <= high)) if p != index]
            nearby += self._rng.sample(inside, min(_PER_BAND, len(inside)))
        return nearby

    @cached_property
    def _substitutions(self) -> set[tuple[str, str]]:
        pairs: set[tuple[str, str]] = set()
        for caption, nearby in zip(self._cores, self._nearby, strict=True):
            for other in nearby:
                if changed := single_word_change(caption.lemmas, self._cores[other].lemmas):
                    pairs |= {changed, (changed[1], changed[0])}
        return pairs


def grow_clusters(
    count: int, neighbours: Callable[[int], Sequence[int]], share: float, largest: int, rng: Random
) -> NDArray[np.bool_]:
    """Choose a share of rows in clusters of neighbours.

    Args:
        count: All rows.
        neighbours: Gives the neighbours of a row, nearest first.
        share: Share of the rows to choose, between 0 and 1.
        largest: Rows of a cluster at most: a random seed and its neighbourhood.
        rng: Draws the seeds.

    Returns:
        ``bool[count]``, about ``share`` of it set.
    """
    mask = np.zeros(count, dtype=bool)
    wanted = min(max(round(count * share), 2), count - 2)
    order = list(range(count))
    rng.shuffle(order)
    for seed in order:
        queue, size = [seed], 0
        while queue and size < largest and mask.sum() < wanted:
            row = queue.pop(0)
            if mask[row]:
                continue
            mask[row] = True
            size += 1
            queue += [other for other in neighbours(row) if not mask[other]]
        if mask.sum() >= wanted:
            break
    return mask
