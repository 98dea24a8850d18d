"""What a reader has and the page cannot make, at a point of it: ``python -m tests.docs.given WHAT PLACE``.

The pictures and models are the miniature's, which a checkout has after ``make demo``.
"""

from __future__ import annotations

import csv
import re
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DRAWN = REPOSITORY / "var" / "miniature" / "circo" / "COCO2017_unlabeled" / "unlabeled2017"
WEIGHTS = REPOSITORY / "setr_lib" / "miniature" / "weights"
_PICTURES, _QUERIES = 60, 8


def photos(folder: Path) -> None:
    """Fill a folder with pictures.

    Args:
        folder: The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for picture in sorted(DRAWN.iterdir())[:_PICTURES]:
        shutil.copy(picture, folder)


def queries(folder: Path) -> None:
    """Write queries with known answers beside pictures.

    Args:
        folder: The folder of the pictures.
    """
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    with (folder / "queries.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["reference", "modification", "targets"])
        rows.writerows([names[row], "the same, but blue", names[_QUERIES + row]] for row in range(_QUERIES))


def small_models(settings: Path) -> None:
    """Let a settings file name the miniature's two models, which need no download.

    Args:
        settings: The settings file; its models are the real ones.
    """
    text = settings.read_text(encoding="utf-8")
    text = re.sub(r'^pretrained = "laion.*\n', "", text, flags=re.MULTILINE)
    encoder, judge = f'name = "local-dir:{WEIGHTS / "clip"}"', f'name = "{WEIGHTS / "mllm"}"'
    text = re.sub(r'^name = "ViT-L-14".*$', encoder, text, flags=re.MULTILINE)
    text = re.sub(r'^name = "Qwen/.*$', f'{judge}\nprompts = "miniature"', text, flags=re.MULTILINE)
    if "[models.judge]" not in text:
        text += f'\n[models.encoder]\n{encoder}\n\n[models.judge]\n{judge}\nprompts = "miniature"\n'
    settings.write_text(text, encoding="utf-8")


def cirr(project: Path) -> None:
    """Put CIRR where a project expects it, with pictures in ``img_raw``: the miniature's.

    Args:
        project: The folder of the project.
    """
    root = project / "data" / "cirr"
    (root / "img_raw").mkdir(parents=True)
    made = REPOSITORY / "var" / "miniature" / "cirr"
    for name in ("captions", "image_splits"):
        (root / name).symlink_to(made / name)
    for name in ("dev", "test1"):
        (root / "img_raw" / name).symlink_to(made / name)


if __name__ == "__main__":
    what, place = sys.argv[1:]
    {"photos": photos, "queries": queries, "cirr": cirr, "small-models": small_models}[what](Path(place))
