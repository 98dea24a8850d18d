"""The LanceDB store of picture vectors: one table per gallery, encoder and preprocessing.

A synchronisation embeds only what is new or changed and removes what is gone, as far as a
:class:`~setr_lib.spaces.removals.RemovalRule` allows it. Batches are committed while it goes on, so a kill
costs at most the batch under way and two seconds' work. Searches are exact, to the last digit of stage 1's
cosines. Nothing here knows of methods or data sets.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from setr_lib.damage import damaged, guarded, lance_told, told
from setr_lib.errors import SetrError
from setr_lib.faults import lance_faults
from setr_lib.hashing import digest_strings
from setr_lib.pixels import picture_identity
from setr_lib.progress import Progress, silent
from setr_lib.spaces.prepared_images import FailedImage, PreparedBatch, prepared_batches
from setr_lib.spaces.removals import RemovalRule, origins_of, remember_origin
from setr_lib.spaces.row_writer import RowWriter
from setr_lib.spaces.taken_images import embed_what_is_taken

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.spaces.space import EmbeddingSpace
    from setr_lib.spaces.stored_vectors import StoredVectors

_LOG = logging.getLogger(__name__)

_DELETE_CHUNK = 1000  # ids per SQL filter
_COMPACT_ABOVE = 20  # fragments; LanceDB's own rule of thumb
_SPARE_HITS = 16  # asked of LanceDB beyond the k wanted
_NEVER = timedelta(days=36500)
_AT_ONCE = timedelta(milliseconds=1)
_HITS = {"query": pl.Int64(), "rank": pl.Int32(), "image_id": pl.String(), "score": pl.Float64()}
MADE_BY, PREPROCESSED_BY = "setr.encoder", "setr.preprocessing"
"""Keys of a table's metadata: the ids of the embedding space and of its preprocessing."""
PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}
"""Lance reads this mark on a field as "primary key": concurrent merges then detect each other."""


class GalleryError(SetrError):
    """A gallery table is absent, damaged, or does not fit what is asked of it."""


@dataclass(frozen=True)
class SyncReport:
    """What a synchronisation did; counts are pictures."""

    table: str
    version: int
    """The table version that holds exactly the result; tagged, so that LanceDB's clean-up spares it."""
    rows: int
    embedded: int
    kept: int
    removed: int
    """Rows deleted because their picture is gone, changed (and so embedded anew), or was there twice."""
    failed: tuple[FailedImage, ...]
    halved: tuple[tuple[int, int], ...] = ()
    """(too large, next) batch sizes, where memory was short."""


@dataclass(frozen=True)
class _Plan:
    todo: pl.DataFrame
    stale: list[str]
    kept: int
    removed: int


class GalleryStore:
    """The LanceDB database at ``uri`` (a folder, or an object store's URI).

    Holds no connection: it may be pickled and sent to a spawned process. (LanceDB does not survive ``fork``.)
    On a local folder two writers of one table wait for each other; elsewhere, let one run write at a time.
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri)

    @staticmethod
    def table_name(gallery: str, encoder: EmbeddingSpace) -> str:
        """The table of a gallery for an encoder and its preprocessing.

        Evaluation sets over the same pictures share the key, and so the table.

        Args:
            gallery: A key of the pictures' origin.
            encoder: The embedding space.

        Returns:
            The table's name.
        """
        return table_name_of(gallery, encoder.id, encoder.preprocessing_id)

    def table_names(self) -> list[str]:
        """All tables of the store, sorted."""
        return sorted(name for name in self.connect().list_tables(limit=100_000).tables)

    def synchronise(
        self,
        table: str,
        gallery: pl.DataFrame,
        encoder: EmbeddingSpace,
        batch_size: int | None = None,
        progress: Progress = silent,
        removals: RemovalRule | None = None,
    ) -> SyncReport:
        """Make a table hold exactly the readable pictures of a gallery, embedding no picture twice.

        Batches are committed as they are done, so after a kill the next call goes on from there. A picture
        that does not decode, or that the space refuses, is reported in ``failed`` and is tried again next
        time.

        Args:
            table: The table's name.
            gallery: ``image_id``, ``path``, ``fingerprint``, how they are read (``pixels``) and, where some
                pictures are known to be missing or broken, ``status``: only ``ok`` rows count. It is the
                *whole* gallery: rows of other ids are removed. A picture whose file has other bytes by now
                is one that failed.
            encoder: The embedding space.
            batch_size: Pictures per batch, instead of the encoder's own number.
            progress: Told how many pictures are embedded.
            removals: How many pictures may be removed; by default a fifth of the table without consent.

        Returns:
            What was done, and the table's version.

        Raises:
            GalleryError: Duplicate ids, ids without a fingerprint, or a table of another dimension.
            RemovalRefusedError: More would be removed than may be; nothing was changed.
        """
        wanted, rule = _wanted(gallery), removals or RemovalRule()
        with only_writer(self.uri, table):
            handle = self._open_or_create(table, encoder)
            stored = stored_rows(handle)
            rule.check(set(stored["image_id"]), wanted["image_id"], origins_of(handle))
            plan = _plan(wanted, stored)
            for start in range(0, len(plan.stale), _DELETE_CHUNK):
                handle.delete(f"image_id IN ({_sql_list(plan.stale[start : start + _DELETE_CHUNK])})")
            halved: list[tuple[int, int]] = []
            failed = _embed(handle, plan.todo, encoder, batch_size, progress, halved)
            self._compact(handle)
            rows = _rows_now(table, handle, plan.kept + len(plan.todo) - len(failed))
            version = self.tag(handle)
            remember_origin(handle, version, rule.origin)
        return SyncReport(
            table=table,
            version=version,
            rows=rows,
            embedded=len(plan.todo) - len(failed),
            kept=plan.kept,
            removed=plan.removed,
            failed=tuple(failed),
            halved=tuple(halved),
        )

    def read(self, table: str, version: int | None = None) -> tuple[list[str], NDArray[np.float32]]:
        """The ids and vectors of a table.

        Args:
            table: The table's name.
            version: Its version, by default the latest.

        Returns:
            The ids, sorted, and their vectors ``float32[n, d]``.

        Raises:
            GalleryError: There is no such table or version, or an id is there twice.
        """
        stored = self.vectors(table, version)
        return stored.names.to_list(), stored.whole()

    def vectors(self, table: str, version: int | None = None) -> StoredVectors:
        """The vectors of a table, to be read in blocks; none is read yet.

        Args:
            table: The table's name.
            version: Its version, by default the latest.

        Returns:
            What reads them.

        Raises:
            GalleryError: There is no such table or version.
        """
        from setr_lib.spaces.stored_vectors import StoredVectors

        return StoredVectors(table, self.open(table, version))

    def ids(self, table: str, version: int | None = None) -> list[str]:
        """The ids that :meth:`read` gives, without reading the vectors.

        Args:
            table: The table's name.
            version: Its version, by default the latest.

        Returns:
            The ids, sorted.

        Raises:
            GalleryError: As for :meth:`read`.
        """
        return self.vectors(table, version).names.to_list()

    def identities(self, table: str, images: Sequence[str], version: int | None = None) -> dict[str, str]:
        """What pictures were embedded: the bytes of each, and how they were read (``picture_identity``).

        Args:
            table: The table's name.
            images: Their ids.
            version: The table's version; the latest by default.

        Returns:
            By id; without those that have no vector. Of an earlier version's table, the bytes alone.

        Raises:
            GalleryError: There is no such table or version.
        """
        search = self.open(table, version).search().where(_filter(images or [""], ()))
        found = search.select(["image_id", "fingerprint"]).limit(2 * len(images) + 1).to_arrow()
        return dict(zip(found["image_id"].to_pylist(), found["fingerprint"].to_pylist(), strict=True))

    def search(
        self,
        table: str,
        vectors: NDArray[np.float32],
        k: int,
        allowed: Sequence[str] | None = None,
        version: int | None = None,
        excluded: Sequence[str] = (),
        probes: int | None = None,
    ) -> pl.DataFrame:
        """The ``k`` nearest pictures of each query vector by cosine, without holding the table's vectors.

        Exact unless ``probes`` says otherwise: no index is used even where there is one, and ids, order and
        scores are those of stage 1's NumPy ranking.

        Args:
            table: The gallery's table.
            vectors: ``float32[q, d]`` (or ``[d]`` for one query), norm 1; a zero row has a cosine of 0 with
            all.
            k: Pictures for each query.
            allowed: The only ids that are searched; all by default.
            version: The table's version; the latest by default.
            excluded: Ids that are not searched.
            probes: How many partitions of the table's IVF index are searched; no index is used by default.

        Returns:
            ``query`` (row of ``vectors``), ``rank`` (1-based), ``image_id`` and ``score`` (cosine), ordered
            by query and rank; equal scores are ordered by id, also at the cut.

        Raises:
            GalleryError: There is no such table or version, or its vectors have another dimension.
        """
        handle = self.open(table, version)
        queries = np.atleast_2d(np.ascontiguousarray(vectors, dtype=np.float32))
        dimension = handle.schema.field("vector").type.list_size
        if queries.shape[1] != dimension:
            raise GalleryError(
                f"table {table} holds vectors of {dimension} dimensions, the query has {queries.shape[1]}: "
                "it was encoded by another model"
            )
        if k < 1 or (allowed is not None and len(allowed) == 0):
            return pl.DataFrame(schema=_HITS)
        where = _filter(allowed, excluded)
        hits = [_nearest(handle, query, k, where, row, probes) for row, query in enumerate(queries)]
        return pl.concat([pl.DataFrame(schema=_HITS), *hits])

    def connect(self, table: str | None = None) -> Any:
        """LanceDB's connection, a new one for each piece of work; it says in words what is damaged on disk.

        Args:
            table: The table that is worked on, for the message.

        Returns:
            The connection.

        Raises:
            GalleryError: The folder cannot be used.
        """
        import lancedb

        if "://" in self.uri:
            return lancedb.connect(self.uri)
        folder = Path(self.uri)
        with told("vectors", folder, GalleryError):
            connection = lancedb.connect(self.uri)
        if table is not None:
            _refuse_headless(folder / f"{table}.lance")
        return guarded(connection, lambda error: lance_told(error, folder, table, GalleryError), "lancedb")

    def open(self, table: str, version: int | None = None) -> Any:
        """LanceDB's handle of a table.

        Args:
            table: The table's name.
            version: The table's version; by default the latest.

        Returns:
            The handle.

        Raises:
            GalleryError: There is no such table or version.
        """
        connection = self.connect(table)
        if table not in connection.list_tables(limit=100_000).tables:
            raise GalleryError(
                f"{self.uri}: there is no table {table}; materialise the gallery's embeddings first"
            )
        handle = connection.open_table(table)
        if version is not None:
            try:
                handle.checkout(version)
            except (RuntimeError, ValueError) as error:
                fault = f"has no version {version}, from which tables were made"
                raise damaged("vectors", f"{self.uri}/{table}.lance", fault, GalleryError) from error
        return handle

    def _open_or_create(self, table: str, encoder: EmbeddingSpace) -> Any:
        handle = self.connect(table).create_table(table, schema=_schema(encoder), exist_ok=True)
        found = handle.schema.field("vector").type
        if found != pa.list_(pa.float32(), encoder.dimension):
            raise GalleryError(
                f"{self.uri}: table {table} holds {found}, the encoder {encoder.id} gives "
                f"{encoder.dimension} dimensions; use GalleryStore.table_name, or drop the table"
            )
        return handle

    def _compact(self, handle: Any) -> None:
        """Merge the fragments of many small commits.

        A table without a tag was never reported to anyone (its first build, maybe resumed): the versions of
        its batches go too. Once there are tags nothing is cleaned up: a report may cite any earlier result.
        """
        if handle.stats()["fragment_stats"]["num_fragments"] > _COMPACT_ABOVE:
            handle.optimize(cleanup_older_than=_NEVER if handle.tags.list() else _AT_ONCE)

    @staticmethod
    def tag(handle: Any) -> int:
        """Tag the version that a handle is at, so that LanceDB's clean-up spares it.

        Args:
            handle: LanceDB's handle of a table.

        Returns:
            The version.
        """
        version = int(handle.version)
        tag = f"setr-{version}"
        if tag not in handle.tags.list():
            handle.tags.create(tag, version)
        return version


def _refuse_headless(table: Path) -> None:
    """LanceDB would begin a new table beside the data of one whose manifests are gone."""
    if any((table / "data").glob("*.lance")) and not any((table / "_versions").glob("*.manifest")):
        path, fault = next(iter(lance_faults(table).items()))
        raise damaged("vectors", path, fault, GalleryError)


def table_name_of(gallery: str, encoder: str, preprocessing: str) -> str:
    """The table of a gallery for an encoder and its preprocessing, by their ids.

    Args:
        gallery: A key of the pictures' origin.
        encoder: The embedding space's id.
        preprocessing: Its preprocessing's id.

    Returns:
        The table's name.
    """
    exact = digest_strings([gallery, encoder, preprocessing])[:12]
    return f"{slug(gallery)}--{slug(encoder.split('@')[0])}--{exact}"


def slug(text: str) -> str:
    """A text as part of a table's name.

    Args:
        text: Any text.

    Returns:
        At most 48 letters, digits, ``_``, ``.`` and ``-``.
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:48]


def _embed(
    handle: Any,
    todo: pl.DataFrame,
    encoder: EmbeddingSpace,
    batch_size: int | None,
    progress: Progress,
    halved: list[tuple[int, int]],
) -> list[FailedImage]:
    """Append the vectors of ``todo``. While the model runs, the next batch is prepared and earlier rows are
    written; what ``progress`` is told is written.
    """

    def on_halve(too_large: int, next_size: int) -> None:
        halved.append((too_large, next_size))
        _LOG.warning("%d pictures at a time did not fit in memory; going on with %d", too_large, next_size)

    failed: list[FailedImage] = []
    if todo.is_empty():
        return failed
    schema, done = _schema(encoder), 0
    progress(0, len(todo), "images embedded")
    prepared = prepared_batches(todo, encoder, batch_size or encoder.batch_size)
    with RowWriter(handle) as writer, closing(prepared) as batches:
        for batch in batches:
            failed.extend(batch.failed)
            written, vectors = batch.rows[:0], np.zeros((0, encoder.dimension), np.float32)
            if batch.fine:
                size = halved[-1][1] if halved else batch_size
                ran = embed_what_is_taken(encoder, batch.items, size, on_halve)
                failed.extend(_refused(batch, ran.refused, encoder))
                if ran.results:
                    written = batch.rows
                    if len(ran.results) < len(written):
                        written = written[[batch.fine[row] for row in ran.results]]
                    vectors = np.stack([*ran.results.values()])
            writer.add(_arrow_rows(written, vectors, schema), len(batch.rows))
            if done < (done := writer.done):
                progress(done, len(todo), "images embedded")
    if done < len(todo):
        progress(len(todo), len(todo), "images embedded")
    return failed


def _refused(
    batch: PreparedBatch, reasons: Mapping[int, str], encoder: EmbeddingSpace
) -> Iterator[FailedImage]:
    """The images of a batch that the model itself has refused."""
    for item, reason in reasons.items():
        image_id, path = batch.rows.select("image_id", "path").row(batch.fine[item])
        yield FailedImage(image_id, path, f"{path}: {encoder.id} refuses it ({reason})")


def _schema(encoder: EmbeddingSpace) -> pa.Schema:
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
            pa.field("fingerprint", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), encoder.dimension), nullable=False),
        ],
        metadata={MADE_BY: encoder.id, PREPROCESSED_BY: encoder.preprocessing_id},
    )


def _wanted(gallery: pl.DataFrame) -> pl.DataFrame:
    """The rows to hold, in id order, so that the same gallery always makes the same batches."""
    frame = gallery.filter(pl.col("status") == "ok") if "status" in gallery.columns else gallery
    if "pixels" not in frame.columns:
        frame = frame.with_columns(pixels=pl.lit(""))
    frame = frame.select("image_id", "path", "fingerprint", "pixels").sort("image_id")
    _check_no_duplicates("the gallery to embed", frame)
    unknown = frame.filter(pl.col("fingerprint").is_null() | pl.col("image_id").is_null())
    if len(unknown):
        raise GalleryError(
            f"{len(unknown)} gallery row(s) have no fingerprint or no id, the first is image "
            f"{unknown['image_id'][0]!r} ({unknown['path'][0]}); inspect the gallery's files first"
        )
    identity = [picture_identity(*row) for row in frame.select("fingerprint", "pixels").iter_rows()]
    return frame.with_columns(pl.Series("identity", identity, pl.String()))


def stored_rows(handle: Any) -> pl.DataFrame:
    """``image_id`` and ``identity`` of every row of a table, as they are now. The column's name is that of
    earlier versions, which held the bytes' fingerprint alone.

    Args:
        handle: LanceDB's handle of a table.

    Returns:
        One row each; an id is there twice where two writers wrote at a time.
    """
    handle.checkout_latest()
    rows = handle.search().select(["image_id", "fingerprint"]).limit(handle.count_rows() + 1).to_arrow()
    return pl.DataFrame(pl.from_arrow(rows)).rename({"fingerprint": "identity"})


def _rows_now(table: str, handle: Any, expected: int) -> int:
    """The number of rows. Where it is another than expected, somebody else has written: raises
    ``GalleryError`` where an id is there twice."""
    handle.checkout_latest()
    rows = handle.count_rows()
    return rows if rows == expected else _check_no_duplicates(table, stored_rows(handle))


def _plan(wanted: pl.DataFrame, stored: pl.DataFrame) -> _Plan:
    once = stored.filter(pl.col("image_id").is_unique())
    kept = once.join(wanted, on=["image_id", "identity"], how="semi")
    stale = stored.join(kept, on="image_id", how="anti")
    return _Plan(
        todo=wanted.join(kept, on="image_id", how="anti"),
        stale=stale["image_id"].unique().sort().to_list(),
        kept=len(kept),
        removed=len(stale),
    )


def _check_no_duplicates(what: str, frame: pl.DataFrame) -> int:
    """The number of rows. Raises ``GalleryError`` naming ids that are there more than once."""
    twice = frame.filter(pl.col("image_id").is_duplicated())["image_id"].unique().sort()
    if len(twice):
        raise GalleryError(
            f"{what}: {len(twice)} image id(s) occur more than once, e.g. {', '.join(twice[:5])}; "
            "ids must be unique (two runs writing the table at once? run the synchronisation again)"
        )
    return len(frame)


def check_unique(table: str, ids: pl.Series) -> None:
    """Refuse a table with an id in several rows.

    Args:
        table: The table's name, for the message.
        ids: The ids of all rows.

    Raises:
        GalleryError: An id is there twice; the message names it.
    """
    if ids.n_unique() != len(ids):
        _check_no_duplicates(table, pl.DataFrame({"image_id": ids}))


def _filter(allowed: Sequence[str] | None, excluded: Sequence[str]) -> str | None:
    """The SQL filter of a search; None where every row is searched."""
    parts = [] if allowed is None else [f"image_id IN ({_sql_list(allowed)})"]
    if excluded:
        parts.append(f"image_id NOT IN ({_sql_list(excluded)})")
    return " AND ".join(parts) or None


def _sql_list(ids: Sequence[str]) -> str:
    return ", ".join("'" + image_id.replace("'", "''") + "'" for image_id in ids)


def _arrow_rows(rows: pl.DataFrame, vectors: NDArray[np.float32], schema: pa.Schema) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    columns = [
        pa.array(rows["image_id"].to_list(), pa.string()),
        pa.array(rows["identity"].to_list(), pa.string()),
        pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _nearest(
    handle: Any, query: NDArray[np.float32], k: int, where: str | None, row: int, probes: int | None
) -> pl.DataFrame:
    """The hits of one query, number ``row``.

    LanceDB sums in float32, so its last digits may order two pictures wrongly, or equal ones at random. It is
    asked for more than ``k``, until rounding cannot lift what it leaves out to the k-th; those hits are
    scored again as stage 1 does: summed in float64 and rounded once.
    """
    slack = (len(query) + 4) * np.finfo(np.float32).eps  # twice what float32 sums of unit vectors can be off
    limit, rows = k + _SPARE_HITS, handle.count_rows()
    while True:
        ids, vectors, rough = _hits(handle, query, limit, where, probes)
        scores = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        order = np.lexsort((np.array(ids, dtype=str), -scores))[:k]
        is_whole = len(ids) < limit or limit >= rows
        if is_whole or rough.min() + slack < scores[order[-1]]:
            found = {
                "query": row,
                "rank": np.arange(1, len(order) + 1),
                "image_id": [ids[hit] for hit in order],
            }
            return pl.DataFrame({**found, "score": scores[order]}, schema=_HITS)
        limit *= 4


def _hits(
    handle: Any, query: NDArray[np.float32], limit: int, where: str | None, probes: int | None
) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """The ids, vectors and LanceDB's own scores of the ``limit`` nearest rows."""
    search = handle.search(query).distance_type("dot").limit(limit)
    search = search.bypass_vector_index() if probes is None else search.nprobes(probes)
    if where is not None:
        search = search.where(where, prefilter=True)
    found = search.select(["image_id", "vector", "_distance"]).to_arrow().combine_chunks()
    ids = found["image_id"].to_pylist()
    vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(len(ids), len(query))
    return ids, vectors, 1 - found["_distance"].to_numpy()


@contextmanager
def only_writer(uri: str, table: str) -> Iterator[None]:
    """Hold a table's lock file; the system releases it with the process, SIGKILL included.

    Args:
        uri: The database.
        table: The table's name.

    Yields:
        Nothing; other writers of this machine wait.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system: one writer at a time is then the caller's duty
        yield
        return
    if "://" in uri:
        yield
        return
    folder = Path(uri)
    lock = folder / f".{table}.lock"
    with told("vectors", folder if not folder.is_dir() else lock, GalleryError):
        folder.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
