"""The metrics that a benchmark can report: their value for each query, and what a random ranker gets, in
closed form.

A metric is a small object: a name, the pools of ranked images that it looks at, how deep it looks, ``values``
and ``chance``. Benchmarks list theirs in ``Benchmark.metrics``; how values become leaderboard rows is
``setr_lib.evaluation``'s. NumPy is imported inside the functions, so that listing benchmarks costs next to
nothing.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GALLERY, SUBSET = "gallery", "subset"
"""The two pools of images that a query can have a ranking of: its gallery, and CIRR's subset of five
look-alikes."""
WHOLE = sys.maxsize
"""The ``depth`` of a metric that must see the whole ranked gallery."""


@dataclass(frozen=True)
class TargetRanks:
    """Where the targets of n queries are ranked. Ranks count from 1; infinite where a target is not
    ranked.
    """

    targets: NDArray[np.float64]
    """n x t, the rank of each target (rows are filled up with infinity); the first column is the first
    target."""
    truths: NDArray[np.int64]
    """n, how many targets each query has."""
    subset: NDArray[np.float64] | None = None
    """n, the first target's rank in the query's subset; None where no subset was ranked."""

    @cached_property
    def ordered(self) -> NDArray[np.float64]:
        """n x t, each query's target ranks from best to worst."""
        import numpy as np

        return np.sort(self.targets, axis=1)

    @cached_property
    def precisions(self) -> NDArray[np.float64]:
        """n x t, the precision at each of ``ordered``; 0 where a target is not ranked."""
        import numpy as np

        return np.arange(1, self.targets.shape[1] + 1) / self.ordered


@dataclass(frozen=True)
class RandomPools:
    """What a random ranker draws from, for n queries."""

    sizes: NDArray[np.int64]
    """n, how many images of the gallery can be ranked."""
    reachable: Sequence[Sequence[bool]]
    """For each query, whether each of its targets is among them."""
    subset_sizes: NDArray[np.int64]
    """n, how many members of the query's subset can be ranked."""

    def cases(self) -> list[tuple[int, Sequence[bool]]]:
        """(gallery size, which targets can be found) of each query."""
        return [(int(size), flags) for size, flags in zip(self.sizes, self.reachable, strict=True)]


class Metric(ABC):
    """One number between 0 and 1 for each query, the higher the better; a benchmark reports its mean."""

    depth: int = 0
    """K: how many ranked images it must see; 0 where a list of any length will do, :data:`WHOLE` where it
    must be a ranking of the whole gallery."""
    macro: bool = True
    """Whether its mean is first taken within each gallery that is searched on its own, then over galleries
    (FashionIQ's categories); False: over all queries alike."""
    is_proportion: bool = False
    """Whether the value of a query is 0 or 1: where all queries have the same, a proportion still has an
    interval (Wilson's); another metric has none."""
    parts: tuple[Metric, ...] = ()
    """The metrics that it is computed from, if it is; it is left out where one of them is."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in tables and reports, e.g. ``R@10``; without ``/``, which marks a breakdown
        (``R@10/dress``).
        """

    @property
    def pools(self) -> frozenset[str]:
        """The rankings that it needs: ``gallery``, ``subset``, or both."""
        return frozenset({GALLERY})

    @property
    def explanation(self) -> str:
        """One sentence for a report; ``**`` around a word makes it bold. Empty: nothing is said."""
        return ""

    @abstractmethod
    def values(self, ranks: TargetRanks) -> NDArray[np.float64]:
        """The metric of each query.

        Args:
            ranks: Where the targets of n queries are ranked.

        Returns:
            n values from 0 to 1.
        """

    @abstractmethod
    def chance(self, pools: RandomPools) -> NDArray[np.float64]:
        """What a uniformly random ranking is expected to get for each query.

        Args:
            pools: How many images can be ranked for each of n queries, and which targets are among them.

        Returns:
            n values from 0 to 1.
        """


@dataclass(frozen=True)
class RecallAt(Metric):
    """R@K: whether a target is among the first K."""

    depth: int
    of: Literal["first", "any"] = "any"
    """``first``: the first target alone counts (CIRR, FashionIQ, CIRCO have a single one); ``any``: any of
    them."""
    is_proportion = True

    @property
    def name(self) -> str:
        """``R@K``."""
        return f"R@{self.depth}"

    @property
    def explanation(self) -> str:
        """What R@K is."""
        which = "a" if self.of == "any" else "the first"
        return f"**R@K** is the share of queries with {which} target among the first K."

    def values(self, ranks: TargetRanks) -> NDArray[np.float64]:
        """1 where the target is among the first K, else 0; see :meth:`Metric.values`."""
        import numpy as np

        rank = ranks.targets[:, 0] if self.of == "first" else ranks.targets.min(axis=1)
        return (rank <= self.depth).astype(np.float64)

    def chance(self, pools: RandomPools) -> NDArray[np.float64]:
        """min(K, N) / N for one target in a pool of N; for any of R of them 1 - C(N-R, K) / C(N, K)."""
        import numpy as np

        if self.of == "any":
            return np.array([_chance_of_any(size, sum(flags), self.depth) for size, flags in pools.cases()])
        return np.array([min(self.depth, size) / size if flags[0] else 0.0 for size, flags in pools.cases()])


@dataclass(frozen=True)
class SubsetRecallAt(Metric):
    """R_subset@K: whether the first target is among the first K of the query's subset (CIRR)."""

    depth: int
    is_proportion = True

    @property
    def name(self) -> str:
        """``R_subset@K``."""
        return f"R_subset@{self.depth}"

    @property
    def pools(self) -> frozenset[str]:
        """The subset only."""
        return frozenset({SUBSET})

    @property
    def explanation(self) -> str:
        """What R_subset@K is."""
        return "**R_subset@K** ranks only the other members of the query's subset."

    def values(self, ranks: TargetRanks) -> NDArray[np.float64]:
        """1 where the target is among the subset's first K, else 0; see :meth:`Metric.values`."""
        import numpy as np

        assert ranks.subset is not None  # it is asked for where the subset pool is ranked
        return (ranks.subset <= self.depth).astype(np.float64)

    def chance(self, pools: RandomPools) -> NDArray[np.float64]:
        """min(K, N) / N in a subset of N members that can be ranked."""
        import numpy as np

        pairs = zip(pools.subset_sizes, pools.reachable, strict=True)
        return np.array(
            [min(self.depth, size) / size if flags[0] and size else 0.0 for size, flags in pairs],
            dtype=np.float64,
        )


@dataclass(frozen=True)
class MeanAveragePrecisionAt(Metric):
    """mAP@K: [sum over hits at ranks i <= K of the precision at i] / min(number of targets, K)."""

    depth: int

    @property
    def name(self) -> str:
        """``mAP@K``."""
        return f"mAP@{self.depth}"

    @property
    def explanation(self) -> str:
        """What mAP@K is."""
        return (
            "**mAP@K** is the mean average precision of the first K, divided by the smaller of K and the "
            "number of targets."
        )

    def values(self, ranks: TargetRanks) -> NDArray[np.float64]:
        """The average precision of the first K; see :meth:`Metric.values`."""
        import numpy as np

        total = np.where(ranks.ordered <= self.depth, ranks.precisions, 0.0).sum(axis=1)
        return total / np.minimum(ranks.truths, self.depth)

    def chance(self, pools: RandomPools) -> NDArray[np.float64]:
        """For R targets in a pool of N: sum over i <= min(K, N) of (R/N) (1/i) (1 + (i-1)(R-1)/(N-1)),
        divided as above.
        """
        import numpy as np

        return np.array(
            [_expected_precision(size, sum(flags), len(flags), self.depth) for size, flags in pools.cases()]
        )


@dataclass(frozen=True)
class TrapezoidalAveragePrecision(Metric):
    """AP as the area under the precision-recall curve by the trapezoidal rule, of the whole ranking.

    For the j-th hit (from 0) at rank r (from 1), of R targets: the sum over hits of (p + q) / 2, divided by
    R + 1e-5, where q = (j + 1) / r is the precision at the hit and p = j / (r - 1) the one just before it
    (1 at r = 1). It is the AP of i-CIR's evaluation code; plain AP has q in place of (p + q) / 2 and is
    never less.
    """

    title: str
    macro: bool = True

    depth = WHOLE

    @property
    def name(self) -> str:
        """``title``."""
        return self.title

    @property
    def explanation(self) -> str:
        """How AP is computed, and what the mean is over."""
        over = "the means of the galleries, each searched on its own" if self.macro else "all queries"
        return f"**{self.title}** is the mean over {over} of the trapezoidal average precision."

    def values(self, ranks: TargetRanks) -> NDArray[np.float64]:
        """The trapezoidal AP of each query; see :meth:`Metric.values`."""
        import numpy as np

        hits = np.arange(ranks.targets.shape[1])
        before = np.where(ranks.ordered == 1, 1.0, hits / np.maximum(ranks.ordered - 1, 1))
        return (before + ranks.precisions).sum(axis=1) / 2 / (ranks.truths + _RECALL_MARGIN)

    def chance(self, pools: RandomPools) -> NDArray[np.float64]:
        """For R targets in a pool of N, with s = (R-1)/(N-1): R/N times the sum over ranks i of half of
        (1 + (i-1) s) / i + s (1 at i = 1 in place of s), divided as above.
        """
        import numpy as np

        return np.array([_expected_area(size, sum(flags), len(flags)) for size, flags in pools.cases()])


@dataclass(frozen=True)
class Average(Metric):
    """The mean of other metrics, query by query (CIRR's Avg of R@5 and R_subset@1)."""

    title: str
    parts: tuple[Metric, ...]

    @property
    def name(self) -> str:
        """``title``."""
        return self.title

    @property
    def pools(self) -> frozenset[str]:
        """Those of its parts."""
        return frozenset().union(*(part.pools for part in self.parts))

    @property
    def explanation(self) -> str:
        """What it is the mean of."""
        return f"**{self.title}** is the mean of {' and '.join(part.name for part in self.parts)}."

    def values(self, ranks: TargetRanks) -> NDArray[np.float64]:
        """The mean of the parts' values; see :meth:`Metric.values`."""
        return _mean([part.values(ranks) for part in self.parts])

    def chance(self, pools: RandomPools) -> NDArray[np.float64]:
        """The mean of the parts' chances; see :meth:`Metric.chance`."""
        return _mean([part.chance(pools) for part in self.parts])


def recalls(*depths: int, of: Literal["first", "any"] = "any") -> tuple[Metric, ...]:
    """R@K for several K.

    Args:
        of: Which targets count, as in :class:`RecallAt`.
        depths: The K, in the order of the tables.

    Returns:
        One metric per K.
    """
    return tuple(RecallAt(depth, of) for depth in depths)


def mean_average_precisions(*depths: int) -> tuple[Metric, ...]:
    """mAP@K for several K.

    Args:
        depths: The K, in the order of the tables.

    Returns:
        One metric per K.
    """
    return tuple(MeanAveragePrecisionAt(depth) for depth in depths)


def _mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    total = values[0]
    for part in values[1:]:
        total = total + part
    return total / len(values)


_RECALL_MARGIN = 1e-5
"""What i-CIR's evaluation code adds to the number of targets: a perfect AP is a little less than 1."""


def _expected_area(pool: int, relevant: int, truths: int) -> float:
    import numpy as np

    if relevant == 0:
        return 0.0
    ranks = np.arange(1, pool + 1)
    share = (relevant - 1) / max(pool - 1, 1)
    before = np.where(ranks == 1, 1.0, share)
    area = (before + (1 + (ranks - 1) * share) / ranks).sum() / 2
    return float(relevant / pool * area / (truths + _RECALL_MARGIN))


def _chance_of_any(pool: int, relevant: int, depth: int) -> float:
    """P(any of ``relevant`` among ``pool`` images is in the first ``depth`` of a random order)."""
    import numpy as np

    drawn = np.arange(min(depth, pool))
    return float(1 - np.prod(np.maximum(pool - relevant - drawn, 0) / (pool - drawn)))


def _expected_precision(pool: int, relevant: int, truths: int, depth: int) -> float:
    import numpy as np

    if relevant == 0:
        return 0.0
    ranks = np.arange(1, min(depth, pool) + 1)
    others = (ranks - 1) * (relevant - 1) / max(pool - 1, 1)
    return float(relevant / pool * ((1 + others) / ranks).sum() / min(truths, depth))
