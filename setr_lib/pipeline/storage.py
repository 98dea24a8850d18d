"""The tables and records that the stages write and read, as Parquet and JSON files below the storage root."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from setr_lib.benchmarks import evaluation_sets
from setr_lib.damage import Part, Places, as_told, damaged, told
from setr_lib.errors import SetrError
from setr_lib.files import sqlite_path, write_json
from setr_lib.pipeline.present_paths import with_present_paths
from setr_lib.pipeline.storage_format import stamp_before_writing
from setr_lib.records import Record
from setr_lib.settings import Settings
from setr_lib.typed import typed

if TYPE_CHECKING:
    import polars as pl
    from pydantic import ValidationError

    from setr_lib.evaluation.row import Row

RecordT = TypeVar("RecordT", bound=Record)


class NotMadeYetError(SetrError):
    """A table that a step reads has not been made; the message says by which asset."""


TABLES = "tables"
"""The usual folder of tables."""
_SHARED = ("training_", "reranker_", "imported_")
"""How the assets begin that have nothing to do with what is evaluated."""


class Tables:
    """Reads and writes the table of an asset (and partition), and the record beside it of what made it.

    Args:
        settings: They say where the storage root is.
        folder: The folder of the tables, below the storage root. In another than the usual one, what
            trainings and imports have left in that is read, too, and never written.
    """

    def __init__(self, settings: Settings, folder: str = TABLES) -> None:
        self.settings, self.folder = settings, folder

    @staticmethod
    def coarse(key: str, method: str) -> str:
        """The table of one method's rankings of an evaluation set (there are several per set).

        Args:
            key: The evaluation set.
            method: The method's name.

        Returns:
            The table's name.
        """
        return f"coarse_rankings/{key}/{_file_name(method)}"

    @staticmethod
    def reranked(key: str, row: Row) -> str:
        """The table of an evaluation set's candidates by one method, re-ordered by one re-ranker.

        Args:
            key: The evaluation set.
            row: The method and the re-ranker.

        Returns:
            The table's name.
        """
        return f"reranked_rankings/{key}/{_file_name(row.method)}--{_file_name(row.reranker)}"

    @staticmethod
    def method_texts(key: str, kind: str) -> str:
        """The table of one kind of text that a method brings, for an evaluation set.

        Args:
            key: The evaluation set.
            kind: The kind of text.

        Returns:
            The table's name.
        """
        return f"method_texts/{key}/{_file_name(kind)}"

    @staticmethod
    def imported_texts(kind: str) -> str:
        """The tables of imported texts of one kind that a method brings.

        Args:
            kind: The kind of text.

        Returns:
            The tables' name; the partition is a data set or an evaluation set.
        """
        return f"imported_texts/{_file_name(kind)}"

    def write(
        self,
        asset: str,
        frame: pl.DataFrame,
        schema: pl.Schema,
        partition: str | None = None,
        made_by: Record | None = None,
    ) -> Path:
        """Store the table of an asset, with a record beside it of what made it.

        Args:
            asset: The asset, or a table name of this class.
            frame: The table.
            schema: The columns that it must have.
            partition: The asset's partition, where it has any.
            made_by: The record; by default none is written.

        Returns:
            The table's path.

        Raises:
            SetrError: The frame does not fit the schema; the message names the column.
        """
        from setr_lib.tables import conform, write_parquet_atomically

        path = self._own_path(asset, partition)
        table = conform(frame, schema, named(asset, partition))
        stamp_before_writing(self.settings.storage_root)
        with told("tables", path):
            write_parquet_atomically(table, path)
        if made_by is not None:
            self.write_record(asset, made_by, partition)
        return path

    def exists(self, asset: str, partition: str | None = None) -> bool:
        """Whether there is a table.

        Args:
            asset: The asset, or a table name of this class.
            partition: The asset's partition, where it has any.

        Returns:
            True where its file is there, readable or not.
        """
        return self._path(asset, partition).is_file()

    def remove(self, asset: str, partition: str | None = None) -> None:
        """Delete a table and its record, where they are.

        Args:
            asset: The asset, or a table name of this class.
            partition: The asset's partition, where it has any.
        """
        path = self._own_path(asset, partition)
        for file in (path, path.with_suffix(".json")):
            file.unlink(missing_ok=True)

    def read(
        self,
        asset: str,
        schema: pl.Schema,
        partition: str | None = None,
        earlier: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> pl.DataFrame:
        """Read the table of an asset.

        Args:
            asset: The asset, or a table name of this class.
            schema: The columns that it must have.
            partition: The asset's partition, where it has any.
            earlier: Gives a table that an earlier version of SETR wrote today's columns.

        Returns:
            The table. Paths of images that it names in an earlier place of the project are those of today.

        Raises:
            NotMadeYetError: There is none yet; the message names the asset.
            SetrError: It cannot be read, or does not fit the schema.
        """
        import polars as pl

        from setr_lib.tables import conform

        path = self._path(asset, partition)
        try:
            frame = pl.read_parquet(path, use_statistics=False)
            frame = earlier(frame) if earlier else frame
            if "pixels" in schema and "pixels" not in frame.columns:  # earlier versions knew one way only
                frame = frame.with_columns(pixels=pl.lit(""))
            table = conform(frame, schema, named(asset, partition))
        except FileNotFoundError:
            raise self._not_made(asset, partition, path) from None
        except SetrError as error:
            fault = f"has other columns than SETR writes ({error})"
            raise damaged("tables", path, fault, then=_again(asset)) from error
        except Exception as error:
            raise as_told(error, "tables", path, then=_again(asset)) from error
        return with_present_paths(table, self.settings) if "path" in schema else table

    def write_record(self, asset: str, record: Record, partition: str | None = None) -> Path:
        """Store what made a result (digests, versions, settings) as JSON beside its table.

        Args:
            asset: The asset, or a table name of this class.
            record: What made it.
            partition: The asset's partition, where it has any.

        Returns:
            The record's path.
        """
        path = self._own_path(asset, partition).with_suffix(".json")
        with told("tables", path):
            write_json(path, record.stated())
        return path

    def read_record(self, asset: str, kind: type[RecordT], partition: str | None = None) -> RecordT:
        """Read the record beside a table.

        Args:
            asset: The asset, or a table name of this class.
            kind: The record's class.
            partition: The asset's partition, where it has any.

        Returns:
            The record.

        Raises:
            NotMadeYetError: There is none yet; the message names the asset.
            SetrError: It is damaged or lacks what ``kind`` requires; the message names the asset to
                materialise again.
        """
        from pydantic import ValidationError

        path = self._path(asset, partition).with_suffix(".json")
        try:
            return kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise self._not_made(asset, partition, path) from None
        except ValidationError as error:
            raise damaged("tables", path, _faults(error), then=_again(asset)) from error
        except OSError as error:
            raise as_told(error, "tables", path, then=_again(asset)) from error

    def _own_path(self, asset: str, partition: str | None) -> Path:
        """The file of a table in this folder."""
        return self.settings.table_path(asset, partition, self.folder)

    def _path(self, asset: str, partition: str | None) -> Path:
        """The file of a table to read: in this folder, unless only the usual one has it, and shares it."""
        own = self._own_path(asset, partition)
        usual = self.settings.table_path(asset, partition)
        if own == usual or not asset.startswith(_SHARED) or own.exists() or own.with_suffix(".json").exists():
            return own
        return usual if usual.exists() or usual.with_suffix(".json").exists() else own

    def _not_made(self, asset: str, partition: str | None, path: Path) -> NotMadeYetError:
        key = partition or _partition_of(asset)
        make = or_run_everything(self.settings, key, None if key else _step(asset))
        words = (
            f"{named(asset, partition)} not made yet ({path} is missing): materialize {_step(asset)!r} "
            f"first, {make}"
        )
        if path.suffix == ".parquet" and path.with_suffix(".json").is_file():
            fault = "is missing, although its record is there"
            return damaged("tables", path, fault, NotMadeYetError, _again(asset))
        return NotMadeYetError(words)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


def _faults(error: ValidationError) -> str:
    """What is wrong with a record, in words."""
    faults = error.errors(include_url=False)
    if faults[0]["type"] == "json_invalid":
        return f"not valid JSON ({faults[0]['msg']})"
    missing = [".".join(map(str, fault["loc"])) for fault in faults if fault["type"] == "missing"]
    if len(missing) == len(faults):
        return f"written by another version of SETR, without {', '.join(missing)}"
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)


def _partition_of(asset: str) -> str | None:
    """The evaluation set in the name of a table that is one of several of it."""
    parts = asset.split("/")
    return parts[1] if len(parts) == 3 else None


def _step(asset: str) -> str:
    """The asset that writes the table ``asset`` (which may be one of several of it)."""
    return asset.split("/")[0]


def _again(asset: str) -> str:
    """What to do once a damaged table is set aside."""
    return f"materialize {_step(asset)!r} again"


def named(asset: str, partition: str | None) -> str:
    """An asset and its partition in words.

    Args:
        asset: The asset.
        partition: The partition, where it has any.

    Returns:
        ``asset`` or ``asset of partition``.
    """
    return asset if partition is None else f"{asset} of {partition}"


def places_of(settings: Settings) -> Places:
    """Where the files of each part of SETR's storage lie.

    Args:
        settings: The settings.

    Returns:
        Parts and paths.
    """
    root, database = settings.storage_root, sqlite_path(settings.tracking_uri)
    home = os.environ.get("DAGSTER_HOME") or settings.base_dir / "dagster_home"
    places: list[tuple[Part, Path]] = [
        ("registry", settings.artifact_root),
        ("vectors", Path(settings.lancedb_uri)),
        ("vectors", Path(f"{settings.lancedb_uri}-mining")),
        ("cache", settings.cache_path),
        ("cache", settings.cache_path.parent),
        ("checkpoints", settings.checkpoint_root),
        ("checkpoints", root / "ablations"),
        ("reports", settings.report_root),
        ("dagster", Path(home)),
        ("tables", root / TABLES),
        ("tables", root),
    ]
    if database is not None:
        places.insert(0, ("registry", database))
    return places


def or_run_everything(settings: Settings, partition: str | None = None, until: str | None = None) -> str:
    """The end of a message that something is not made yet: the command that makes it.

    Args:
        settings: The settings.
        partition: The evaluation set, where it is known.
        until: The asset that is enough; by default all are made.

    Returns:
        ``or run`` and the command; in a folder with the Makefile of the miniature also ``make demo``, where
        that makes it.
    """
    words = " ".join(["run", *filter(None, [partition]), *(["--until", until] if until else [])])
    by_demo = until is None and _has_demo(settings) and not _is_hidden(settings, partition)
    return f"or run `{typed(words)}`{', or `make demo`' if by_demo else ''}"


def _is_hidden(settings: Settings, key: str | None) -> bool:
    """Whether an evaluation set is none of those that a run without names covers."""
    return key is not None and key not in [each.key for each in evaluation_sets(settings) if not each.hidden]


def _has_demo(settings: Settings) -> bool:
    try:
        return "\ndemo:" in (settings.base_dir / "Makefile").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
