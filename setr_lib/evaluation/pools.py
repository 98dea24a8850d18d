"""Which images can be ranked: for each query the size of its gallery, and which of its targets are in it.

Shared by the metrics (is a short list a whole one?) and the random floor (out of how many does chance draw?).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from setr_lib.benchmarks import Benchmark
from setr_lib.evaluation.protocols import ProtocolError


def rankable(gallery: pl.DataFrame) -> pl.DataFrame:
    """The gallery's images that a system can rank: those with status ``ok``, or all where none was inspected.

    Args:
        gallery: A gallery table, with or without ``status``.

    Returns:
        Its rows that can be ranked.
    """
    return gallery.filter(status="ok") if "status" in gallery.columns else gallery


@dataclass(frozen=True)
class Pools:
    """The rankable images by gallery name, in the gallery's order."""

    images: dict[str, list[str]]
    members: dict[str, frozenset[str]]

    @classmethod
    def of(cls, gallery: pl.DataFrame) -> Pools:
        """The pools of a gallery table.

        Args:
            gallery: ``image_id``, ``galleries`` and, where inspected, ``status``.

        Returns:
            The pools.
        """
        listed = rankable(gallery).explode("galleries").drop_nulls("galleries")
        listed = listed.group_by("galleries", maintain_order=True)
        images = {str(name): frame["image_id"].to_list() for (name,), frame in listed}
        return cls(images, {name: frozenset(ids) for name, ids in images.items()})

    def _members(self, gallery: str) -> frozenset[str]:
        return self.members.get(gallery, frozenset())

    def has(self, gallery: str, image_id: str) -> bool:
        """Whether ``image_id`` can be ranked in ``gallery``.

        Args:
            gallery: A gallery's name.
            image_id: An image.

        Returns:
            False also for a gallery that there is not.
        """
        return image_id in self._members(gallery)

    def sizes(self, benchmark: Benchmark, queries: pl.DataFrame) -> npt.NDArray[np.int64]:
        """How many images each query's ranking can hold: one less where the benchmark takes the reference
        out.

        Args:
            benchmark: Says whether the reference is taken out.
            queries: ``tables.QUERIES``, n rows.

        Returns:
            n counts.
        """
        size = np.array([len(self._members(name)) for name in queries["gallery"]], dtype=np.int64)
        if benchmark.removes_reference:
            pairs = zip(queries["gallery"], queries["reference_id"], strict=True)
            size -= np.array([self.has(*pair) for pair in pairs], dtype=np.int64)
        return size

    def subset_sizes(self, queries: pl.DataFrame) -> npt.NDArray[np.int64]:
        """How many of each query's subset members can be ranked.

        Args:
            queries: ``tables.QUERIES``, n rows.

        Returns:
            n counts.
        """
        rows = zip(queries["gallery"], queries["subset_ids"].to_list(), strict=True)
        return np.array(
            [sum(self.has(name, image_id) for image_id in ids) for name, ids in rows], dtype=np.int64
        )

    def targets(self, queries: pl.DataFrame) -> list[list[bool]]:
        """For each query, whether each of its targets can be ranked.

        Args:
            queries: ``tables.QUERIES``, n rows.

        Returns:
            n lists, one flag per target.
        """
        rows = zip(queries["gallery"], queries["target_ids"].to_list(), strict=True)
        return [[self.has(name, image_id) for image_id in ids] for name, ids in rows]


def pools_of(gallery: pl.DataFrame) -> Pools:
    """:meth:`Pools.of`, after a check of the columns.

    Args:
        gallery: ``image_id``, ``galleries`` and, where inspected, ``status``.

    Returns:
        The pools.

    Raises:
        ProtocolError: A column is missing; the message names it.
    """
    for column in ("image_id", "galleries"):
        if column not in gallery.columns:
            raise ProtocolError(f"the gallery has no column {column!r}")
    return Pools.of(gallery)
