"""``setr repair vectors``: the LanceDB tables. Every row that can be read is kept, of earlier versions, too.

A table is read fragment by fragment (a fragment is what one batch wrote, or what a compaction merged): one
damaged data file fails a read of the whole. The rows go into a new table of the same name; the next
synchronisation embeds what is missing, and removes what an earlier version had too much.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setr_lib.damage import lance_place
from setr_lib.errors import SetrError
from setr_lib.faults import LANCE_SIDE_FOLDERS, file_fault, json_fault, lance_faults, lance_tag_fault
from setr_lib.pipeline.storage import TABLES, or_run_everything
from setr_lib.repairs.aside import Finding, SetAside
from setr_lib.settings import Settings
from setr_lib.spaces.vector_store import GalleryStore, only_writer

_SUFFIX = ".lance"
_MENDED = "--mended"
_LATEST = (1 << 64) - 1
"""Lance names the manifest of version N by this number less N, so that the latest is listed first."""
_FRAGMENT = 32
"""A row's address is its fragment's number, shifted by so many bits, and its place in it."""
_MOST_FRAGMENTS = 1 << 20
_EARLIER = 3
"""So many versions in a row that have no row which later ones lack end the search through earlier ones."""
_RECORDS = ("gallery_embeddings", "training_embeddings")
"""The assets whose records name a table and its version."""
_TRIES = 40
"""Ranges of rows of one fragment that may fail before the rest of it is given up."""


def repair(settings: Settings, aside: SetAside) -> tuple[int, list[Finding]]:
    """Look at every table; keep the readable rows of damaged ones.

    Args:
        settings: They say where the database is.
        aside: Takes what is damaged.

    Returns:
        How many tables are whole, and what was found.
    """
    again = (
        f"materialize 'gallery_embeddings' again (what is missing is embedded), {or_run_everything(settings)}"
    )
    whole, findings = 0, list[Finding]()
    for folder in (Path(settings.lancedb_uri), Path(f"{settings.lancedb_uri}-mining")):
        if folder.exists() and not folder.is_dir():
            aside.take(folder)
            findings.append(Finding(folder, "is a file where a folder should be", aside.verb, again))
            continue
        for path in sorted(folder.glob("*")):
            found = _looked_at(path, aside, again)
            whole += path.suffix == _SUFFIX and not found
            findings += found
    findings += _records(settings, aside, again)
    return whole, findings


def _looked_at(path: Path, aside: SetAside, again: str) -> list[Finding]:
    if path.name.endswith(".lock") and path.is_dir():
        aside.take(path)
        return [Finding(path, "is a folder where a lock file should be", aside.verb)]
    if path.suffix != _SUFFIX:
        return []
    if not path.is_dir():
        aside.take(path)
        return [Finding(path, "is a file where a folder should be", aside.verb, again)]
    with only_writer(str(path.parent), path.stem):
        return _Table(path, aside, again).mended()


class _Table:
    """One table's folder.

    Args:
        path: The folder.
        aside: Takes what is damaged.
        again: What makes missing vectors again.
    """

    def __init__(self, path: Path, aside: SetAside, again: str) -> None:
        self.path, self.aside, self.again = path, aside, again
        self.faults = lance_faults(path)

    def mended(self) -> list[Finding]:
        """Mend the table; what was found."""
        faults = self._faults_of_names()
        if (unread := self._unreadable()) is None:
            return faults
        fault = next(
            (f"cannot be read: {file.relative_to(self.path)} {words}" for file, words in self.faults.items()),
            unread,
        )
        if self.path in self.faults:
            fault = self.faults[self.path]
        if self.aside.look_only:
            return [
                *faults,
                Finding(self.path, fault, "its readable rows would be kept", self.again, mended=False),
            ]
        self._find_a_version()
        rows = self._rows()
        kept = 0 if rows is None else rows.num_rows
        beside = self.path.with_name(f"{self.path.stem}{_MENDED}{_SUFFIX}")
        self.aside.take(beside)
        if rows is not None and kept:
            _connection(self.path.parent).create_table(beside.stem, rows)
        self.aside.take(self.path)
        if rows is not None and kept:
            beside.rename(self.path)
        done = f"{self.aside.verb}; {kept:,} rows that can be read are kept" if kept else self.aside.verb
        return [*faults, Finding(self.path, fault, done, self.again)]

    def _find_a_version(self) -> None:
        """Set aside manifests until the latest of those that are left can be opened."""
        for manifest in [path for path in self.faults if path.parent.name == "_versions"]:
            self.aside.take(manifest)
        while versions := self._versions():
            try:
                _connection(self.path.parent).open_table(self.path.stem)
            except BaseException as error:
                _reraise_if_asked_to_stop(error)
                self.aside.take(self.path / "_versions" / f"{_LATEST - max(versions)}.manifest")
            else:
                return

    def _faults_of_names(self) -> list[Finding]:
        """Damaged hints and tags: names of versions, no data. They are set aside, and tags written anew."""
        findings = list[Finding]()
        for path in [self.path / name for name in LANCE_SIDE_FOLDERS if self.path / name in self.faults]:
            self.aside.take(path)
            findings.append(Finding(path, self.faults.pop(path), f"{self.aside.verb}; the rows are whole"))
        hint = self.path / "_versions" / "latest_version_hint.json"
        names = [hint] if hint.exists() else []
        names += [path for path in self.faults if path.parent.name == "tags"]
        for path in names:
            if (fault := json_fault(path) if path == hint else lance_tag_fault(path)) is not None:
                self.aside.take(path)
                done = f"{self.aside.verb}; the rows are whole"
                if path != hint and not self.aside.look_only and self._tagged(path.stem):
                    done += ", the tag is written anew"
                findings.append(Finding(path, fault, done))
                self.faults.pop(path, None)
        return findings

    def _tagged(self, tag: str) -> bool:
        number = tag.rpartition("-")[2]
        with contextlib.suppress(Exception):
            _connection(self.path.parent).open_table(self.path.stem).tags.create(tag, int(number))
            return True
        return False

    def _unreadable(self) -> str | None:
        """What is wrong with the latest version; None where every row of it can be read."""
        if self.path in self.faults:
            return self.faults[self.path]
        latest = max(self._versions(), default=0)
        if any(path.parent.name == "_versions" and _version(path) >= latest for path in self.faults):
            return "has a damaged manifest"
        try:
            rows = _connection(self.path.parent).open_table(self.path.stem).to_arrow()
        except BaseException as error:  # Lance's code in Rust may panic
            _reraise_if_asked_to_stop(error)
            return self._in_words(error)
        return None if _finite(rows) else "has vectors with values that are no numbers"

    def _in_words(self, error: BaseException) -> str:
        file = lance_place(str(error), self.path)
        if file == self.path or not file.is_relative_to(self.path):
            return "has rows that cannot be read"
        return f"cannot be read: {file.relative_to(self.path)} {file_fault(file) or 'is cut or overwritten'}"

    def _versions(self) -> list[int]:
        return [_version(path) for path in (self.path / "_versions").glob("*.manifest")]

    def _rows(self) -> Any | None:
        """The readable rows, each id once, of the latest version that has it."""
        import pyarrow as pa

        kept: Any | None = None
        in_vain = 0
        for version in sorted(self._versions(), reverse=True):
            in_vain += 1
            for rows in self._of_version(version):
                key = rows.schema.names[0]
                fresh = rows if kept is None else _without(rows, set(kept[key].to_pylist()))
                if fresh.num_rows and (kept is None or fresh.schema.equals(kept.schema)):
                    kept = fresh if kept is None else pa.concat_tables([kept, fresh])
                    in_vain = 0
            if kept is not None and in_vain >= _EARLIER:
                break
        return kept

    def _of_version(self, version: int) -> Iterator[Any]:
        """The readable rows of a version, in pieces; a range that cannot be read is halved."""
        try:
            handle = _connection(self.path.parent).open_table(self.path.stem, version=version)
        except BaseException as error:
            _reraise_if_asked_to_stop(error)
            return
        ranges, tries = [(0, _MOST_FRAGMENTS << _FRAGMENT)], Counter[int]()
        while ranges:
            low, high = ranges.pop()
            try:
                where = f"_rowaddr >= {low} AND _rowaddr < {high}"
                rows = handle.search().where(where).limit(handle.count_rows() + 1).to_arrow()
            except BaseException as error:
                _reraise_if_asked_to_stop(error)
                is_within = high - low <= 1 << _FRAGMENT
                tries[low >> _FRAGMENT] += is_within
                if high - low > 1 and not (is_within and tries[low >> _FRAGMENT] > _TRIES):
                    middle = (low + high) // 2
                    ranges += [(middle, high), (low, middle)]
                continue
            if rows.num_rows and _finite(rows):
                yield rows


def _without(rows: Any, known: set[str]) -> Any:
    """The rows whose first column is not among those that are known."""
    import pyarrow as pa

    keys = rows[rows.schema.names[0]].to_pylist()
    return rows.filter(pa.array([key not in known for key in keys]))


def _version(manifest: Path) -> int:
    return _LATEST - int(manifest.stem) if manifest.stem.isdigit() else 0


def _finite(rows: Any) -> bool:
    import numpy as np

    if "vector" not in rows.schema.names:
        return True
    return bool(np.isfinite(rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)).all())


def _connection(folder: Path) -> Any:
    import lancedb

    return lancedb.connect(folder)


def _reraise_if_asked_to_stop(error: BaseException) -> None:
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
        raise error


def _records(settings: Settings, aside: SetAside, again: str) -> list[Finding]:
    """Records that name a version which is not there: nothing may be ranked with fewer vectors than that."""
    root, findings = settings.storage_root / TABLES, list[Finding]()
    store = GalleryStore(settings.lancedb_uri)
    for asset in _RECORDS:
        for path in sorted([*(root / asset).glob("*.json"), *root.glob(f"{asset}.json")]):
            try:
                named = set(_named_versions(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError):
                continue  # `setr repair tables` sees to it
            missing = [table for table, version in sorted(named) if not _has(store, table, version)]
            if missing:
                aside.take(path)
                fault = f"names a version of {missing[0]} that is not there any more"
                findings.append(Finding(path, fault, aside.verb, again))
    return findings


def _named_versions(value: Any) -> Iterator[tuple[str, int]]:
    """Every pair of a table and a version in a record."""
    if not isinstance(value, dict):
        return
    for table, version in (("table", "version"), ("captions_table", "captions_version")):
        if isinstance(value.get(table), str) and isinstance(value.get(version), int):
            yield value[table], value[version]
    for each in value.values():
        yield from _named_versions(each)


def _has(store: GalleryStore, table: str, version: int) -> bool:
    try:
        store.open(table, version)
    except SetrError:
        return False
    return True
