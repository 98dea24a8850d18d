"""The gallery of a benchmark that lists none: every image below its image folder, and the reference images
outside of it that its queries name.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.benchmarks.image_folders import FolderListing, FolderRules, list_folder
from setr_lib.benchmarks.records import ImageRecord

if TYPE_CHECKING:
    from setr_lib.benchmarks.sets import EvaluationSet

_USUAL_FILES = (
    "queries.csv",
    "queries.jsonl",
    "queries.parquet",
    "image_captions.json",
    "miniature.json",
    "setr.toml",
)


def folder_gallery(evaluation_set: EvaluationSet) -> list[ImageRecord]:
    """Every image below the image folder; with a ``reference_root``, also the references that queries name
    there, in no gallery: they have vectors and are never ranked.

    Args:
        evaluation_set: The set whose gallery is asked for.

    Returns:
        One record per image; its id is its path from its folder.

    Raises:
        DatasetError: A folder is not there or cannot be listed, or the queries that name references are
            wrong.
    """
    folder = evaluation_set.benchmark.image_folder(evaluation_set)
    names = list_folder(folder, evaluation_set.dataset, folder_rules(evaluation_set)).names
    return [*(ImageRecord(name, f"{folder}/{name}") for name in names), *_references(evaluation_set, names)]


def gallery_listing(evaluation_set: EvaluationSet) -> FolderListing | None:
    """What a set's image folder holds, and what of it is not in the gallery.

    Args:
        evaluation_set: The set whose gallery is asked for.

    Returns:
        The listing; None where annotation files list the gallery.

    Raises:
        DatasetError: The folder is not there, or cannot be listed.
    """
    from setr_lib.benchmarks.benchmark import Benchmark

    if type(evaluation_set.benchmark).gallery is not Benchmark.gallery:
        return None
    folder = evaluation_set.benchmark.image_folder(evaluation_set)
    return list_folder(folder, evaluation_set.dataset, folder_rules(evaluation_set))


def reference_listing(evaluation_set: EvaluationSet) -> FolderListing | None:
    """What a set's ``reference_root`` holds.

    Args:
        evaluation_set: The set.

    Returns:
        The listing; None where settings name no such folder.

    Raises:
        DatasetError: The folder is not there, or cannot be listed.
    """
    if evaluation_set.reference_root is None:
        return None
    return list_folder(evaluation_set.reference_root, evaluation_set.dataset, folder_rules(evaluation_set))


def folder_rules(evaluation_set: EvaluationSet) -> FolderRules:
    """What of a set's image folders is listed.

    Args:
        evaluation_set: The set.

    Returns:
        Where links may end, which folders are SETR's own, and which files need no mention.
    """
    roots = (evaluation_set.root, evaluation_set.image_root, evaluation_set.reference_root)
    return FolderRules(
        inside=tuple(root for root in roots if root is not None),
        outside_links=evaluation_set.outside_links,
        never=evaluation_set.own_folders,
        own_files=_own_files(evaluation_set),
        setting=f"[datasets.{evaluation_set.dataset}] outside_links = true",
    )


def _own_files(evaluation_set: EvaluationSet) -> frozenset[str]:
    """Paths of the data set's files that are no images."""
    named = [evaluation_set.queries, evaluation_set.image_captions]
    usual = [evaluation_set.root / name for name in _USUAL_FILES]
    with contextlib.suppress(Exception):  # a person's own code; whoever reads the files says what is wrong
        usual += [file.path for file in evaluation_set.benchmark.files(evaluation_set)]
    return frozenset(str(path) for path in (*named, *usual) if path is not None)


def _references(evaluation_set: EvaluationSet, gallery: tuple[str, ...]) -> list[ImageRecord]:
    """The references outside of the gallery that queries name, sorted by id."""
    from setr_lib.benchmarks.loading import read_queries

    if evaluation_set.reference_root is None:
        return []
    named = set(read_queries(evaluation_set)["reference_id"]) - set(gallery)
    return [ImageRecord(name, f"{evaluation_set.reference_root}/{name}", []) for name in sorted(named)]


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file.

    Args:
        one: A path.
        other: Another.

    Returns:
        True where both are there and are the same.
    """
    try:
        return one.samefile(other)
    except OSError:
        return False
