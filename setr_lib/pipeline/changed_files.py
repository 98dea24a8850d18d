"""Files that are others than those that an evaluation set was made of: annotation files and pictures.

Dagster sees a change of settings and of results; whether files outside of the project have changed since they
were read is seen here, by their times, and for pictures that are newer by their content.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError

if TYPE_CHECKING:
    from setr_lib.benchmarks import EvaluationSet
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pixels import PictureFile

READ_AT_MOST = 200
"""Newer pictures that are read, to tell a changed one from one that was copied."""
_STEP = 500
"""Pictures whose times are looked at before the clock is."""


@dataclass
class ChangedFiles:
    """What has changed since a set was read."""

    words: list[str] = field(default_factory=list)
    """Sentences without their full stop; none where nothing has changed."""
    looked: int = 0
    """Pictures whose files were looked at."""
    pictures: int = 0
    """Pictures of the gallery."""


def changed_files(context: PipelineContext, evaluation_set: EvaluationSet, until: float) -> ChangedFiles:
    """Compare the files of an evaluation set with what was read of them.

    Args:
        context: Settings and tables.
        evaluation_set: The set.
        until: The time of ``time.monotonic()`` at which to stop looking at pictures.

    Returns:
        What has changed; nothing where the set was not read yet.
    """
    found = ChangedFiles()
    key, settings = evaluation_set.key, context.settings
    queries, images = (settings.table_path(asset, key) for asset in ("queries", "gallery_images"))
    if (read := _time_of(queries)) is not None:
        found.words += _annotations(evaluation_set, read)
    if (read := _time_of(images)) is not None:
        try:
            _pictures(context, evaluation_set, read, until, found)
        except SetrError as error:
            found.words.append(str(error))
    return found


def _time_of(file: Path) -> float | None:
    try:
        return file.stat().st_mtime
    except OSError:
        return None


def _annotations(evaluation_set: EvaluationSet, read: float) -> list[str]:
    try:
        files = [file.path for file in evaluation_set.benchmark.files(evaluation_set)]
    except SetrError as error:
        return [str(error)]
    times = {file: _time_of(file) for file in files}
    gone = [f"{file} is gone" for file, changed in times.items() if changed is None]
    return [*gone, *(f"{file} is newer than what was read" for file, at in times.items() if at and at > read)]


def _pictures(
    context: PipelineContext, evaluation_set: EvaluationSet, read: float, until: float, found: ChangedFiles
) -> None:
    from setr_lib.benchmarks.folder_gallery import gallery_listing
    from setr_lib.datasets.images import changed_images
    from setr_lib.pixels import picture_files
    from setr_lib.tables import GALLERY

    images = context.tables.read("gallery_images", GALLERY, evaluation_set.key)
    found.pictures = images.height
    if (listing := gallery_listing(evaluation_set)) is not None:
        ranked = images.filter(images["galleries"].list.len() > 0)["image_id"]
        before, now = set(ranked), set(listing.names)
        found.words += _counted(len(now - before), "new") + _counted(len(before - now), "gone")
        images = images.filter(images["image_id"].is_in(list(now)) | (images["galleries"].list.len() == 0))
    ok = images.filter(status="ok")
    found.pictures = ok.height
    files = iter(picture_files(ok).values())
    newer: list[PictureFile] = []
    gone = 0
    while time.monotonic() < until and (block := list(islice(files, _STEP))):
        for file in block:
            try:
                changed = Path(file.path).stat().st_mtime > read
            except OSError:
                gone += 1
                continue
            if changed:
                newer.append(file)
        found.looked += len(block)
    if listing is None:
        found.words += _counted(gone, "gone")
    changed = len(changed_images(newer[:READ_AT_MOST]))
    rest = len(newer) - READ_AT_MOST
    found.words += _counted(changed, "changed")
    if rest > 0:
        found.words.append(f"{rest:,} more are newer than what was read")


def _counted(number: int, what: str) -> list[str]:
    return [f"{number:,} {'picture' if number == 1 else 'pictures'} {what}"] if number else []
