"""What the miniature's pictures truly show: for benchmarks of how much a perfect reader would gain.

The pipeline itself never asks: it gets pictures, captions and annotation files only, as from any download.
"""

from __future__ import annotations

import json
from pathlib import Path

from setr_lib.errors import SetrError
from setr_lib.miniature.difficulty import Difficulty
from setr_lib.miniature.families import AnyPicture
from setr_lib.miniature.pictures import BACKGROUNDS
from setr_lib.miniature.worlds import dataset_stamp, plan_dataset
from setr_lib.settings import MiniatureSettings


def planned_pictures(dataset: str, options: MiniatureSettings) -> dict[str, AnyPicture]:
    """What each image file of a data set shows, computed from the settings; no file is read.

    Args:
        dataset: ``cirr``, ``fashioniq`` or ``circo``.
        options: The settings of the world.

    Returns:
        File name -> picture.
    """
    plan = plan_dataset(dataset, Path(dataset), options.seed, options.size, Difficulty.of(options))
    return {drawing.path.name: drawing.picture for drawing in plan.drawings}


def gold_caption(target: AnyPicture, modification: str) -> str:
    """The target caption that a perfect reader would compose: with the background only where the text asks
    for it.

    Args:
        target: The target's picture.
        modification: The modification text.

    Returns:
        The caption.
    """
    return target.caption(with_background=BACKGROUNDS[target.background] in modification)


def require_current_world(root: Path, dataset: str, options: MiniatureSettings) -> None:
    """Refuse a data set that was drawn by other settings, or by another version.

    Args:
        root: The folder of the miniature's data sets.
        dataset: ``cirr``, ``fashioniq`` or ``circo``.
        options: The settings that it should be of.

    Raises:
        SetrError: It is absent or another; the message says which.
    """
    path = root / dataset / "miniature.json"
    drawn = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    expected = dataset_stamp(dataset, options.seed, options.size, Difficulty.of(options))
    if drawn != expected:
        raise SetrError(
            f"{path}: this world was drawn as {drawn}, not as {expected}: run `setr miniature write` first"
        )
