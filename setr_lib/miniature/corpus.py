"""The training material of the two small models: drawn families as pixel arrays, and the labels the models
learn from.

Only this package may look at scene descriptions; the models' training is part of making the world. Evaluation
worlds come from other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image

from setr_lib.miniature.drawing import SIDE, draw_with_layout
from setr_lib.miniature.families import AnyPicture, make_family
from setr_lib.miniature.garments import CATEGORIES, LENGTHS, NECKS, SLEEVES, Garment
from setr_lib.miniature.pictures import BACKGROUNDS, COLOURS, PATTERNS
from setr_lib.miniature.processes import drawing_processes
from setr_lib.miniature.scenes import SHAPES, SIZES
from setr_lib.progress import Progress, silent

IMAGE_SIDE = 64
"""What the models see, pixels."""
GRID = 4
"""Patches per side: 16 visual tokens an image."""
FAMILY_SIZE = 8

PATCH_LABELS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "pattern": PATTERNS,
    "background": tuple(BACKGROUNDS),
    "category": tuple(CATEGORIES),
    "sleeves": SLEEVES,
    "neck": NECKS,
    "length": LENGTHS,
    "relation": ("beside", "above"),
    "count": ("1", "2", "3"),
}
"""What each patch is asked during the tower's training; -1 where the question does not arise."""


@dataclass(frozen=True)
class Corpus:
    """``pictures[i]`` is drawn in ``pixels[i]``; family f is rows ``f * FAMILY_SIZE`` onwards.

    pixels: uint8 [n, 64, 64, 3]. labels: int8 [n, 16, questions], -1 = not asked.
    """

    pictures: list[AnyPicture]
    pixels: np.ndarray
    labels: np.ndarray


def build_corpus(families: int, seed: int, progress: Progress = silent, processes: int = 2) -> Corpus:
    """Draw families of pictures. The same seed gives the same corpus, however many processes draw it.

    Args:
        families: How many.
        seed: Of the pictures.
        progress: Told how many families are drawn.
        processes: Processes that draw.

    Returns:
        Pictures, pixels and labels.
    """
    jobs = [(seed, index) for index in range(families)]
    pictures: list[AnyPicture] = []
    pixels = np.empty((families * FAMILY_SIZE, IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
    labels = np.empty((families * FAMILY_SIZE, GRID * GRID, len(PATCH_LABELS)), np.int8)
    with drawing_processes(processes) as pool:
        for index, (members, drawn, told) in enumerate(pool.map(_draw_family, jobs, chunksize=32)):
            rows = slice(index * FAMILY_SIZE, (index + 1) * FAMILY_SIZE)
            pictures += members
            pixels[rows], labels[rows] = drawn, told
            if index % 200 == 0:
                progress(index, families, "families drawn")
    return Corpus(pictures, pixels, labels)


def shrink(image: Image.Image) -> Image.Image:
    """The models' own preprocessing, pixel for pixel (bicubic to 64 x 64).

    Args:
        image: A picture of any size.

    Returns:
        RGB of 64 x 64 pixels.
    """
    return image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)


def _draw_family(job: tuple[int, int]) -> tuple[list[AnyPicture], np.ndarray, np.ndarray]:
    rng = Random(f"corpus/{job[0]}/{job[1]}")  # a string seed is hashed with SHA-512: the same on any machine
    members = make_family(rng, FAMILY_SIZE)
    drawn = np.empty((len(members), IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
    told = np.empty((len(members), GRID * GRID, len(PATCH_LABELS)), np.int8)
    for row, picture in enumerate(members):
        image, layout = draw_with_layout(picture, rng)
        drawn[row] = np.asarray(shrink(image))
        told[row] = _patch_labels(picture, layout)
    return members, drawn, told


def _patch_labels(picture: AnyPicture, layout: Sequence[tuple]) -> np.ndarray:
    names = list(PATCH_LABELS)
    labels = np.full((GRID * GRID, len(names)), -1, np.int8)

    def tell(rows: slice | np.ndarray, name: str, value: str) -> None:
        labels[rows, names.index(name)] = PATCH_LABELS[name].index(value)

    everywhere = slice(None)
    tell(everywhere, "background", picture.background)
    if isinstance(picture, Garment):
        for name in ("colour", "pattern", "category", "sleeves", "neck", "length"):
            tell(everywhere, name, getattr(picture, name))
        return labels
    if len(picture.things) == 2:
        tell(everywhere, "relation", picture.relation)
    tell(everywhere, "count", str(picture.things[0].count if len(picture.things) == 1 else 1))
    cell = SIDE / GRID
    centres = (np.arange(GRID) + 0.5) * cell
    for thing, (x, y), radius in layout:
        distance = np.hypot(centres[None, :] - x, centres[:, None] - y).ravel()
        covered = (distance < radius * 0.95) | (distance == distance.min())
        for name in ("shape", "colour", "size", "pattern"):
            tell(covered, name, getattr(thing, name))
    return labels
