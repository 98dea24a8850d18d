"""What the miniature's pictures truly show: for yardsticks that measure how much a perfect reader would gain.

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
    """What each image file of ``dataset`` shows, by its name: the world is a function of its settings, so
    none is read.
    """
    plan = plan_dataset(dataset, Path(dataset), options.seed, options.size, Difficulty.of(options))
    return {drawing.path.name: drawing.picture for drawing in plan.drawings}


def gold_caption(target: AnyPicture, modification: str) -> str:
    """The target caption that a perfect reader would compose: the place only where the text asks for it."""
    return target.caption(with_background=BACKGROUNDS[target.background] in modification)


def require_current_world(root: Path, dataset: str, options: MiniatureSettings) -> None:
    """Raises ``SetrError`` where ``dataset`` under ``root`` was drawn by other settings, or by another
    version.
    """
    path = root / dataset / "miniature.json"
    drawn = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    expected = dataset_stamp(dataset, options.seed, options.size, Difficulty.of(options))
    if drawn != expected:
        raise SetrError(f"{path}: this world was drawn as {drawn}, not as {expected}: run `make demo` first")
