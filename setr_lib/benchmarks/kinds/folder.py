"""A folder of one's own: every image under ``image_root`` (else ``root``) is the gallery; a file holds the
queries.

The file (``queries``, else ``queries.csv``, ``.tsv``, ``.jsonl``, ``.json`` or ``.parquet`` under ``root``)
has the columns ``reference`` and ``modification``, and optionally ``query_id`` (else the row's number from 0)
and ``targets``: a list, or, in a CSV file, names separated by ``|``. ``target`` (one name) does as well.
Without such a file there are no queries. An image's id is its path from the image folder, with ``/``.
References may also lie in a folder outside of the gallery, ``reference_root``; their ids are their paths from
there. R@K is whether *any* target is among the first K.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.benchmarks.annotations import Row
from setr_lib.benchmarks.benchmark import YOUR_OWN, Benchmark, OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.folder_gallery import folder_rules, is_same_file, reference_listing
from setr_lib.benchmarks.folder_queries import ReadFolderQueries, read_folder_queries
from setr_lib.benchmarks.image_folders import list_folder
from setr_lib.benchmarks.metrics import MeanAveragePrecisionAt, recalls
from setr_lib.benchmarks.near_ids import unread_file
from setr_lib.benchmarks.query_files import FoundQueries, find_queries
from setr_lib.benchmarks.query_tables import read_query_table
from setr_lib.benchmarks.records import QueryRecord
from setr_lib.pixel_rules import OWN_FOLDER

if TYPE_CHECKING:
    from setr_lib.benchmarks.sets import EvaluationSet


class Folder(Benchmark):
    """Images in a folder, queries in a CSV, TSV, JSON, JSON Lines or Parquet file."""

    kind = "folder"
    title = "A folder of images"
    metrics = (*recalls(1, 5, 10, 50), MeanAveragePrecisionAt(10))
    headline = ("R@1", "R@10", "mAP@10")
    stage_1_metric = "R@10"
    stage_2_metric = "R@1"
    settings_keys = ("queries", "reference_root")
    pixels = OWN_FOLDER

    def queries(self, evaluation_set: EvaluationSet) -> list[QueryRecord]:
        """The queries of the folder's file, in its order; none where there is no such file."""
        path = query_file(evaluation_set)
        return [] if path is None else _read(evaluation_set, path).records

    def has_queries(self, evaluation_set: EvaluationSet) -> bool:
        """Whether there is a file of queries, readable or not."""
        try:
            return query_file(evaluation_set) is not None
        except DatasetError:
            return True  # told by what reads it

    def query_notes(self, evaluation_set: EvaluationSet) -> list[str]:
        """Which file is read and which are not, what was assumed of it, and that no query names a target."""
        found = _found(evaluation_set)
        if found.path is None:
            return found.notes
        return [*found.notes, *_read(evaluation_set, found.path).notes]

    def files(self, evaluation_set: EvaluationSet) -> list[OfficialFile]:
        """The query file, if there is one."""
        path = query_file(evaluation_set)
        return [] if path is None else [OfficialFile(path, "queries", None, YOUR_OWN)]

    def image_namespace(self, evaluation_set: EvaluationSet) -> str:
        """Each data set's own: an id is a path, which may be the same in two folders."""
        return f"{self.kind} {evaluation_set.dataset}"

    def caveats(self, evaluation_set: EvaluationSet) -> list[str]:
        """That there are no published numbers."""
        return ["not a benchmark"]


class FolderImages:
    """The images that a folder's queries may name: those of the gallery, and references outside of it.

    Args:
        evaluation_set: The set.

    Raises:
        DatasetError: A folder is not there, or cannot be listed.
    """

    def __init__(self, evaluation_set: EvaluationSet) -> None:
        self.folder = evaluation_set.benchmark.image_folder(evaluation_set)
        listed = list_folder(self.folder, evaluation_set.dataset, folder_rules(evaluation_set))
        self.gallery = frozenset(listed.names)
        outside = reference_listing(evaluation_set)
        self.reference_root = None if outside is None else outside.folder
        self.references = frozenset() if outside is None else frozenset(outside.names)

    @property
    def named(self) -> frozenset[str]:
        """All ids that a query may name."""
        return self.gallery | self.references

    def target(self, row: Row, image_id: str) -> str:
        """``image_id``, checked to be a gallery image.

        Args:
            row: The query's row.
            image_id: The id that it names.

        Returns:
            ``image_id`` itself.

        Raises:
            DatasetError: It is none.
        """
        if image_id in self.references and image_id not in self.gallery:
            raise row.error(
                f"'targets' names {image_id!r}, which is in reference_root ({self.reference_root}) only: "
                f"targets must be in the gallery, {self.folder}"
            )
        return row.known("targets", image_id, self.gallery, self.folder)

    def reference(self, row: Row, image_id: str) -> str:
        """``image_id``, checked to be a reference image or a gallery image.

        Args:
            row: The query's row.
            image_id: The id that it names.

        Returns:
            ``image_id`` itself.

        Raises:
            DatasetError: It is neither, or two different files.
        """
        root = self.reference_root
        if root is None:
            return row.known("reference", image_id, self.gallery, self.folder)
        if image_id in self.gallery and image_id in self.references:
            if not is_same_file(self.folder / image_id, root / image_id):
                raise row.error(
                    f"'reference' names {image_id!r}, which is one file in {self.folder} and another in "
                    f"reference_root ({root}): rename one, or let reference_root name {root.parent}, so that "
                    f"references are called '{root.name}/{image_id}'"
                )
            return image_id
        where = f"{root} (reference_root), nor in {self.folder}{unread_file(image_id, root)}"
        return row.known("reference", image_id, self.references | self.gallery, where)


def query_file(evaluation_set: EvaluationSet) -> Path | None:
    """The file of the folder's queries.

    Args:
        evaluation_set: The set: its ``queries``, else its root with a file of queries.

    Returns:
        Its path; None where settings name no file and there is none.

    Raises:
        DatasetError: There are two, or only one that is not read.
    """
    return _found(evaluation_set).path


def _found(evaluation_set: EvaluationSet) -> FoundQueries:
    if evaluation_set.queries is not None:
        return FoundQueries(evaluation_set.queries)
    folder = evaluation_set.image_root
    return find_queries(evaluation_set.root, evaluation_set.dataset, () if folder is None else (folder,))


def _read(evaluation_set: EvaluationSet, path: Path) -> ReadFolderQueries:
    table = read_query_table(path)
    return read_folder_queries(table, FolderImages(evaluation_set))
