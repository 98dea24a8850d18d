"""Hard negatives of training queries, mined in a LanceDB table of image vectors.

The paper of Retrieval-DPO (arXiv 2506.06602) mines with FAISS, and tunes index and sampling; how is not
public. Ours, a reconstruction: a pool of the images nearest to the query, less what must not be a negative,
and of that pool the nearest or a uniform draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from setr_lib.errors import SetrError
from setr_lib.hashing import digest_strings
from setr_lib.progress import Progress, silent
from setr_lib.spaces.vector_store import GalleryStore, only_writer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.systems.options import MinedOptions

_BLOCK = 256  # queries per search


class MiningError(SetrError):
    """Hard negatives cannot be mined; the message says for which query, and what to do."""


@dataclass(frozen=True)
class MiningQueries:
    """What hard negatives are mined for.

    Attributes:
        vectors: float32 [queries, d]: the queries' unit vectors in the table's space.
        targets: The ids of each query's known answers; none is its negative.
        excluded: Further ids that are no negatives of it, e.g. its reference.
    """

    vectors: NDArray[np.float32]
    targets: Sequence[Sequence[str]]
    excluded: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        if not len(self.vectors) == len(self.targets) == len(self.excluded):
            raise MiningError(
                f"hard negatives are asked for {len(self.vectors)} query vectors, the targets of "
                f"{len(self.targets)} and the excluded images of {len(self.excluded)}: give one of each"
            )


@dataclass(frozen=True)
class MinedNegatives:
    """Hard negatives, as many for each query.

    Attributes:
        ids: The negatives of each query, hardest first where these were chosen.
        short: How many queries had fewer distinct ones: theirs are repeated in turn.
    """

    ids: list[list[str]]
    short: int


def mine_negatives(
    store: GalleryStore,
    table: str,
    queries: MiningQueries,
    options: MinedOptions,
    version: int | None = None,
    images: Sequence[str] | None = None,
    progress: Progress = silent,
) -> MinedNegatives:
    """Mine ``options.negatives`` hard negatives for each query.

    The pool of a query is the ``options.depth`` nearest images that are neither its targets nor excluded;
    near-duplicates of a target are taken out of it, and are not replaced. With ``index = "ivf"``, or of some
    ``images`` only, a copy of the table is searched, which is kept beside the store (:func:`copy_of`): the
    table itself gets no index, and no new version.

    Args:
        store: The store of the table.
        table: The table; every target is in it where near-duplicates are left out.
        queries: What is mined for.
        options: How: ``negatives``, ``depth``, ``index``, ``probes``, ``choice``, ``duplicate_cosine`` and
            ``seed``.
        version: The table's version; the latest by default.
        images: The only ones that may be negatives, e.g. those of the training split; all by default.
        progress: Told how many queries are done.

    Returns:
        The negatives: the same for the same arguments. An IVF index that is built anew is another one,
        because LanceDB's clustering takes no seed; the kept copy gives the same again.

    Raises:
        MiningError: A query has no negative at all, or a target has no vector.
        GalleryError: There is no such table or version, or its vectors have another dimension.
    """
    resolved = int(store.open(table, version).version)
    likeness = _Likeness.of(store, table, resolved, options.duplicate_cosine)
    mined: list[list[str]] = []
    short = 0
    with _searched(store, table, resolved, options, images) as searched:
        for row, pool in enumerate(_pools(searched, queries, options.depth, progress)):
            pool = likeness.without_duplicates(pool, queries.targets[row])
            chosen = _chosen(pool, row, options)
            if not chosen:
                raise MiningError(
                    f"{table}: query {row} (target {', '.join(queries.targets[row])}) has no negative among "
                    f"its {options.depth} nearest images: raise depth, probes or near_duplicate_cosine"
                )
            short += len(chosen) < options.negatives
            mined.append([chosen[place % len(chosen)] for place in range(options.negatives)])
    return MinedNegatives(mined, short)


@dataclass(frozen=True)
class _Searched:
    """The table that is searched: the gallery's, or a copy."""

    store: GalleryStore
    table: str
    version: int | None
    probes: int | None = None

    def nearest(self, vectors: NDArray[np.float32], k: int) -> list[list[str]]:
        """The ids of the ``k`` nearest images of each vector."""
        found = self.store.search(self.table, vectors, k, version=self.version, probes=self.probes)
        nearest: list[list[str]] = [[] for _ in vectors]
        for row, image_id in found.select("query", "image_id").iter_rows():
            nearest[row].append(image_id)
        return nearest


@contextmanager
def _searched(
    store: GalleryStore, table: str, version: int, options: MinedOptions, images: Sequence[str] | None
) -> Iterator[_Searched]:
    is_exact = options.index == "exact"
    if is_exact and images is None:
        yield _Searched(store, table, version)
        return
    with copy_of(store, table, version, images, indexed=not is_exact) as (copies, name):
        yield _Searched(copies, name, None, None if is_exact else options.probes)


@contextmanager
def copy_of(
    store: GalleryStore, table: str, version: int, images: Sequence[str] | None, *, indexed: bool
) -> Iterator[tuple[GalleryStore, str]]:
    """A copy of a table's vectors, with an IVF index or without, in a database of its own beside the store.

    Made when it is first asked for, and kept; copies of other versions of the table are dropped. The index
    (IVF_FLAT, inner product) has as many partitions as the square root of the number of rows. It takes any
    number of rows but none: tables of fewer rows than LanceDB samples for its clustering are clustered whole.

    Args:
        store: The store of the table.
        table: The table.
        version: Its version.
        images: The ids to copy, where the table has them; all by default.
        indexed: Whether it has an index.

    Yields:
        The store and the name of the copy; another process that wants one waits meanwhile.

    Raises:
        MiningError: There is nothing to copy.
    """
    copies = GalleryStore(f"{store.uri.rstrip('/')}-mining")
    of_version = f"{table}--mining-{version}-"
    name = of_version + ("all" if images is None else digest_strings(sorted(images))[:12])
    with only_writer(copies.uri, table):
        connection = copies.connect()
        present = [each for each in copies.table_names() if each.startswith(f"{table}--mining-")]
        for old in present:
            if not old.startswith(of_version):
                connection.drop_table(old)
        if name not in present:
            connection.create_table(name, _rows(name, *store.read(table, version), images))
        copy = connection.open_table(name)
        if indexed and not copy.list_indices():
            _index(copy)
        yield copies, name


def _rows(name: str, ids: list[str], vectors: NDArray[np.float32], images: Sequence[str] | None) -> pa.Table:
    wanted = set(ids if images is None else images)
    kept = [row for row, image_id in enumerate(ids) if image_id in wanted]
    if not kept:
        raise MiningError(f"{name}: none of the images is in the table, so there are no hard negatives")
    flat = pa.array(np.ascontiguousarray(vectors[kept]).reshape(-1))
    columns = [[ids[row] for row in kept], pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])]
    return pa.table(columns, names=["image_id", "vector"])


def _index(copy: Any) -> None:
    from lancedb.index import IvfFlat

    partitions = isqrt(copy.count_rows())
    copy.create_index("vector", config=IvfFlat(distance_type="dot", num_partitions=partitions))


def _pools(
    searched: _Searched, queries: MiningQueries, depth: int, progress: Progress
) -> Iterator[list[str]]:
    """The ``depth`` nearest images of each query that may be its negatives, nearest first."""
    total = len(queries.vectors)
    for start in range(0, total, _BLOCK):
        vectors = queries.vectors[start : start + _BLOCK]
        barred = [
            {*queries.targets[row], *queries.excluded[row]} for row in range(start, start + len(vectors))
        ]
        nearest = searched.nearest(vectors, depth + max(map(len, barred)))
        for ids, never in zip(nearest, barred, strict=True):
            yield [image_id for image_id in ids if image_id not in never][:depth]
        progress(start + len(vectors), total, "queries' hard negatives mined")


def _chosen(pool: list[str], row: int, options: MinedOptions) -> list[str]:
    """At most ``options.negatives`` images of the pool of query number ``row``."""
    count = min(options.negatives, len(pool))
    if options.choice == "hardest":
        return pool[:count]
    drawn = np.random.default_rng([options.seed, row]).choice(len(pool), count, replace=False)
    return [pool[place] for place in drawn]


@dataclass(frozen=True)
class _Likeness:
    """Tells near-duplicates of targets; where no cosine is set there are none."""

    table: str
    cosine: float | None
    rows: dict[str, int]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, store: GalleryStore, table: str, version: int, cosine: float | None) -> _Likeness:
        if cosine is None:
            return cls(table, None, {}, np.zeros((0, 0), dtype=np.float32))
        ids, vectors = store.read(table, version)
        return cls(table, cosine, {image_id: row for row, image_id in enumerate(ids)}, vectors)

    def without_duplicates(self, pool: list[str], targets: Sequence[str]) -> list[str]:
        """The images of a pool that are less like each target than the cosine."""
        if self.cosine is None or not pool or not targets:
            return pool
        likeness = (self._of(pool) @ self._of(targets).T).max(axis=1)
        return [image_id for image_id, near in zip(pool, likeness, strict=True) if near < self.cosine]

    def _of(self, ids: Sequence[str]) -> NDArray[np.float64]:
        unknown = [image_id for image_id in ids if image_id not in self.rows]
        if unknown:
            raise MiningError(
                f"{self.table}: the target {unknown[0]!r} has no vector there, so its near-duplicates are "
                "not known: embed the training images again, or leave out near_duplicate_cosine"
            )
        return self.vectors[[self.rows[image_id] for image_id in ids]].astype(np.float64)
