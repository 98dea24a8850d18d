"""The kinds of row that every data set is read into, and the frames made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.benchmarks.annotations import shown
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.image_folders import FolderRules, list_folder

if TYPE_CHECKING:
    import polars as pl

LISTED_COLUMNS = ("image_id", "path", "galleries")
"""The columns of a gallery before anyone has opened its images; types as in ``tables.GALLERY``."""


@dataclass(slots=True)
class QueryRecord:
    """One query; the fields are those of ``tables.QUERIES``."""

    query_id: str
    reference_id: str
    modification: str
    """The text that models read."""
    captions: list[str] = field(default_factory=list)
    """The modification texts as the file has them; ``[modification]`` by default."""
    target_ids: list[str] = field(default_factory=list)
    """Empty where targets are hidden. The first is *the* target where a metric knows a single one."""
    subset_ids: list[str] = field(default_factory=list)
    """The few images that the query also ranks by themselves (CIRR's subset, without the reference)."""
    gallery: str = "all"
    """The gallery that it searches: one of ``ImageRecord.galleries``."""
    aspects: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.captions = self.captions or [self.modification]


@dataclass(slots=True)
class ImageRecord:
    """One gallery image: its id, absolute path, and the galleries that hold it; none where it is a reference
    only, which has vectors and is never ranked."""

    image_id: str
    path: str
    galleries: list[str] = field(default_factory=lambda: ["all"])


@dataclass(slots=True)
class TripletRecord:
    """One training triplet."""

    reference_id: str
    modification: str
    target_id: str


def first_targets(queries: pl.DataFrame) -> pl.DataFrame:
    """Queries as triplets, each with its first target.

    Args:
        queries: A ``tables.QUERIES`` frame.

    Returns:
        ``reference_id``, ``modification``, ``target_id`` of the queries that have a target, in their order.
    """
    import polars as pl

    target = pl.col("target_ids").list.first().alias("target_id")
    return queries.select("reference_id", "modification", target).drop_nulls("target_id")


def record_frame(records: Sequence[object], schema: pl.Schema, what: str) -> pl.DataFrame:
    """Queries or gallery images as a table.

    Args:
        records: :class:`QueryRecord` or :class:`ImageRecord` objects.
        schema: The columns, which are names of their fields: of texts, and of lists of texts.
        what: What the records are and whose, for the message.

    Returns:
        A frame of ``schema`` in their order.

    Raises:
        DatasetError: A field is missing, or does not hold a text or a list of texts as it should; it names
            row, id and field.
    """
    import polars as pl

    lists = {name for name, kind in schema.items() if isinstance(kind, pl.List)}
    columns: dict[str, list[object]] = {name: [] for name in schema}
    for row, record in enumerate(records):
        for name, values in columns.items():
            value = getattr(record, name, None)
            if fault := _fault(value, name in lists):
                owner = f"row {row} (counting from 0)"
                record_id = getattr(record, next(iter(schema)), None)
                owner += "" if record_id is None or value is record_id else f", {record_id!r}"
                raise DatasetError(f"{what}: {owner}: {name} = {shown(value)}: {fault}")
            values.append(value)
    return pl.DataFrame(columns, schema=schema)


def _fault(value: object, is_list: bool) -> str | None:
    """Why a value is not a text, or not a list of texts; None where it is."""
    if not is_list:
        return None if isinstance(value, str) else f"must be a text (str), not {_its_type(value)}"
    if isinstance(value, str):
        return f"must be a list of texts, not one text: write [{shown(value)}]"
    if not isinstance(value, list | tuple):
        return f"must be a list of texts, not {_its_type(value)}"
    for entry in value:
        if not isinstance(entry, str):
            return f"must be a list of texts (str), and {shown(entry)} in it is {_its_type(entry)}"
    return None


def _its_type(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def image_names(folder: Path, dataset: str, rules: FolderRules | None = None) -> list[str]:
    """Paths of all images under ``folder``, relative to it, with ``/``, sorted; see
    :func:`setr_lib.benchmarks.image_folders.list_folder`.

    Args:
        folder: The image folder.
        dataset: The data set's name, for the message.
        rules: What of the folder is listed, ``folder_rules`` of a set; by default links to folders
            may end in the folder only.

    Returns:
        The names.

    Raises:
        DatasetError: There is no such folder, or it cannot be listed.
    """
    return list(list_folder(folder, dataset, rules).names)


def images_in(folder: Path, dataset: str, rules: FolderRules | None = None) -> list[ImageRecord]:
    """All images under ``folder`` as one gallery, by name; see :func:`image_names`.

    Args:
        folder: The image folder.
        dataset: The data set's name, for the message.
        rules: As of :func:`image_names`.

    Returns:
        One record per image; its id is its path from the folder.

    Raises:
        DatasetError: As :func:`image_names`.
    """
    return [ImageRecord(name, f"{folder}/{name}") for name in image_names(folder, dataset, rules)]
