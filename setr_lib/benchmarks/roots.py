"""Where the files of a data set are whose ``root`` is one folder too high or too low."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from setr_lib.benchmarks.annotations import is_there
from setr_lib.benchmarks.benchmark import OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.near_ids import near_ids
from setr_lib.benchmarks.sets import EvaluationSet
from setr_lib.errors import SetrError

_FOLDERS = 500
"""Folders below a root that are looked into."""


def root_hint(evaluation_set: EvaluationSet) -> str:
    """Which root to write where a set's files are not under its own, but one folder up or down.

    The files are the benchmark's official ones (``Benchmark.files``). Nothing is read from another folder
    than the one that settings name: a person writes the right one.

    Args:
        evaluation_set: A set of which a file is missing.

    Returns:
        The end of a sentence, ``; they are in ...: write root = "..."``; empty where some of the files are
        there, where there are none to look for, or no folder nearby has them.
    """
    root, key = evaluation_set.root, f"[datasets.{evaluation_set.dataset}]"
    if any(is_there(file.path) for file in _files(evaluation_set)):
        return ""
    fitting = [folder for folder in _nearby(root) if _fits(replace(evaluation_set, root=folder))]
    if len(fitting) == 1:
        level = "too low" if fitting[0] == root.parent else "too high"
        return (
            f'; root is one folder {level}: write root = "{fitting[0]}"'
            f"{_images_stay(evaluation_set, fitting[0])} in {key}"
        )
    if fitting:
        either = " or ".join(f'"{folder}"' for folder in fitting)
        return f"; such files are in {len(fitting)} folders: write root = {either} in {key}"
    return _no_folder(root)


def image_root_hint(evaluation_set: EvaluationSet) -> str:
    """Which ``image_root`` to write where none of a set's images is where it should be, but one folder up or
    down.

    Args:
        evaluation_set: A set of which every image is missing.

    Returns:
        A sentence without its full stop; empty where no folder nearby has an image of it, or several have.
    """
    folder = evaluation_set.image_root or evaluation_set.root
    nearby = dict.fromkeys([evaluation_set.root, *_nearby(folder), *_nearby(evaluation_set.root)])
    try:
        fitting = [each for each in nearby if _has_image(replace(evaluation_set, image_root=each))]
    except (SetrError, OSError):
        return ""
    if len(fitting) != 1:
        return ""
    return (
        f'images are there with image_root = "{fitting[0]}": write it in [datasets.{evaluation_set.dataset}]'
    )


def _files(evaluation_set: EvaluationSet) -> list[OfficialFile]:
    """The files of the queries, or all where none is called so."""
    try:
        every = list(evaluation_set.benchmark.files(evaluation_set))
    except Exception:  # a benchmark of one's own: whoever asks for its files says so
        return []
    return [file for file in every if file.what == "queries"] or every


def _fits(evaluation_set: EvaluationSet) -> bool:
    files = _files(evaluation_set)
    return bool(files) and all(is_there(file.path) for file in files)


def _nearby(root: Path) -> Iterator[Path]:
    """The folder above, and those below."""
    if root.parent != root:
        yield root.parent
    try:
        with os.scandir(root) as entries:
            yield from sorted(Path(entry.path) for entry in islice(entries, _FOLDERS) if entry.is_dir())
    except OSError:
        return


def _images_stay(evaluation_set: EvaluationSet, root: Path) -> str:
    """``image_root`` where the images lie as the old root says: SEARLE has CIRR's ``dev`` beside ``cirr``."""
    if evaluation_set.image_root is not None:
        return ""
    there = replace(evaluation_set, root=root)
    kept = replace(there, image_root=evaluation_set.root)
    try:
        if _has_image(kept) and not _has_image(there):
            return f' and image_root = "{evaluation_set.root}"'
    except (SetrError, OSError):
        pass
    return ""


def _has_image(evaluation_set: EvaluationSet) -> bool:
    from setr_lib.benchmarks.loading import read_gallery

    try:
        paths = read_gallery(evaluation_set)["path"].head(20)
    except DatasetError:
        return False
    return any(is_there(Path(path)) for path in paths)


def _no_folder(root: Path) -> str:
    """That the root is not there, and the folder of nearly its name."""
    if is_there(root):
        return ""
    above = next(folder for folder in root.parents if folder.is_dir() or folder == folder.parent)
    try:
        with os.scandir(above) as entries:
            names = [entry.name for entry in islice(entries, _FOLDERS) if entry.is_dir()]
    except OSError:
        names = []
    wanted = root.relative_to(above).parts[0]
    found = near_ids(names).near(wanted)
    if found is None:
        return ""
    return f"; there is no folder {above / wanted}; did you mean {above / found.id}? ({found.reason})"
