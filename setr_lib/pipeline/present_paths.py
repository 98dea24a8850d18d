"""The image files that tables name, in a project whose folder was moved or copied after they were written.

Tables name images by absolute paths, settings mostly by paths from their own folder: what a table names below
such a folder at another place is taken from the settings' own, where it is there, too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

_TRIES = 8
"""Different folders of one table that are looked for, at most."""


def with_present_paths(frame: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """Replace the paths that name another project's folder by the same files of this one.

    Args:
        frame: A table with the column ``path`` (absolute paths).
        settings: The settings of today.

    Returns:
        The table. A path stays where it is below a folder that settings name, and where no file of this
        project is found for it.
    """
    import polars as pl

    if frame.is_empty():
        return frame
    named = _named(settings)
    known = [f"{settings.resolve(path)}{os.sep}" for path in named]
    known.append(f"{settings.base_dir}{os.sep}")
    path = pl.col("path")
    unknown = frame.filter(~pl.any_horizontal(path.str.starts_with(prefix) for prefix in known))["path"]
    for _ in range(_TRIES):
        if unknown.is_empty():
            break
        found = _moved(Path(unknown[0]), named, settings)
        if found is None:
            folder = f"{Path(unknown[0]).parent}{os.sep}"
        else:
            folder, present = (f"{place}{os.sep}" for place in found)
            frame = frame.with_columns(
                pl.when(path.str.starts_with(folder))
                .then(pl.concat_str(pl.lit(present), path.str.strip_prefix(folder)))
                .otherwise(path)
                .alias("path")
            )
        unknown = unknown.filter(~unknown.str.starts_with(folder))
    return frame


def _named(settings: Settings) -> list[Path]:
    """The folders of images that settings name, and those of the files that they name."""
    sections: list[BaseModel] = [*settings.datasets.values(), settings.training, settings.storage]
    paths = [value for section in sections for value in vars(section).values() if isinstance(value, Path)]
    return list(dict.fromkeys([*paths, *(path.parent for path in paths if path.suffix)]))


def _moved(recorded: Path, named: list[Path], settings: Settings) -> tuple[Path, Path] | None:
    """The folder of a recorded file at its earlier place, and the same folder now."""
    for root in named:
        if root.is_absolute():
            continue
        present, wanted = settings.resolve(root), root.parts
        for start in range(1, len(recorded.parts) - len(wanted)):
            end = start + len(wanted)
            if recorded.parts[start:end] == wanted and present.joinpath(*recorded.parts[end:]).is_file():
                return Path(*recorded.parts[:end]), present
    return None
